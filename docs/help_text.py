"""What cog generates: help texts of the commands, and tables made from records of the package."""

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import cog
from source_index import ROOT, Module, contracts, find, layers, modules, tests_of


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


def show_settings() -> None:
    """Write a table of every settings model into the page, under the commands that take it."""
    from dynamics.cli.settings import SETTINGS

    commands: dict[type[Any], list[str]] = {}
    for command, models in SETTINGS.items():
        for model in models:
            commands.setdefault(model, []).append(f"dynamics {command}")
    for model, names in commands.items():
        summary = (model.__doc__ or "").splitlines()[0].rstrip(".")
        cog.outl(f"\n## {summary}\n\nOf {' and '.join(f'`{name}`' for name in names)}.\n")
        cog.outl("| key | type | default | meaning |\n|---|---|---|---|")
        for key, field, meaning in _settings(model):
            default = (
                "required"
                if field.is_required()
                else _yaml(field.get_default(call_default_factory=True))
            )
            kind = _type(field.annotation)
            cog.outl(f"| `{key}` | {kind} | {_cell(default)} | {_cell(meaning)} |")


def _settings(model: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield key, pydantic field and meaning of every setting, those of groups by dotted key."""
    docs = [inspect.cleandoc(base.__doc__ or "") for base in reversed(model.__mro__)]
    attributes = "\n".join(doc.partition("Attributes:\n")[2] for doc in docs)
    entries = re.findall(
        r"^    (\w+): (.+?)(?=^    \w|^\S|\Z)", attributes, re.MULTILINE | re.DOTALL
    )
    meanings = {name: " ".join(text.split()) for name, text in entries}
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        group = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if group is None or field.default is None:
            yield prefix + name, field, meanings[name]
        if group is not None:
            yield from _settings(group, f"{prefix}{name}.")


def _type(annotation: Any) -> str:
    """Return the type of a setting in words; None is left out, as the default tells it."""
    words = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in words:
        return words[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is Annotated:
        return _type(parts[0])
    if origin is list:
        return f"list of: {_type(parts[0])}"
    if origin is None or origin is dict:
        return "keys and values"
    return " or ".join(_type(part) for part in parts if part is not type(None))


def _yaml(value: Any) -> str:
    """Return a default as it is written in YAML, or `none`."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "none" if value is None else f"`{text}`"


def show_step_names() -> None:
    """Write a table of names of checkpoints into the page: the step and tokens each tells."""
    from dynamics.checkpoints.step_names import PATTERNS, parse_step_name

    cog.outl("| name | step | tokens | written by |\n|---|---|---|---|")
    examples = [example for pattern in PATTERNS for example in pattern.examples.items()]
    for name, writer in examples:
        said = parse_step_name(name)
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


def show_layouts() -> None:
    """Write a table of the methods that take blocks apart, and the architectures they cover."""
    from dynamics.attribution.methods import METHODS
    from dynamics.models.block_layouts import LAYOUTS

    cog.outl(f"| `--method` | {' | '.join(layout.name for layout in LAYOUTS.values())} |")
    cog.outl("|---" * (1 + len(LAYOUTS)) + "|")
    for name, method in METHODS.items():
        if (excludes := method.excludes) is not None:
            cells = ["" if excludes(layout) else "yes" for layout in LAYOUTS.values()]
            cog.outl(f"| `{name}` | {' | '.join(cells)} |")


def show_surgeries() -> None:
    """Write a table of the surgeries on norms into the page."""
    from dynamics.runs.surgeries import DRAWS, SURGERIES

    cog.outl("| statistic | new norm of each token | rows | draws |\n|---|---|---|---|")
    for name, surgery in SURGERIES.items():
        rows = "all" if surgery.every_row else "of tokens that occur"
        draws = f"mean of {DRAWS}" if surgery.is_random else ""
        cog.outl(f"| `surgery_{name}` | {surgery.description} | {rows} | {draws} |")


def show_named_formats() -> None:
    """Write a table of the checkpoint formats that are only named, each with its remedy."""
    from dynamics.checkpoints.formats.supported import NAMED_FORMATS

    cog.outl("| named, not read | told by | what to do |\n|---|---|---|")
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
        "| output bias | final norm | its key | gain | cap of logits |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
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
            _cap(facts),
        ]
        cog.outl(f"| {' | '.join(cells)} |")
    for title, reasons in (("Refused", table.refused), ("Not built", table.not_built)):
        cog.outl(f"\n## {title}\n\n| `model_type`/class | why |\n|---|---|")
        for name, reason in reasons.items():
            cog.outl(f"| `{name}` | {reason.replace('|', ' ')} |")


def _cap(facts: Any) -> str:
    """Return the cap of the logits by default, and the setting of it."""
    cap = "unknown" if facts.softcap is None else f"{facts.softcap:g}" if facts.softcap else ""
    if facts.softcap_setting is None:
        return cap
    return f"{cap or 'none'} (`{facts.softcap_setting}`)"


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


def show_error_rates() -> None:
    """Write the simulated error rates into the page, from the results that a script wrote."""
    cells = json.loads((ROOT / "docs" / "error-rates.json").read_text())
    cog.outl("| estimator | truth | n | mean | true | misses | leaves null | draws |")
    cog.outl("|---|---|---|---|---|---|---|---|")
    for cell in cells:
        leaves = cell["leaves_null"]
        cog.outl(
            f"| {cell['estimator']} | {cell['truth']} | {cell['n']:,} | {cell['mean']:+.3f} | "
            f"{cell['expected']:+.3f} | {cell['misses']:.3f} | "
            f"{'' if leaves is None else f'{leaves:.3f}'} | {cell['repetitions']:,} |"
        )


