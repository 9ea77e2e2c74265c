"""The command that lists the tokens behind a change."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dynamics.cli.output import emit, table
from dynamics.runs.measures import is_norm

if TYPE_CHECKING:
    import pandas as pd

_SIGNED = ("change", "error", "rho_change")


def tokens(
    run: Annotated[Path, typer.Argument(help="A run folder, or a study folder.")],
    gained: Annotated[Literal["norm", "importance"], typer.Option(help="Quantity that changed.")],
    between: Annotated[tuple[int, int], typer.Option(help="The two steps.", metavar="STEP STEP")],
    measure: Annotated[
        str | None,
        typer.Option(
            help="Norm or other measure of the run (default: input_embedding_norm). With --gained "
            "importance, the measure that importance is correlated with."
        ),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="Importance (default: occlusion, or the first of the run). With --gained norm, "
            "the importance that the norm is correlated with."
        ),
    ] = None,
    lost: Annotated[
        bool, typer.Option("--lost", help="List the tokens that lost most instead.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens.")] = 20,
    shape: Annotated[
        Literal["table", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """List the tokens whose norm or importance changed most between two steps.

    Each is listed with its contribution to the change of the rank correlation.
    """
    from dynamics.runs.changed_tokens import changed_tokens
    from dynamics.runs.run import Run

    changes = changed_tokens(
        Run(run),
        gained=gained,
        between=between,
        measure=measure,
        importance=importance,
        top=top,
        lost=lost,
    )
    rows = changes.astype(object).where(changes.notna(), None).to_dict("records")
    rho = [None if math.isnan(value) else value for value in changes.attrs["rho"]]
    result = {**changes.attrs, "rho": rho, "tokens": rows}
    emit(as_json or shape == "json", result, _as_text(changes))


def _as_text(changes: "pd.DataFrame") -> str:
    measure, against, steps = (changes.attrs[key] for key in ("of", "against", "steps"))
    first_rho, last_rho = changes.attrs["rho"]
    kind = "log change" if is_norm(measure) and "error" not in changes else "change"
    numbers = [name for name in changes.columns if name not in ("token_id", "token", "count")]
    others = [name.replace("_", " ") for name in numbers[3:]]  # after before, after and change
    names = ["token", "id", "count", *(f"step {step:,}" for step in steps), kind, *others]
    rows = [
        [
            _visible(row["token"]),
            str(row["token_id"]),
            f"{row['count']:,}",
            *(f"{row[name]:{'+' * (name in _SIGNED)}.4g}" for name in numbers),
        ]
        for row in changes.to_dict("records")
    ]
    return (
        f"rho of {measure} with {against}: {first_rho:+.3f} at step {steps[0]:,}, "
        f"{last_rho:+.3f} at step {steps[1]:,} ({changes.attrs['n']:,} tokens)\n"
        f"{table([names, *rows])}"
    )


def _visible(token: str) -> str:
    """Return a token for a table: spaces as ␣, unprintable characters as escapes."""
    from dynamics.attribution.display import printable

    return printable(token).replace(" ", "␣")
