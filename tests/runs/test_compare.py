"""Runs as seeds of arms, and what is said over seeds, against scipy over the runs' own tables."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from dynamics.errors import MismatchError
from dynamics.runs.compare import (
    COMPARISON_COLUMNS,
    KEYS,
    Quantity,
    arm_difference,
    arm_mean,
    arms_of,
    compare,
)
from dynamics.runs.run import Run
from dynamics.statistics.seeds import seed_mean
from tests.tracking.arms import made_run, planted, trend_row
from tests.tracking.synthetic import STEPS, make_counts, tracked

INPUT = "input_embedding_norm"
RHO = Quantity(INPUT, "log_frequency")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds of one arm and two of another."""
    folder = tmp_path_factory.mktemp("arms")
    one = [made_run(folder, "one", seed, rows=planted(seed)) for seed in (0, 1, 2)]
    other = [
        made_run(folder, "other", seed, rows=planted(seed, shift=0.2), training__optimizer="sgd")
        for seed in (0, 1)
    ]
    return [one[0], other[0], one[1], other[1], one[2]]


def renamed(run, folder, *, name=None, drop_training=False, **series):
    """A copy of a run under another name."""
    shutil.copytree(run.path, folder)
    info = json.loads((folder / "run.json").read_text())
    info["series"] |= {"name": name or info["series"]["name"]} | series
    if drop_training:
        info["series"]["training"] = None
    (folder / "run.json").write_text(json.dumps(info))
    return Run(folder)


def test_trainings_that_differ_in_their_seed_alone_are_one_arm(made):
    one, other = arms_of(made)
    assert (one.name, one.seeds, one.runs) == ("one", ("0", "1", "2"), (made[0], made[2], made[4]))
    assert (other.name, other.seeds) == ("other", ("0", "1"))
    assert one.varies == "initialisation and order"
    assert one.descriptive and other.descriptive
    assert (one.setting("training.optimizer"), other.setting("training.optimizer")) == (
        "adamw",
        "sgd",
    )
    assert one.setting("training.nothing.there") is None


@pytest.mark.parametrize(
    ("names", "seeds", "varies"),
    [
        (["pythia-14m", "pythia-14m-seed3"], ("", "3"), "initialisation and order"),
        (["org/p-160m-data-seed1", "org/p-160m-data-seed2"], ("1", "2"), "order"),
        (["p-weight-seed1", "p-weight-seed2"], ("1", "2"), "initialisation"),
    ],
)
def test_public_series_are_grouped_by_their_names(made, tmp_path, names, seeds, varies):
    runs = [
        renamed(made[0], tmp_path / str(at), name=name, drop_training=True)
        for at, name in enumerate(names)
    ]
    (arm,) = arms_of(runs)
    assert (arm.seeds, arm.varies) == (seeds, varies)
    assert "seed" not in arm.name


def test_what_differs_in_more_than_the_seed_is_another_arm(made, tmp_path):
    names = ["p-14m-seed1", "p-31m-seed1", "p-14m-data-seed1"]
    runs = [
        renamed(made[0], tmp_path / str(at), name=name, drop_training=True)
        for at, name in enumerate(names)
    ]
    assert [arm.name for arm in arms_of(runs)] == names
    assert all(arm.varies == "" for arm in arms_of(runs))


def test_runs_without_a_seed_to_tell_them_apart_are_arms_of_their_own(made, tmp_path):
    again = renamed(made[0], tmp_path / "again" / "run")
    arms = arms_of([made[0], again])
    assert [len(arm.runs) for arm in arms] == [1, 1]
    assert [arm.name for arm in arms] == ["one (seed-0/run)", "one (again/run)"]


def test_where_a_training_ran_and_what_was_tracked_make_no_recipe(made, tmp_path):
    settings = made[2].info["series"]["training"]
    elsewhere = settings | {"training": settings["training"] | {"device": "cuda", "threads": 3}}
    moved = renamed(made[2], tmp_path / "run", training=elsewhere)
    assert len(arms_of([made[0], moved])) == 1


