"""The tokens behind a change are those that changed, with what each did to the correlation."""

import numpy as np
import pytest

from dynamics.errors import ConfigError, OutputError, StepError
from dynamics.runs.changed_tokens import changed_tokens
from dynamics.statistics.correlation import spearman
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import STEPS, make_counts, tracked

NORM = "input_embedding_norm"
LIVE = (0, 8, 32)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run whose importances come from its corpus only."""
    counts = make_counts()
    counts.table["information_gain_right"] = np.arange(300) / 100
    return tracked(tmp_path_factory.mktemp("tokens"), counts=counts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two importances of every other token."""
    bare = tracked(tmp_path_factory.mktemp("tokens"))
    return write_importances(bare, columns, LIVE)


def columns(step):
    rng = np.random.default_rng(step)
    ids = np.arange(0, 300, 2)
    found = {"token_id": ids, "contexts": np.full(len(ids), 8)}
    for name in ("occlusion", "surprisal"):
        halves = 0.01 * ids * step + rng.standard_normal((2, len(ids)))
        found |= {name: halves.mean(axis=0)}
        found |= {f"{name}_half_{at + 1}": half for at, half in enumerate(halves)}
    return found


def test_tokens_come_by_the_change_of_their_log_norm(run):
    found = changed_tokens(run, gained="norm", between=(2, 32), top=7)
    norms = [run.measures(step)[NORM].to_numpy(np.float64) for step in (2, 32)]
    change = np.where(run.kept, np.log(norms[1] / norms[0]), -np.inf)
    order = np.argsort(-change, kind="stable")[:7]
    assert list(found["token_id"]) == list(order)
    assert found["change"].to_numpy() == pytest.approx(change[order])
    assert found["before"].to_numpy() == pytest.approx(norms[0][order])
    assert found["after"].to_numpy() == pytest.approx(norms[1][order])
    assert list(found["token"]) == list(run.tokens["token"][order])
    assert list(found["count"]) == list(run.tokens["count"][order])
    assert "error" not in found
    lost = changed_tokens(run, gained="norm", between=(2, 32), top=7, lost=True)
    change[~run.kept] = np.inf
    assert list(lost["token_id"]) == list(np.argsort(change, kind="stable")[:7])


def test_what_a_token_did_to_the_correlation_is_what_is_missing_without_it(run):
    found = changed_tokens(run, gained="norm", between=(0, 32), top=None)
    kept = np.flatnonzero(run.kept)
    assert found.attrs["n"] == len(found) == len(kept)
    frequency = run.tokens["count"].to_numpy()

    def rho(step, tokens):
        return spearman(run.measures(step)[NORM].to_numpy()[tokens], frequency[tokens]).statistic

    whole = [rho(step, kept) for step in (0, 32)]
    assert found.attrs["rho"] == pytest.approx(whole)
    assert found["rho_change"].sum() == pytest.approx(0, abs=1e-12)
    without = []
    for token in found["token_id"][:40]:
        others = kept[kept != token]
        without.append(whole[1] - whole[0] - (rho(32, others) - rho(0, others)))
    np.testing.assert_allclose(found["rho_change"][:40], without, atol=3e-4)
    assert np.corrcoef(found["rho_change"][:40], without)[0, 1] > 0.99


def test_importance_comes_with_its_error(run):
    found = changed_tokens(run, gained="importance", between=(8, 32), top=5).set_index("token_id")
    before, after = (run_columns(step) for step in (8, 32))
    assert found.attrs["of"] == "occlusion"
    assert found["change"].is_monotonic_decreasing
    for token, row in found.iterrows():
        halves = [
            after[f"occlusion_half_{h}"][token] - before[f"occlusion_half_{h}"][token]
            for h in (1, 2)
        ]
        assert row["change"] == pytest.approx(np.mean(halves))
        assert row["error"] == pytest.approx(abs(halves[0] - halves[1]) / 2)
        assert run.kept[token]


def run_columns(step):
    found = columns(step)
    return {
        name: dict(zip(found["token_id"], column, strict=True)) for name, column in found.items()
    }


def test_each_can_be_held_against_the_other(run):
    both = {"measure": "output_embedding_norm", "importance": "surprisal", "between": (0, 32)}
    of_norm = changed_tokens(run, gained="norm", **both)
    of_importance = changed_tokens(run, gained="importance", **both)
    assert (of_norm.attrs["of"], of_norm.attrs["against"]) == ("output_embedding_norm", "surprisal")
    assert of_importance.attrs["against"] == "output_embedding_norm"
    assert of_norm.attrs["rho"] == pytest.approx(of_importance.attrs["rho"])
    assert of_norm.attrs["n"] == run.kept[::2].sum()


def test_what_is_no_norm_changes_by_its_difference(run):
    measure = "input_embedding_cosine_to_first"
    found = changed_tokens(run, gained="norm", measure=measure, between=(2, 32), top=3)
    assert (found["after"] - found["before"]).to_numpy() == pytest.approx(found["change"])


def test_steps_that_are_not_there_are_told_with_the_nearest(run):
    with pytest.raises(StepError, match=r"has no step 5; the nearest are 0, 2, 8, 32$"):
        changed_tokens(run, gained="norm", between=(5, 32))
    with pytest.raises(StepError, match=r"occlusion in .* was measured at no step 2; the nearest"):
        changed_tokens(run, gained="importance", between=(2, 32))
    with pytest.raises(ConfigError, match="nothing changes between step 8 and itself"):
        changed_tokens(run, gained="norm", between=(8, 8))


def test_what_the_run_does_not_have_is_told(run, bare, run_without_counts):
    between = STEPS[:2]
    with pytest.raises(OutputError, match="no measure 'input_norm'; did you mean 'input_emb"):
        changed_tokens(run, gained="norm", measure="input_norm", between=between)
    with pytest.raises(OutputError, match=r"'oclusion' that changes .*; did you mean 'occlusion'"):
        changed_tokens(run, gained="importance", importance="oclusion", between=between)
    with pytest.raises(OutputError, match="has no importance that changes over steps; nothing"):
        changed_tokens(bare, gained="importance", between=between)
    with pytest.raises(ConfigError, match="information_gain_right comes from the corpus"):
        changed_tokens(
            bare, gained="importance", importance="information_gain_right", between=between
        )
    with pytest.raises(OutputError, match="without counts"):
        changed_tokens(run_without_counts, gained="norm", between=between)


def test_counted_importances_have_trends_once_a_series_is_tracked(bare):
    trend = bare.trend(NORM, against="information_gain_right")
    assert list(trend["step"]) == list(STEPS)
    assert set(bare.trends["against"]) >= {"log_frequency", "information_gain_right"}
