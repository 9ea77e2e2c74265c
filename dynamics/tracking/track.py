"""Walks a checkpoint series once and leaves a run: measures per step, then trends over steps.

One checkpoint at a time is read, measured and written whole, so that a run that was killed goes on
where it was. A table whose bytes have changed is measured again.
"""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dynamics.checkpoints.revisions import HubRevision
from dynamics.checkpoints.rows import parse_rows
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.corpus.counts import Counts, check_tokenizer, read_counts
from dynamics.corpus.public_counts import find_public_counts
from dynamics.corpus.tokenizer import fetch_tokenizer, load_tokenizer, tokenizer_sha256
from dynamics.corpus.tokens import open_stream
from dynamics.errors import CheckpointError, ConfigError, MeasureError, MismatchError
from dynamics.files import sha256_file, write_json
from dynamics.statistics.departures import departures
from dynamics.statistics.vocabulary import VocabularyRule, parse_rule
from dynamics.tracking.audit import cheap_audit
from dynamics.tracking.exposed import EXPOSURE, Exposed, Exposure, check_exposed, exposure_columns
from dynamics.tracking.importance_trends import importance_rows
from dynamics.tracking.importances import read_importances
from dynamics.tracking.matrices import MATRICES
from dynamics.tracking.measures import NEED_ALL_ROWS, ROLES, SLOW
from dynamics.tracking.measuring import Wanted
from dynamics.tracking.resume import resume, resume_live
from dynamics.tracking.run import (
    LIVE_ROWS,
    MATRIX_ROWS,
    Run,
    measures_path,
    read_table,
    step_path,
    stored_rows,
    write_table,
)
from dynamics.tracking.slopes import slope_rows
from dynamics.tracking.trends import (
    FEWEST_TOKENS,
    PROFILE_COLUMNS,
    Row,
    TrendInput,
    in_columns,
    profile_rows,
    trend_rows,
)
from dynamics.tracking.walk import walk

if TYPE_CHECKING:
    from dynamics.tracking.live import LiveSettings

OnCheckpoint = Callable[[int, int], None]

_MARK = "##"


def training_folder(series: CheckpointSeries) -> Path | None:
    """The folder of the training that made a series, when it is one of ours."""
    path = series.checkpoints[0].path
    if path is None or not (path.parent.parent / "train.json").exists():
        return None
    return path.parent.parent


def training_stream(series: CheckpointSeries) -> Exposed | None:
    """The token stream a series was trained on, when the training is one of ours."""
    folder = training_folder(series)
    if folder is None:
        return None
    return Exposed(open_stream(folder), _described(folder)["settings"]["training"]["batch_size"])


def find_counts(
    series: CheckpointSeries,
    counts: str,
    *,
    report: Callable[[str], None] = lambda line: None,
    on_progress: OnCheckpoint = lambda done, total: None,
) -> Counts | None:
    """The counts that belong to a series.

    Args:
        series: The series.
        counts: Path of a `counts.parquet`; `auto` for those beside the training that made the
            series, or a sample of the public stream it was trained on, None where neither is
            known; `none` for None.
        report: Receives a line about the sample, before and after it is read.
        on_progress: Receives how many blocks of the sample are counted, of how many.

    Raises:
        CorpusError: There are no counts at the path.
    """
    if counts == "none":
        return None
    if counts != "auto":
        return read_counts(counts)
    training = training_folder(series)
    if training is not None:
        return read_counts(training / "counts.parquet")
    if series.checkpoints[0].path is not None:
        return None
    return find_public_counts(series.name, report=report, on_progress=on_progress)