def test_runs_of_different_tokenizers_are_refused_naming_both(made, tmp_path):
    foreign = tracked(tmp_path, name="foreign", counts=make_counts(tokenizer="b" * 64))
    told = r"seed-0/run \(one\) and .*run-foreign \(foreign\) are of different tokenizers"
    with pytest.raises(MismatchError, match=told) as raised:
        compare([made[0], foreign])
    assert "aaaaaaaaaaaa and bbbbbbbbbbbb" in str(raised.value)


def test_the_table_is_the_mean_over_seeds_with_its_interval(made):
    table = compare(made)
    assert tuple(table.columns) == COMPARISON_COLUMNS
    keys = ["arm", "step", "measure", "against", "statistic", "given", "rule"]
    assert not table.duplicated(keys).any()
    for statistic, back in (("spearman", np.tanh), ("log_slope", lambda value: value)):
        each = [run.trend(INPUT, statistic=statistic).set_index("step")["value"] for run in made]
        rho = [each[at][32] for at in (0, 2, 4)]
        z = np.arctanh(rho) if statistic == "spearman" else np.array(rho)
        expected = stats.ttest_1samp(z, 0).confidence_interval()
        (row,) = table[
            (table["arm"] == "one")
            & (table["step"] == 32)
            & (table["measure"] == INPUT)
            & (table["against"] == "log_frequency")
            & (table["statistic"] == statistic)
            & (table["rule"] == "count>=10")
        ].itertuples()
        assert row.value == pytest.approx(back(z.mean()))
        assert (row.low, row.high) == pytest.approx((back(expected.low), back(expected.high)))
        assert (row.n_seeds, row.descriptive) == (3, True)


def test_every_statistic_of_every_seed_is_in_the_table(made):
    table = compare(made)
    ours = table[table["arm"] == "other"].set_index(KEYS)
    assert set(made[1].trends.set_index(KEYS).index) <= set(ours.index)
    assert set(ours["n_seeds"]) <= {0, 1, 2}


def test_the_onset_of_a_read_out_is_half_of_its_final_distance_from_step_0(made):
    one, _ = arms_of(made)
    found = one.values(Quantity("output_embedding", "log_frequency", "readout_r2_onset", "rows"))
    for run in one.runs:
        rows = run.trend("output_embedding", statistic="readout_r2", given="rows")
        change = (rows["value"] - rows["value"].iloc[0]).to_numpy()
        beyond = [bool((change[at:] >= change[-1] / 2).all()) for at in range(len(change))]
        seed = str(run.info["series"]["training"]["seed"])
        assert found[seed] == rows["step"].to_numpy()[beyond.index(True)] > 0


def test_an_onset_is_known_up_to_the_step_before(made):
    """Of onsets in (a0, a] and (b0, b] the difference lies between a0 - b and a - b0."""
    one, _ = arms_of(made)
    read_out = Quantity("output_embedding", "log_frequency", "readout_r2_onset", "rows")
    onset = Quantity(INPUT, "log_frequency", "spearman_onset")
    steps = np.array(sorted(set(one.rows(INPUT, "log_frequency", "spearman")["step"])))
    before = {int(step): int(steps[at - 1]) if at else int(step) for at, step in enumerate(steps)}
    a, b = (one.values(quantity).astype(int) for quantity in (read_out, onset))
    earliest, latest = a.map(before) - b, a - b.map(before)
    found = arm_mean(one, read_out, onset)
    assert found.value == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(seed_mean(earliest).low)
    assert found.high == pytest.approx(seed_mean(latest).high)
    assert found.high - found.low >= (a - a.map(before) + b - b.map(before)).min() > 0
    alone = arm_mean(one, onset)
    assert alone.low == b.map(before).iloc[0] < alone.high == alone.value == b.iloc[0]


