"""Which tokens drive a change between two steps: of a norm, or of an importance. V tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.errors import ConfigError, OutputError, StepError, did_you_mean
from dynamics.runs.measures import is_norm
from dynamics.runs.run import Run
from dynamics.runs.tracked_importance import Importance, read_importances
from dynamics.statistics.correlation import difference, spearman

Gained = Literal["norm", "importance"]

MEASURE, IMPORTANCE = "input_embedding_norm", "occlusion"
_NEAREST = 4


@dataclass(frozen=True, eq=False)
class _Quantity:
    """Something known of every token at two steps; NaN where it is not."""

    name: str
    values: Float[np.ndarray, "2 V"]
    change: Float[np.ndarray, " V"]
    error: Float[np.ndarray, " V"] | None = None


def changed_tokens(
    run: Run,
    *,
    gained: Gained,
    between: tuple[int, int],
    measure: str | None = None,
    importance: str | None = None,
    top: int | None = 20,
    lost: bool = False,
) -> pd.DataFrame:
    """The tokens that gained or lost most between two steps, of those the vocabulary rule keeps.

    Args:
        run: A run with counts.
        gained: What: `norm`, the measure; or `importance`, the importance. Its correlation is that
            with log frequency, or with the other of the two where that is given as well.
        between: The two steps.
        measure: A measure of the run, `input_embedding_norm` by default.
        importance: An importance that the model gives at both steps; `occlusion` by default, or the
            first there is.
        top: How many tokens; all when None.
        lost: Those that lost most instead.

    Returns:
        One row per token, the largest change first: `token_id`, `token`, `count`, `before`,
        `after`; `change`, a difference of logarithms for norms and of values for all else; `error`
        for an importance, the standard error of its change, |d1 - d2| / 2 with d1, d2 the changes
        of the two halves; `rho_change`, by how much less the correlation would have changed without
        the token (to first order: its influence at the second step minus that at the first, over
        n). `attrs` tells what was compared: `of`, `against`, `steps`, `n`, and `rho` at both steps.

    Raises:
        StepError: A step was not measured; the message lists the nearest that were.
        OutputError: The run has no such measure or importance, or no counts.
        ConfigError: The two steps are the same, or the importance is at every step.
    """
    if between[0] == between[1]:
        raise ConfigError(f"nothing changes between step {between[0]} and itself; give two steps")
    kept = run.kept
    if gained == "norm":
        of = _measure(run, measure or MEASURE, between)
        against = _importance(run, importance, between) if importance else _frequency(run)
    else:
        of = _importance(run, importance, between)
        against = _measure(run, measure, between) if measure else _frequency(run)
    known = kept & np.isfinite([of.change, *against.values]).all(axis=0)
    first, second = (
        spearman(x[known], y[known]) for x, y in zip(of.values, against.values, strict=True)
    )
    tokens = run.tokens.loc[known, ["token_id", "token", "count"]]
    columns = {"before": of.values[0], "after": of.values[1], "change": of.change}
    if of.error is not None:
        columns["error"] = of.error
    changed = tokens.assign(**{name: column[known] for name, column in columns.items()})
    changed["rho_change"] = difference(second, first).influence / max(len(tokens), 1)
    changed = changed.sort_values("change", ascending=lost, kind="stable").head(
        len(changed) if top is None else top
    )
    changed.attrs = {
        "of": of.name,
        "against": against.name,
        "steps": list(between),
        "n": len(tokens),
        "rho": [first.statistic, second.statistic],
    }
    return changed.reset_index(drop=True)


def _measure(run: Run, measure: str, between: tuple[int, int]) -> _Quantity:
    known = run.record.measures
    if measure not in known:
        raise OutputError(f"{run.path} has no measure {measure!r}; {did_you_mean(measure, known)}")
    _check_steps(f"{run.path} has", between, run.steps)
    values = np.stack([run.measures(step)[measure].to_numpy(np.float64) for step in between])
    scale = np.full_like(values, np.nan)
    if is_norm(measure):
        np.log(values, out=scale, where=values > 0)
    else:
        scale = values
    return _Quantity(measure, values, scale[1] - scale[0])


def _importance(run: Run, name: str | None, between: tuple[int, int]) -> _Quantity:
    importances = read_importances(run.path, run.record.live_checkpoints, run.tokens)
    measured = [each for each, found in importances.items() if found.steps is not None]
    if name is None and measured:
        name = IMPORTANCE if IMPORTANCE in measured else measured[0]
    if name is None or name not in importances:
        has = did_you_mean(name or "", measured) if measured else "nothing in it measures any"
        raise OutputError(
            f"{run.path} has no importance{f' {name!r}' if name else ''} that changes over steps; "
            f"{has} (dynamics track --importance)"
        )
    found = importances[name]
    if found.steps is None:
        raise ConfigError(
            f"{name} comes from the corpus and is the same at every step: no token gains or loses "
            "any of it"
        )
    _check_steps(f"{name} in {run.path} was measured at", between, found.steps)
    at = [list(found.steps).index(step) for step in between]
    return _Quantity(
        name, found.values[at], np.diff(found.values[at], axis=0)[0], _error(found, at)
    )


def _error(found: Importance, at: Sequence[int]) -> Float[np.ndarray, " V"] | None:
    """Standard error of a change; both steps have the same contexts, so each half changes."""
    if found.halves is None:
        return None
    first, second = (half[at[1]] - half[at[0]] for half in found.halves)
    return np.abs(first - second) / 2


def _frequency(run: Run) -> _Quantity:
    frequency = run.tokens["log_frequency"].to_numpy(np.float64)
    return _Quantity("log_frequency", np.stack([frequency] * 2), np.zeros_like(frequency))


def _check_steps(what: str, wanted: tuple[int, int], steps: Sequence[int]) -> None:
    for step in wanted:
        if step not in steps:
            nearest = sorted(sorted(steps, key=lambda other: abs(other - step))[:_NEAREST])
            raise StepError(
                f"{what} no step {step}; the nearest are {', '.join(map(str, nearest))}"
            )
