"""Arms that share seeds and nearly the training count once; others do not."""

import numpy as np
import pytest

from dynamics.runs.compare import Quantity
from dynamics.verdicts.claims import Claim
from dynamics.verdicts.same_training import TOLERANCE, counted_once, largest_difference
from tests.verdicts.planted_arms import planted_arm

RHO = Quantity("input_embedding_norm", "log_frequency")
LOSS = Quantity("input_embedding_norm", "held_out_loss", "surgery_shuffled")
BEFORE = Quantity("input_embedding_norm", "log_frequency", at="first")
ONSET = Quantity("input_embedding_norm", "log_frequency", "spearman_onset")


def claim(quantity, above=-0.01, below=0.99, **settings):
    return Claim(
        name=f"{quantity} {settings}",
        expected="nothing",
        quantity=quantity,
        above=above,
        below=below,
        **settings,
    )


CLAIMS = [claim(RHO), claim(LOSS, 0.0, 4.0)]
VALUES = np.array([0.50, 0.52, 0.49, 0.51, 0.53])


def names(groups):
    return [[arm.name for arm in group.arms] for group in groups]


def test_the_largest_difference_is_in_widths_of_the_claimed_range():
    first = planted_arm("first", {RHO: VALUES, LOSS: 2 + VALUES})
    second = planted_arm("second", {RHO: VALUES + 0.01, LOSS: 2 + VALUES - [0, 0, 0, 0.2, 0]})
    assert largest_difference(first, second, CLAIMS[:1]) == pytest.approx(0.01)
    assert largest_difference(first, second, CLAIMS) == pytest.approx(0.2 / 4)


def test_arms_within_the_tolerance_count_once_and_one_quantity_beyond_it_parts_them():
    first = planted_arm("first", {RHO: VALUES, LOSS: 2 + VALUES})
    near = planted_arm("near", {RHO: VALUES + 0.9 * TOLERANCE, LOSS: 2 + VALUES})
    far = planted_arm("far", {RHO: VALUES, LOSS: 2 + VALUES + [0, 0, 0, 0, 4 * 1.1 * TOLERANCE]})
    groups = counted_once([first, far, near], CLAIMS)
    assert names(groups) == [["first", "near"], ["far"]]
    assert groups[0].differences == (pytest.approx(0.9 * TOLERANCE),)


def test_the_nearness_of_others_does_not_chain():
    steps = [planted_arm(f"arm {i}", {RHO: VALUES + 0.08 * i}) for i in range(3)]
    assert names(counted_once(steps, CLAIMS)) == [["arm 0", "arm 1"], ["arm 2"]]


def test_other_seeds_are_another_sample_however_alike():
    first = planted_arm("first", {RHO: VALUES})
    other = planted_arm("other", {RHO: VALUES}, seeds=list("56789"))
    alone = [planted_arm(name, {RHO: VALUES[:1]}) for name in "ab"]
    assert largest_difference(first, other, CLAIMS) is None
    assert names(counted_once([first, other], CLAIMS)) == [["first"], ["other"]]
    assert names(counted_once(alone, CLAIMS)) == [["a"], ["b"]]


def test_what_arms_share_by_their_initialisation_or_by_the_grid_is_no_nearness():
    alike = [planted_arm(name, {BEFORE: VALUES, ONSET: VALUES}) for name in "ab"]
    claims = [claim(BEFORE), claim(ONSET), claim(RHO, minus_arm={"model.tied": True})]
    assert largest_difference(*alike, claims) is None
    assert names(counted_once(alike, claims)) == [["a"], ["b"]]


def test_only_claims_about_both_arms_compare_them():
    adamw = planted_arm("adamw", {RHO: VALUES})
    sgd = planted_arm("sgd", {RHO: VALUES}, training__optimizer="sgd")
    assert largest_difference(adamw, sgd, [claim(RHO)]) == 0
    about_sgd = claim(RHO, arms={"training.optimizer": "sgd"})
    assert largest_difference(adamw, sgd, [about_sgd]) is None


def test_a_value_that_one_arm_lacks_parts_them_and_one_that_both_lack_does_not():
    hole = np.where(np.arange(5) == 2, np.nan, VALUES)
    whole, without, same = (
        planted_arm(name, {RHO: values})
        for name, values in (("whole", VALUES), ("without", hole), ("same", hole))
    )
    assert largest_difference(whole, without, CLAIMS) == np.inf
    assert largest_difference(without, same, CLAIMS) == 0


def test_arms_count_together_where_the_study_declares_it():
    first = planted_arm("decay", {RHO: VALUES})
    declared = planted_arm("no-decay", {RHO: VALUES + 0.3})
    groups = counted_once([declared, first], CLAIMS, {"no-decay": "decay", "gone": "decay"})
    assert names(groups) == [["decay", "no-decay"]]
    assert groups[0].differences == (None,)
    assert names(counted_once([declared], CLAIMS, {"no-decay": "decay"})) == [["no-decay"]]


def test_independent_trainings_of_equal_means_are_rarely_taken_for_one():
    """Noise of a fifteenth of the range: alike in all three quantities for every seed by chance."""
    random, merged = np.random.default_rng(0), 0
    quantities = [RHO, LOSS, Quantity("norm", "occlusion", "within_input_agreement")]
    claims = [claim(quantity) for quantity in quantities]
    for _ in range(100):
        pair = [
            planted_arm(
                name,
                {quantity: 0.5 + random.standard_normal(5) / 15 for quantity in quantities},
            )
            for name in "ab"
        ]
        merged += len(counted_once(pair, claims)) == 1
    assert merged / 100 < 0.05  # expected: (2 Phi(.1 / (.067 sqrt 2)) - 1) ** 15 = .006
