import numpy as np
import pytest

from dynamics.corpus.information.oyama import percentile_corrected, symmetric_columns
from dynamics.corpus.information.pairs import RunningText
from dynamics.corpus.information.settings import InformationSettings
from tests.corpus import slow_information as slowly
from tests.corpus.information.test_gain import zipf

SYMMETRIC = "information_gain_symmetric"


def test_equals_dictionaries_and_shuffles_one_after_another():
    rng = np.random.default_rng(5)
    ids, starts = rng.integers(0, 9, 300).astype(np.uint8), np.array([0, 40, 41, 200])
    pieces = np.searchsorted(starts, np.arange(300), side="right").tolist()

    def slow_gain(ids):
        both = {token: [] for token in range(10)}
        for side in (1, -1):
            for token, contexts in slowly.pairs(ids, pieces, range(300), 4, side).items():
                both[token] += contexts
        return np.array([slowly.gain(both[token], ids) for token in range(10)])

    found = symmetric_columns(
        RunningText(ids, starts, 10), InformationSettings(4, shuffles=3, seed=7)
    )
    draws = np.random.default_rng(7)
    shuffled = [slow_gain(draws.permutation(ids).tolist()) for _ in range(3)]
    gain = slow_gain(ids.tolist())
    np.testing.assert_allclose(found[SYMMETRIC], gain, atol=1e-12)
    np.testing.assert_allclose(
        found[f"{SYMMETRIC}_shuffle_corrected"], gain - np.mean(shuffled, axis=0), atol=1e-12
    )
    assert np.isnan(found[SYMMETRIC][9])


def test_seeds_reproduce_and_differ():
    text = zipf(3000, 50)
    first, again, other = (
        symmetric_columns(text, InformationSettings(3, shuffles=2, seed=seed))[
            f"{SYMMETRIC}_shuffle_corrected"
        ]
        for seed in (1, 1, 2)
    )
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


def test_independent_tokens_gain_nothing_after_the_shuffles():
    text = zipf(100_000, 1000)
    found = symmetric_columns(text, InformationSettings(5, shuffles=3))
    corrected = found[f"{SYMMETRIC}_shuffle_corrected"]
    for low, high in ((10, 100), (100, 1000), (1000, 100_000)):
        chosen = (text.count >= low) & (text.count < high)
        assert abs(corrected[chosen].mean()) < 0.02
    assert found[SYMMETRIC][text.count < 30].mean() > 1


def test_the_percentile_rule_equals_a_loop_over_its_bins():
    rng = np.random.default_rng(0)
    counts = np.sort(rng.zipf(1.4, 900).clip(max=50_000))[::-1].copy()
    counts[-20:] = 0
    values = rng.standard_normal(900) + np.log(counts + 1.0)
    values[-20:] = np.nan
    values[5] = np.nan
    expected = np.full(900, np.nan)
    edges = np.exp(np.linspace(0, np.log(counts.max()), 201))
    edges[-1] += 1
    groups, held = [], []
    for at in reversed(range(200)):
        held += [
            i
            for i in range(900)
            if edges[at] <= counts[i] < edges[at + 1] and values[i] == values[i]
        ]
        if len(held) >= 50:
            groups.append(held)
            held = []
    groups[-1] += held
    for group in groups:
        lowest = np.percentile([values[i] for i in group], 3)
        expected[group] = values[group] - lowest
    assert len(groups) > 3
    np.testing.assert_allclose(percentile_corrected(values, counts), expected, atol=1e-12)


def test_too_few_tokens_make_one_bin():
    found = percentile_corrected(np.array([1.0, 3.0, np.nan]), np.array([5, 9, 0]))
    assert found == pytest.approx([-0.06, 1.94, np.nan], nan_ok=True)
