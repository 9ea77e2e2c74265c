"""Findings on norms and importance in sentences, computed from the trends of a run."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from dynamics.runs.measures import identifiable_measures
from dynamics.runs.run import Run
from dynamics.runs.tracked_importance import factors_of
from dynamics.runs.trends import FEWEST_TOKENS
from dynamics.statistics.reliability import RELIABLE

SPOKEN = ("information_gain_right", "occlusion", "occlusion_norm_matched")
"""The importances that sentences are about; what else was measured is in the trends."""

GAUGES = {name: label.sentence for name, label in identifiable_measures().items()}
"""The norms that sentences compare with importance, and their labels."""


def importance_findings(run: Run) -> list[str]:
    """Sentences on what a run knows of importance, of surgery and of agreement, if anything."""
    rows = run.trends[run.trends["rule"] == str(run.rule)]
    measured = measured_importances(run)
    spoken = [name for name in SPOKEN if name in measured] or measured[:1]
    sentences = [_sentence(name, rows) for name in spoken]
    sentences += [*_surgery(rows), *_agreement(rows)]
    if rest := [name for name in measured if name not in spoken]:
        sentences.append(f"In the trends are also {', '.join(rest)}.")
    factors = {factor for pair in factors_of(run.importances).values() for factor in pair}
    if few := [name for name in run.importances if name not in {*measured, *factors}]:
        sentences.append(
            f"{', '.join(few)}: no trend, for fewer than {FEWEST_TOKENS} of the tokens that "
            f"{run.rule} keeps are known at every step; probe more tokens."
        )
    return sentences


def measured_importances(run: Run) -> list[str]:
    """Importances that the trends of a run hold frequency against, in their order."""
    trends = run.trends
    rows = trends[(trends["measure"] == "log_frequency") & (trends["statistic"] == "spearman")]
    return list(rows["against"].unique())


def _sentence(name: str, rows: pd.DataFrame) -> str:
    of_frequency = _last(rows, "log_frequency", name, "spearman")
    step, n = of_frequency["step"], of_frequency["n"]
    parts = [_gauge(rows, gauge, called, name) for gauge, called in GAUGES.items()]
    return in_lines(
        f"{_called(name)} at step {step:,} ({n:,} tokens, rho [simultaneous band]): with log "
        f"frequency {_value(of_frequency)}.{''.join(_reliability(rows, name))} With",
        filter(None, parts),
    )


def _gauge(rows: pd.DataFrame, gauge: str, called: str, name: str) -> str | None:
    if (raw := _last(rows, gauge, name, "spearman")).empty:
        return None
    sentence = f"{called} {_value(raw)}{_since_first(rows, gauge, name, 'spearman')}"
    if (partial := _last(rows, gauge, name, "partial_spearman")).empty:
        return sentence
    beyond = abs(partial["value"]) > partial["null_high"]
    return (
        f"{sentence}, given frequency and spelling {_value(partial)}"
        f"{_since_first(rows, gauge, name, 'partial_spearman')}, "
        f"{'beyond' if beyond else 'inside'} its null band of ±{partial['null_high']:.3f}"
    )


def _surgery(rows: pd.DataFrame) -> Iterator[str]:
    """Sentence on the loss when norms are shuffled over tokens."""
    rows_by_label = {
        called: row
        for gauge, called in GAUGES.items()
        if not (row := _last(rows, gauge, "held_out_loss", "surgery_shuffled")).empty
    }
    if rows_by_label:
        parts = [f"{called} {_interval(row, 4)}" for called, row in rows_by_label.items()]
        step = next(iter(rows_by_label.values()))["step"]
        yield in_lines(
            f"Held-out loss at step {step:,}, in nats per target [95 % interval], rises when norms "
            "are shuffled over tokens and directions kept, by",
            parts,
        )


def _agreement(rows: pd.DataFrame) -> Iterator[str]:
    """Sentence on how well scores rank the tokens of an input as occlusion does."""
    agreement = rows[rows["statistic"] == "within_input_agreement"]
    last = agreement[agreement["step"] == agreement["step"].max()]
    if len(last):
        step, n = last.iloc[0][["step", "n"]]
        yield in_lines(
            f"Agreement with occlusion inside {n:,} inputs at step {step:,} (mean rho [95 % "
            "interval], the read-out left out) of",
            [
                f"{_called(row['measure']).lower()} {_interval(row, 2)}"
                for _, row in last.iterrows()
            ],
        )


def in_lines(head: str, parts: Iterable[str]) -> str:
    """A sentence whose parts stand below it, a line each."""
    return "\n".join([head, *(f"  {part}" for part in parts)])


def _since_first(rows: pd.DataFrame, gauge: str, name: str, statistic: str) -> str:
    change = _of(rows, gauge, name, f"{statistic}_minus_first")
    if len(change) < 2:
        return ""
    return f" ({_value(change.iloc[-1])} since step {change['step'].iloc[0]:,})"


def _reliability(rows: pd.DataFrame, name: str) -> Iterator[str]:
    reliability = _of(rows, name, "", "reliability")
    if reliability.empty:
        return
    last = reliability.iloc[-1]
    yield f" Its reliability is {last['value']:.2f} [{last['low']:.2f}, {last['high']:.2f}]"
    low = reliability[~(reliability["value"] >= RELIABLE)]
    if low.empty:
        yield f" and at least {RELIABLE} at every step."
        return
    yield (
        f"; it is below {RELIABLE} at {len(low)} of {len(reliability)} steps (hollow in figures), "
        "where rho is pulled towards 0 by error alone, so that a trend may be one of the error."
    )


def _of(rows: pd.DataFrame, measure: str, against: str, statistic: str) -> pd.DataFrame:
    return rows[
        (rows["measure"] == measure)
        & (rows["against"] == against)
        & (rows["statistic"] == statistic)
    ].sort_values("step")


def _last(rows: pd.DataFrame, measure: str, against: str, statistic: str) -> pd.Series:
    """The row of the last step; an empty series where there is none."""
    matching = _of(rows, measure, against, statistic)
    return pd.Series() if matching.empty else matching.iloc[-1]


def _value(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "undefined"
    return f"{row['value']:+.3f} [{row['band_low']:+.3f}, {row['band_high']:+.3f}]"


def _interval(row: pd.Series, digits: int) -> str:
    value, low, high = (f"{row[name]:+.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _called(name: str) -> str:
    return name.replace("_", " ").capitalize()