def track(
    series: CheckpointSeries,
    output: Path,
    *,
    counts: Counts | None = None,
    steps: str = "all",
    rule: str = "count>=10",
    rows: str | None = None,
    everything: bool = False,
    command: str = "",
    allow_flagged: bool = False,
    exposure: Exposure = "auto",
    exposed: Exposed | None = None,
    live: "LiveSettings | None" = None,
    executor: Executor | None = None,
    ahead: int = 1,
    report: Callable[[str], None] = lambda line: None,
    on_checkpoint: OnCheckpoint = lambda done, total: None,
    on_live: OnCheckpoint = lambda done, total: None,
) -> Run:
    """Measure both embeddings of a series at every selected step, and what becomes of them.

    Args:
        series: Checkpoints of one model.
        output: The run folder; new, or of the same settings.
        counts: Token counts of the training corpus; without them norms are followed and nothing
            is correlated. Must be of the series' tokenizer.
        steps: Which steps, in the step language.
        rule: Vocabulary rule of the main statistics.
        rows: Which rows to read, such as `0:1000` or `5,17,290`; all when None. Measures that
            need every row are then left out, statistics are of these rows.
        everything: Take slow measures too, and all rows where a part of them will do.
        command: Recorded in the run, as what made it.
        allow_flagged: Keep steps that the cheap audit finds wrong; otherwise they are left out,
            and the run says so.
        exposure: `auto` counts what a token was used for up to each step where the stream is on
            this machine; `exact` reads a public stream for it, up to the last step.
        exposed: The stream the series was trained on, in training order; None takes that of a
            training of ours.
        live: What the running model is asked at each checkpoint, after all weights were measured;
            nothing when None. It can be asked later, in the same folder.
        executor: Measures checkpoints on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once with an executor.
        report: Receives a line for each step that is left out.
        on_checkpoint: Called before each checkpoint and after the last, with how many are done
            and how many there are.
        on_live: The same for the checkpoints whose model is run.

    Raises:
        ConfigError: The rule is malformed, or keeps too few tokens to correlate anything; or the
            rows are malformed, or not there; or a stream is given without counts; or the model is
            asked what does not fit it, or of some rows only.
        MismatchError: The folder holds another run, or counts, stream and series do not belong
            together.
        MeasureError: A matrix changes its shape, or a row is not finite.
        OutputError: The folder holds something else.
        StepError: A step does not exist.
        CheckpointError: A file cannot be read.
    """
    keeps = parse_rule(rule)
    check_exposed(exposed, counts)
    selection = None if rows is None else parse_rows(rows)
    chosen = series.select(steps)
    left_out = {} if allow_flagged else _flagged(series, steps)
    for step, why in left_out.items():
        report(f"step {step} is left out: {why}")
    chosen = _without(chosen, left_out)
    if selection is not None:
        selection.check(chosen.checkpoints[0].vocab_size, chosen.name)
    ids = None if selection is None else selection.ids
    tokens = None
    if counts is not None:
        _check_same_tokenizer(counts, chosen)
        tokens = token_columns(counts, chosen.checkpoints[0].vocab_size, chosen.name)
        if ids is None:
            check_enough(counts, keeps, keeps.mask(tokens["count"], tokens["kind"]))
        else:
            tokens = {name: column[ids] for name, column in tokens.items()}
    if live is not None and ids is not None:
        raise ConfigError("the model runs with all rows of its embedding; leave --rows out")
    asked = None
    if live is not None:
        from dynamics.tracking.live import prepare_live  # what runs models loads slowly

        training = training_folder(series)
        asked = prepare_live(live, chosen, counts, tokens, keeps, training, report)
    info = _describe(chosen, counts, rule, steps, command)
    info["settings"]["all"] = everything
    if selection is not None:
        info["settings"]["rows"] = str(selection)
        wanted = [name for name in NEED_ALL_ROWS if everything or name not in SLOW]
        info["measures_left_out"] = [*wanted, *MATRICES]
    if exposed is not None:
        info["settings"]["stream"] = exposed.describe()
    info["series"]["left_out"] = {str(step): why for step, why in left_out.items()}
    done = resume(output, info, chosen, ids)
    if asked is not None:
        resume_live(output, info, asked.describe())
    write_json(output / "run.json", info)  # claims the folder
    if exposed is None and counts is not None:
        exposed = training_stream(series)
    seen = exposure_columns(exposed, chosen, counts, exposure)
    missing = [checkpoint for checkpoint in chosen if checkpoint.step not in done]
    with closing(
        walk(
            missing,
            chosen.checkpoints[0],
            Wanted(tokens, ids, keeps, everything),
            executor=executor,
            ahead=ahead,
        )
    ) as results:
        for at, (checkpoint, used) in enumerate(zip(chosen, seen, strict=True)):
            on_checkpoint(at, len(chosen))
            if checkpoint.step not in done:
                result = next(results)
                taken = result.taken
                names = [name for name in taken.columns if name != "token_id"]
                if differing := set(names) ^ set(info["measures"] or names):
                    raise MeasureError(
                        f"{checkpoint.store.name} has other tensors than the steps before: they do "
                        f"not share {', '.join(sorted(differing))}; leave it out with --steps"
                    )
                info["measures"] = names
                table = write_table(
                    measures_path(output, checkpoint.step),
                    taken.columns
                    | {
                        name: column if ids is None else column[ids]
                        for name, column in used.items()
                    },
                )
                matrices = step_path(output, MATRIX_ROWS, checkpoint.step)
                done[checkpoint.step] = {
                    "step": checkpoint.step,
                    "name": checkpoint.name,
                    "tokens_seen": checkpoint.tokens_seen,
                    "commit": result.commit,
                    "file_sha256": result.file_sha256,
                    "tensor_sha256" if ids is None else "rows_sha256": taken.tensor_sha256,
                    "table_sha256": table,
                    "matrices_sha256": write_table(matrices, in_columns(taken.matrices))
                    if ids is None
                    else None,
                }
            info["checkpoints"] = [done[step] for step in sorted(done)]
            write_json(output / "run.json", info)
    on_checkpoint(len(chosen), len(chosen))
    if asked is not None:
        from dynamics.tracking.live import run_live

        run_live(asked, info, output, on_live)
    finish(output, info, tokens, ids)
    return Run(output)


