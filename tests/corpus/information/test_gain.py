from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.information import pairs
from dynamics.corpus.information.contexts import context_sums
from dynamics.corpus.information.gain import information_columns
from dynamics.corpus.information.pairs import RunningText, reaches
from dynamics.corpus.information.settings import InformationSettings
from dynamics.errors import ConfigError
from dynamics.statistics.correlation import spearman
from dynamics.statistics.reliability import split_half_reliability
from tests.corpus import slow_information as slowly
from tests.corpus.information.test_pairs import VOCABULARY, running, texts

NO_WORDS = (np.zeros(VOCABULARY, bool),) * 2


def zipf(tokens, vocabulary, seed=0):
    """Independent tokens of very different frequency, as one piece."""
    share = 1 / np.arange(1, vocabulary + 1)
    rng = np.random.default_rng(seed)
    ids = rng.choice(vocabulary, tokens, p=share / share.sum()).astype(np.uint16)
    return RunningText(ids, np.array([0]), vocabulary)


@settings(deadline=None, derandomize=True)
@given(texts(), st.integers(1, 5), st.integers(2, 9))
def test_every_column_equals_dictionaries(made, window, draws):
    ids, pieces, edges = made
    found = information_columns(
        running(ids, pieces), tuple(edges), InformationSettings(window, draws)
    )
    words = slowly.word_numbers(ids, pieces, *edges)
    expected = {}
    for name, side in (("right", 1), ("left", -1)):
        contexts = slowly.pairs(ids, pieces, words, window, side)

        def each(function, contexts=contexts):
            return slowly.per_token(VOCABULARY, contexts, function)

        expected[f"information_gain_{name}_all"] = each(lambda c: slowly.gain(c, ids))
        if len(ids) >= draws:
            expected[f"information_gain_{name}"] = each(
                lambda c: slowly.equal_count_gain(c, ids, draws)
            )
        if name == "right":
            expected["entropy_right"] = each(slowly.entropy)
    expected["self_information"] = [
        -log(ids.count(token) / len(ids)) if token in ids else np.nan for token in range(VOCABULARY)
    ]
    assert set(expected) <= set(found)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-9, err_msg=name)