def show_layers() -> None:
    """Write the layers of the package into the page, from the contract that `make check` tests."""
    summaries = {module.name: module.summary for module in modules()}
    rows: list[str] = []
    cog.outl("| level | package or module | |\n|---|---|---|")
    for level, layer in enumerate(reversed(layers())):
        for name in layer:
            row = f"| {level} | `{name}` | {_cell(summaries[f'dynamics.{name}'])} |"
            rows.insert(0, row)
    cog.outl("\n".join(rows))
    cog.outl("\nFurther contracts:\n")
    for contract in contracts():
        if contract["type"] == "layers":
            continue
        above, below = (
            ", ".join(f"`{name.removeprefix('dynamics.')}`" for name in contract[key])
            for key in ("source_modules", "forbidden_modules")
        )
        cog.outl(f"- {contract['name']}: {above} never import {below}, not even indirectly.")


def show_architecture() -> None:
    """Write one line per module into the page, by package, in the order of the layers."""
    order = [name for layer in layers() for name in layer]
    packages: dict[str, list[Module]] = {}
    for module in modules():
        packages.setdefault(module.package, []).append(module)

    def place(package: str) -> tuple[int, str]:
        first = package.split(".")[1:2]
        return (order.index(first[0]) if first else -1), package

    for package in sorted(packages, key=place):
        (root,) = (module for module in packages[package] if module.is_package)
        cog.outl(f"\n### {package}\n\n{root.summary}\n")
        rows = [module for module in packages[package] if not module.is_package]
        if rows:
            cog.outl("| module | |\n|---|---|")
        for module in rows:
            name = module.name.rpartition(".")[2]
            cog.outl(f"| [`{name}`]({_from_page(module.path)}) | {_cell(module.summary)} |")


EXTENSIONS = (
    ("a measure per token", "`View` to `TokenScores`", "`Measure`", "MEASURES"),
    ("a statistic of a matrix", "`MatrixView` to rows of trends", "`MatrixStatistic`", "MATRICES"),
    ("an attribution method", "`AttributionBatch` to `Scores`", "`Method`", "METHODS"),
    (
        "an importance from the model",
        "`Passes` to a value per context",
        "`Importance`",
        "importance.IMPORTANCES",
    ),
    ("an importance from the corpus", "a column of the counts", "the name of it", "CORPUS"),
    ("a surgery on norms", "norms and counts to new norms", "`Surgery`", "SURGERIES"),
    ("a family of checkpoints", "", "`Family`", "checkpoints.FAMILIES"),
    ("a format of checkpoints that is only named", "", "`NamedFormat`", "NAMED_FORMATS"),
    (
        "a format of corpus files",
        "path and column to documents",
        "`FileFormat`",
        "corpus.FORMATS",
    ),
    ("a figure", "runs to a `Figure`", "the function", "FIGURES"),
    ("a question on the page of a study", "", "`Section`", "SECTIONS"),
    ("a claim", "", "`Claim` in a file with its date", "CLAIM_FILES"),
)
"""What can be added: the function to write, the entry to make, and the label of the table that it
is made in."""


def show_extensions() -> None:
    """Write a table of what can be added into the page, with the file of each table of entries."""
    cog.outl("| to add | function to write | entry | table |\n|---|---|---|---|")
    for title, function, entry, label in EXTENSIONS:
        path, name = find(label), label.rpartition(".")[2]
        place = f"`{name}` in [`{path}`]({_from_page(path)})"
        cog.outl(f"| {title} | {function} | {entry} | {place} |")


def show_test_helpers() -> None:
    """Write a table of the modules that tests share, and one of the fixtures."""
    cog.outl("| module | |\n|---|---|")
    for module in modules("tests"):
        name = module.path.name
        if module.summary and not name.startswith(("test_", "conftest")):
            cog.outl(f"| [`{module.name}`]({_from_page(module.path)}) | {_cell(module.summary)} |")
    cog.outl("\n| fixtures of | are |\n|---|---|")
    for module in modules("tests"):
        if module.fixtures and not module.path.name.startswith("test_"):
            names = ", ".join(f"`{name}`" for name in module.fixtures)
            cog.outl(f"| [`{module.path}`]({_from_page(module.path)}) | {names} |")


def show_tests_elsewhere() -> None:
    """Write a table of the modules whose tests are not in a file of their name."""
    cog.outl("| module | tested in |\n|---|---|")
    for module in modules():
        tests = tests_of(module)
        if module.is_package or [test.name for test in tests] == [f"test_{module.path.name}"]:
            continue
        shown = ", ".join(f"[`{test.stem}`]({_from_page(test)})" for test in tests[:3])
        cog.outl(f"| `{module.name.removeprefix('dynamics.')}` | {shown} |")


def show_links() -> None:
    """Write the targets of the page's links to source, `[`NAME`]` and `[text][package.NAME]`."""
    text = Path(cog.inFile).read_text("utf-8")
    text = re.sub(r"^\[[^\]]+\]: \S+$", "", text, flags=re.MULTILINE)  # targets from before
    labels = {f"`{name}`" for name in re.findall(r"\[`([\w.]+)`\](?![\[(])", text)}
    labels |= set(re.findall(r"\]\[([\w.]+)\]", text))
    problems = []
    for label in sorted(labels, key=lambda label: label.strip("`").lower()):
        try:
            cog.outl(f"[{label}]: {_from_page(find(label.strip('`')))}")
        except LookupError as error:
            problems.append(f"{cog.inFile}: {error}")
    if problems:
        cog.error("\n".join(problems))


def _from_page(path: Path) -> str:
    """Path of a file of the project as a link from the page that is written."""
    page = Path(cog.inFile).resolve().parent
    return Path(os.path.relpath(ROOT / path, page)).as_posix()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