def _described(training: Path) -> dict[str, Any]:
    return json.loads((training / "train.json").read_text("utf-8"))


def _describe(
    chosen: CheckpointSeries, counts: Counts | None, rule: str, steps: str, command: str
) -> dict[str, Any]:
    first = chosen.checkpoints[0]
    training = training_folder(chosen)
    series = {
        "name": _described(training)["settings"]["name"] if training else chosen.name,
        "steps": chosen.steps,
        "vocab_size": first.vocab_size,
        "tied": first.tied,
        "final_norm": first.final_norm,
        "training": training and _described(training)["settings"],
        "training_sha256": training and sha256_file(training / "train.json"),
    }
    return describe(series, counts, rule, steps, command)


def describe(
    series: dict[str, Any], counts: Counts | None, rule: str, steps: str, command: str
) -> dict[str, Any]:
    """What `run.json` says of a run in which nothing is measured yet.

    Args:
        series: `name`, `steps`, `vocab_size`, `tied`, `final_norm` and what else tells its models
            from others.
        counts: As in `track`.
        rule: As in `track`.
        steps: As in `track`.
        command: As in `track`.
    """
    return {
        "finished": False,
        "command": command,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("dynamics", "torch", "numpy", "scipy", "pyarrow")
        },
        "series": series,
        "settings": {"steps": steps, "rule": None if counts is None else rule},
        "counts": None if counts is None else asdict(counts.info),
        "measures": [],
        "checkpoints": [],
        "tables": {},
    }


