"""An onset has a step before it, or is said to be at or before the first step looked at."""

import numpy as np
import pytest

from dynamics.runs.arms import Quantity
from dynamics.runs.compare import arm_mean, arms_of, compare
from dynamics.runs.findings import findings
from dynamics.runs.run import rows_where
from dynamics.statistics.onset import step_before
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import INPUT as INPUT_KEY
from tests.tracking.synthetic import directions, grow, log_count, make_counts, tracked

INPUT = "input_embedding_norm"
STEPS = (0, 64, 128, 200, 400, 600)
GROWN = (0, 0.05, 0.8, 1, 1, 1)
"""Of the correlation with frequency, which sets in at step 128."""


def series(seed=0, grown=GROWN, steps=STEPS):
    """Input norms that follow frequency as far as they have grown, among noise."""
    counts = make_counts()
    made = grow(counts, seed=seed, steps=steps, slope=0)
    rng = np.random.default_rng(seed)
    rows, noise = directions(300, rng), rng.standard_normal(300)
    frequency = log_count(counts)
    frequency = (frequency - frequency.mean()) / frequency.std()
    for step, share in zip(steps, grown, strict=True):
        log_norm = 0.1 * (share * frequency + noise)
        made[step][INPUT_KEY] = (rows * np.exp(log_norm)[:, None]).astype(np.float32)
    return made


def onset_of(run, measure=INPUT, against="log_frequency"):
    (row,) = rows_where(
        run.trends, measure=measure, against=against, statistic="spearman_onset"
    ).itertuples()
    return row.low, row.value, row.high


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("whole"), series=series())


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """The same training of which only the end was looked at."""
    return tracked(tmp_path_factory.mktemp("late"), series=series(), steps="200,400,600")


def test_an_onset_lies_after_the_step_before(whole):
    assert onset_of(whole) == (64, 128, 128)


def test_where_the_first_step_has_the_final_state_the_onset_is_at_or_before_it(late):
    """Not 400, as the change since step 200 would have it."""
    assert onset_of(late) == (0, 200, 200)
    (arm,) = arms_of([late])
    assert arm.values(Quantity(INPUT, "log_frequency", "spearman_onset")).tolist() == [200]


def test_where_half_of_it_comes_later_the_onset_lies_between_steps(tmp_path):
    run = tracked(tmp_path, series=series(grown=(0, 0, 0.1, 0.2, 1, 1)), steps="200,400,600")
    assert onset_of(run) == (200, 400, 400)


def test_findings_say_at_or_before(whole, late):
    assert "norms from step 128 on, not yet at step 64" in " ".join(findings(whole))
    assert (
        "norms at every measured step, the first of which is 200, so that it began at or before "
        "step 200"
    ) in " ".join(findings(late))
    assert "at or before" not in " ".join(findings(whole))


def test_the_onset_of_an_importance_may_lie_before_the_first_step_it_was_measured_at(tmp_path):
    """What it was at step 0 is not known: architecture alone may have made it."""
    run = tracked(tmp_path, series=series(grown=(0, 0, 0, 0.2, 1, 1)))
    worth = log_count(make_counts())

    def columns(step):
        halves = {f"occlusion_half_{half}": worth + step / 1e6 for half in (1, 2)}
        about = {"token_id": np.arange(300), "contexts": np.full(300, 8)}
        return about | {"occlusion": worth + step / 1e6} | halves

    run = write_importances(run, columns, (200, 400, 600))
    assert onset_of(run, against="occlusion") == (0, 400, 400)


def test_the_interval_of_an_onset_reaches_from_the_step_before(tmp_path):
    """Over seeds of onsets 128 and 200: their t interval, widened to the steps before."""
    runs = [
        tracked(tmp_path / str(seed), name=f"model-seed{seed}", series=series(seed, grown))
        for seed, grown in ((1, GROWN), (2, (0, 0, 0.1, 1, 1, 1)), (3, GROWN))
    ]
    (arm,) = arms_of(runs)
    quantity = Quantity(INPUT, "log_frequency", "spearman_onset")
    rows = arm.rows_by_seed(quantity)
    assert rows["value"].tolist() == [128, 200, 128]
    assert rows["low"].tolist() == [64, 128, 64]
    mean = arm_mean(arm, quantity)
    assert mean.low == pytest.approx(
        max(0, 256 / 3 - 4.302653 * np.std([64, 128, 64], ddof=1) / 3**0.5)
    )
    table = compare(runs)
    (row,) = rows_where(
        table, measure=INPUT, against="log_frequency", statistic="spearman_onset"
    ).itertuples()
    assert (row.low, row.high) == (pytest.approx(float(mean.low)), pytest.approx(float(mean.high)))
    assert row.over == "seeds and steps between"


def test_onsets_of_older_runs_get_their_ends(whole):
    """They have none in their tables."""
    (arm,) = arms_of([whole])
    expected = arm.rows_by_seed(Quantity(INPUT, "log_frequency", "spearman_onset"))
    rows = whole.trends.copy()
    rows.loc[rows["statistic"].str.endswith("_onset"), ["low", "high"]] = np.nan
    older = type(whole)(whole.path)
    older.__dict__["trends"] = rows
    (arm,) = arms_of([older])
    found = arm.rows_by_seed(Quantity(INPUT, "log_frequency", "spearman_onset"))
    assert found[["low", "value", "high"]].equals(expected[["low", "value", "high"]])


def test_the_step_before():
    assert [step_before([0, 16, 64], step) for step in (0, 16, 64)] == [0, 0, 16]
    assert step_before([200, 400], 200) == 0
