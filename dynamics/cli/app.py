"""The commands. Each parses, calls one public function and prints what it returns."""

from pathlib import Path
from typing import Annotated

import typer

from dynamics.cli import series as public_series
from dynamics.cli.attribute import attribute
from dynamics.cli.audit import audit
from dynamics.cli.output import DryRun, Json, Stages, emit
from dynamics.cli.study import Config, Overrides, folder_of, show_preview, study
from dynamics.cli.tokens import tokens
from dynamics.cli.track import track
from dynamics.distribution import DISTRIBUTION, VERSION

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
app.command()(tokens)
app.command()(track)


def _print_version(wanted: bool) -> None:
    """Print name and version of the program and stop."""
    if wanted:
        print(DISTRIBUTION, VERSION)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print name and version."
        ),
    ] = False,
) -> None:
    """Options of every command; `main` removes --debug before this runs."""


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
    """Train a tiny language model; run the same command again to resume.

    With `torchrun --nproc-per-node 2 -m dynamics train ...` it runs in two processes.
    """
    from dynamics.config import StudySettings
    from dynamics.errors import ConfigError
    from dynamics.study.settings import load_study

    # Settings are read before torch is imported, so that a slip is refused at once.
    loaded = load_study(config, settings or ())
    if not isinstance(loaded, StudySettings):
        raise ConfigError(
            f"{config} is a study of several runs, not one training; `dynamics study {config}` "
            "does all of them"
        )
    folder = folder_of(loaded.name, output)
    if dry_run:
        show_preview(loaded, folder, as_json)
        return
    from dynamics.training.train import train as train_model

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
            help="Text: a file, a folder, a pattern like 'data/*.jsonl', a data set's name, or "
            "python-docs. Or a token stream: a training folder, a file of ids with "
            "--sequence-length, or a public series like pythia-160m, whose stream is sampled."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Path of the counts.parquet to write.")
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder, tokenizer.json or hub name; not needed for training folders and series."
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Rows of the embedding, if the tokenizer has more or fewer.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a data set, a folder or a pattern, or all (default: train, where there "
            "are splits)."
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Read files as text, json, csv, parquet or arrow instead of guessing.",
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="Text between documents in one file or row, such as '<|endoftext|>'; it is not "
            "counted."
        ),
    ] = None,
    max_documents: Annotated[int | None, typer.Option(help="Most documents to read.")] = None,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss", help="Count the text even if more than 1 % of it becomes no token."
        ),
    ] = False,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Sequence length T of a third-party stream (rows of T + 1 ids)."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of the ids in that stream (default: by its header, else uint16)."),
    ] = None,
    sample_tokens: Annotated[
        int, typer.Option(help="Tokens to sample from the stream of a public series, at least.")
    ] = 100_000_000,
    information_gain: Annotated[
        bool,
        typer.Option("--information-gain", help="Also compute each token's information gain."),
    ] = False,
    window: Annotated[
        int, typer.Option(help="Window of the information gain: tokens to each side.")
    ] = 10,
    pairs: Annotated[
        int | None,
        typer.Option(
            help="Context pairs per token for equal-count information gain (default: 8 windows)."
        ),
    ] = None,
    oyama: Annotated[
        bool, typer.Option("--oyama", help="Also use the symmetric window of Oyama et al. 2023.")
    ] = False,
    shuffles: Annotated[
        int, typer.Option(help="Shuffled corpora for the correction of --oyama.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the shuffles.")] = 0,
    contiguous: Annotated[
        bool,
        typer.Option(
            "--contiguous",
            help="Rows of a third-party stream are consecutive text (nanoGPT, OLMo), so pairs may "
            "cross row ends.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Count tokens of a corpus or of a token stream."""
    from dynamics.corpus.count import count_corpus
    from dynamics.corpus.information.gain import InformationSettings
    from dynamics.errors import ConfigError

    if oyama and not information_gain:
        raise ConfigError("--oyama needs --information-gain; give both")
    information = InformationSettings(window, pairs, oyama, shuffles, seed)

    with Stages() as stages:
        counts = count_corpus(
            corpus,
            tokenizer,
            vocab_size=vocab_size,
            text_column=text_column,
            split=split,
            max_documents=max_documents,
            format_name=format_name,
            separator=separator,
            allow_loss=allow_loss,
            sequence_length=sequence_length,
            dtype=dtype,
            sample_tokens=sample_tokens,
            information=information if information_gain else None,
            contiguous=contiguous,
            report=stages.report,
            on_progress=stages.counter("sampling"),
            on_pass=stages.counter("information gain"),
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
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, drawn side by side.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures.")],
    figures: Annotated[
        list[str] | None, typer.Option(help="Draw only this figure; may be given several times.")
    ] = None,
    formats: Annotated[
        list[str], typer.Option("--format", help="pdf, svg or png; may be given several times.")
    ] = ["pdf", "png"],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Draw the figures of one or several runs."""
    from dynamics.report.figures import plot as plot_runs
    from dynamics.runs.run import Run

    opened = [Run(path) for path in runs]
    left_out: list[str] = []
    files = plot_runs(
        opened, output, figures=figures or (), formats=formats, report=left_out.append
    )
    with Stages() as stages:
        for line in left_out:
            stages.report(line)
    emit(as_json, {"figures": [str(file) for file in files]}, "figures:", map(str, files))
