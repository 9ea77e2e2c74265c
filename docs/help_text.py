"""What cog generates: help texts of the commands, and tables made from records of the package."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cog


def show_help(*command: str) -> None:
    """Write what `dynamics COMMAND --help` prints into the page, as a code block."""
    shown = subprocess.run(
        [sys.executable, "-m", "dynamics", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"},
    )
    cog.outl(f"```console\n$ {' '.join(['dynamics', *command])} --help")
    cog.outl(shown.stdout.replace("python -m dynamics", "dynamics").strip())
    cog.outl("```")


def show_step_names() -> None:
    """Write a table of names of checkpoints into the page: the step and tokens each tells."""
    from dynamics.checkpoints.step_names import example_names

    cog.outl("| name | step | tokens | written by |\n|---|---|---|---|")
    for name, said, writer in example_names():
        unit = "" if said.unit == "step" else f" (a step is one {said.unit})"
        tokens = "" if said.tokens_seen is None else f"{said.tokens_seen:,}"
        cog.outl(f"| `{name}` | {said.step:,}{unit} | {tokens} | {writer} |")


def show_methods() -> None:
    """Write a table of the methods of attribution into the page."""
    from dynamics.attribution.methods import METHODS

    cog.outl("| `--method` | is | covers |\n|---|---|---|")
    for name, method in METHODS.items():
        said = (method.function.__doc__ or "").splitlines()[0].rstrip(".")
        cog.outl(f"| `{name}` | {said} | {method.covers} |")


def show_checkpoint_formats() -> None:
    """Write tables of the checkpoint formats that are read, and that are only named."""
    from dynamics.checkpoints.formats.supported import NAMED_FORMATS, READ_FORMATS

    cog.outl("| read | told by | |\n|---|---|---|")
    for read in READ_FORMATS:
        cog.outl(f"| {read.name} | {read.files} | {read.remark} |")
    cog.outl("\n| named, not read | told by | what to do |\n|---|---|---|")
    for named in NAMED_FORMATS:
        files = ", ".join(f"`{pattern}`" for pattern in named.files)
        cog.outl(f"| {named.name} | {files} | {named.remedy} |")


def show_corpus_formats() -> None:
    """Write a table of the formats that text is read from into the page."""
    from dynamics.corpus.documents.compression import COMPRESSIONS
    from dynamics.corpus.documents.file_formats import FORMATS

    compressions = ", ".join(f"`{each.suffixes[0]}`" for each in COMPRESSIONS)
    cog.outl("| `--format` | suffixes | one document is | compressed |\n|---|---|---|---|")
    for name, file_format in FORMATS.items():
        suffixes = ", ".join(f"`{suffix}`" for suffix in file_format.suffixes)
        compressed = compressions if file_format.compressible else "within itself"
        cog.outl(f"| `{name}` | {suffixes} | {file_format.document} | {compressed} |")


def show_model_types() -> None:
    """Write what is known of each model type into the page, then what is refused or not built."""
    from dynamics.checkpoints.model_types import facts_table

    table = facts_table()
    names = [f"{facts.model_type}/{facts.class_name}" for facts in _all_facts(table)]
    covered, total = len(set(names)), len(set(names)) + len(table.refused)
    cog.outl(
        f"Probed with transformers {table.transformers}: {covered} of {total} classes that could "
        f"be built are covered ({covered / total:.0%}), {len(table.refused)} are refused, "
        f"{len(table.not_built)} could not be built or run small."
    )
    cog.outl(
        "\n| `model_type` | class | input embedding | output embedding | tied by default "
        "| output bias | final norm | its key | gain |\n|---|---|---|---|---|---|---|---|---|"
    )
    for facts in _all_facts(table):
        family = facts.family
        condition = ", ".join(f"{name}: {value}" for name, value in (facts.settings or {}).items())
        condition = condition or ", ".join(facts.required_keys)
        gain = "none"
        if facts.has_weight:
            gain = "1 + weight" if facts.gain_offset else "weight"
        cells = [
            f"`{facts.model_type}`" + (f" ({condition})" if condition else ""),
            facts.class_name,
            f"`{family.input_embedding[0]}`",
            f"`{family.output_embedding[0]}`",
            ("yes" if facts.tied else "no") if facts.ties else "never",
            f"`{family.output_bias[0]}`" if family.output_bias else "",
            facts.refusal or facts.norm or f"none (`{facts.module}`)",
            f"`{family.final_norm[0]}`" if family.final_norm else "",
            gain + (", then a constant" if facts.scaled else ""),
        ]
        cog.outl(f"| {' | '.join(cells)} |")
    for title, reasons in (("Refused", table.refused), ("Not built", table.not_built)):
        cog.outl(f"\n## {title}\n\n| `model_type`/class | why |\n|---|---|")
        for name, reason in reasons.items():
            cog.outl(f"| `{name}` | {reason.replace('|', ' ')} |")


def _all_facts(table: Any) -> list[Any]:
    return [facts for classes in table.facts.values() for facts in classes]


def show_attribution_classes() -> None:
    """Write which model classes are explained exactly, refused, or could not be built."""
    results = json.loads((Path(__file__).parent / "attribution-classes.json").read_text("utf-8"))
    records = results["classes"]
    built = [each for each in records if not each["normxlogit"].startswith("not built")]
    cog.outl(
        f"With transformers {results['transformers']}, of {len(built)} classes that could be built "
        f"({len(records) - len(built)} could not):\n\n| | exact | refused | wrong |\n"
        "|---|---|---|---|"
    )
    for method in ("normxlogit", "gradient_norm"):
        kinds = [each[method].partition(":")[0] for each in built]
        exact = kinds.count("exact")
        cog.outl(
            f"| `{method}` | {exact} ({exact / len(built):.1%}) | {kinds.count('refused')} | "
            f"{kinds.count('wrong')} |"
        )
    for task in dict.fromkeys(each["task"] for each in records):
        names = [
            each["class"]
            for each in built
            if each["task"] == task and each["normxlogit"] == each["gradient_norm"] == "exact"
        ]
        cog.outl(f"\n## Exact: {task} ({len(names)})\n")
        cog.outl("\n".join(textwrap.wrap(", ".join(dict.fromkeys(names)), 100)))
    for title, kind in (("Refused", "refused"), ("Not built", "not built")):
        cog.outl(f"\n## {title}\n\n| task | class | method | why |\n|---|---|---|---|")
        for each in records:
            why = {name: each[name] for name in ("normxlogit", "gradient_norm")}
            why = {name: said for name, said in why.items() if said.startswith(f"{kind}: ")}
            if len(set(why.values())) == 1 and len(why) == 2:
                why = {"each": why["normxlogit"]}
            for method, said in why.items():
                reason = said.removeprefix(f"{kind}: ").replace("|", " ")
                cog.outl(f"| {each['task']} | {each['class']} | {method} | {reason} |")
