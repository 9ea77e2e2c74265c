"""Claims are judged by the interval over seeds, where they apply and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from dynamics.runs.compare import Quantity, arms_of
from dynamics.statistics.seeds import OverSeeds
from dynamics.verdicts.claims import UNIFORM, UNIGRAM, Claim
from dynamics.verdicts.judge import confirms, judge, verdict
from tests.tracking.arms import made_run, planted, trend_row
from tests.tracking.synthetic import STEPS
from tests.verdicts.planted_arms import planted_arm

INPUT = "input_embedding_norm"
RHO = Quantity(INPUT, "log_frequency")
PARTIAL = Quantity(INPUT, "occlusion", "partial_spearman")


SGD = {"training.optimizer": "sgd"}
ADAMW = {"training.optimizer": "adamw"}


def stated(quantity=RHO, above=0.0, below=0.99, **settings):
    """A claim with a name; everything else is given."""
    about = {"name": "planted", "expected": "nothing", "quantity": quantity}
    return Claim(**about, above=above, below=below, **settings)


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
    assert verdict(stated(above=0.2, below=0.8), over_seeds(low, high)) == expected


def test_a_reversal_is_no_confirmation():
    """The pilot ended at +.10, the study at +.69: a range with one end confirmed both."""
    taken_away = stated(above=-0.2, below=0.3)
    assert verdict(taken_away, over_seeds(0.08, 0.12)) == "confirmed"
    assert verdict(taken_away, over_seeds(0.67, 0.70)) == "contradicted"


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_seeds_describe_and_decide_nothing(n):
    inside = over_seeds(0.3, 0.5, n) if n > 1 else over_seeds(np.nan, np.nan, n)
    assert verdict(stated(), inside) == "descriptive"
    assert verdict(stated(), over_seeds(0.3, 0.5), inside) == "descriptive"


def test_a_claim_is_judged_on_the_arms_it_is_about(arms):
    untied = stated(arms=ADAMW | {"model.tied": False})
    assert judged_arms(arms, untied) == ["adamw, no-decay"]  # planted alike
    assert judged_arms(arms, stated()) == ["adamw, no-decay, sgd, tied"]
    assert judged_arms(arms, stated(PARTIAL)) == ["adamw, no-decay, tied", "sgd"]
    assert list(judge(arms, [stated(arms={"model.tied": None})])) == []


def judged_arms(arms, claim):
    return [", ".join(arm.name for arm in found.arms) for found in judge(arms, [claim])]


def test_arms_that_count_once_get_one_verdict_which_they_must_agree_on():
    low, high = np.array([0.30, 0.31, 0.29, 0.30, 0.32]), np.array([0.7, 0.71, 0.69, 0.7, 0.72])
    decay, no_decay = planted_arm("decay", {RHO: low}), planted_arm("no-decay", {RHO: low + 0.01})
    sgd = planted_arm("sgd", {RHO: high}, training__optimizer="sgd")
    groups = [(decay, no_decay), (sgd,)]

    def judged(below, **settings):
        claim = stated(RHO, 0.0, below, **settings)
        return [
            (", ".join(arm.name for arm in found.arms), found.verdict, found.estimates[0].value)
            for found in judge([decay, no_decay, sgd], [claim], groups)
        ]

    of_low, of_high = (np.tanh(np.arctanh(values).mean()) for values in (low, high))
    assert judged(0.5) == [
        ("decay, no-decay", "confirmed", of_low),
        ("sgd", "contradicted", of_high),
    ]
    assert judged(0.32)[0] == ("decay, no-decay", "undecided", of_low)  # they say two things
    assert judged(0.5, arms=SGD) == [("sgd", "contradicted", of_high)]
    assert len(judged(0.5, arms={"training.weight_decay": 3.0})) == 0


def test_what_an_arm_has_not_is_not_judged(arms):
    unmeasured = Quantity("norm", "occlusion", "no_such_statistic")
    assert list(judge(arms, [stated(unmeasured)])) == []


def test_a_difference_between_arms_changes_what_is_named_and_nothing_else(arms):
    (found,) = judge(arms, [stated(PARTIAL, arms=SGD, minus_arm=ADAMW)])
    by_name = {arm.name: arm.values(PARTIAL) for arm in arms}
    expected = (by_name["sgd"] - by_name["no-decay"]).mean()  # both without weight decay
    (measured,) = found.estimates
    assert measured.value == pytest.approx(expected)
    assert measured.descriptive
    lonely = stated(PARTIAL, arms=SGD, minus_arm=ADAMW | {"model.tied": 3})
    assert list(judge(arms, [lonely])) == []


def test_a_part_of_another_quantity_is_subtracted_seed_by_seed(arms):
    (found, *_) = judge(arms, [stated(PARTIAL, minus=RHO, minus_times=0.5, arms=SGD)])
    (sgd,) = found.arms
    assert found.estimates[0].value == (sgd.values(PARTIAL) - sgd.values(RHO) / 2).mean()


def test_the_other_arm_has_the_same_recipe_but_for_what_is_free(arms, tmp_path):
    faster = made_run(
        *(tmp_path, "faster"),
        rows=planted(0),
        training__optimizer="sgd",
        training__weight_decay=0.0,
        training__learning_rate=0.5,
    )
    others = [arm for arm in arms if arm.name != "sgd"] + arms_of([faster])
    difference = {"quantity": PARTIAL, "arms": SGD, "minus_arm": ADAMW}
    assert judged_arms(others, stated(**difference)) == []
    free = stated(**difference, free=["training.learning_rate"])
    assert judged_arms(others, free) == ["faster"]


def test_of_several_other_arms_none_is_chosen(arms, tmp_path):
    wider = made_run(
        tmp_path, "wider", rows=planted(0), training__weight_decay=0.0, training__beta2=0.99
    )
    both = [*arms, *arms_of([wider])]
    difference = {"quantity": PARTIAL, "arms": SGD, "minus_arm": ADAMW}
    assert judged_arms(both, stated(**difference)) == ["sgd"]
    assert judged_arms(both, stated(**difference, free=["training.beta2"])) == []


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
    claim = stated(replace(RHO, measure=UNIFORM), -0.99, 0.0, centrings=True)
    assert verdict(claim, over_seeds(*uniform), over_seeds(*unigram)) == expected
    assert [quantity.measure for quantity, _ in claim.quantities] == [UNIFORM, UNIGRAM]


def test_onsets_at_the_same_checkpoint_have_no_order_and_at_the_next_one_they_have(arms, tmp_path):
    at, before, after = (STEPS[len(STEPS) // 2 + i] for i in (0, -1, 1))
    onset = Quantity(INPUT, "log_frequency", "spearman_onset")
    claim = stated(onset, -STEPS[-1], 0.0, minus=replace(onset, measure=UNIFORM))
    (same,) = judge(arms, [claim])
    (measured,) = same.estimates
    assert (measured.low, measured.value, measured.high) == (before - at, 0, at - before)
    assert not confirms(claim, measured)
    later = trend_row(STEPS[-1], UNIFORM, "log_frequency", "spearman_onset", after)
    runs = [made_run(tmp_path, "later", seed, rows=[*planted(seed), later]) for seed in (0, 1)]
    (apart,) = judge(arms_of(runs), [claim])
    (measured,) = apart.estimates
    assert (measured.low, measured.value, measured.high) == (before - after, at - after, 0)
    assert confirms(claim, measured)


def test_runs_of_others_are_not_judged(arms):
    foreign = [
        replace(arm, runs=(stranger(arm.runs[0]),), seeds=("",), varies="") for arm in arms[:1]
    ]
    assert list(judge(foreign, [stated()])) == []


def stranger(run):
    copy = type(run)(run.path)
    copy.record.series.training = None
    return copy


def test_planted_effects_get_the_verdict_that_they_have():
    by_verdict = {"confirmed": 0.5, "contradicted": 0.9, "undecided": 0.8}
    for expected, mean in by_verdict.items():
        arm = planted_arm("arm", {RHO: mean + np.array([-0.02, -0.01, 0.0, 0.01, 0.02])})
        (found,) = judge([arm], [stated(RHO, 0.2, 0.8)])
        assert found.verdict == expected
