"""Findings on norms and importance in sentences, computed from the trends of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from dynamics.runs.importance_selection import known_controls
from dynamics.runs.importance_trends import norms_with_distance
from dynamics.runs.measures import identifiable_measures, split_name
from dynamics.runs.run import Run, rows_where
from dynamics.runs.surgeries import NEIGHBOURS, TOP_BIN_SHARE
from dynamics.runs.sweep_findings import rows_by_rule, turn
from dynamics.runs.tracked_importance import COVARIATE, factors_of, is_covariate
from dynamics.runs.trends import FEWEST_TOKENS, LEVEL
from dynamics.statistics.intervals import normal_quantile
from dynamics.statistics.reliability import RELIABLE

POWER = 0.8
"""Probability with which a correlation would be found that is named beside an undecided one."""

SPOKEN = ("information_gain_right", "occlusion", "occlusion_norm_matched")
"""The importances that sentences are about; what else was measured is in the trends."""

GAUGES = {name: label.sentence for name, label in identifiable_measures().items()}
"""The norms that sentences compare with importance, and their labels."""

INPUT_NORM = "input_embedding_norm"

SCALED = {
    INPUT_NORM: "every input row",
    "output_embedding_norm_centered": "the distance of every output row from the uniform mean",
}
"""What the scaling control of surgery doubles and halves, by measure."""

NORMS = {"layer": "a LayerNorm", "rms": "an RMSNorm"}

LITTLE = 0.01
"""Nats up to which the loss changes little: both intervals of the scaling control lie within."""

_WITHIN = ("shuffled_within_bins", "shuffled_within_top_bin", "shuffled_within_other_bins")
_WITHIN += ("shuffled_among_neighbours",)


def importance_findings(run: Run) -> list[str]:
    """Sentences on what a run knows of importance, of surgery and of agreement, if anything."""
    rows = rows_where(run.trends, rule=str(run.rule))
    measured = measured_importances(run)
    spoken = [name for name in SPOKEN if name in measured] or measured[:1]
    sentences = [_sentence(run, name, rows) for name in spoken]
    sentences += [*_surgery(rows), *_scaling(rows, run.record.architecture), *_agreement(rows)]
    if rest := [name for name in measured if name not in spoken]:
        sentences.append(f"The trends also hold {', '.join(rest)}.")
    factors = {factor for pair in factors_of(run.importances).values() for factor in pair}
    if few := [name for name in run.importances if name not in {*measured, *factors}]:
        sentences.append(
            f"{', '.join(few)}: no trend, for fewer than {FEWEST_TOKENS} of the tokens that "
            f"{run.rule} keeps are known at every step; probe more tokens."
        )
    return sentences


def measured_importances(run: Run) -> list[str]:
    """Importances that the trends of a run hold frequency against, in their order."""
    return [name for name in _compared_with_frequency(run) if not is_covariate(name)]


def covariate_findings(run: Run) -> list[str]:
    """Sentences on each covariate of a run: with frequency, norms and the chief importances."""
    rows = rows_where(run.trends, rule=str(run.rule))
    importances = measured_importances(run)
    spoken = [name for name in SPOKEN if name in importances] or importances[:1]
    names = [name for name in _compared_with_frequency(run) if is_covariate(name)]
    return [_sentence(run, name, rows, spoken) for name in names]


def _compared_with_frequency(run: Run) -> list[str]:
    """Importances and covariates that the trends hold frequency against, in their order."""
    rows = rows_where(run.trends, measure="log_frequency", statistic="spearman")
    return list(rows["against"].unique())


def _sentence(run: Run, name: str, rows: pd.DataFrame, importances: Sequence[str] = ()) -> str:
    """Sentence on one importance or covariate at the last step: with frequency, with each norm.

    Args:
        run: The run.
        name: The importance or covariate.
        rows: Trends under the main rule.
        importances: Importances that are compared with it as well.
    """
    of_frequency = _last(rows, "log_frequency", name, "spearman")
    step, n = of_frequency["step"], of_frequency["n"]
    given = given_of(run)
    measures = GAUGES | {importance: importance.replace("_", " ") for importance in importances}
    parts = [_gauge(rows, measure, called, name, given) for measure, called in measures.items()]
    return in_lines(
        f"{_called(name)} at step {step:,} ({n:,} tokens, rho [simultaneous band]): with log "
        f"frequency {with_interval(of_frequency)}; bands are over these tokens."
        f"{''.join(_reliability(rows, name, given))} With",
        [*filter(None, parts), *_under_other_rules(run, int(step), name)],
    )


def _under_other_rules(run: Run, step: int, name: str) -> Iterator[str]:
    """Line on norms whose correlation with an importance turns under another vocabulary rule."""
    given = given_of(run)
    kinds = {"raw": ("spearman", ""), called_given(given): ("partial_spearman", given)}
    turned, rules = [], []
    for kind, (statistic, given) in kinds.items():
        table = rows_by_rule(run, step, against=name, statistic=statistic, given=given)
        rules += [str(rule) for rule in list(table)[1:] if str(rule) not in rules]
        turned += [
            f"{called}, {kind}, {text}"
            for gauge, called in GAUGES.items()
            if gauge in next(iter(table.values())) and (text := turn(table, gauge)[0])
        ]
    if turned:
        yield f"the vocabulary rule changes or takes away the sign of {'; '.join(turned)}"
    elif rules:
        yield f"no sign changes under other vocabulary rules ({', '.join(rules)})"


def given_of(run: Run) -> str:
    """Return what partial correlations of a run are given, as in the column `given` of trends."""
    return "+".join(known_controls(run.tokens))


def called_given(given: str) -> str:
    """Return `given_of` in words."""
    return "given frequency and spelling" if "characters" in given else "given frequency"


def _gauge(rows: pd.DataFrame, gauge: str, called: str, name: str, given: str) -> str | None:
    """Part of a sentence on one norm and one importance; None where they are not compared."""
    if (raw := _last(rows, gauge, name, "spearman")).empty:
        return None
    sentence = f"{called} {with_interval(raw)}{_since_first(rows, gauge, name, 'spearman')}"
    if (partial := _last(rows, gauge, name, "partial_spearman", given)).empty:
        return sentence
    return (
        f"{sentence}, {called_given(given)} {with_interval(partial)}"
        f"{_since_first(rows, gauge, name, 'partial_spearman')}, {_against_null(partial)}"
        f"{_history(rows, gauge, name, given)}"
    )


def _against_null(row: pd.Series) -> str:
    """Whether a value lies beyond its null band; inside, what would have been found."""
    reach = row["null_high"]
    if abs(row["value"]) > reach:
        return f"beyond its null band of ±{reach:.3f}"
    return (
        f"inside its null band of ±{reach:.3f}: undecided ({row['n']:,} tokens show a rho of "
        f"±{rho_found(row):.2f} with probability {POWER})"
    )


def rho_found(row: Mapping[Any, Any] | pd.Series) -> float:
    """Return the correlation that would lie beyond the null band of a row with `POWER`."""
    error = (row["high"] - row["low"]) / (2 * normal_quantile(LEVEL))
    return row["null_high"] + float(ndtri(POWER)) * error


def _history(rows: pd.DataFrame, gauge: str, name: str, given: str) -> str:
    """Part of a sentence on the distance from the first step, which may explain the norm's part."""
    pairs = dict(norms_with_distance(rows["measure"].unique()))
    if (distance := pairs.get(gauge)) is None:
        return ""
    suffix = split_name(gauge)[1].suffix
    values = {
        "the distance from the first step": (distance, given),
        "the distance given the norm too": (distance, f"{given}+{suffix}"),
        "the norm given its initial value too": (gauge, f"{given}+initial_norm"),
        "and given both": (gauge, f"{given}+initial_norm+distance"),
    }
    parts = [
        f"{called} {with_interval(row)}"
        for called, (measure, controls) in values.items()
        if not (row := _last(rows, measure, name, "partial_spearman", controls)).empty
    ]
    return f"; so {', '.join(parts)}" if parts else ""


