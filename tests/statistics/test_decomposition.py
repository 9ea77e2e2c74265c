import numpy as np
import pytest

from dynamics.errors import MeasureError
from dynamics.statistics.decomposition import covariance_shares
from tests.statistics.resampling import resamples


@pytest.fixture
def parts(rng):
    shared, *own = rng.standard_normal((4, 700))
    return [shared + own[0], 2 * own[1] - shared, 0.2 * own[2]]


def direct(parts):
    total = np.sum(parts, axis=0)
    return [np.cov(part, total)[0, 1] / np.var(total, ddof=1) for part in parts]


def test_shares_are_covariances_with_the_sum_and_add_up_to_it(parts):
    found = covariance_shares(parts)
    assert [share.statistic for share in found] == pytest.approx(direct(parts), abs=1e-12)
    assert sum(share.statistic for share in found) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(sum(share.influence for share in found), 0, atol=1e-12)


def test_standard_errors_are_the_bootstraps(parts, rng):
    stacked = np.stack(parts)
    bootstrap = [direct(stacked[:, tokens]) for tokens in resamples(700, 800, rng)]
    errors = [share.standard_error for share in covariance_shares(parts)]
    assert errors == pytest.approx(np.std(bootstrap, axis=0), rel=0.12)


def test_a_part_that_does_not_vary_has_no_share(parts):
    found = covariance_shares([parts[0], np.full(700, 3.0)])
    assert [share.statistic for share in found] == pytest.approx([1, 0], abs=1e-12)


def test_without_variance_there_are_no_shares():
    for parts in ([np.ones(9), np.zeros(9)], [np.arange(9.0), -np.arange(9.0)]):
        assert np.isnan([share.statistic for share in covariance_shares(parts)]).all()
    assert np.isnan(covariance_shares([np.zeros(0)])[0].statistic)


def test_values_that_are_not_numbers_are_refused():
    with pytest.raises(MeasureError, match="1 of the 3 values of part 1 are NaN or infinite"):
        covariance_shares([np.ones(3), np.array([1, np.nan, 2])])
