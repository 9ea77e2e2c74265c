"""Head-on-top logits against closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from dynamics.scores.logits import CHUNK, logit_attribution

N, D, C = 5, 4, 7
FORMS = ("raw", "centered", "log_probability")


@pytest.fixture
def weight():
    return torch.randn(C, D, dtype=torch.float64)


@pytest.fixture
def states():
    return torch.randn(N, D, dtype=torch.float64)


class Head:
    """A linear head that remembers what it was asked for; `added` moves every logit."""

    def __init__(self, weight, added=0.0):
        self.weight, self.added, self.asked = weight, added, []

    def __call__(self, states, columns):
        self.asked.append((len(states), None if columns is None else columns.tolist()))
        rows = self.weight if columns is None else self.weight[columns]
        return states @ rows.T + self.added


def ids(*columns):
    return torch.tensor(columns, dtype=torch.long)


def test_numbers_worked_out_by_hand():
    head = Head(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    states, targets = torch.tensor([[3.0, 0.0], [0.0, math.log(2.0)]]), ids(0, 1)
    assert_close(
        logit_attribution(head, states, targets), torch.tensor([[3.0, 0], [0, 1.38629436]])
    )
    centered = torch.tensor([[2.0, -1.0], [-0.46209812, 0.92419624]])
    assert_close(logit_attribution(head, states, targets, form="centered"), centered)
    shares = torch.tensor(
        [[math.exp(3) / (math.exp(3) + 2), 1 / (math.exp(3) + 2)], [1 / 6, 4 / 6]]
    )
    assert_close(logit_attribution(head, states, targets, form="log_probability").exp(), shares)


def test_over_all_columns_the_forms_add_up(weight, states):
    everything = torch.arange(C)
    centered = logit_attribution(Head(weight), states, everything, form="centered")
    assert_close(centered.sum(-1), torch.zeros(N, dtype=torch.float64))
    shares = logit_attribution(Head(weight), states, everything, form="log_probability").exp()
    assert_close(shares.sum(-1), torch.ones(N, dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_added_to_every_logit(form, weight, states):
    """A softmax does not see it; the raw form does."""
    plain = logit_attribution(Head(weight), states, ids(3, 1), form=form)
    moved = logit_attribution(Head(weight, added=5.0), states, ids(3, 1), form=form)
    assert_close(moved - plain, torch.full_like(plain, 5.0 if form == "raw" else 0.0))


@pytest.mark.parametrize("form", FORMS)
def test_foils(form, weight, states):
    """Whatever is subtracted from both goes away; where there is no foil nothing changes."""
    found = logit_attribution(Head(weight), states, ids(2, 0, 5), foils=ids(4, -1, 5), form=form)
    assert_close(found[:, 0], states @ (weight[2] - weight[4]))
    assert_close(found[:, 1], logit_attribution(Head(weight), states, ids(0), form=form)[:, 0])
    assert_close(found[:, 2], torch.zeros(N, dtype=torch.float64))
    without = logit_attribution(Head(weight), states, ids(2, 0), foils=ids(-1, -1), form=form)
    assert without.equal(logit_attribution(Head(weight), states, ids(2, 0), form=form))


@pytest.mark.parametrize("form", FORMS)
def test_targets_may_repeat_and_come_in_any_order(form, weight, states):
    found = logit_attribution(Head(weight), states, ids(6, 2, 6), form=form)
    everything = logit_attribution(Head(weight), states, torch.arange(C), form=form)
    assert_close(found, everything[:, [6, 2, 6]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "targets"), [(N, 0), (0, 2), (0, 0)])
def test_nothing_to_score(form, count, targets, weight, states):
    found = logit_attribution(Head(weight), states[:count], ids(*range(targets)), form=form)
    assert found.shape == (count, targets)


@pytest.mark.parametrize("form", FORMS)
def test_the_distance_to_the_read_out(form, weight, states):
    """Zero for the read-out itself, without sign, and in the form and contrast of the others."""
    reference = states[3].clone()
    for foils in (None, ids(4, -1)):
        settings = {"foils": foils, "form": form}
        found = logit_attribution(Head(weight), states, ids(2, 0), reference=reference, **settings)
        plain = logit_attribution(Head(weight), states, ids(2, 0), **settings)
        assert_close(found, (plain - plain[3]).abs())
        assert found[3].abs().max() < 1e-12
        assert found.min() >= 0


def test_the_raw_form_asks_for_the_targets_only(weight, states):
    head = Head(weight)
    logit_attribution(head, states, ids(5, 1))
    assert head.asked == [(N, [5, 1])]
    head.asked.clear()
    logit_attribution(head, states, ids(5, 1), foils=ids(-1, 6), reference=states[0])
    assert None not in [columns for _, columns in head.asked]


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_others_need_every_column_of_some_representations_at_a_time(form, weight):
    head, states = Head(weight), torch.randn(2 * CHUNK + 3, D, dtype=torch.float64)
    found = logit_attribution(head, states, ids(5, 1), form=form)
    assert head.asked == [(CHUNK, None), (CHUNK, None), (3, None)]
    one_by_one = [logit_attribution(head, each[None], ids(5, 1), form=form) for each in states]
    assert_close(found, torch.cat(one_by_one))


@pytest.mark.parametrize("form", FORMS)
def test_a_representation_that_is_not_finite_spoils_itself_only(form, weight, states):
    clean = logit_attribution(Head(weight), states, ids(5, 1), form=form)
    states[2, 0] = torch.nan
    found = logit_attribution(Head(weight), states, ids(5, 1), form=form)
    assert found[2].isnan().all()
    others = [0, 1, 3, 4]
    assert_close(found[others], clean[others])


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form, weight, states):
    def scores(states):
        return logit_attribution(Head(weight), states, ids(5, 1), foils=ids(-1, 2), form=form)

    assert torch.autograd.gradcheck(scores, (states.requires_grad_(),))