@settings(deadline=None, derandomize=True)
@given(texts(), st.integers(1, 5), st.integers(2, 9))
def test_halves_equal_dictionaries_of_every_other_document(made, window, draws):
    ids, pieces, edges = made
    found = information_columns(
        running(ids, pieces), tuple(edges), InformationSettings(window, draws)
    )
    words = slowly.word_numbers(ids, pieces, *edges)
    for half in (0, 1):
        places = [at for at, piece in enumerate(pieces) if piece % 2 == half]
        text, cut = [ids[at] for at in places], [pieces[at] for at in places]
        numbers = [words[at] for at in places]
        for name, side in (("right", 1), ("left", -1)):
            column = found[f"information_gain_{name}_half_{half + 1}"]
            if len(set(np.array(pieces) % 2)) < 2:
                assert np.isnan(column).all(), "one document has no halves"
            elif len(text) >= draws // 2:
                contexts = slowly.pairs(text, cut, numbers, window, side)
                expected = slowly.per_token(
                    VOCABULARY,
                    contexts,
                    lambda c, text=text: slowly.equal_count_gain(c, text, draws // 2),
                )
                np.testing.assert_allclose(column, expected, atol=1e-9)


def topical(rng, documents, length, vocabulary=300, topics=12):
    """Documents of random topics, in which a topic's tokens recur; every other is a half."""
    share = 1 / np.arange(1, vocabulary + 1)
    prefers = share * np.random.default_rng(0).gamma(0.3, 1, (topics, vocabulary))
    prefers /= prefers.sum(axis=1, keepdims=True)
    ids = [
        rng.choice(vocabulary, length, p=prefers[rng.integers(topics)]) for _ in range(documents)
    ]
    starts = np.arange(documents) * length
    text = np.concatenate(ids).astype(np.uint16)
    return RunningText(text, starts, vocabulary, np.arange(documents) % 2 == 0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_halves_tell_how_well_another_corpus_would_agree(side):
    """The reliability from halves is the correlation of two corpora of the same kind."""
    rng, edges, name = (
        np.random.default_rng(1),
        (np.zeros(300, bool),) * 2,
        f"information_gain_{side}",
    )
    pair = [information_columns(topical(rng, 120, 300), edges, InformationSettings()) for _ in "ab"]
    first, second = (columns[name] for columns in pair)
    halves = [pair[0][f"{name}_half_{half}"] for half in (1, 2)]
    known = np.isfinite([first, second, *halves]).all(axis=0)
    assert known.sum() > 200
    truth = spearman(first[known], second[known]).statistic
    reliability = split_half_reliability(*(half[known] for half in halves))
    assert 0.5 < truth < 0.95
    assert reliability.statistic == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_halves_have_no_bias_of_frequency(side):
    """Independent tokens: both halves give 0 at any frequency, as the whole does."""
    text = zipf(200_000, 2000)
    starts = np.arange(0, 200_000, 500)
    text = RunningText(text.ids, starts, 2000, np.arange(400) % 2 == 0)
    found = information_columns(text, (np.zeros(2000, bool),) * 2, InformationSettings())
    for half in (1, 2):
        gain = found[f"information_gain_{side}_half_{half}"]
        for low, high in ((10, 30), (30, 100), (100, 1000), (1000, 100_000)):
            chosen = (text.count >= low) & (text.count < high) & ~np.isnan(gain)
            error = gain[chosen].std() / np.sqrt(chosen.sum())
            assert abs(gain[chosen].mean()) < 5 * error + 0.01


def test_a_deterministic_successor_is_worth_its_self_information():
    rng = np.random.default_rng(0)
    ids = np.concatenate([[1, 2] if draw else [3] for draw in rng.random(4000) < 0.3])
    text = RunningText(ids.astype(np.uint8), np.array([0]), VOCABULARY)
    found = information_columns(text, NO_WORDS, InformationSettings(window=1))
    share = np.mean(ids == 2)
    assert found["information_gain_right_all"][1] == pytest.approx(-log(share), rel=1e-12)
    assert found["information_gain_left_all"][2] == pytest.approx(-log(np.mean(ids == 1)))
    assert found["entropy_right"][1] == pytest.approx(0, abs=1e-12)
    # Always the same context: taking fewer pairs changes nothing but the correction.
    difference = found["information_gain_right_all"][1] - found["information_gain_right"][1]
    assert difference == pytest.approx(slowly._mean_gain(ids.tolist(), ids.tolist(), 8))


@pytest.mark.parametrize("side", ["right", "left"])
def test_independent_tokens_gain_nothing_at_any_frequency_after_correction(side):
    text = zipf(200_000, 2000)
    found = information_columns(text, (np.zeros(2000, bool),) * 2, InformationSettings())
    corrected, counted = found[f"information_gain_{side}"], found[f"information_gain_{side}_all"]
    for low, high in ((10, 30), (30, 100), (100, 1000), (1000, 100_000)):
        chosen = (text.count >= low) & (text.count < high) & ~np.isnan(corrected)
        error = corrected[chosen].std() / np.sqrt(chosen.sum())
        assert abs(corrected[chosen].mean()) < 5 * error + 0.01
        assert chosen.sum() > 10
    rare, common = text.count < 30, text.count > 1000
    assert np.nanmean(counted[rare]) > 1 + np.nanmean(counted[common])


def test_equal_counts_recover_a_dependence_that_frequency_hides():
    """Each token's successor is drawn from its own eighth of the vocabulary: a gain of ln 8."""
    vocabulary = 160
    rng = np.random.default_rng(1)
    share = (1 / np.arange(1, vocabulary + 1)).reshape(20, 8)
    share /= share.sum(axis=0)
    ids = [0]
    for draw in rng.random(100_000):
        ids.append(int(np.searchsorted(share[:, ids[-1] % 8].cumsum(), draw)) * 8 + ids[-1] % 8)
        if len(ids) % 50 == 0:
            ids.append(int(rng.integers(vocabulary)))
    text = RunningText(np.array(ids, np.uint16), np.array([0]), vocabulary)
    found = information_columns(
        text, (np.zeros(vocabulary, bool),) * 2, InformationSettings(1, pairs=60)
    )
    plain, corrected = found["information_gain_right_all"], found["information_gain_right"]
    by_count = np.argsort(text.count)
    rare, common = by_count[20:60], by_count[-40:]
    bias = np.nanmean(plain[rare]) - np.nanmean(plain[common])
    left = np.nanmean(corrected[rare]) - np.nanmean(corrected[common])
    assert abs(left) < 0.5 * abs(bias)


def test_neither_shards_nor_chunks_change_a_bit(monkeypatch):
    text = zipf(20_000, 700, seed=3)
    edges = np.random.default_rng(0).random((2, 700)) < 0.5
    settings_ = InformationSettings(7, 30, oyama=True, shuffles=2)
    whole = information_columns(text, tuple(edges), settings_)
    for at_once in (1, 999, 50_000):
        monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
        divided = information_columns(text, tuple(edges), settings_)
        for name, values in whole.items():
            assert values.tobytes() == divided[name].tobytes(), name


def test_tokens_without_enough_pairs_are_nan():
    text = running([0, 1, 1, 1, 1, 2], [0] * 6)
    found = information_columns(text, NO_WORDS, InformationSettings(1, pairs=2))
    assert np.isnan(found["information_gain_right"]).tolist() == [True, False, *[True] * 4]
    assert np.isnan(found["information_gain_right_all"]).tolist() == [False, False, *[True] * 4]
    assert np.isnan(found["self_information"]).tolist() == [False] * 3 + [True] * 3
    few = information_columns(text, NO_WORDS, InformationSettings(1, pairs=7))
    assert np.isnan(few["information_gain_right"]).all()


def test_what_is_enough_for_a_token_that_occurs_ten_times():
    assert [InformationSettings(window).equal_pairs for window in (1, 10)] == [8, 80]
    assert InformationSettings(10, 33).equal_pairs == 33


def test_passes_are_counted():
    seen = []
    settings_ = InformationSettings(1, 2, oyama=True, shuffles=2)
    information_columns(
        running([0, 1, 2], [0] * 3), NO_WORDS, settings_, on_pass=lambda *at: seen.append(at)
    )
    assert seen == [(done, 5) for done in range(6)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 0}, "the window of information gain is 0; give 1 or more"),
        ({"window": -3}, "the window of information gain is -3; give 1 or more"),
        ({"pairs": 1}, "the pairs of information gain is 1; give 2 or more"),
        ({"shuffles": 0}, "the shuffles of information gain is 0; give 1 or more"),
        ({"seed": -1}, "the seed of information gain is -1; give 0 or more"),
    ],
)
def test_numbers_that_are_too_small(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InformationSettings(**wrong)


def test_sums_of_several_sides_are_of_their_pairs_together():
    text = running([0, 1, 2, 0, 1], [0] * 5)
    both = context_sums(text, reaches(text, 2))
    assert both.pairs.tolist() == [5, 5, 4, 0, 0, 0]
    assert np.isnan(both.rarefied_x_log_x).all()
