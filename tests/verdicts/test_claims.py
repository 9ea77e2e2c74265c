"""Claims are judged by the interval over seeds, where they apply and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from dynamics.runs.compare import Quantity, arms_of
from dynamics.statistics.seeds import OverSeeds
from dynamics.verdicts.claims import CLAIMS, UNIFORM, UNIGRAM, Claim
from dynamics.verdicts.judge import judge, verdict
from tests.tracking.arms import made_run, planted, trend_row
from tests.tracking.synthetic import STEPS

INPUT = "input_embedding_norm"
RHO = Quantity(INPUT, "log_frequency")
PARTIAL = Quantity(INPUT, "occlusion", "partial_spearman")


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    sgd = {"training__optimizer": "sgd", "training__weight_decay": 0.0}
    runs = [
        made_run(folder, name, seed, rows=planted(seed, shift=shift), **changes)
        for seed in (0, 1, 2)
        for name, shift, changes in (
            ("adamw", 0.0, {}),
            ("no-decay", 0.0, {"training__weight_decay": 0.0}),
            ("sgd", 0.4, sgd),
            ("tied", 0.0, {"tied": True}),
        )
    ]
    return arms_of(runs)


def over_seeds(low, high, n=5):
    return OverSeeds(np.array((low + high) / 2), np.array(low), np.array(high), np.array(n))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.3, 0.5, "confirmed"),
        (0.2, 0.5, "confirmed"),
        (0.1, 0.5, "undecided"),
        (-0.3, 0.19, "contradicted"),
        (0.3, 0.9, "undecided"),
        (0.81, 0.9, "contradicted"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_an_interval_inside_confirms_one_outside_contradicts(low, high, expected):
    claim = Claim("", "", {}, RHO, above=0.2, below=0.8)
    assert verdict(claim, over_seeds(low, high)) == expected


def test_a_claim_is_judged_on_the_arms_it_is_about(arms):
    claim = Claim("", "", {"training.optimizer": "adamw", "model.tied": False}, RHO, above=0.0)
    assert judged_arms(arms, claim) == ["adamw, no-decay"]  # planted alike
    assert judged_arms(arms, replace(claim, arms={})) == ["adamw, no-decay, sgd, tied"]
    occlusion = replace(claim, arms={}, quantity=PARTIAL)
    assert judged_arms(arms, occlusion) == ["adamw, no-decay, tied", "sgd"]
    assert list(judge(arms, [replace(claim, arms={"model.tied": None})])) == []


def judged_arms(arms, claim):
    return [", ".join(arm.name for arm in each.arms) for each in judge(arms, [claim])]


def test_what_an_arm_has_not_is_not_judged(arms):
    claim = Claim("", "", {}, Quantity("norm", "occlusion", "no_such_statistic"), above=0.0)
    assert list(judge(arms, [claim])) == []


def test_a_difference_between_arms_changes_what_is_named_and_nothing_else(arms):
    claim = Claim(
        *("", "", {"training.optimizer": "sgd"}, PARTIAL, 0.2),
        minus_arm={"training.optimizer": "adamw"},
    )
    (found,) = judge(arms, [claim])
    by_name = {arm.name: arm.values(PARTIAL) for arm in arms}
    expected = (by_name["sgd"] - by_name["no-decay"]).mean()  # both without weight decay
    (measured,) = found.estimates
    assert measured.value == pytest.approx(expected)
    assert measured.descriptive
    lonely = replace(claim, minus_arm={"training.optimizer": "adamw", "model.tied": 3})
    assert list(judge(arms, [lonely])) == []


def test_the_other_arm_has_the_same_recipe_but_for_what_is_free(arms, tmp_path):
    claim = Claim(
        *("", "", {"training.optimizer": "sgd"}, PARTIAL, 0.2),
        minus_arm={"training.optimizer": "adamw"},
    )
    faster = made_run(
        *(tmp_path, "faster"),
        rows=planted(0),
        training__optimizer="sgd",
        training__weight_decay=0.0,
        training__learning_rate=0.5,
    )
    others = [arm for arm in arms if arm.name != "sgd"] + arms_of([faster])
    assert judged_arms(others, claim) == []
    assert judged_arms(others, replace(claim, free=("training.learning_rate",))) == ["faster"]


def test_of_several_other_arms_none_is_chosen(arms, tmp_path):
    wider = made_run(
        tmp_path, "wider", rows=planted(0), training__weight_decay=0.0, training__beta2=0.99
    )
    claim = Claim(
        *("", "", {"training.optimizer": "sgd"}, PARTIAL, 0.2),
        minus_arm={"training.optimizer": "adamw"},
    )
    both = [*arms, *arms_of([wider])]
    assert judged_arms(both, claim) == ["sgd"]
    assert judged_arms(both, replace(claim, free=("training.beta2",))) == []


@pytest.mark.parametrize(
    ("uniform", "unigram", "expected"),
    [
        ((-0.3, -0.1), (-0.2, -0.1), "confirmed"),
        ((0.1, 0.3), (-0.2, -0.1), "undecided"),
        ((0.1, 0.3), (0.1, 0.2), "contradicted"),
        ((-0.3, -0.1), (-0.2, 0.1), "undecided"),
        ((-0.3, -0.1), (np.nan, np.nan), "undecided"),
    ],
)
def test_what_the_centrings_disagree_about_is_not_decided(uniform, unigram, expected):
    claim = Claim("", "", {}, replace(RHO, measure=UNIFORM), below=0.0, centrings=True)
    assert verdict(claim, over_seeds(*uniform), over_seeds(*unigram)) == expected
    assert [quantity.measure for quantity, _ in claim.quantities] == [UNIFORM, UNIGRAM]


def test_onsets_at_the_same_checkpoint_have_no_order_and_at_the_next_one_they_have(arms, tmp_path):
    at, before, after = (STEPS[len(STEPS) // 2 + i] for i in (0, -1, 1))
    onset = Quantity(INPUT, "log_frequency", "spearman_onset")
    claim = Claim("", "", {}, onset, below=0.0, minus=replace(onset, measure=UNIFORM))
    (same,) = judge(arms, [claim])
    (measured,) = same.estimates
    assert (measured.low, measured.value, measured.high) == (before - at, 0, at - before)
    assert same.verdict == "undecided"
    later = trend_row(STEPS[-1], UNIFORM, "log_frequency", "spearman_onset", after)
    runs = [made_run(tmp_path, "later", seed, rows=[*planted(seed), later]) for seed in (0, 1)]
    (apart,) = judge(arms_of(runs), [claim])
    (measured,) = apart.estimates
    assert (measured.low, measured.value, measured.high) == (before - after, at - after, 0)
    assert apart.verdict == "confirmed"


def test_runs_of_others_are_not_judged(arms):
    foreign = [
        replace(arm, runs=(stranger(arm.runs[0]),), seeds=("",), varies="") for arm in arms[:1]
    ]
    assert list(judge(foreign)) == []


def stranger(run):
    copy = type(run)(run.path)
    copy.record.series.training = None
    return copy


def test_the_planted_effects_are_found(arms):
    found = {(each.claim.name, arm.name): each.verdict for each in judge(arms) for arm in each.arms}
    twins = "Twins: frequency shortens centred output rows, under both centrings ..."
    assert found[twins, "adamw"] == "confirmed"
    assert found["Shuffling input norms costs next to nothing (nats).", "sgd"] == "confirmed"
    assert found["Raw rows of rare tokens become longer in tied models.", "tied"] == "contradicted"


def test_every_claim_says_what_it_expects_and_its_range_is_one():
    for claim in CLAIMS:
        assert claim.name and claim.expected
        assert claim.above < claim.below
        assert np.isfinite(claim.above) or np.isfinite(claim.below)
        assert not (claim.minus and claim.minus_arm)
        assert claim.minus_arm or not claim.free
        assert not claim.centrings or claim.quantity.measure == UNIFORM
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