def _surgery(rows: pd.DataFrame) -> Iterator[str]:
    """Sentence on the loss when norms are shuffled over all tokens, and over tokens alike."""
    parts = {gauge: _shuffles(rows, gauge) for gauge in GAUGES}
    parts = {gauge: part for gauge, part in parts.items() if part}
    if parts:
        step = _of_surgery(rows, next(iter(parts)), "shuffled")["step"]
        yield in_lines(
            f"Held-out loss at step {step:,}, in nats per target [95 % interval over held-out "
            "rows], rises when norms are shuffled over tokens and directions kept, by",
            [f"{GAUGES[gauge]} {part}" for gauge, part in parts.items()],
        )


def _shuffles(rows: pd.DataFrame, gauge: str) -> str:
    """Changes of the loss under the surgeries that shuffle a norm; empty without them."""
    changes = {
        name: with_interval(row, "", 4)
        for name in ("shuffled", *_WITHIN)
        if not (row := _of_surgery(rows, gauge, name)).empty
    }
    if "shuffled" not in changes:
        return ""
    parts = [changes["shuffled"]]
    if "shuffled_within_bins" in changes:
        parts.append(f"within bins of frequency {changes['shuffled_within_bins']}")
    top = _last(rows, "log_frequency", "", TOP_BIN_SHARE)
    if changes.keys() >= {*_WITHIN} and not top.empty and top["value"] < 1:
        parts[-1] += (
            f" (within the top bin alone, {top['n']:,} tokens with {top['value']:.0%} of all "
            f"occurrences, {changes['shuffled_within_top_bin']}; within all others "
            f"{changes['shuffled_within_other_bins']})"
        )
    if "shuffled_among_neighbours" in changes:
        parts.append(
            f"among {NEIGHBOURS} neighbours in frequency {changes['shuffled_among_neighbours']}"
        )
    return ", ".join(parts)


