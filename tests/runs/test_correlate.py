"""`Run.correlate` gives in memory what the stage of covariates stores, and draws itself."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import dynamics
from dynamics.config import TrackingSettings
from dynamics.corpus.token_matching import match
from dynamics.corpus.token_table import token_table
from dynamics.errors import CorpusError, MismatchError, OutputError
from dynamics.runs.correlate import _spellings
from dynamics.tracking.track import track
from tests.tracking import independent
from tests.tracking.synthetic import grow, write_series

NORM = "input_embedding_norm"


@pytest.fixture(scope="module")
def ratings(counts):
    rng = np.random.default_rng(5)
    table = counts.table
    aoa = rng.standard_normal(len(table)) - np.log(table["count"] + 1)
    frame = pd.DataFrame(
        {"token_id": table["token_id"], "aoa": aoa, "length": rng.random(len(aoa))}
    )
    frame.loc[::5, "aoa"] = np.nan
    return frame


def test_the_rows_are_those_that_tracking_stores(counts, ratings, tmp_path):
    ratings.to_csv(tmp_path / "r.csv", index=False)
    settings = TrackingSettings(covariates=[str(tmp_path / "r.csv")])
    series = write_series(tmp_path / "series", grow(counts))
    stored = track(series, tmp_path / "run", counts=counts, settings=settings, command="").trends
    stored = stored[
        stored["against"].str.startswith("covariate:")
        | stored["measure"].str.startswith("covariate:")
    ]
    run = dynamics.Run(tmp_path / "run")
    for table in (tmp_path / "r.csv", str(tmp_path / "r.csv"), ratings):
        trends = run.correlate(table)
        pd.testing.assert_frame_equal(trends.rows, stored.reset_index(drop=True))


def test_an_own_column_with_interval_and_control_in_one_line(run, ratings):
    trend = run.correlate(ratings, given="log_frequency").trend(NORM, "aoa")
    known = run.kept & ratings["aoa"].notna().to_numpy()
    for step, value, low, high in trend[["step", "value", "low", "high"]].to_numpy():
        expected = independent.partial_spearman(
            run.measures(int(step))[NORM].to_numpy()[known],
            ratings["aoa"].to_numpy()[known],
            [run.tokens["count"].to_numpy()[known]],
        )
        assert value == pytest.approx(expected, abs=1e-6)
        assert low < value < high
    assert set(trend["n"]) == {known.sum()}
    assert trend["null_high"].notna().all()


def test_another_column_can_be_held_fixed(run, ratings):
    trends = run.correlate(ratings, given=["log_frequency", "aoa"], measures=[NORM])
    assert trends.names == ["length"]
    trend = trends.trend(NORM, "length")
    known = run.kept & ratings["aoa"].notna().to_numpy()
    assert set(trend["n"]) == {known.sum()}
    x, y = run.measures(32)[NORM].to_numpy()[known], ratings["length"].to_numpy()[known]
    controls = [run.tokens["count"].to_numpy()[known], ratings["aoa"].to_numpy()[known]]
    assert trend["value"].iloc[-1] == pytest.approx(
        independent.partial_spearman(x, y, controls), abs=1e-6
    )


def test_it_draws_itself(run, ratings, tmp_path):
    figure = run.correlate(ratings, given="log_frequency").plot(tmp_path / "figure.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    figure.draw_without_rendering()
    said = " ".join(figure.get_supxlabel().split())
    assert "raw and given frequency." in said
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert set(titles) == {"aoa", "length"}


def test_it_says_in_one_line_what_it_is_and_in_several_what_it_holds(run, ratings):
    trends = run.correlate(ratings, given="log_frequency", measures=[NORM])
    assert repr(trends) == "<CovariateTrends of series: aoa, length, 4 steps, 0 to 32>"
    lines = str(trends).splitlines()
    assert lines[0] == "rho of series at step 32 [95 % interval], and given log_frequency"
    assert lines[1].startswith("  aoa, input embedding norms: ")
    assert lines[-1] == f"the table: 300 of 300 rows are a token of {run.path}"


def test_tokens_are_found_by_the_sign_for_a_space_and_as_words(run):
    known = _spellings(run)
    starts = sorted(known.word_starts)[:3]
    expected = [known.word_starts[word] for word in starts]
    words = pd.DataFrame({"word": starts, "x": range(len(starts))})
    assert match(token_table(words), known).ids.tolist() == expected
    assert known.own == {
        mark + text[1:]: max(ids) for text, ids in known.texts.items() for mark in "Ġ▁"
        if text.startswith(" ") and text.isascii()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"given": "frequency"}, OutputError, "cannot hold 'frequency' fixed"),
        ({"given": ""}, OutputError, "cannot hold '' fixed"),
        ({"measures": ["norm"]}, OutputError, "has no measure 'norm'; it has input_embedding_norm"),
        ({"table": "none.csv"}, CorpusError, "there is no table none.csv"),
        (
            {"table": pd.DataFrame({"token": ["Ġzebra"], "x": [1]})},
            MismatchError,
            r"none of the 1 rows of the table \('Ġzebra'\) is a token of",
        ),
        (
            {"table": pd.DataFrame({"token_id": range(100, 105), "x": range(5)})},
            OutputError,
            "fewer than 10 tokens that count>=10 keeps have a value in the table; give more tokens",
        ),
    ],
)
def test_what_cannot_be_correlated_is_told_in_one_line(run, ratings, change, error, message):
    with pytest.raises(error, match=message) as caught:
        run.correlate(**{"table": ratings, **change})
    assert "\n" not in str(caught.value)


def test_a_run_without_counts_has_nothing_to_hold_fixed(run_without_counts, ratings):
    with pytest.raises(OutputError, match="without counts, so that frequency cannot"):
        run_without_counts.correlate(ratings)
