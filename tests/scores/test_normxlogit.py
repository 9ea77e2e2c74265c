"""NormXLogit is the product of its two factors."""

import torch
from torch.testing import assert_close

from dynamics.scores.normxlogit import normxlogit


def test_the_norm_of_a_token_multiplies_its_logit_of_every_target():
    found = normxlogit(torch.tensor([2.0, 3.0]), torch.tensor([[1.0, -2.0, 0.0], [0.5, 4.0, -1.0]]))
    assert_close(found, torch.tensor([[2.0, -4.0, 0.0], [1.5, 12.0, -3.0]]))


def test_a_larger_norm_lowers_a_token_whose_logit_is_negative():
    scores = normxlogit(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 1), -1.0))[:, 0]
    assert scores.tolist() == [-1, -2, -3]


def test_nothing_to_score():
    assert normxlogit(torch.empty(0), torch.empty(0, 3)).shape == (0, 3)
    assert normxlogit(torch.ones(2), torch.empty(2, 0)).shape == (2, 0)


def test_nan_stays_with_its_token():
    found = normxlogit(torch.tensor([torch.nan, 1.0]), torch.ones(2, 2))
    assert found[0].isnan().all()
    assert_close(found[1], torch.ones(2))