def _scaling(rows: pd.DataFrame, architecture: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on the loss when all rows are doubled or halved: what the model makes of scale."""
    for gauge, whose in SCALED.items():
        doubled, halved = (_of_surgery(rows, gauge, name) for name in ("doubled", "halved"))
        if doubled.empty or halved.empty:
            continue
        is_input = gauge == INPUT_NORM
        norm = _norm_before(architecture) if is_input else ""
        sentence = (
            f"{norm}doubling {whose} changes the loss by {with_interval(doubled, '', 4)} nats, "
            f"halving by {with_interval(halved, '', 4)}"
        )
        # NaN where there is no interval, and then within nothing.
        reach = np.max([abs(row[end]) for row in (doubled, halved) for end in ("low", "high")])
        if norm.startswith("before") and reach <= LITTLE:
            sentence += ", so that shuffling input norms could cost little whatever they mean"
        if not is_input and architecture.get("logit_softcap") == 0:
            sentence += "; differences of logits (bias apart) are doubled or halved by it"
        yield f"{sentence[0].upper()}{sentence[1:]}."


def _norm_before(architecture: Mapping[str, Any]) -> str:
    """Beginning of a sentence: the norm that reads input rows; empty where it is not known."""
    at_embedding, at_block = (
        architecture.get(f"{name}_norm") for name in ("embedding", "first_block")
    )
    if at_embedding in NORMS:
        return f"before {NORMS[at_embedding]} in front of the first block, "
    if at_embedding == "none" and at_block in NORMS:
        return f"before {NORMS[at_block]} through which the first block reads them, "
    if at_embedding == at_block == "none":
        return "with no norm between input rows and first block, "
    return ""


def _of_surgery(rows: pd.DataFrame, gauge: str, name: str) -> pd.Series:
    """The row of a surgery on a norm at the last step; an empty series where there is none."""
    return _last(rows, gauge, "held_out_loss", f"surgery_{name}")


def _agreement(rows: pd.DataFrame) -> Iterator[str]:
    """Sentence on how well scores rank the tokens of an input as occlusion does."""
    agreement = rows_where(rows, statistic="within_input_agreement")
    last = agreement[agreement["step"] == agreement["step"].max()]
    if len(last):
        step, n = last.iloc[0][["step", "n"]]
        yield in_lines(
            f"Agreement with occlusion inside {n:,} inputs at step {step:,} (mean rho [95 % "
            "interval over inputs], the read-out left out) of",
            [
                f"{_called(row['measure']).lower()} {with_interval(row, '', 2)}"
                for _, row in last.iterrows()
            ],
        )


def in_lines(head: str, parts: Iterable[str]) -> str:
    """A sentence whose parts stand below it, a line each."""
    return "\n".join([head, *(f"  {part}" for part in parts)])


def with_interval(row: Mapping[Any, Any] | pd.Series, ends: str = "band_", digits: int = 3) -> str:
    """Value of a row of trends with its simultaneous band, or its own interval if `ends` is ''."""
    if np.isnan(row["value"]):
        return "undefined"
    low, high = (f"{row[ends + end]:+.{digits}f}" for end in ("low", "high"))
    return f"{row['value']:+.{digits}f} [{low}, {high}]"


def _since_first(rows: pd.DataFrame, gauge: str, name: str, statistic: str) -> str:
    """Parenthesis on the change since the first step; empty where there is none."""
    change = _of(rows, gauge, name, f"{statistic}_minus_first")
    if len(change) < 2:
        return ""
    return f" ({with_interval(change.iloc[-1])} since step {change['step'].iloc[0]:,})"


def _reliability(rows: pd.DataFrame, name: str, given: str) -> Iterator[str]:
    """Sentence on the reliability of an importance, in parts; nothing where it has none."""
    reliability = _of(rows, name, "", "reliability")
    if reliability.empty:
        return
    last = reliability.iloc[-1]
    yield f" Its reliability is {last['value']:.2f} [{last['low']:.2f}, {last['high']:.2f}]"
    low = reliability[~(reliability["value"] >= RELIABLE)]
    if low.empty:
        yield f" and at least {RELIABLE} at every step."
    else:
        yield (
            f"; it is below {RELIABLE} at {len(low)} of {len(reliability)} steps (hollow in "
            "figures), where rho is pulled towards 0 by error alone, so that a trend may be one of "
            "the error."
        )
    # Spearman 1904: rho is attenuated by the square root of the reliability
    yield f" Its error attenuates rho to about {np.sqrt(last['value']):.2f} of what it would be"
    partial = _last(rows, name, "", "partial_reliability")
    if partial.empty or np.isnan(partial["value"]):
        yield "."
    else:
        yield f", {called_given(given)} to about {np.sqrt(partial['value']):.2f}."


def _of(
    rows: pd.DataFrame, measure: str, against: str, statistic: str, **given: str
) -> pd.DataFrame:
    """The rows of one statistic, by ascending step."""
    rows = rows_where(rows, measure=measure, against=against, statistic=statistic, **given)
    return rows.sort_values("step")


def _last(
    rows: pd.DataFrame, measure: str, against: str, statistic: str, given: str | None = None
) -> pd.Series:
    """The row of the last step; an empty series where there is none."""
    named = {} if given is None else {"given": given}
    matching = _of(rows, measure, against, statistic, **named)
    return pd.Series() if matching.empty else matching.iloc[-1]


def _called(name: str) -> str:
    """Name of an importance, a covariate or a method at the beginning of a sentence."""
    if is_covariate(name):
        return f"The column {name.removeprefix(COVARIATE)!r}"
    return name.replace("_", " ").capitalize()
