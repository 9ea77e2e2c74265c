"""Error rates of estimators, with fewer draws than docs/error-rates.md has."""

from functools import partial

import numpy as np
import pytest

from dynamics.statistics.controlled import Controls
from scripts.error_rates import (
    EFFECTS,
    cells,
    given_spline,
    pair_given_frequency,
    simulate,
    spearman_of_normal,
    twins,
    within_bins,
)

DRAWS = 200


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("n", [300, 1854])
def test_what_is_independent_given_frequency_is_not_found(n, effect):
    cell = simulate("", "", n, 0.0, partial(given_spline, n, effect, 2, 0.0), DRAWS)
    assert cell.misses <= 0.1
    assert cell.leaves_null <= 0.1
    assert abs(cell.mean) < 0.03


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_true_correlation_given_frequency_is_covered(effect):
    rho = spearman_of_normal(0.6)
    cell = simulate("", "", 300, rho, partial(given_spline, 300, effect, 1, 0.6), DRAWS)
    assert cell.misses <= 0.1
    assert cell.mean == pytest.approx(rho, abs=0.03)


def test_within_bins_holds_ten_per_cent():
    cell = simulate("", "", 300, 0.0, partial(within_bins, 300, "inverted U", 2, 0.0), DRAWS)
    assert cell.misses <= 0.14


def test_twins_are_held_against_the_curve_without_bias():
    cell = simulate("", "", 96, 0.1, partial(twins, "slope", 0.1, 0.125), DRAWS)
    assert cell.mean == pytest.approx(0.1, abs=0.005)
    assert cell.misses <= 0.1


def test_effects_linear_in_ranks_would_find_what_is_not_there():
    """The fault that splines mend: the same draws with controls that are linear in ranks."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        z, x, y = pair_given_frequency(1854, "inverted U", 1, 0.0, rng)
        interval = Controls([z], linear=True).spearman(x, y).confidence_interval()
        found += not interval.low <= 0 <= interval.high
    assert found > 40


def test_every_cell_of_the_table_can_be_simulated():
    simulated = [cell() for cell in cells(repetitions=2)]
    assert len({(cell.estimator, cell.truth, cell.n) for cell in simulated}) == len(simulated)
    assert {cell.repetitions for cell in simulated} == {2}
