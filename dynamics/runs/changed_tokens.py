"""The tokens that drive a change between two steps, of a norm or of an importance. V tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.errors import ConfigError, OutputError, StepError, did_you_mean
from dynamics.runs.measures import is_norm
from dynamics.runs.paths import OF_TOKEN
from dynamics.runs.run import Run
from dynamics.runs.tracked_importance import Importance, read_importances
from dynamics.statistics.correlation import difference, spearman

Gained = Literal["norm", "importance"]

MEASURE, IMPORTANCE = "input_embedding_norm", "occlusion"
_NEAREST = 4


@dataclass(frozen=True, eq=False)
class _Quantity:
    """A number per token at two steps; NaN where it is not known."""

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
    """Return the tokens that gained or lost most between two steps, of those the rule keeps.

    Args:
        run: A run with counts.
        gained: `norm` for the measure, or `importance`. The correlation is with log frequency, or
            with the other of the two where that is given as well.
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
        of the two halves; `time_to_half`, `ray_share` and `ray_share_of_walk` of the row where
        rows were followed over the steps (for an importance, of the input row); `rho_change`, by
        how much less the correlation would have changed without the token (to first order: its
        influence at the second step minus that at the first, over n). `attrs` tells what was
        compared: `of`, `against`, `steps`, `n`, and `rho` at both steps.

    Raises:
        StepError: A step was not measured; the message lists the nearest that were.
        OutputError: The run has no such measure or importance, or no counts.
        ConfigError: The two steps are the same, or the importance is at every step.
    """
    if between[0] == between[1]:
        raise ConfigError(f"nothing changes between step {between[0]} and itself; give two steps")
    mask = run.kept
    if gained == "norm":
        quantity = _measure(run, measure or MEASURE, between)
        reference = _importance(run, importance, between) if importance else _frequency(run)
    else:
        quantity = _importance(run, importance, between)
        reference = _measure(run, measure, between) if measure else _frequency(run)
    defined = mask & np.isfinite([quantity.change, *reference.values]).all(axis=0)
    first, second = (
        spearman(x[defined], y[defined])
        for x, y in zip(quantity.values, reference.values, strict=True)
    )
    tokens = run.tokens.loc[defined, ["token_id", "token", "count"]]
    columns = {"before": quantity.values[0], "after": quantity.values[1], "change": quantity.change}
    if quantity.error is not None:
        columns["error"] = quantity.error
    columns |= _of_paths(run, quantity.name)
    changed = tokens.assign(**{name: column[defined] for name, column in columns.items()})
    changed["rho_change"] = difference(second, first).influence / max(len(tokens), 1)
    changed = changed.sort_values("change", ascending=lost, kind="stable").head(
        len(changed) if top is None else top
    )
    changed.attrs = {
        "of": quantity.name,
        "against": reference.name,
        "steps": list(between),
        "n": len(tokens),
        "rho": [first.statistic, second.statistic],
    }
    return changed.reset_index(drop=True)


def _measure(run: Run, measure: str, between: tuple[int, int]) -> _Quantity:
    """A measure at both steps; norms change on a log scale, NaN for a norm of 0."""
    measures = run.record.measures
    if measure not in measures:
        raise OutputError(
            f"{run.path} has no measure {measure!r}; {did_you_mean(measure, measures)}"
        )
    _check_steps(f"{run.path} has", between, run.steps)
    values = np.stack([run.measures(step)[measure].to_numpy(np.float64) for step in between])
    compared = np.full_like(values, np.nan)
    if is_norm(measure):
        np.log(values, out=compared, where=values > 0)
    else:
        compared = values
    return _Quantity(measure, values, compared[1] - compared[0])


def _importance(run: Run, name: str | None, between: tuple[int, int]) -> _Quantity:
    """An importance at both steps; `occlusion` or the first where no name is given."""
    importances = read_importances(run.path, run.record.live_checkpoints, run.tokens)
    measured = [
        candidate for candidate, tracked in importances.items() if tracked.steps is not None
    ]
    if name is None and measured:
        name = IMPORTANCE if IMPORTANCE in measured else measured[0]
    if name is None or name not in importances:
        hint = did_you_mean(name or "", measured) if measured else "nothing in it measures any"
        raise OutputError(
            f"{run.path} has no importance{f' {name!r}' if name else ''} that changes over steps; "
            f"{hint} (dynamics track --importance)"
        )
    tracked = importances[name]
    if tracked.steps is None:
        raise ConfigError(
            f"{name} comes from the corpus and is the same at every step: no token gains or loses "
            "any of it"
        )
    _check_steps(f"{name} in {run.path} was measured at", between, tracked.steps)
    rows = [list(tracked.steps).index(step) for step in between]
    return _Quantity(
        name, tracked.values[rows], np.diff(tracked.values[rows], axis=0)[0], _error(tracked, rows)
    )


def _error(tracked: Importance, rows: Sequence[int]) -> Float[np.ndarray, " V"] | None:
    """Standard error of a change; both steps have the same contexts, so each half changes."""
    if tracked.halves is None:
        return None
    first, second = (half[rows[1]] - half[rows[0]] for half in tracked.halves)
    return np.abs(first - second) / 2


def _frequency(run: Run) -> _Quantity:
    """Log frequency, which does not change."""
    frequency = run.tokens["log_frequency"].to_numpy(np.float64)
    return _Quantity("log_frequency", np.stack([frequency] * 2), np.zeros_like(frequency))


def _of_paths(run: Run, name: str) -> dict[str, Float[np.ndarray, " V"]]:
    """Columns on the paths of the rows that a measure is of, or of input rows; none without paths.

    A tied matrix has paths as the input embedding.
    """
    role = "output" if name.startswith("output_") and not run.record.series.tied else "input"
    return {
        column: run.tokens[f"{column}_{role}"].to_numpy(np.float64)
        for column in OF_TOKEN
        if f"{column}_{role}" in run.tokens
    }


def _check_steps(place: str, requested: tuple[int, int], steps: Sequence[int]) -> None:
    """Check that both steps were measured; the message names the nearest that were."""
    for step in requested:
        if step not in steps:
            nearest = sorted(sorted(steps, key=lambda near: abs(near - step))[:_NEAREST])
            raise StepError(
                f"{place} no step {step}; the nearest are {', '.join(map(str, nearest))}"
            )
