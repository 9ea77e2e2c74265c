"""Findings of a run in sentences, computed from its tables: what is decided, and what is not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynamics.runs.derived import against_decay
from dynamics.runs.importance_findings import (
    GAUGES,
    covariate_findings,
    importance_findings,
    in_lines,
    measured_importances,
    with_interval,
)
from dynamics.runs.lasting import lasting_correlation
from dynamics.runs.measures import identifiable_measures, is_norm, shown_measures
from dynamics.runs.path_findings import path_findings
from dynamics.runs.run import Run, rows_where
from dynamics.runs.slope_trends import (
    CAUSAL,
    MEAN_OF_PAIRS,
    MINUS_CURVE,
    PSEUDO_PAIRS,
    THIRDS,
)
from dynamics.runs.sweep_findings import (
    SweptRow,
    alike,
    rows_by_rule,
    rules_of,
    turns,
)
from dynamics.statistics.vocabulary import VocabularyRule, swept

NAMES = {
    name: label.sentence for name, label in (identifiable_measures() | shown_measures()).items()
}
"""The measures that findings are about, and their labels in sentences."""

WITH_FREQUENCY = {"against": "log_frequency", "statistic": "spearman"}

IDENTIFIABLE_OUTPUT = ("output_embedding_norm_centered", "output_embedding_norm_centered_frequency")

FEWEST_FOR_SENTENCES = 50
"""Tokens below which an interval over tokens is too rough to carry a sentence."""


def last_step_table(run: Run) -> str:
    """Correlation with log frequency at the last step, under every rule of the sweep, as text."""
    return "\n".join([*_correlations(run), *_rows_read(run)])


def _correlations(run: Run) -> list[str]:
    """Lines of correlations at the last step, rule by rule, or one with the reason for none."""
    if reason := run.record.without_trends:
        return [f"norms at {len(run.steps)} steps; no trends could be computed: {reason}"]
    if run.rule is None:
        return [f"norms at {len(run.steps)} steps; without counts nothing is correlated"]
    width = max(map(len, NAMES.values()))
    lines = [f"Spearman correlation with log frequency at step {run.steps[-1]:,} [95 % interval]"]
    for rule in swept(run.rule):
        rows = _at(run, run.steps[-1], rule)
        if rows:
            lines.append(f"{rule}: {rows[0]['n']:,} tokens")
        lines.extend(
            f"  {NAMES[row['measure']]:{width}}  {with_interval(row, '')}"
            for row in rows
            if row["measure"] in NAMES
        )
        if rule == run.rule:
            lines += [
                f"  {NAMES[name]:{width}}  undefined: {value:.3g} for every token of {rule}"
                for name, value in _constant(run).items()
            ]
    if len(lines) > 1:
        return [*lines, "  (intervals are over the tokens of this one training, not over seeds)"]
    return [
        f"norms at {len(run.steps)} steps; {run.rule} keeps {run.kept.sum()} of {len(run.kept)} "
        "tokens, too few to correlate anything"
    ]


def _constant(run: Run) -> dict[str, float]:
    """Measures that are one number for all tokens at the last step, which nothing correlates with.

    That number by measure; nothing where the rule keeps fewer than two tokens.
    """
    columns = run.measures(run.steps[-1])
    values = {
        name: columns[name].to_numpy()[run.kept] for name in NAMES if name in run.record.measures
    }
    return {
        name: column[0].item()
        for name, column in values.items()
        if len(column) > 1 and (column == column[0]).all()
    }


def _rows_read(run: Run) -> list[str]:
    """Line on the rows that were read; none where all were."""
    if run.rows is None:
        return []
    left_out = ", ".join(run.record.measures_left_out)
    return [f"rows {run.rows} alone were read; left out, as they need every row: {left_out}"]


def findings(run: Run, *, unused_row_factor: float | None = None) -> list[str]:
    """Sentences on what a run shows, and on what it leaves open.

    Args:
        run: A run; without counts or trends there is nothing to say of frequency.
        unused_row_factor: What the schedule predicts for the norm of an input row that never
            occurs, relative to step 0; None where nothing is predicted.
    """
    if run.rule is None or run.record.without_trends:
        return [last_step_table(run), *_stops(run)]
    is_few = int(run.kept.sum()) < FEWEST_FOR_SENTENCES
    if is_few:
        sentences = [
            f"The rule {run.rule} keeps {run.kept.sum()} tokens: too few for a sentence on the "
            f"vocabulary ({FEWEST_FOR_SENTENCES} are needed); give another rule, or count more "
            "text."
        ]
    else:
        sentences = [_start(run)]
        if len(run.steps) > 1:
            sentences += [_end(run), _turns(run), _order(run)]
    if unused_row_factor is not None and run.steps[0] == 0:
        sentences.append(_never_seen(run, unused_row_factor))
    if is_few:
        return [*sentences, *_stops(run)]
    sentences += path_findings(run)
    if "twin_of" in run.tokens:
        sentences += _twins(run)
    sentences += [*importance_findings(run), *covariate_findings(run)]
    return [*sentences, *_stops(run), _open(run)]


def _stops(run: Run) -> list[str]:
    """Sentences on the steps from which a training was no longer measured."""
    return [
        f"The training was not measured from step {stop.step:,} on: {stop.reason}."
        for stop in run.record.stops
    ]


def _start(run: Run) -> str:
    """Sentences on the correlations with frequency at the first step, under every rule."""
    step = run.steps[0]
    table = {
        rule: {name: row for name, row in rows.items() if is_norm(name)}
        for rule, rows in rows_by_rule(run, step, **WITH_FREQUENCY).items()
    }
    norms = [(rule, list(rows.values())) for rule, rows in table.items() if rows]
    if not norms:
        return f"At step {step:,} every gauge of norm is constant over tokens."
    (rule, rows), *others = norms
    sentence = (
        f"At step {step:,} {_how_many(rows)}: the largest rho is {_largest(rows):+.3f}, the null "
        f"band over all gauges and steps is ±{rows[0].reach:.3f} ({rows[0].row['n']:,} tokens, "
        f"{rule})."
    )
    differing = [
        f"under {other} {_how_many(swept_rows)} (largest rho {_largest(swept_rows):+.3f}, null "
        f"band ±{swept_rows[0].reach:.3f}, {swept_rows[0].row['n']:,} tokens)"
        for other, swept_rows in others
        if any(row.sign for row in swept_rows) != any(row.sign for row in rows)
    ]
    if differing:
        return f"{sentence} Other vocabulary rules say otherwise: {'; '.join(differing)}."
    return f"{sentence} So it is under the other vocabulary rules tried." if others else sentence


def _how_many(rows: Sequence[SweptRow]) -> str:
    """How many gauges of norm correlate with frequency, as the predicate of a sentence."""
    outside = sum(row.sign != 0 for row in rows)
    if outside == 0:
        return f"none of {len(rows)} gauges of norm correlates with frequency"
    return f"{outside} of {len(rows)} gauges of norm correlate with frequency"


def _largest(rows: Sequence[SweptRow]) -> float:
    """Correlation of the largest absolute value."""
    return max((row.row["value"] for row in rows), key=abs)


def _end(run: Run) -> str:
    """Sentence on the correlations with frequency at the last step, and the sign they decide."""
    table = rows_by_rule(run, run.steps[-1], **WITH_FREQUENCY)
    rows = next(iter(table.values()))
    parts = [
        f"{label} {with_interval(rows[measure].row)}"
        for measure, label in GAUGES.items()
        if measure in rows
    ]
    verdicts = [(rule, sign_of_output(run, rows)) for rule, rows in table.items()]
    otherwise = alike(verdicts)
    return (
        f"At step {run.steps[-1]:,}, rho with log frequency [simultaneous band over tokens]: "
        f"{'; '.join(parts)}; {verdicts[0][1]}{f' ({otherwise})' if otherwise else ''}."
    )


def sign_of_output(run: Run, rows: Mapping[str, SweptRow]) -> str:
    """What the two centrings decide on the sign of output norms and frequency."""
    uniform, unigram = (rows.get(measure) for measure in IDENTIFIABLE_OUTPUT)
    if run.rows is not None:
        return "the mean of the output rows is not known, so its sign is not decided"
    if uniform is None or unigram is None:
        return "there are no output embedding norms to correlate"
    if not (uniform.sign and unigram.sign):
        return "a sign for the output embedding is not decided"
    if uniform.sign != unigram.sign:
        return "the two centrings of the output embedding disagree, so its sign is not decided"
    kind = "frequent" if uniform.sign > 0 else "rare"
    return f"under both centrings {kind} tokens have the longer output rows"


def _turns(run: Run) -> str:
    """Sentence on the vocabulary rules under which a correlation at the last step turns."""
    return turns(rows_by_rule(run, run.steps[-1], **WITH_FREQUENCY), NAMES)


def _order(run: Run) -> str:
    """Sentence on the steps between which frequency comes to show in each norm."""
    parts = []
    for measure, label in GAUGES.items():
        if measure not in run.record.measures:
            continue
        steps = [(rule, str(lasting_correlation(run, measure, rule))) for rule in rules_of(run)]
        otherwise = alike(steps)
        parts.append(f"{label} {steps[0][1]}{f' ({otherwise})' if otherwise else ''}")
    return f"Frequency shows beyond the null band and stays: {'; '.join(parts)}."


def _never_seen(run: Run, factor: float) -> str:
    """Sentence on the input rows that never occur, compared with the factor predicted for them."""
    unseen = against_decay(run, factor)
    if unseen is None:
        return "Every row occurs, so none can be compared with pure decay."
    return (
        f"{unseen.n} input rows never occur: their norm changed by a factor of "
        f"{unseen.ratio:.6f}; learning rates and weight decay predict {unseen.predicted:.6f} "
        f"(largest relative error {unseen.error:.0e})."
    )


def _twins(run: Run) -> list[str]:
    """Slopes that chance alone made, and what they are beyond the curve of ordinary tokens.

    Nothing without pairs.
    """
    parts = []
    for measure, label in GAUGES.items():
        rows = _with_frequency(run, run.steps[-1], run.rule, measure=measure)
        slopes = {(row["statistic"], row["given"]): row for row in rows}
        if (within := slopes.get((CAUSAL, ""))) is None:
            continue
        sentence = f"{label} {with_interval(within, '')} within {within['n']} tokens and twins"
        if (beyond := slopes.get((MINUS_CURVE, ""))) is not None:
            thirds = ", ".join(
                f"{slopes[MINUS_CURVE, third]['value']:+.3f}"
                for third in THIRDS
                if (MINUS_CURVE, third) in slopes
            )
            sentence += (
                f"; minus the curve {with_interval(beyond, '')}, {_beyond_curve(beyond)}; by third "
                f"of frequency, rarest first, {thirds}"
                f"; pseudo-pairs {slopes[PSEUDO_PAIRS, '']['value']:+.3f}"
            )
        if (mean := slopes.get((MEAN_OF_PAIRS, ""))) is not None:
            sentence += (
                f"; mean over pairs of equal shares minus the curve {with_interval(mean, '')}, "
                "where 0 is right"
            )
        parts.append(sentence)
    if not parts:
        return []
    return [
        in_lines(
            f"Slope of log norm on log frequency at step {run.steps[-1]:,} where chance decides "
            "the frequency [95 % interval over tokens with a twin]; minus that of the curve over "
            "ordinary tokens at the same counts; and what pairs of ordinary tokens give instead, "
            "whose truth is 0:",
            parts,
        )
    ]


def _beyond_curve(row: dict[Any, Any]) -> str:
    """What the interval of twins minus curve decides."""
    if not row["low"] * row["high"] > 0:
        return "no difference between random and observed frequency found"
    more = "more" if row["value"] > 0 else "less"
    return f"random frequency lengthens {more} than observed frequency"


def _open(run: Run) -> str:
    """Sentence on what the run leaves open."""
    questions = [
        "whether another seed, corpus or optimizer gives the same (tokens of one training are not "
        "replicates of training)",
        *_open_on_importance(run),
        *_open_on_raw_norms(run),
    ]
    return f"Not decided here: {'; '.join(questions)}."


def _open_on_importance(run: Run) -> list[str]:
    """Open question on norms and importance; none where surgery was measured."""
    if not (measured_importances(run) or run.importances):
        return [
            "whether a norm that tracks frequency also encodes importance (nothing here measures "
            "importance)"
        ]
    if run.trends["statistic"].str.startswith("surgery_").any():
        return []
    return [
        "whether a norm that correlates with importance does anything in the model (only surgery "
        "tests that)"
    ]


def _open_on_raw_norms(run: Run) -> list[str]:
    """Open question on raw output norms; none unless their origin is known to be arbitrary."""
    measures = run.record.measures
    if "output_embedding_norm" not in measures or not run.record.is_output_shift_free:
        return []
    return [
        "what raw output norms mean (a vector added to every output row changes no prediction: the "
        "rows are not those of the input, and nothing caps the logits)"
    ]


def _at(run: Run, step: int, rule: VocabularyRule | None) -> list[dict[Any, Any]]:
    """Correlations with log frequency of every measure at one step, where they are defined."""
    rows = _with_frequency(run, step, rule, statistic="spearman")
    return [row for row in rows if not np.isnan(row["value"])]


def _with_frequency(
    run: Run, step: int, rule: VocabularyRule | None, **columns: str
) -> list[dict[Any, Any]]:
    """Rows of trends against log frequency at one step under a rule, with these columns."""
    columns |= {"against": "log_frequency", "rule": str(rule)}
    return rows_where(run.trends, step=step, **columns).to_dict("records")
