"""Runs of several arms and seeds without a training: real tables, with further trends planted."""

import json

import numpy as np
import pandas as pd

from dynamics.config import StudySettings
from dynamics.runs.compare import KEYS
from dynamics.runs.run import Run, write_table
from dynamics.runs.surgeries import SURGERIES, TOP_BIN_SHARE
from dynamics.runs.trends import TREND_COLUMNS
from tests.tracking.synthetic import STEPS, grow, make_counts, tracked

BASE = {"training": {"steps": STEPS[-1], "batch_size": 3, "sequence_length": 11}}
IMPORTANCES = ("occlusion", "occlusion_norm_matched", "surprisal", "information_gain_right")
GAUGES = ("input_embedding_norm", "output_embedding_norm_centered")
UNIGRAM = "output_embedding_norm_centered_frequency"
COVARIATES = "log_frequency+characters+word_start"


def settings_of(seed, **changes):
    content = {"name": "made", "seed": seed} | {key: dict(value) for key, value in BASE.items()}
    for key, value in changes.items():
        group, name = key.split("__")
        content.setdefault(group, {})[name] = value
    return StudySettings.model_validate(content).model_dump(mode="json")


def made_run(folder, arm="arm", seed=0, *, rows=(), tied=False, **changes):
    """A run of the folder `ARM/seed-N/run`, with settings of a training and further trends."""
    place = folder / arm / f"seed-{seed}"
    series = grow(make_counts(), seed=seed)
    place.mkdir(parents=True)
    run = tracked(place, name="series", series=series, tied=tied)
    run.path.rename(place / "run")
    path = place / "run"
    info = json.loads((path / "run.json").read_text())
    info["series"]["name"] = arm
    info["series"]["training"] = settings_of(seed, model__tied=tied, **changes)
    table = pd.concat([run_trends(path), pd.DataFrame(list(rows))], ignore_index=True)
    table = table.drop_duplicates(KEYS, keep="last")  # what is planted replaces what is there
    columns = {name: table[name].to_numpy() for name in TREND_COLUMNS}
    info["tables"]["trends.parquet"] = write_table(path / "trends.parquet", columns)
    (path / "run.json").write_text(json.dumps(info))
    return Run(path)


def run_trends(path):
    return pd.read_parquet(path / "trends.parquet")


def trend_row(step, measure, against, statistic, value, *, given="", rule="count>=10", spread=0.05):
    nothing = float("nan")
    return {
        "step": step,
        "measure": measure,
        "against": against,
        "statistic": statistic,
        "given": given,
        "rule": rule,
        "value": value,
        "n": 100,
        "low": value - spread,
        "high": value + spread,
        "band_low": value - 2 * spread,
        "band_high": value + 2 * spread,
        "null_low": nothing,
        "null_high": nothing,
    }


def with_null(row, reach):
    """A row of trends with a null band."""
    return row | {"null_low": -reach, "null_high": reach}


def planted(seed=0, steps=STEPS, shift=0.0):
    """A row of every statistic that the figures and the page of a study speak of."""
    rng = np.random.default_rng(seed)
    last = max(steps[-1], 1)
    for step in steps:
        grown = np.sqrt(step / last)
        noise = iter(0.03 * rng.standard_normal(200))
        for gauge in GAUGES:
            sign = 1 if gauge.startswith("input") else -1
            for importance in IMPORTANCES:
                about = (step, gauge, importance)
                rho = sign * (0.1 + 0.5 * grown) + shift + next(noise)
                part = sign * 0.3 * grown + shift + next(noise)
                yield trend_row(*about, "spearman", rho)
                yield trend_row(*about, "spearman_disattenuated", 1.2 * rho)
                yield trend_row(*about, "spearman_minus_first", sign * 0.5 * grown)
                yield trend_row(*about, "partial_spearman", part, given=COVARIATES)
                yield trend_row(
                    *about, "partial_spearman_minus_first", sign * 0.3 * grown, given=COVARIATES
                )
                yield trend_row(
                    *about, "within_bin_spearman", sign * 0.2 * grown, given="log_frequency"
                )
            cost = 0.001 if sign > 0 else 2.0
            for surgery in SURGERIES:
                value = cost * grown * (1 + next(noise))
                yield trend_row(
                    *(step, gauge, "held_out_loss", f"surgery_{surgery}", value),
                    rule="",
                    spread=0.1 * cost,
                )
        for gauge in (*GAUGES, UNIGRAM):
            sign = 1 if gauge.startswith("input") else -1
            for statistic in ("log_slope", "twin_minus_curve"):
                slope = 0.05 * grown + next(noise) / 30
                yield trend_row(step, gauge, "log_frequency", statistic, slope, spread=0.01)
            causal = 0.1 * sign * grown + next(noise) / 10
            yield trend_row(step, gauge, "log_frequency", "twin_log_slope", causal, spread=0.02)
        for importance in IMPORTANCES[:3]:
            yield trend_row(step, importance, "", "reliability", 0.4 + 0.5 * grown + next(noise))
        for method in ("norm", "inverse_log_frequency", "recency", "logit", "normxlogit"):
            value = 0.3 * grown * (method != "norm") + next(noise)
            yield trend_row(step, method, "occlusion", "within_input_agreement", value, rule="")
        for role, most in (("input_embedding", 0.2), ("output_embedding", 0.9)):
            for given in ("rows", "unit_rows", "norm", "unit_rows+norm"):
                value = most * grown * (0.5 if given == "norm" else 1) + next(noise)
                yield trend_row(step, role, "log_frequency", "readout_r2", value, given=given)
        yield trend_row(step, "model", "", "held_out_loss", 7 - 3 * grown, rule="")
        yield trend_row(step, "log_frequency", "", TOP_BIN_SHARE, 0.47, rule="")
    for measure in GAUGES:
        for against in ("log_frequency", "occlusion"):
            yield trend_row(last, measure, against, "spearman_onset", steps[len(steps) // 2])
        yield trend_row(last, measure, "surprisal", "spearman_onset", np.nan)