def _check_same_tokenizer(counts: Counts, chosen: CheckpointSeries) -> None:
    training, beside = training_folder(chosen), chosen.checkpoints[0].path
    store = chosen.checkpoints[0].store
    if isinstance(store, HubRevision):
        tokenizer = fetch_tokenizer(store.beside("main"))
        check_tokenizer(counts, tokenizer_sha256(tokenizer), chosen.name)
    elif beside is None:
        return
    elif training is not None:
        check_tokenizer(counts, _described(training)["tokenizer_sha256"], str(training))
        _check_twins(counts, training)
    elif (beside / "tokenizer.json").exists():
        check_tokenizer(counts, tokenizer_sha256(load_tokenizer(beside)), str(beside))


def _check_twins(counts: Counts, training: Path) -> None:
    """Counts of the text alone would take the twins of a training for rows that never occur."""
    twins = open_stream(training).info.twins or {}
    table = counts.table
    found = table["token_id"][table["twin_of"] >= 0].tolist() if "twin_of" in table else []
    if sorted(found) != sorted(twins.values()):
        raise MismatchError(
            f"{training} gives {len(twins)} tokens a twin, {counts.name} has {len(found)}; give "
            f"{training / 'counts.parquet'}, or count {training} itself"
        )


def check_enough(counts: Counts, rule: VocabularyRule, kept: np.ndarray) -> None:
    """Refuse a vocabulary rule that keeps too few tokens to correlate anything.

    Raises:
        ConfigError: It does.
    """
    if kept.sum() < FEWEST_TOKENS:
        raise ConfigError(
            f"the vocabulary rule {rule} keeps {kept.sum()} of the {len(kept)} tokens of "
            f"{counts.name}, and a correlation needs {FEWEST_TOKENS}; give another rule, or count "
            "more text"
        )


def _flagged(series: CheckpointSeries, steps: str) -> dict[int, str]:
    """Steps of a hub's series that its hashes and shapes speak against; weights are not read."""
    return {} if series.checkpoints[0].path else cheap_audit(series, steps).flagged_steps


def _without(chosen: CheckpointSeries, left_out: Mapping[int, str]) -> CheckpointSeries:
    kept = tuple(each for each in chosen if each.step not in left_out)
    if not kept:
        step, why = next(iter(left_out.items()))
        raise CheckpointError(
            f"the audit of {chosen.name} flags every step (step {step}: {why}); see `dynamics "
            "audit`, or track them all the same with --allow-flagged"
        )
    return replace(chosen, checkpoints=kept)


def token_columns(counts: Counts, rows: int, name: str) -> dict[str, np.ndarray]:
    """The counts, a row for each row of the matrix, and what spelling alone tells of a token.

    Raises:
        MismatchError: There are more counts than rows.
    """
    table = counts.table
    if len(table) > rows:
        raise MismatchError(
            f"{counts.name} has {len(table)} tokens but the embedding of {name} has {rows} "
            "rows; count with the tokenizer of this series"
        )
    padding = pd.DataFrame({"token_id": np.arange(len(table), rows), "token": ""})
    padding["count"] = 0
    padding["first_seen"] = -1
    padding["kind"] = "padding"
    if "twin_of" in table:
        padding["twin_of"] = -1
    table = pd.concat([table, padding], ignore_index=True) if len(padding) else table
    kind = _spelled_kind(table)
    surface = _spelling(table["token"], kind)
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    columns["document_count"] = table["document_count"].to_numpy(float, na_value=np.nan)
    seen = np.where(table["count"] > 0, table["count"], np.nan)
    columns["log_frequency"] = np.log(seen / counts.info.tokens_counted)
    columns["characters"] = surface.str.len().to_numpy(np.int32)
    columns["word_start"] = (kind == "word_start").to_numpy()
    columns["ascii_alphabetic"] = np.array([t.isascii() and t.isalpha() for t in surface])
    return columns


def _spelled_kind(table: pd.DataFrame) -> pd.Series:
    """Kind of each row, of a twin that of the token it is spelt like."""
    if "twin_of" not in table:
        return table["kind"]
    spelled_like = table["twin_of"].where(table["twin_of"] >= 0, table["token_id"])
    return table["kind"].take(spelled_like.to_numpy()).reset_index(drop=True)


