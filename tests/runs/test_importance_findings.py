"""Sentences on importance say what was planted, with its error, and what that leaves open."""

import numpy as np
import pandas as pd
import pytest

from dynamics.runs.findings import findings
from dynamics.runs.run import Run
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import grow, log_count, make_counts, tracked

LIVE = (0, 8, 32)
NAMES = ("occlusion", "occlusion_half_1", "occlusion_half_2")


def make_run(folder, error, name="occlusion"):
    """The last input norms are long where `name` is large, on top of frequency."""
    counts = make_counts()
    rng = np.random.default_rng(3)
    worth = rng.standard_normal(300)
    series = grow(counts)
    for step, tensors in series.items():
        factor = np.exp(step / 32 * worth)[:, np.newaxis]
        tensors["gpt_neox.embed_in.weight"] = (tensors["gpt_neox.embed_in.weight"] * factor).astype(
            np.float32
        )
    run = tracked(folder, counts=counts, series=series)

    def columns(step):
        halves = worth + log_count(counts) + error * rng.standard_normal((2, 300))
        table = {"token_id": np.arange(300), "contexts": np.full(300, 8), name: halves.mean(axis=0)}
        return table | {f"{name}_half_{at + 1}": half for at, half in enumerate(halves)}

    return write_importances(run, columns, LIVE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("importance"), error=0.3)


def test_a_correlation_beyond_frequency_is_said_with_its_numbers(run):
    text = " ".join(findings(run))
    for statistic, given in (("spearman", ""), ("partial_spearman", None)):
        rows = run.trends[
            (run.trends["statistic"] == statistic)
            & (run.trends["against"] == "occlusion")
            & (run.trends["measure"] == "input_embedding_norm")
            & (run.trends["given"] == given if given is not None else True)
        ]
        last = rows[rows["step"] == 32].iloc[0]
        value = f"{last['value']:+.3f} [{last['band_low']:+.3f}, {last['band_high']:+.3f}]"
        assert value in text
    n = run.trend("log_frequency", against="occlusion")["n"].iloc[0]
    assert f"Occlusion at step 32 ({n} tokens, rho [simultaneous band]): with log freq" in text
    assert ", beyond its null band of ±0." in text
    assert text.count(" since step 0)") == 6
    reliability = run.trend("occlusion", against="", statistic="reliability")
    last = reliability.iloc[-1]
    assert f"Its reliability is {last['value']:.2f} [{last['low']:.2f}, " in text
    assert "and at least 0.7 at every step" in text


def test_what_is_measured_badly_is_said_to_be(tmp_path):
    text = " ".join(findings(make_run(tmp_path, error=10)))
    assert "it is below 0.7 at 3 of 3 steps (hollow in figures)" in text
    assert "inside its null band" in text


def test_what_importance_leaves_open_is_said(run):
    text = findings(run)[-1]
    assert "nothing here measures importance" not in text
    assert "whether a norm that correlates with importance does anything in the model" in text


def test_an_importance_without_sentences_of_its_own_stands_in_for_those_that_have(tmp_path):
    sentences = findings(make_run(tmp_path, error=0.3, name="occlusion_later"))
    assert any(sentence.startswith("Occlusion later at step 32 (") for sentence in sentences)


def test_what_is_known_of_too_few_tokens_is_said_to_be(tmp_path):
    def columns(step):
        ids = np.arange(100, 109)
        return {"token_id": ids, "contexts": ids, **dict.fromkeys(NAMES, ids / 3)}

    run = write_importances(tracked(tmp_path), columns, LIVE)
    text = " ".join(findings(run))
    assert "occlusion: no trend, for fewer than 10 of the tokens that count>=10 keeps" in text
    assert "nothing here measures importance" not in text


def test_what_may_not_be_controlled_has_no_partial_and_no_reliability(tmp_path):
    counts = make_counts()
    for name in ("information_gain_right_all", "self_information"):
        counts.table[name] = np.random.default_rng(1).standard_normal(300)
    sentences = findings(tracked(tmp_path, counts=counts))
    (told,) = [each for each in sentences if each.startswith("Information gain right all")]
    assert "given frequency" not in told
    assert "reliability" not in told
    assert "The trends also hold self_information." in sentences


def test_attribution_by_norms_beside_importances_is_no_measure_of_weights(run):
    """Agreement of the method `norm` with occlusion stands in the trends like a measure's."""
    trends = run.trends
    rows = trends[(trends["step"] == 32) & (trends["against"] == "occlusion")].head(1)
    agreement = rows.assign(measure="norm", statistic="within_input_agreement", given="", value=0.1)
    both = Run(run.path)
    vars(both)["trends"] = pd.concat([trends, agreement], ignore_index=True)
    apart = [sentence for sentence in findings(both) if not sentence.startswith("Agreement")]
    assert apart == [sentence for sentence in findings(run) if "Agreement" not in sentence]
