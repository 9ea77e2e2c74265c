import numpy as np
import pytest
from scipy.stats import bootstrap, spearmanr

from dynamics.statistics.within_input import within_input_agreement


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=rng.integers(5, 40)) for _ in range(200)]
    return [each + rng.normal(size=len(each)) for each in reference], reference


def test_mean_of_the_correlation_inside_each_input(pairs):
    scores, reference = pairs
    each = [spearmanr(*pair).statistic for pair in zip(*pairs, strict=True)]
    found = within_input_agreement(scores, reference)
    assert found.mean == pytest.approx(np.mean(each))
    assert (found.inputs, found.left_out) == (200, 0)
    resampled = bootstrap((each,), np.mean, rng=np.random.default_rng(1)).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(resampled), abs=0.006)


def test_what_differs_between_inputs_only_does_not_agree():
    """A correlation over all positions together would be nearly 1."""
    rng = np.random.default_rng(0)
    levels = 100 * np.arange(50)
    scores = [level + rng.normal(size=30) for level in levels]
    reference = [level + rng.normal(size=30) for level in levels]
    found = within_input_agreement(scores, reference)
    assert found.low < 0 < found.high and abs(found.mean) < 0.1


def test_positions_without_a_score_are_left_out():
    scores = [np.array([np.nan, 1.0, 2.0, 3.0, 9.0])]
    reference = [np.array([5.0, 3.0, 2.0, 1.0, np.nan])]
    assert within_input_agreement(scores, reference).mean == pytest.approx(-1)


def test_inputs_that_rank_nothing_are_counted():
    scores = [np.ones(5), np.arange(5.0), np.arange(2.0), np.arange(5.0)]
    reference = [np.arange(5.0), np.zeros(5), np.arange(2.0), np.arange(5.0)]
    found = within_input_agreement(scores, reference)
    assert found.mean == pytest.approx(1)
    assert (found.inputs, found.left_out) == (1, 3)
    assert np.isnan(found.low) and np.isnan(found.high)


def test_no_input_has_no_agreement():
    found = within_input_agreement([], [])
    assert np.isnan(found.mean) and found.inputs == 0


def test_draws_are_averaged_inside_an_input():
    up, down = np.arange(6.0), -np.arange(6.0)
    found = within_input_agreement([np.stack([up, up, down], 1)], [up])
    assert found.mean == pytest.approx(1 / 3)
    assert found.inputs == 1


def test_inputs_that_do_not_belong_together():
    with pytest.raises(ValueError, match="1 inputs are compared with 2"):
        within_input_agreement([np.ones(3)], [np.ones(3), np.ones(3)])
    with pytest.raises(ValueError, match="3 positions are compared with 4"):
        within_input_agreement([np.ones(3)], [np.ones(4)])
