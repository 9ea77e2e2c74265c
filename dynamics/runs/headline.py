"""The headline of runs: what a norm has to do with frequency and importance, in one sentence.

The sentence is computed from the rows of trends that findings are about, and claims no more than
they do: inside its null band a correlation is undecided.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dynamics.runs.arms import Arm
from dynamics.runs.findings import (
    FEWEST_FOR_SENTENCES,
    IDENTIFIABLE_OUTPUT,
    WITH_FREQUENCY,
    sign_of_output,
)
from dynamics.runs.importance_findings import INPUT_NORM, POWER, given_of, rho_found
from dynamics.runs.lasting import lasting_correlation
from dynamics.runs.measures import identifiable_measures
from dynamics.runs.run import Run, rows_where
from dynamics.runs.sweep_findings import alike, rows_by_rule, rules_of
from dynamics.runs.tracked_importance import is_covariate

HEADLINE_NORMS: dict[str, tuple[str, ...]] = {"input": (INPUT_NORM,), "output": IDENTIFIABLE_OUTPUT}
"""Norms of each embedding; those of the output under both centrings, which must agree."""

PREFERRED = ("occlusion_norm_matched", "occlusion")
"""Importances that a headline is about if a run has them. Occlusion that replaces a row by one of
the same norm comes first: what it finds cannot be the removal of a long row."""

About = tuple[str, str, str]
"""Columns `against`, `statistic` and `given` of a correlation in the trends."""

HISTORY = "+initial_norm+distance"
"""What a row has gone through, at the end of `given`."""


def headline_importance(arms: Sequence[Arm]) -> str | None:
    """Return the importance that a headline is about.

    The first of `PREFERRED` that any run has, else the first in the trends that can be separated
    from frequency; None where there is none.
    """
    names: list[str] = []
    for arm in arms:
        given = given_of(arm.runs[0])
        partial = rows_where(arm.trends, statistic="partial_spearman", given=given)
        names += [name for name in partial["against"].unique() if not is_covariate(name)]
    ordered = [name for name in PREFERRED if name in names] + names
    return ordered[0] if ordered else None


def headline_correlations(importance: str | None, given: str) -> dict[str, About]:
    """Return the correlations of a headline by label; of frequency alone without an importance.

    `given` is what importance is correlated given, as in `given_of`.
    """
    correlations = {"frequency": ("log_frequency", "spearman", "")}
    if importance is None:
        return correlations
    return correlations | {
        "importance given frequency": (importance, "partial_spearman", given),
        "importance given frequency, initial norm and distance": (
            *(importance, "partial_spearman"),
            f"{given}{HISTORY}",
        ),
    }


def headline(arm: Arm, measures: Sequence[str], importance: str | None) -> str:
    """Return what the runs of an arm show of norms, frequency and importance, as a text.

    Args:
        arm: A run, or seeds of one recipe, of which is said in how many of them each holds.
        measures: Names of norms; the arm has correlations of each with frequency.
        importance: The importance it is about; None where none was measured.
    """
    kept = min(int(run.kept.sum()) for run in arm.runs)
    if kept < FEWEST_FOR_SENTENCES:
        return f"Too few tokens for a statement: {kept}, where {FEWEST_FOR_SENTENCES} are needed."
    sentences = [
        f"{_subject(measure)} {_on_frequency(arm, measure)}; "
        f"{_on_importance(arm, measure, importance)}."
        for measure in measures
    ]
    if {*IDENTIFIABLE_OUTPUT} & {*measures}:
        sentences.append(_sign(arm))
    return " ".join(sentences)


def _subject(measure: str) -> str:
    """Return a norm as the subject of a sentence, such as `Output norms (raw)`."""
    label = identifiable_measures()[measure]
    role = label.role.removesuffix("_embedding").capitalize()
    return f"{role} norms ({label.removed})" if label.removed else f"{role} norms"


def _on_frequency(arm: Arm, measure: str) -> str:
    """Predicate on the correlation of a norm with frequency, and since when it is there."""
    runs = arm.runs
    lasting = [lasting_correlation(run, measure, run.rule) for run in runs if run.rule is not None]
    signs = [run_lasting.sign for run_lasting in lasting]
    last = max(run_lasting.step for run_lasting in lasting)
    if len(set(signs)) > 1:
        return _counted(signs, "frequency", "do not show it")
    if signs[0] == 0:
        rows = [run.trend(measure).iloc[-1] for run in runs]
        return f"do not show frequency by step {last:,}{_in_each(arm)} ({_power(rows)})"
    verb = "follow" if signs[0] > 0 else "run against"
    if len(runs) > 1:
        return f"{verb} frequency from step {last:,} at the latest{_in_each(arm)}"
    since = "from" if lasting[0].step_before is not None or last == 0 else "at or before"
    return f"{verb} frequency {since} step {last:,}"


def _on_importance(arm: Arm, measure: str, importance: str | None) -> str:
    """Part of the sentence on importance where frequency and spelling are held fixed."""
    if importance is None:
        return "importance was not measured"
    called = f"importance ({importance.replace('_', ' ')})"
    rows = _last_rows(arm, measure, importance)
    if not rows:
        return f"{called} was not measured"
    signs = [_sign_beyond_null(row) for row in rows]
    if len(set(signs)) > 1:
        return f"given frequency, they {_counted(signs, called, 'are undecided')}"
    if signs[0] == 0:
        return f"given frequency, {called} is undecided{_in_each(arm)}: {_power(rows)}"
    rho = f", rho {_short(rows[0]['value'], '+')}" if len(rows) == 1 else ""
    verb = "follow" if signs[0] > 0 else "run against"
    explained = _given_history(arm, measure, importance, signs[0])
    return f"given frequency, they {verb} {called}{rho}{_in_each(arm)}{explained}"


def _given_history(arm: Arm, measure: str, importance: str, sign: int) -> str:
    """Return what is left of a correlation given the initial norm and the distance too."""
    rows = _last_rows(arm, measure, importance, HISTORY)
    if not rows:
        return ""
    same = [_sign_beyond_null(row) * sign for row in rows]
    if len(rows) > 1:
        part = f"in {same.count(1)} of {len(rows)}"
    else:
        outcome = {1: "too", 0: "undecided", -1: "the other way"}[same[0]]
        part = f"{outcome}, {_short(rows[0]['value'], '+')}"
    return f" (given initial norm and distance {part})"


def _sign(arm: Arm) -> str:
    """Sentence on the sign of output norms, which both centrings have to agree on."""
    verdicts = {_sign_of_run(run) for run in arm.runs}
    text = verdicts.pop() if len(verdicts) == 1 else "seeds differ in the sign of output norms"
    return f"{text[0].upper()}{text[1:]}."


def _sign_of_run(run: Run) -> str:
    """Return what both centrings decide at the last step of a run, in the words of its findings."""
    table = rows_by_rule(run, run.steps[-1], **WITH_FREQUENCY)
    return sign_of_output(run, next(iter(table.values())))


def _last_rows(arm: Arm, measure: str, importance: str, history: str = "") -> list[pd.Series]:
    """Return the row of the last step of each seed that has one; `history` is held fixed too."""
    given = f"{given_of(arm.runs[0])}{history}"
    rows = arm.rows(measure, importance, "partial_spearman", given).sort_values("step")
    return [seed_rows.iloc[-1] for _, seed_rows in rows.groupby("seed", sort=False)]


def _sign_beyond_null(row: Mapping[str, float] | pd.Series) -> int:
    """Return the sign of a correlation; 0 inside its null band, or where one is undefined."""
    return int(np.sign(row["value"])) if abs(row["value"]) > row["null_high"] else 0


def _power(rows: Sequence[pd.Series]) -> str:
    """Return tokens and the correlation they show with `POWER`: the fewest, and the largest."""
    n, rho = min(int(row["n"]) for row in rows), max(rho_found(row) for row in rows)
    if np.isnan(rho):
        return f"{n:,} tokens"
    return f"{n:,} tokens, power {POWER:g} at rho ±{_short(rho)}".replace(" 0.", " .")


def _short(rho: float, sign: str = "") -> str:
    """Return a correlation with two digits and without the zero before the point."""
    return format(round(rho, 2) + 0.0, f"{sign}.2f").replace("0.", ".", 1)  # + 0.0: no -.00


def _in_each(arm: Arm) -> str:
    """Return ` in each of N seeds`; nothing for one run."""
    return f" in each of {len(arm.runs)} seeds" if len(arm.runs) > 1 else ""


def _counted(signs: Sequence[int], what: str, otherwise: str) -> str:
    """Return in how many seeds norms follow something, run against it, and neither."""
    verbs = {1: f"follow {what}", -1: f"run against {what}", 0: otherwise}
    return ", ".join(
        f"{verb} in {signs.count(sign)} of {len(signs)} seeds"
        for sign, verb in verbs.items()
        if sign in signs
    )


def otherwise_under_rules(arm: Arm, measures: Sequence[str]) -> str:
    """Return a sentence on vocabulary rules that date the correlation with frequency otherwise.

    In the words of findings, which know one run; empty for several seeds, or where all rules agree.
    """
    if len(arm.runs) != 1:
        return ""
    (run,), parts = arm.runs, []
    for measure in measures:
        outcomes = [(rule, str(lasting_correlation(run, measure, rule))) for rule in rules_of(run)]
        if text := alike(outcomes):
            parts.append(f"{_subject(measure)} {text}")
    if not parts:
        return ""
    return f"{arm.name}, frequency beyond the null band under other rules: {'; '.join(parts)}."


def differences_headline(
    arm: Arm, baseline: Arm, measure: str, curves: Mapping[str, pd.DataFrame]
) -> str:
    """Return the differences of two arms at the last step that both have, with intervals.

    Args:
        arm: The arm from which is subtracted.
        baseline: The arm that is subtracted.
        measure: The norm whose correlations they are of.
        curves: Tables of `difference_curve` by label; empty ones are left out.
    """
    last_rows = {label: curve.iloc[-1] for label, curve in curves.items() if len(curve)}
    if not last_rows:
        return f"{arm.name} and {baseline.name} share no step, so that nothing is subtracted."
    steps = {int(row["step"]) for row in last_rows.values()}
    step = f" at step {steps.pop():,}" if len(steps) == 1 else ""
    parts = [
        f"{label} {_with_interval(row)}" + ("" if step else f" at step {int(row['step']):,}")
        for label, row in last_rows.items()
    ]
    subject = _subject(measure)
    subject = f"{subject[0].lower()}{subject[1:]}"
    return f"{arm.name} minus {baseline.name}, {subject}{step}: {'; '.join(parts)}."


def _with_interval(row: pd.Series) -> str:
    """Return a difference with its interval, such as `+.05 [+.01, +.09]`."""
    value, low, high = (_short(row[name], "+") for name in ("value", "low", "high"))
    return f"{value} (no interval)" if np.isnan(row["low"]) else f"{value} [{low}, {high}]"
