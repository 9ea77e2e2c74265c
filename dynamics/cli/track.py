"""The command that tracks a series: norms from its weights, importances from its models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.cli.output import DryRun, Json, Stages, command_line, emit
from dynamics.cli.settings import KeyValues, SettingsFile
from dynamics.config import TrackingSettings
from dynamics.errors import ConfigError, DynamicsError, StudyError
from dynamics.runs.record import RUN_JSON
from dynamics.settings_files import read_settings
from dynamics.study.settings import run_folder
from dynamics.tracking.executors import executor_for

if TYPE_CHECKING:
    from dynamics.checkpoints.series import CheckpointSeries

_MEASURES = "What is measured"
_MODELS = "Running the models"


def track(
    series: Annotated[
        str,
        typer.Argument(
            help="A catalog name, a hub repository, a training folder, a folder of checkpoints, or "
            "a model; further ones may follow."
        ),
    ],
    key_values: KeyValues = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The run folder; of several series, the folder that holds one run for each.",
        ),
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
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of the series, where none is beside its checkpoints: a folder, a "
            "tokenizer.json or a hub name.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="Read only these rows, 0:1000 or 5,17,290; measures that need every row are left "
            "out.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="GROUPS",
            help="Groups of measures of the weights: distances, ranks, readouts, spectrum, or all "
            "(default: norms,distances; norms are always taken).",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
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
            help="Device that weights are measured and models run on (default: auto, cuda where "
            "there is one)."
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

    Of several series each becomes a run of its own: `dynamics track hf-seed0 hf-seed1 -o runs/`.

    Steps that cannot be measured are left out, and the same command adds them once they can be; so
    are steps of a hub that the cheap audit flags, unless allow_flagged=true. With --importance,
    --surgery or --agreement the model of each step is run as well. These can be added to an
    existing run, but only once: a run folder holds one set of their settings. --paths can be added
    at any time.
    """
    names = ",".join(importance or ()).replace(" ", "").split(",")
    options = {
        "measures": measures,
        "paths": paths,
        "covariates": covariates or None,
        "tokenizer": tokenizer,
        "importance": list(dict.fromkeys(names)) if importance else None,
        "surgery": surgery,
        "agreement": agreement,
        "probe.text": probe,
        "device": device,
    }
    # Settings are read before torch is imported, so that a slip is refused at once.
    places, assignments = _places(series, key_values or ())
    settings = read_settings(TrackingSettings, settings_file, assignments, options)
    folders = _run_folders(places, output)
    from dynamics.checkpoints.opening import open_any
    from dynamics.runs.findings import last_step_table
    from dynamics.tracking.plan import check_importances
    from dynamics.tracking.track import track as track_series
    from dynamics.tracking.training_data import find_counts

    check_importances(settings)
    if dry_run:
        costs = [_cost(place, steps, rows, settings) for place in places]
        content = costs[0][0] if len(costs) == 1 else {"series": [cost for cost, _ in costs]}
        emit(as_json, content, "\n\n".join(text for _, text in costs))
        return
    if not folders:
        raise ConfigError("tracking needs a run folder; give it with -o")
    opened_series = [open_any(place) for place in places]
    results, failures = [], []
    with Stages() as stages, executor_for(workers, settings.dask) as (executor, ahead):
        for place, opened, folder in zip(places, opened_series, folders, strict=True):
            of = f" {place}" if len(places) > 1 else ""
            try:
                run = track_series(
                    opened,
                    folder,
                    counts=find_counts(
                        opened,
                        counts,
                        tokenizer=settings.tokenizer,
                        report=stages.report,
                        on_progress=stages.counter(f"counting{of}"),
                    ),
                    steps=steps,
                    rule=rule,
                    rows=rows,
                    settings=settings,
                    command=command_line(),
                    executor=executor,
                    ahead=ahead,
                    report=stages.report,
                    on_checkpoint=stages.counter(f"tracking{of}", _received(opened)),
                    on_live=stages.counter(f"running the model{of}", _received(opened)),
                )
            except DynamicsError as error:
                if len(places) == 1:
                    raise
                failures.append(f"{place}: {error}")
                stages.report(f"not tracked: {failures[-1]}")
                continue
            left_out = run.record.series.left_out
            result = {"run": str(folder)} | ({"left_out": left_out} if left_out else {})
            results.append((result, f"{last_step_table(run)}\nrun: {folder}"))
    if results:
        content = results[0][0] if len(places) == 1 else {"runs": [result for result, _ in results]}
        emit(as_json, content, "\n\n".join(text for _, text in results))
    if failures:
        raise StudyError(f"{len(failures)} of {len(places)} series: {'; '.join(failures)}")


def _places(first: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the series of a command, and its settings: those with `=` or a key's name."""
    settings = [
        text
        for text in arguments
        if ("=" in text or text.partition(".")[0] in TrackingSettings.model_fields)
        and not Path(text).expanduser().exists()
    ]
    places = [first, *(text for text in arguments if text not in settings)]
    if repeated := sorted({place for place in places if places.count(place) > 1}):
        raise ConfigError(f"the series {repeated[0]} is given twice; give it once")
    return places, settings


def _run_folders(places: Sequence[str], output: Path | None) -> list[Path]:
    """Return the run folder of each series: `output`, or of several series one inside for each.

    Raises:
        ConfigError: Two series would have one folder, or there is a run where folders should be.
    """
    if output is None or len(places) == 1:
        return [] if output is None else [output]
    if (output / RUN_JSON).exists():
        raise ConfigError(
            f"{output} is a run, and {len(places)} series need a folder that holds one run for "
            "each; give another with -o"
        )
    folders: dict[Path, str] = {}
    for place in places:
        path = Path(place).expanduser()
        path = path.resolve() if path.name in ("", "..") else path
        named = path.parent if path.name == "training" else path
        name = named.name if path.exists() else run_folder(place)
        if (other := folders.setdefault(output / name, place)) != place:
            raise ConfigError(
                f"{other} and {place} would both be tracked into {output / name}; track each by "
                "itself, with an output of its own"
            )
    return list(folders)


def _cost(
    place: str, steps: str, rows: str | None, settings: TrackingSettings
) -> tuple[dict[str, Any], str]:
    """Return the estimated cost of tracking a series, as a result and as text."""
    from dynamics.checkpoints.opening import open_any
    from dynamics.tracking.cost import live_cost, track_cost

    cost = track_cost(opened := open_any(place), steps, rows, paths=settings.paths)
    running = live_cost(opened, steps, settings) if settings.runs_models else None
    texts = [part.describe() for part in (cost, running) if part]
    return cost.__dict__ | {"live": running and running.__dict__}, "\n".join(texts)


def _received(series: "CheckpointSeries") -> Callable[[], int]:
    """Return a function of the bytes received from a hub so far."""
    return lambda: series.traffic.received
