"""The command that tracks a series: norms from its weights, importances from its models."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dynamics.cli.output import DryRun, Json, Stages, command_line, emit
from dynamics.tracking.executors import executor_for


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
            help="A counts.parquet; 'auto' finds that of the series; 'none' measures norms alone."
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
            help="Read only these rows, 0:1000 or 5,17,290; measures that need every row are left "
            "out."
        ),
    ] = None,
    allow_flagged: Annotated[
        bool, typer.Option("--allow-flagged", help="Keep steps of a hub that the audit flags.")
    ] = False,
    exposure: Annotated[
        Literal["auto", "exact"],
        typer.Option(
            help="'exact' reads the token stream of a public series up to the last step; 'auto' "
            "counts exposure of local trainings only."
        ),
    ] = "auto",
    stream: Annotated[
        Path | None,
        typer.Option(
            help="File of token ids that the series was trained on, in training order, to count "
            "exact exposure."
        ),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            help="Sequence length T of the --stream file (rows of T + 1 ids); not needed for "
            "streams that `dynamics` wrote."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of --stream that one training step consumes.")
    ] = None,
    stream_dtype: Annotated[
        str | None,
        typer.Option(help="Type of the ids in --stream (default: by its header, else uint16)."),
    ] = None,
    importance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Run the models and measure these importances of tokens: all, or names with "
            "commas; may be given several times.",
        ),
    ] = None,
    surgery: Annotated[
        bool,
        typer.Option("--surgery", help="Measure the held-out loss after surgery on the norms."),
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement", help="Compare attribution methods with occlusion within inputs."
        ),
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(
            help="Text or token stream that the models are run on (default: the training stream of "
            "the series and its held-out rows)."
        ),
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="Column of --probe that holds the text.")
    ] = "text",
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of --probe if it is a data set, a folder or a pattern, or all (default: "
            "train, where there are splits)."
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Read --probe as text, json, csv, parquet or arrow instead of guessing.",
        ),
    ] = None,
    probe_dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the ids in --probe if it is a file of ids (default: by its header, else "
            "uint16, or uint32 for more than 65,536 entries)."
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(help="Text between the documents of --probe, such as '<|endoftext|>'."),
    ] = None,
    probe_tokens: Annotated[
        str | None, typer.Option(metavar="IDS", help="Also probe these tokens: 5,17.")
    ] = None,
    probe_size: Annotated[
        int, typer.Option(help="Tokens to probe in each of 10 strata of frequency.")
    ] = 40,
    contexts: Annotated[int, typer.Option(help="Contexts of each probed token.")] = 16,
    context_length: Annotated[int, typer.Option(help="Tokens of a context.")] = 64,
    live_steps: Annotated[
        str, typer.Option(help="Steps, among the tracked ones, at which the models are run.")
    ] = "all",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device that the models are run on.")
    ] = "auto",
    all_measures: Annotated[
        bool,
        typer.Option(
            "--all", help="Also take slow measures, and use all rows instead of a sample."
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Checkpoints to measure at once, on threads; on a cluster at least."
        ),
    ] = 1,
    dask: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler to measure on.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure embedding norms over a series, and how they correlate with token frequency.

    Steps that cannot be measured are left out, and the same command adds them once they can be; so
    are steps of a hub that the cheap audit flags, unless --allow-flagged. With --importance,
    --surgery or --agreement the model of each step is run as well. These can be added to an
    existing run, but only once: a run folder holds one set of their settings.
    """
    from dynamics.checkpoints.opening import open_any
    from dynamics.errors import ConfigError
    from dynamics.runs.findings import last_step_table
    from dynamics.tracking.cost import live_cost, track_cost
    from dynamics.tracking.exposed import open_exposed
    from dynamics.tracking.probe_text import ProbeReading
    from dynamics.tracking.track import track as track_series
    from dynamics.tracking.training_data import find_counts

    reading = ProbeReading(text_column, split, format_name, probe_dtype, separator)
    if reading != ProbeReading() and probe is None:
        raise ConfigError(
            "--text-column, --split, --format, --probe-dtype and --separator are settings of "
            "--probe; give --probe"
        )
    live = None
    if importance or surgery or agreement:
        from dynamics.importance.probes import ProbeSettings
        from dynamics.tracking.live_stage import LiveSettings

        live = LiveSettings(
            importance=tuple(
                dict.fromkeys(",".join(importance or ()).replace(" ", "").split(","))
                if importance
                else ()
            ),
            surgery=surgery,
            agreement=agreement,
            steps=live_steps,
            text=probe,
            reading=reading,
            probes=ProbeSettings(
                tokens_per_stratum=probe_size,
                contexts=contexts,
                length=context_length,
                tokens=_token_ids(probe_tokens),
            ),
            device=device,
        )
    elif probe or probe_tokens:
        raise ConfigError(
            "--probe and --probe-tokens need --importance, --surgery or --agreement; give one"
        )
    if dry_run:
        cost = track_cost(opened := open_any(series), steps, rows)
        running = live and live_cost(opened, steps, live)
        texts = [part.describe() for part in (cost, running) if part]
        emit(as_json, cost.__dict__ | {"live": running and running.__dict__}, "\n".join(texts))
        return
    if output is None:
        raise ConfigError("tracking needs a run folder; give it with -o")
    exposed = open_exposed(stream, sequence_length, batch_size, stream_dtype)
    opened = open_any(series)
    with Stages() as stages, executor_for(workers, dask) as (executor, ahead):
        token_counts = find_counts(
            opened, counts, report=stages.report, on_progress=stages.counter("counting")
        )
        run = track_series(
            opened,
            output,
            counts=token_counts,
            steps=steps,
            rule=rule,
            rows=rows,
            command=command_line(),
            allow_flagged=allow_flagged,
            everything=all_measures,
            exposure=exposure,
            exposed=exposed,
            live=live,
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


def _token_ids(text: str | None) -> tuple[int, ...]:
    from dynamics.errors import ConfigError

    try:
        return tuple(map(int, text.split(","))) if text else ()
    except ValueError as error:
        raise ConfigError(
            f"cannot read the token ids {text!r}; give numbers with commas, such as 5,17"
        ) from error
