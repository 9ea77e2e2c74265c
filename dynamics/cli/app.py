"""The commands. Each parses, calls one public function and prints what it returns."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dynamics.cli import series as public_series
from dynamics.cli.attribute import attribute
from dynamics.cli.audit import audit
from dynamics.cli.output import Stages, emit
from dynamics.cli.study import Config, Overrides, folder_of, show_preview, study

if TYPE_CHECKING:
    from concurrent.futures import Executor

app = typer.Typer(
    name="dynamics",
    help="Follow how the norms of token embeddings come to correlate with frequency and importance "
    "over pre-training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(public_series.app, name="series")
app.command()(audit)
app.command()(attribute)
app.command()(study)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do and cost, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    """Options of every command; `main` has taken --debug out before this runs."""


@app.command()
def train(
    config: Config,
    settings: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Training folder; runs/NAME by default.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a tiny language model; the same command goes on when interrupted.

    With `torchrun --nproc-per-node 2 -m dynamics train ...` it runs on two processes.
    """
    from dynamics.config import load
    from dynamics.training.train import train as train_model

    loaded = load(config, settings or ())
    folder = folder_of(loaded.name, output)
    if dry_run:
        show_preview(loaded, folder, as_json)
        return
    with Stages() as stages:
        checkpoints = train_model(
            loaded, folder, report=stages.report, on_step=stages.training(loaded.training.steps)
        )
    emit(as_json, {"checkpoints": str(checkpoints)}, f"checkpoints: {checkpoints}")


@app.command()
def count(
    corpus: Annotated[
        str,
        typer.Argument(
            help="python-docs, a file or folder of text, .jsonl, .parquet, a data set's name, or a "
            "token stream (a training folder, a file of ids with --sequence-length, or a public "
            "series like pythia-160m, whose stream is sampled)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write counts.parquet.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder, tokenizer.json or hub name; training folders and series have their own."
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Rows of the model, where they are more than the tokens.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "train",
    max_documents: Annotated[int | None, typer.Option(help="Read no more documents.")] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="T of a stream of rows of T + 1 ids that is not ours.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Its type on disk; uint16 by default.")] = None,
    sample_tokens: Annotated[
        int, typer.Option(help="Tokens to read of the stream of a public series, at least.")
    ] = 100_000_000,
    as_json: Json = False,
) -> None:
    """Count tokens of a corpus or of a token stream."""
    from dynamics.corpus.count import count_corpus

    with Stages() as stages:
        counts = count_corpus(
            corpus,
            tokenizer,
            vocab_size=vocab_size,
            text_column=text_column,
            split=split,
            max_documents=max_documents,
            sequence_length=sequence_length,
            dtype=dtype,
            sample_tokens=sample_tokens,
            report=stages.report,
            on_progress=stages.counter("sampling"),
        )
    counts.write(output)
    kinds = counts.table.groupby("kind")["count"].agg(entries="size", occurrences="sum")
    emit(
        as_json,
        {"counts": str(output), **counts.info.__dict__},
        f"{counts.info.tokens_counted:,} tokens, {len(counts.table):,} entries\n"
        f"{kinds.to_string()}\ncounts: {output}",
    )


@app.command()
def track(
    series: Annotated[
        str,
        typer.Argument(
            help="A catalog name, a hub repository, a training folder, a folder of checkpoints, or "
            "a model."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder; needed to track.")
    ] = None,
    counts: Annotated[
        str,
        typer.Option(
            help="counts.parquet; 'auto' takes the series' own; 'none' follows norms alone."
        ),
    ] = "auto",
    steps: Annotated[
        str, typer.Option(help="Steps: all, last, 0,1,512, log2(512)+every(1000).")
    ] = "all",
    rule: Annotated[
        str, typer.Option(help="Vocabulary rule of the main statistics: count>=N or top-N.")
    ] = "count>=10",
    rows: Annotated[
        str | None,
        typer.Option(
            help="Read these rows only, 0:1000 or 5,17,290; what needs every row is left out."
        ),
    ] = None,
    allow_flagged: Annotated[
        bool, typer.Option("--allow-flagged", help="Keep steps that the audit finds wrong.")
    ] = False,
    exposure: Annotated[
        Literal["auto", "exact"],
        typer.Option(
            help="'exact' reads a public series' token stream up to the last step; 'auto' counts "
            "exposure for local trainings only."
        ),
    ] = "auto",
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Checkpoints under way at once, on threads; on a cluster at least."
        ),
    ] = 1,
    dask: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler that does the work instead.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure embedding norms over a series, and how they correlate with token frequency.

    Steps that the cheap audit flags are left out unless --allow-flagged.
    """
    from dynamics.checkpoints.opening import open_any
    from dynamics.errors import ConfigError
    from dynamics.tracking.cost import track_cost
    from dynamics.tracking.summary import last_step_table
    from dynamics.tracking.track import find_counts
    from dynamics.tracking.track import track as track_series

    if dry_run:
        cost = track_cost(open_any(series), steps, rows)
        emit(as_json, cost.__dict__, cost.describe())
        return
    if output is None:
        raise ConfigError("give the run folder with -o")
    opened = open_any(series)
    with Stages() as stages, _executor(workers, dask) as (executor, ahead):
        found = find_counts(
            opened, counts, report=stages.report, on_progress=stages.counter("counting")
        )
        run = track_series(
            opened,
            output,
            counts=found,
            steps=steps,
            rule=rule,
            rows=rows,
            command=_command(),
            allow_flagged=allow_flagged,
            exposure=exposure,
            executor=executor,
            ahead=ahead,
            report=stages.report,
            on_checkpoint=stages.counter("tracking", lambda: opened.traffic.received),
        )
    emit(as_json, {"run": str(output)}, f"{last_step_table(run)}\nrun: {output}")


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, drawn beside each other.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures.")],
    figures: Annotated[
        list[str] | None, typer.Option(help="Only this figure; may be given several times.")
    ] = None,
    formats: Annotated[
        list[str], typer.Option("--format", help="pdf, svg or png; may be given several times.")
    ] = ["pdf", "png"],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Draw the figures of one or several runs."""
    from dynamics.report.figures import plot as plot_runs
    from dynamics.tracking.run import Run

    opened = [Run(path) for path in runs]
    with Stages() as stages:
        files = plot_runs(
            opened, output, figures=figures or (), formats=formats, report=stages.report
        )
    emit(as_json, {"figures": [str(file) for file in files]}, "figures:", map(str, files))


@contextmanager
def _executor(workers: int, dask: str | None) -> Iterator[tuple["Executor | None", int]]:
    """Threads, a cluster, or None for this thread; and the checkpoints under way at once."""
    if dask is not None:
        from dynamics.tracking.cluster import dask_executor

        with dask_executor(dask) as (executor, threads):
            yield executor, max(workers, threads)
    elif workers > 1:
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(workers)
        try:
            yield pool, workers
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        yield None, 1


def _command() -> str:
    return shlex.join(["dynamics", *sys.argv[1:]])
