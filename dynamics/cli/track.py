"""The command that tracks a series: norms from its weights, importances from its models."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dynamics.cli.output import DryRun, Json, Stages, command_line, emit
from dynamics.cli.settings import KeyValues, SettingsFile
from dynamics.config import TrackingSettings
from dynamics.settings_files import read_settings
from dynamics.tracking.executors import executor_for

_MEASURES = "What is measured"
_MODELS = "Running the models"


def track(
    series: Annotated[
        str,
        typer.Argument(
            help="A catalog name, a hub repository, a training folder, a folder of checkpoints, or "
            "a model."
        ),
    ],
    key_values: KeyValues = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder; needed to track.")
    ] = None,
    counts: Annotated[
        str,
        typer.Option(
            help="A counts.parquet, or a CSV, TSV or parquet table with columns token_id or token, "
            "and count or frequency; 'auto' finds the counts of the series; 'none' measures norms "
            "alone.",
            rich_help_panel=_MEASURES,
        ),
    ] = "auto",
    steps: Annotated[
        str,
        typer.Option(
            help="Steps: all, last, 0,1,512, log2(512)+every(1000).", rich_help_panel=_MEASURES
        ),
    ] = "all",
    rule: Annotated[
        str,
        typer.Option(
            help="Vocabulary rule of the main statistics: count>=N or top-N.",
            rich_help_panel=_MEASURES,
        ),
    ] = "count>=10",
    rows: Annotated[
        str | None,
        typer.Option(
            help="Read only these rows, 0:1000 or 5,17,290; measures that need every row are left "
            "out.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    all_measures: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also take slow measures, and use all rows instead of a sample.",
            rich_help_panel=_MEASURES,
        ),
    ] = False,
    paths: Annotated[
        bool,
        typer.Option(
            "--paths",
            help="Read the series a second time, to follow each row over all steps.",
            rich_help_panel=_MEASURES,
        ),
    ] = False,
    covariates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Correlate everything with the numbers per token in this table (CSV, TSV or "
            "parquet with a column token_id, token or word); may be given several times.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    importance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Measure these importances of tokens: all, or names with commas; may be given "
            "several times.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    surgery: Annotated[
        bool,
        typer.Option(
            "--surgery",
            help="Measure the held-out loss after surgery on the norms.",
            rich_help_panel=_MODELS,
        ),
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Compare attribution methods with occlusion within inputs.",
            rich_help_panel=_MODELS,
        ),
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(
            help="Text or token stream that the models are run on (default: the training stream of "
            "the series and its held-out rows).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(
            help="Device that the models are run on (default: auto).", rich_help_panel=_MODELS
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Checkpoints to measure at once, on threads; on a cluster at least."
        ),
    ] = 1,
    settings_file: SettingsFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure embedding norms over a series, and how they correlate with token frequency.

    Steps that cannot be measured are left out, and the same command adds them once they can be; so
    are steps of a hub that the cheap audit flags, unless allow_flagged=true. With --importance,
    --surgery or --agreement the model of each step is run as well. These can be added to an
    existing run, but only once: a run folder holds one set of their settings. --paths can be added
    at any time.
    """
    names = ",".join(importance or ()).replace(" ", "").split(",")
    options = {
        "all": all_measures,
        "paths": paths,
        "covariates": covariates or None,
        "importance": list(dict.fromkeys(names)) if importance else None,
        "surgery": surgery,
        "agreement": agreement,
        "probe.text": probe,
        "device": device,
    }
    # Settings are read before torch is imported, so that a slip is refused at once.
    settings = read_settings(TrackingSettings, settings_file, key_values or (), options)
    from dynamics.checkpoints.opening import open_any
    from dynamics.errors import ConfigError
    from dynamics.runs.findings import last_step_table
    from dynamics.tracking.cost import live_cost, track_cost
    from dynamics.tracking.plan import check_importances
    from dynamics.tracking.track import track as track_series
    from dynamics.tracking.training_data import find_counts

    check_importances(settings)
    if dry_run:
        cost = track_cost(opened := open_any(series), steps, rows, paths=settings.paths)
        running = live_cost(opened, steps, settings) if settings.runs_models else None
        texts = [part.describe() for part in (cost, running) if part]
        emit(as_json, cost.__dict__ | {"live": running and running.__dict__}, "\n".join(texts))
        return
    if output is None:
        raise ConfigError("tracking needs a run folder; give it with -o")
    opened = open_any(series)
    with Stages() as stages, executor_for(workers, settings.dask) as (executor, ahead):
        run = track_series(
            opened,
            output,
            counts=find_counts(
                opened, counts, report=stages.report, on_progress=stages.counter("counting")
            ),
            steps=steps,
            rule=rule,
            rows=rows,
            settings=settings,
            command=command_line(),
            executor=executor,
            ahead=ahead,
            report=stages.report,
            on_checkpoint=stages.counter("tracking", lambda: opened.traffic.received),
            on_live=stages.counter("running the model", lambda: opened.traffic.received),
        )
    result: dict[str, object] = {"run": str(output)}
    if left_out := run.record.series.left_out:
        result["left_out"] = left_out
    emit(as_json, result, f"{last_step_table(run)}\nrun: {output}")
