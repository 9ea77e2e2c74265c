"""The command that lists the tokens behind a change."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dynamics.cli.output import emit, table

if TYPE_CHECKING:
    import pandas as pd


def tokens(
    run: Annotated[Path, typer.Argument(help="A run folder, or that of a study.")],
    gained: Annotated[Literal["norm", "importance"], typer.Option(help="What they gained.")],
    between: Annotated[tuple[int, int], typer.Option(help="The two steps.", metavar="STEP STEP")],
    measure: Annotated[
        str | None,
        typer.Option(
            help="Which norm, or other measure of the run: input_embedding_norm by default. With "
            "--gained importance, what importance is correlated with."
        ),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="Which importance: occlusion by default, or the first of the run. With --gained "
            "norm, what the norm is correlated with."
        ),
    ] = None,
    lost: Annotated[
        bool, typer.Option("--lost", help="List those that lost most instead.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="How many tokens.")] = 20,
    shape: Annotated[Literal["table", "json"], typer.Option("--format", help="How.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """List the tokens whose norm or importance changed most between two steps.

    With each comes what it did to the correlation with log frequency, which is what a trend shows.
    """
    from dynamics.runs.changed_tokens import changed_tokens
    from dynamics.runs.run import Run

    found = changed_tokens(
        Run(run),
        gained=gained,
        between=between,
        measure=measure,
        importance=importance,
        top=top,
        lost=lost,
    )
    rows = found.astype(object).where(found.notna(), None).to_dict("records")
    rho = [None if math.isnan(value) else value for value in found.attrs["rho"]]
    result = {**found.attrs, "rho": rho, "tokens": rows}
    emit(as_json or shape == "json", result, _described(found))


def _described(found: "pd.DataFrame") -> str:
    of, against, steps = (found.attrs[each] for each in ("of", "against", "steps"))
    before, after = found.attrs["rho"]
    kind = "log change" if "_norm" in of and "error" not in found else "change"
    names = ["token", "id", "count", *(f"step {step:,}" for step in steps), kind]
    numbers = [name for name in found.columns if name not in ("token_id", "token", "count")]
    names += ["error"] if "error" in found else []
    rows = [
        [
            _visible(row["token"]),
            str(row["token_id"]),
            f"{row['count']:,}",
            *(f"{row[name]:.4g}" for name in ("before", "after")),
            *(f"{row[name]:+.4g}" for name in numbers[2:]),
        ]
        for row in found.to_dict("records")
    ]
    return (
        f"rho of {of} with {against}: {before:+.3f} at step {steps[0]:,}, {after:+.3f} at step "
        f"{steps[1]:,} ({found.attrs['n']:,} tokens)\n{table([[*names, 'rho change'], *rows])}"
    )


def _visible(token: str) -> str:
    """A token in a table: spaces are shown, what is not printable is an escape."""
    from dynamics.attribution.display import printable

    return printable(token).replace(" ", "␣")
