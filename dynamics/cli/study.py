"""The command that runs a whole study: one training, arms and seeds, or public series."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamics.cli.output import DryRun, Json, Stages, command_line, emit
from dynamics.configurations import shipped_configurations

if TYPE_CHECKING:
    from dynamics.config import StudySettings
    from dynamics.study.settings import ArmsStudy, SeriesStudy

Config = Annotated[
    Path,
    typer.Argument(
        help="YAML file of the settings, or the name of one that comes with the program: "
        f"{', '.join(shipped_configurations())}."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the file."),
]


def study(
    config: Config,
    settings: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; runs/NAME by default.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Runs at once in a study of several runs, each in a process."),
    ] = 1,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Page of a study of several runs; its figures go to a folder of the same name "
            "beside it (default: report.md in the output folder).",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train, count, track and plot into one folder; run the same command again to resume.

    A file with arms and seeds trains all of them, one with series tracks all of them; both end with
    a page over all runs.
    """
    from dynamics.config import StudySettings
    from dynamics.errors import ConfigError
    from dynamics.study.settings import load_study

    loaded = load_study(config, settings or ())
    folder = folder_of(loaded.name, output)
    if not isinstance(loaded, StudySettings):
        _several(loaded, folder, page, workers, dry_run, as_json)
        return
    if workers > 1 or page is not None:
        raise ConfigError(
            f"--workers and --report are for studies of several runs, and {config} holds one "
            "training; leave them out, or give a file with arms or series"
        )
    if dry_run:
        show_preview(loaded, folder / "training", as_json)
        return
    from dynamics.study.single import run_study

    with Stages() as stages:
        result = run_study(
            loaded,
            folder,
            command=command_line(),
            report=stages.report,
            on_step=stages.training(loaded.training.steps),
            on_checkpoint=stages.counter("tracking"),
            on_live=stages.counter("running the model"),
        )
    emit(as_json, result, "\n".join(result["findings"]) + "\n\nfigures:", result["figures"])


def folder_of(name: str, output: Path | None) -> Path:
    """Return the output folder: `output` if given, else `runs/NAME`."""
    return output or Path("runs") / name


def show_preview(settings: "StudySettings", folder: Path, as_json: bool) -> None:
    """Print what a training will do and cost."""
    from dynamics.training.preview import preview

    with Stages() as stages:
        expected = preview(settings, folder, report=stages.report)
    emit(as_json, expected.__dict__, expected.describe())


def _several(
    loaded: "ArmsStudy | SeriesStudy",
    folder: Path,
    page: Path | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    from dynamics.study.settings import ArmsStudy

    if dry_run:
        from dynamics.study.plans import plan_arms, plan_series

        expected = plan_arms(loaded) if isinstance(loaded, ArmsStudy) else plan_series(loaded)
        emit(as_json, asdict(expected), expected.describe())
        return
    from dynamics.study.several import run_arms, run_series

    with Stages() as stages:
        options = {
            "page": page,
            "workers": workers,
            "command": command_line(),
            "report": stages.report,
        }
        if isinstance(loaded, ArmsStudy):
            result = run_arms(loaded, folder, **options)
        else:
            result = run_series(loaded, folder, **options)
    emit(as_json, result, f"page: {result['page']}\nfigures:", result["figures"])
