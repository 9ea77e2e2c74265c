"""What cog generates: help texts of the commands, the table of methods."""

import os
import subprocess
import sys
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


def show_methods() -> None:
    """Write a table of the methods of attribution into the page."""
    from dynamics.attribution.methods import METHODS

    cog.outl("| `--method` | is | covers |\n|---|---|---|")
    for name, method in METHODS.items():
        said = (method.function.__doc__ or "").splitlines()[0].rstrip(".")
        cog.outl(f"| `{name}` | {said} | {method.covers} |")


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
