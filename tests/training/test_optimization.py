import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.config import TrainingSettings
from dynamics.training.optimization import build_optimizer
from dynamics.training.rates import learning_rate, unused_row_factor

reproducible = settings(deadline=None, derandomize=True)


@st.composite
def trainings(draw, longest=500):
    steps = draw(st.integers(1, longest))
    return TrainingSettings(
        steps=steps,
        warmup_steps=draw(st.integers(0, steps)),
        schedule=draw(st.sampled_from(["cosine", "linear", "constant"])),
        learning_rate=draw(st.floats(1e-6, 1)),
        final_learning_rate_ratio=draw(st.floats(0, 1)),
    )


@reproducible
@given(trainings())
def test_the_schedule_rises_to_the_peak_and_never_rises_again(training):
    rates = [learning_rate(training, step) for step in range(training.steps)]
    peak, warmup = training.learning_rate, training.warmup_steps
    assert all(rate > 0 for rate in rates)
    assert rates[:warmup] == pytest.approx([peak * (i + 1) / warmup for i in range(warmup)])
    after = rates[max(0, warmup - 1) :]
    assert after[0] == pytest.approx(peak)
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(after))
    assert after[-1] >= peak * training.final_learning_rate_ratio * (1 - 1e-12)


def test_cosine_and_linear_at_points_computed_by_hand():
    shape = {"steps": 12, "warmup_steps": 4, "learning_rate": 2.0}
    cosine = TrainingSettings(schedule="cosine", final_learning_rate_ratio=0.1, **shape)
    linear = TrainingSettings(schedule="linear", final_learning_rate_ratio=0.5, **shape)
    assert [learning_rate(cosine, step) for step in (0, 3, 4, 8)] == pytest.approx([0.5, 2, 2, 1.1])
    assert learning_rate(cosine, 10) == pytest.approx(0.2 + 1.8 * (1 - math.sqrt(0.5)) / 2)
    assert [learning_rate(linear, step) for step in (4, 8, 11)] == pytest.approx([2, 1.5, 1.125])


@reproducible
@given(trainings(longest=40))
def test_the_optimizer_is_given_the_formula_s_learning_rate_at_every_update(training):
    layer = torch.nn.Linear(2, 2)
    optimizer, schedule = build_optimizer(layer, training)
    for step in range(training.steps):
        expected = learning_rate(training, step)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_matrices_decay_and_vectors_do_not(name):
    training = TrainingSettings(steps=1, optimizer=name, weight_decay=0.1)
    model = torch.nn.Sequential(
        torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)
    )
    decayed, free = build_optimizer(model, training)[0].param_groups
    assert [p.ndim for p in decayed["params"]] == [2, 2] and decayed["weight_decay"] == 0.1
    assert [p.ndim for p in free["params"]] == [1, 1, 1] and free["weight_decay"] == 0


def test_an_unused_row_only_decays():
    training = TrainingSettings(steps=3, warmup_steps=2, schedule="constant", learning_rate=0.5)
    assert unused_row_factor(training, 0) == 1
    assert unused_row_factor(training, 3) == pytest.approx(0.975 * 0.95 * 0.95)
    free = training.model_copy(update={"optimizer": "sgd", "weight_decay": 0.0})
    assert unused_row_factor(free, 3) == 1
    with pytest.raises(ValueError, match="AdamW only"):
        unused_row_factor(training.model_copy(update={"optimizer": "sgd"}), 3)
