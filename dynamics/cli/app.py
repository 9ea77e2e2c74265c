"""The commands. Each parses, calls one public function and prints what it returns."""

from pathlib import Path
from typing import Annotated

import typer

from dynamics.cli import series as public_series
from dynamics.cli.attribute import attribute
from dynamics.cli.audit import audit
from dynamics.cli.count import count
from dynamics.cli.output import DryRun, Json, Stages, emit
from dynamics.cli.settings import SettingsCommand
from dynamics.cli.study import Config, Overrides, folder_of, show_preview, study
from dynamics.cli.tokens import tokens
from dynamics.cli.track import track
from dynamics.distribution import DISTRIBUTION, VERSION

_HEADLINE = "The headline"

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
app.command(cls=SettingsCommand)(attribute)
app.command(cls=SettingsCommand)(count)
app.command()(study)
app.command()(tokens)
app.command(cls=SettingsCommand)(track)


def _print_version(wanted: bool) -> None:
    """Print name and version of the program and stop."""
    if wanted:
        print(DISTRIBUTION, VERSION)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error; allowed at any position."),
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


@app.command(cls=SettingsCommand)
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, drawn side by side.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures.")],
    figures: Annotated[
        list[str] | None, typer.Option(help="Draw only this figure; may be given several times.")
    ] = None,
    formats: Annotated[
        list[str], typer.Option("--format", help="pdf, svg or png; may be given several times.")
    ] = ["pdf", "png"],  # noqa: B006 (typer copies it)
    measures: Annotated[
        list[str] | None,
        typer.Option(
            help="Norms of the headline: input, or output under both centrings (default: input); "
            "may be given several times.",
            rich_help_panel=_HEADLINE,
        ),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="Importance of the headline (default: norm-matched occlusion, else occlusion, "
            "else the first of the run).",
            rich_help_panel=_HEADLINE,
        ),
    ] = None,
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay",
            help="Lay runs or arms over each other in the headline, with their differences.",
            rich_help_panel=_HEADLINE,
        ),
    ] = False,
    caption: Annotated[
        bool, typer.Option("--caption", help="Draw captions into the pictures too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw the figures of one or several runs, each with its caption in a file beside it."""
    from dynamics.report.figures import plot as plot_runs
    from dynamics.runs.run import Run

    opened = [Run(path) for path in runs]
    left_out: list[str] = []
    settings = {
        "measures": measures,
        "importance": importance,
        "overlay": overlay,
        "caption": caption,
    }
    files = plot_runs(
        opened,
        output,
        figures=figures or (),
        formats=formats,
        settings={name: value for name, value in settings.items() if value},
        report=left_out.append,
    )
    with Stages() as stages:
        for line in left_out:
            stages.report(line)
    emit(as_json, {"figures": [str(file) for file in files]}, "figures:", map(str, files))
