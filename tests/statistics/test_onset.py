from itertools import pairwise

import numpy as np
import pytest

from dynamics.statistics.correlation import spearman
from dynamics.statistics.intervals import Band
from dynamics.statistics.onset import onset
from dynamics.statistics.ranks import rank
from dynamics.statistics.trajectory import stack

PYTHIA = [0, *(2**k for k in range(10)), *range(1000, 143_001, 1000)]


def within(change, reach):
    return Band(np.asarray(change) - reach, np.asarray(change) + reach)


def onset_of(values, steps, reach=0.1):
    change = np.asarray(values, dtype=float) - values[0]
    return onset(steps, change, within(change, reach))


def follow(measures, against):
    against = rank(against)
    return stack([spearman(row, against) for row in measures])


def found_in(trajectory, steps, draws=500):
    change = trajectory.differences()
    band = change.simultaneous_band(0.95, np.random.default_rng(0), draws)
    return onset(steps, change.values, band)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0.6, 0.7, 1], 4),
        ([0, 0.6, 0.4, 0.7, 1], 8),  # beyond, and back again
        ([0, 0.5, 0.5, 0.5, 1], 2),  # exactly half counts
        ([0.5, 0.4, -0.1, -0.3, -0.5], 4),  # downwards, from where it began
        ([0.2, 0.2, 2.0, 0.9, 0.8], 4),  # overshooting is beyond too
        ([0, 0, 0, 0, 1], 16),
        ([0, 1, 1, 1, 0.05], None),  # the final band covers step 0
        ([0, np.nan, 0.9, np.nan, 1], 16),  # what is undefined is not beyond
        ([0, 1, 1, 1, np.nan], None),
        ([np.nan, 1, 1, 1, 1], None),
        ([0, 0, 0, 0, 0], None),
    ],
)
def test_onset_is_where_half_the_final_distance_is_passed_for_good(values, expected):
    assert onset_of(values, [0, 2, 4, 8, 16]) == expected


def test_one_step_has_no_onset():
    assert onset_of([0.4], [7], reach=0) is None


def test_a_planted_onset_is_found(rng):
    """A correlation of 0 up to step 512 and of .5 from step 5,000 on, halfway at 3,000."""
    planted = np.interp(PYTHIA, [512, 5000], [0, 0.5])
    against = rng.standard_normal(600)
    noise = rng.standard_normal(600)
    measures = planted[:, None] * against + np.sqrt(1 - planted[:, None] ** 2) * noise
    found = found_in(follow(measures, against), PYTHIA)
    assert found is not None
    assert abs(found - 3000) <= 1000


def wander(rng, tokens):
    """Weights that walk at random from where they began, further the more steps lie between."""
    moved = np.sqrt(np.diff(np.array(PYTHIA, dtype=float), prepend=0))[:, None] / 200
    start = rng.standard_normal(tokens)
    return start + np.cumsum(moved * rng.standard_normal((len(PYTHIA), tokens)), axis=0)


def fluctuate(rng, tokens):
    """Weights that stay around 0, each checkpoint like the one before it by .9."""
    noise = rng.standard_normal((len(PYTHIA), tokens))
    for before, row in pairwise(noise):
        row *= np.sqrt(1 - 0.9**2)
        row += 0.9 * before
    return noise


@pytest.mark.parametrize(("measures", "excludes_0"), [(wander, 0.15), (fluctuate, 0.6)])
def test_among_series_in_which_nothing_happens_few_have_an_onset(measures, excludes_0):
    """154 checkpoints that resemble each other, and no association at any of them.

    That the pointwise interval excludes 0 somewhere happens to many of them.
    """
    rng = np.random.default_rng(5)
    series, tokens = 100, 80
    false = excluded = 0
    for _ in range(series):
        trajectory = follow(measures(rng, tokens), rng.standard_normal(tokens))
        false += found_in(trajectory, PYTHIA) is not None
        interval = trajectory.confidence_intervals()
        excluded += bool(np.any((interval.low > 0) | (interval.high < 0)))
    assert false <= 0.05 * series
    assert excluded > excludes_0 * series


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="equally many steps, changes and ends of a band, not 3"):
        onset([0, 1, 2], np.zeros(2), within(np.zeros(2), 1))
    with pytest.raises(ValueError, match="not 0, 0, 0 and 0"):
        onset([], np.zeros(0), within(np.zeros(0), 1))