def test_a_seed_without_an_onset_does_not_enter_and_one_alone_has_no_interval(made, tmp_path):
    late = made_run(tmp_path, "one", 7, rows=[*planted(7), no_onset()])
    (arm,) = arms_of([made[0], late])
    found = arm_mean(arm, Quantity(INPUT, "log_frequency", "spearman_onset"))
    assert found.n == 1 and np.isnan(found.low) and np.isnan(found.high)


def test_the_interval_of_an_onset_stays_within_the_steps(made, tmp_path):
    late = made_run(tmp_path, "one", 7, rows=[*planted(7), late_onset()])
    (arm,) = arms_of([made[0], late])
    found = arm_mean(arm, Quantity(INPUT, "log_frequency", "spearman_onset"))
    assert (found.low, found.high, found.n) == (0, STEPS[-1], 2)


def late_onset():
    return trend_row(STEPS[-1], INPUT, "log_frequency", "spearman_onset", STEPS[-1])


def no_onset():
    return trend_row(STEPS[-1], INPUT, "log_frequency", "spearman_onset", np.nan)


def test_a_step_that_a_seed_lacks_has_fewer_seeds(made, tmp_path):
    short = made_run(tmp_path, "one", 7, rows=planted(7, steps=(0, 2)))
    (arm,) = arms_of([made[0], made[2], short])
    curve = arm.curve("model", "", "held_out_loss").set_index("step")
    assert list(curve["n_seeds"]) == [3, 3, 2, 2]


def test_values_are_those_of_the_runs_by_seed(made):
    one, _ = arms_of(made)
    first = one.values(Quantity(INPUT, "log_frequency", at="first"))
    assert list(first.index) == ["0", "1", "2"]
    for seed, run in zip(one.seeds, one.runs, strict=True):
        assert first[seed] == run.trend(INPUT)["value"].iloc[0]
        assert one.values(RHO)[seed] == run.trend(INPUT)["value"].iloc[-1]
    assert one.values(Quantity("nothing", "there")).isna().all()


def test_of_several_sets_of_covariates_the_largest_is_taken(made):
    one, _ = arms_of(made)
    partial = one.rows(INPUT, "log_frequency", "partial_spearman")
    assert set(partial["given"]) == {"characters+word_start+ascii_alphabetic"}
    assert one.rows(INPUT, "log_frequency", "partial_spearman", "nothing").empty


def test_a_difference_within_a_run_is_paired_and_so_are_arms_of_equal_seeds(made):
    one, other = arms_of(made)
    agree = Quantity("normxlogit", "occlusion", "within_input_agreement")
    norm = Quantity("norm", "occlusion", "within_input_agreement")
    found = arm_mean(one, agree, norm)
    expected = stats.ttest_rel(one.values(agree), one.values(norm)).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    found = arm_difference(one, other, agree)
    expected = stats.ttest_ind(
        one.values(agree), other.values(agree), equal_var=False
    ).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    two = arms_of([made[0], made[2]])[0]
    found = arm_difference(two, other, agree)
    expected = stats.ttest_rel(two.values(agree), other.values(agree)).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_law_of_rows_that_never_occur_is_a_quantity(made):
    one, other = arms_of(made)
    error = Quantity(INPUT, statistic="unseen_row_error")
    for run in one.runs:
        never = run.never_seen
        last, first = (run.array(INPUT)[at][never].astype(float) for at in (-1, 0))
        decay = np.prod([1 - 0.1 * run_rate(step) for step in range(32)])
        assert one.values(error)[str(run.info["series"]["training"]["seed"])] == pytest.approx(
            np.abs(last / first / decay - 1).max()
        )
    assert other.values(error).isna().all()  # SGD with weight decay has no such law


def run_rate(step):
    """The default schedule of the made settings: cosine from 1e-3 to a tenth of it."""
    return 1e-3 * (0.1 + 0.9 * (1 + np.cos(np.pi * step / 32)) / 2)