def _spelling(token: pd.Series, kind: pd.Series) -> pd.Series:
    """The tokens without spaces around them, and without the mark of WordPiece's continuations."""
    surface = token.str.strip()
    continues = kind == "continuation"
    if surface[continues].str.startswith(_MARK).all():  # of another tokenizer one or other does not
        return surface.mask(continues, surface.str.removeprefix(_MARK))
    return surface


def finish(
    output: Path,
    info: dict[str, Any],
    tokens: Mapping[str, np.ndarray] | None,
    ids: np.ndarray | None,
) -> None:
    """Write the tables over all steps, and declare the run finished.

    Args:
        output: The run folder.
        info: Content of its `run.json`, which is written again.
        tokens: From `token_columns`, None without counts.
        ids: Ids of the rows that were read, all of them when None.
    """
    token_ids = {"token_id": np.arange(info["series"]["vocab_size"]) if ids is None else ids}
    tables: dict[str, Mapping[str, Any]] = {
        "tokens.parquet": {**(tokens or token_ids), **_departures(output, info)}
    }
    trends: list[Row] = []
    profile: list[Row] = []
    if tokens is not None:
        measured = _measured(output, info, tokens)
        rule = parse_rule(info["settings"]["rule"], info["settings"].get("rows"))
        importances = read_importances(output, info, measured.tokens)
        trends = [
            *trend_rows(measured, rule),
            *slope_rows(measured, rule),
            *importance_rows(measured, importances, rule),
        ]
        profile = list(profile_rows(measured, rule))
    of_matrices = {entry["step"]: entry["matrices_sha256"] for entry in info["checkpoints"]}
    of_models = {
        entry["step"]: entry["tables"].get(LIVE_ROWS)
        for entry in info.get("live", {}).get("checkpoints", ())
    }
    trends += stored_rows(output, MATRIX_ROWS, of_matrices)
    trends += stored_rows(output, LIVE_ROWS, of_models)
    tables["trends.parquet"] = in_columns(trends)
    tables["profile.parquet"] = in_columns(profile, PROFILE_COLUMNS)
    info["tables"] = {name: write_table(output / name, table) for name, table in tables.items()}
    info["finished"] = True
    write_json(output / "run.json", info)


def _departures(output: Path, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """At which step each row leaves its initialisation, per embedding; empty for a single step."""
    steps = [entry["step"] for entry in info["checkpoints"]]
    columns = {
        f"left_initialisation_{role.removesuffix('_embedding')}": f"{role}_cosine_to_first"
        for role in ROLES
        if f"{role}_cosine_to_first" in info["measures"]
    }
    if len(steps) < 2:
        return {}
    cosines = {name: [] for name in columns}
    for entry in info["checkpoints"]:
        table = read_table(measures_path(output, entry["step"]), entry["table_sha256"])
        for name, measure in columns.items():
            cosines[name].append(table[measure].to_numpy())
    return {name: departures(steps, np.stack(rows)) for name, rows in cosines.items()}


def _measured(output: Path, info: dict[str, Any], tokens: Mapping[str, np.ndarray]) -> TrendInput:
    tables = [
        read_table(measures_path(output, entry["step"]), entry["table_sha256"])
        for entry in info["checkpoints"]
    ]
    exposed = all(column in table for table in tables for column in EXPOSURE.values())
    return TrendInput(
        steps=[entry["step"] for entry in info["checkpoints"]],
        tokens=pd.DataFrame(dict(tokens)),
        measures={
            name: np.stack([t[name].to_numpy() for t in tables]) for name in info["measures"]
        },
        exposures={
            role: np.stack([t[column].to_numpy() for t in tables])
            for role, column in EXPOSURE.items()
        }
        if exposed
        else None,
    )
