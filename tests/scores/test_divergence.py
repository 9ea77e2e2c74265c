"""The divergence of two predictions, near and far, against log-probabilities in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.scores.divergence import kl_divergence


def direct(before, after):
    left, right = (each.double().log_softmax(-1) for each in (before, after))
    return (left.exp() * (left - right)).sum(-1)


@pytest.mark.parametrize("distance", [1e-3, 0.1, 3.0, 30.0, 300.0])
def test_it_is_that_of_the_log_probabilities(distance):
    rng = torch.Generator().manual_seed(0)
    before = 3 * torch.randn(7, 500, generator=rng)
    after = before + distance * torch.randn(7, 500, generator=rng)
    torch.testing.assert_close(
        kl_divergence(before, after), direct(before, after).float(), rtol=2e-4, atol=0
    )


def test_little_differences_are_not_lost_in_rounding():
    before = torch.randn(5, 4000, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(5, 4000, generator=torch.Generator().manual_seed(2))
    after = before.double() + 1e-4 * noise.double()
    found = kl_divergence(before.double(), after)
    torch.testing.assert_close(found, direct(before, after), rtol=1e-6, atol=0)
    rounded = kl_divergence(before, after.float())
    torch.testing.assert_close(rounded, direct(before, after.float()).float(), rtol=1e-3, atol=0)


def test_equal_and_shifted_predictions_are_at_distance_zero():
    logits = 20 * torch.randn(9, 1000, generator=torch.Generator().manual_seed(3))
    assert (kl_divergence(logits, logits.clone()) == 0).all()
    assert (kl_divergence(logits.half(), logits.half()) == 0).all()
    torch.testing.assert_close(kl_divergence(logits, logits + 4), torch.zeros(9), rtol=0, atol=1e-9)


def test_a_coin():
    before, after = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]]).log_softmax(-1)
    share = after.exp()[0]
    expected = 0.5 * (0.5 / share).log().sum()
    torch.testing.assert_close(kl_divergence(before, after)[0], expected)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.floats(1e-6, 200))
def test_it_is_never_negative(seed, distance):
    rng = torch.Generator().manual_seed(seed)
    before, noise = torch.randn(2, 4, 30, generator=rng)
    assert (kl_divergence(before, before + distance * noise) >= 0).all()


def test_what_is_not_finite_gives_nan():
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    assert kl_divergence(logits, torch.zeros(2, 2)).isnan().tolist() == [False, True]
