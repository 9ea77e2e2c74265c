"""Contexts are of every frequency, hold their token where they say, and are the same every time."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata

from dynamics.errors import ConfigError, CorpusError
from dynamics.importance import probes as module
from dynamics.importance.probes import ProbeSet, half_means, sample_probes
from tests.probe_settings import probe_settings

V, LENGTH = 120, 12
SIZES = {"strata": 4, "tokens_per_stratum": 5, "contexts": 6, "length": LENGTH}
SETTINGS = probe_settings(**SIZES)


def changed(**changes):
    return probe_settings(**SIZES | changes)


@pytest.fixture(scope="module")
def rows():
    """Rows in which id 119 never occurs, 118 once, and 117 only at the ends of rows."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 116)
    ids = rng.choice(np.arange(115), (80, 30), p=share / share.sum())
    ids[7, 15] = 118
    ids[:10, 0] = ids[:10, -1] = 117
    return ids.astype(np.uint16)


@pytest.fixture(scope="module")
def counts(rows):
    return np.bincount(rows.ravel(), minlength=V)


@pytest.fixture(scope="module")
def kept(counts):
    return (counts >= 2) & (np.arange(V) >= 3) & (np.arange(V) != 117)


@pytest.fixture
def sample(rows, counts, kept):
    def sample(settings=SETTINGS, text=rows):
        return sample_probes(text, counts, kept, settings)

    return sample


def test_each_context_is_a_part_of_a_row_with_the_token_in_its_middle_half(sample, rows, kept):
    probes = sample()
    assert probes.ids.shape == (len(probes), LENGTH)
    assert (probes.positions >= LENGTH // 4).all() and (probes.positions < 3 * LENGTH // 4).all()
    assert kept[probes.token_ids].all()
    windows = np.lib.stride_tricks.sliding_window_view(rows, LENGTH, axis=1)
    places = []
    for ids, position in zip(probes.ids, probes.positions, strict=True):
        found = np.argwhere((windows == ids).all(-1))
        assert len(found) == 1
        places.append((found[0, 0], found[0, 1] + position))
    assert len(set(places)) == len(places), "an occurrence was taken twice"
    assert len(set(probes.positions)) == LENGTH // 2, "positions are random"


def test_tokens_are_of_every_stratum_and_have_their_contexts(sample, rows, counts, kept):
    probes = sample()
    contexts = Counter(probes.token_ids.tolist())
    assert list(probes.token_ids) == sorted(probes.token_ids)
    assert len(contexts) + probes.left_out == 20
    eligible = np.bincount(rows[:, LENGTH // 4 : -(LENGTH // 4)].ravel(), minlength=V)
    for token, n in contexts.items():
        assert n == min(6, eligible[token]) >= 2
    middle = (rankdata(counts[kept]) - 0.5) / kept.sum()  # ties share a stratum
    strata = dict(zip(np.flatnonzero(kept), (4 * middle).astype(int), strict=True))
    of_each = Counter(strata[token] for token in contexts)
    assert sorted(of_each) == [0, 1, 2, 3]
    assert max(of_each.values()) <= 5
    assert sum(of_each.values()) == 20 - probes.left_out


def test_the_same_seed_gives_the_same_and_another_one_others(sample):
    first, again, other = sample(), sample(), sample(changed(seed=1))
    assert first.digest == again.digest != other.digest
    assert len(first.digest) == 64
    np.testing.assert_array_equal(first.ids, again.ids)
    moved = replace(first, positions=first.positions - 1)
    assert moved.digest != first.digest


def test_the_digest_is_pinned():
    probes = ProbeSet(
        np.arange(8).reshape(2, 4), np.array([1, 2]), np.array([5, 6]), np.array([0, 1])
    )
    assert probes.digest == "f1991de05b3d9d71b50b02907b96ee9d0d3342482a3647e0d748e648faf714b2"


@pytest.mark.parametrize("size", [7, 64, 1 << 20])
def test_how_the_rows_are_read_does_not_matter(sample, monkeypatch, size):
    expected = sample().digest
    monkeypatch.setattr(module, "_IDS_PER_CHUNK", size)
    assert sample().digest == expected


def test_a_replacement_is_another_kept_token(sample, kept):
    probes = sample(changed(tokens=(0, 1)))
    assert kept[probes.replacements].all()
    assert (probes.replacements != probes.token_ids).all()
    assert len(set(probes.replacements)) > len(probes) / 4


def test_replacements_are_uniform_over_the_others(rows, counts):
    kept = np.zeros(V, bool)
    kept[[4, 7, 9]] = True
    settings = probe_settings(strata=1, tokens_per_stratum=3, contexts=1000, length=LENGTH)
    probes = sample_probes(rows, counts, kept, settings)
    pairs = Counter(zip(probes.token_ids.tolist(), probes.replacements.tolist(), strict=True))
    assert len(pairs) == 6
    for token in (4, 7, 9):
        here = [n for (probed, _), n in pairs.items() if probed == token]
        assert abs(here[0] - here[1]) < 4 * np.sqrt(sum(here))


def test_tokens_that_are_asked_for_are_probed_besides(sample):
    only = sample(changed(tokens_per_stratum=0, tokens=(118, 1)))
    assert Counter(only.token_ids.tolist()) == {1: 6, 118: 1}
    assert {1, 118} < set(sample(changed(tokens=(118, 1))).token_ids)


def test_tokens_that_hardly_occur_are_left_out_and_counted(rows, counts):
    kept = np.isin(np.arange(V), [5, 6, 117, 118])
    probes = sample_probes(rows, counts, kept, SETTINGS)
    assert set(probes.token_ids) == {5, 6}
    assert probes.left_out == 2


def test_tokens_that_nobody_asked_for_any_more_are_not_passed_over(rows, counts):
    kept = np.isin(np.arange(V), [5, 110, 111, 112, 113, 114, 117, 118])
    eligible = np.bincount(rows[:, LENGTH // 4 : -(LENGTH // 4)].ravel(), minlength=V)
    fit = set(np.flatnonzero(kept & (eligible >= 2)))
    one = {"strata": 1, "tokens_per_stratum": 1, "length": LENGTH}
    for seed in range(10):
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(kept)).tolist()
        passed_over = next(at for at, token in enumerate(drawn) if token in fit)
        probes = sample_probes(rows, counts, kept, probe_settings(**one, seed=seed))
        assert set(probes.token_ids) == {drawn[passed_over]}
        assert probes.left_out == passed_over


def test_text_of_one_row_and_rows_of_one_context_do(sample, rows):
    flat = sample(text=rows.reshape(1, -1).astype(np.int64))
    assert flat.length == LENGTH
    short = sample(changed(length=64))
    assert short.length == rows.shape[1]
    assert {tuple(each) for each in short.ids.tolist()} <= {tuple(each) for each in rows.tolist()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": (119,)}, "token 119 does not occur in the probe text"),
        ({"tokens": (117,)}, "token 117 does not occur .* with a past and a future"),
        ({"tokens": (5, 120)}, "token 120 cannot be probed: the vocabulary has ids 0 to 119"),
        ({"tokens": (-1,)}, "token -1 cannot be probed"),
        (
            {"tokens_per_stratum": 0},
            "no token is probed; set probe_tokens_per_stratum above 0, or name",
        ),
        (
            {"tokens_per_stratum": -1},
            "probe_tokens_per_stratum: input should be greater than or equal to 0",
        ),
        ({"strata": 0}, "probe.strata: input should be greater than or equal to 1"),
        ({"contexts": 1}, "contexts: input should be greater than 1"),
        ({"length": 3}, "context_length: input should be greater than or equal to 4"),
    ],
)
def test_what_cannot_be_probed_is_told(sample, changes, message):
    with pytest.raises(ConfigError, match=message):
        sample(changed(**changes))


def test_rows_that_do_not_fit_are_told(sample, rows, counts, kept):
    with pytest.raises(CorpusError, match="rows of 3 ids of the probe text are too short"):
        sample(text=rows[:, :3])
    with pytest.raises(CorpusError, match="the probe text holds the id 300, but the vocab"):
        sample(text=np.where(rows == 5, 300, rows))
    with pytest.raises(ConfigError, match=r"none of the \d+ tokens that the vocabulary rule keeps"):
        sample(text=np.arange(V)[None])
    with pytest.raises(ConfigError, match="the vocabulary rule keeps 1 tokens, so that none can"):
        sample_probes(rows, counts, np.arange(V) == 5, SETTINGS)


def test_halves_share_no_text_and_are_as_large_as_each_other_else():
    rng = np.random.default_rng(1)
    rows = np.arange(40 * 60).reshape(40, 60) + 10  # what an id is tells where it stands
    for token, times in enumerate((600, 60, 20, 6)):
        rows.ravel()[rng.choice(rows.size, times, replace=False)] = token
    counts = np.bincount(rows.ravel(), minlength=rows.size + 10)
    settings = probe_settings(
        strata=1, tokens_per_stratum=0, contexts=16, length=24, tokens=(0, 1, 2, 3)
    )
    probes = sample_probes(rows, counts, counts >= 1, settings)
    for token in range(4):
        of, halves = (each[probes.token_ids == token] for each in (probes.ids, probes.halves))
        shared = [{*one} & {*other} - {0, 1, 2, 3} for one in of[halves == 0]
                  for other in of[halves == 1]]  # fmt: skip
        assert not any(shared)
        assert abs((halves == 0).sum() - (halves == 1).sum()) <= 1
    assert set(probes.halves[probes.token_ids == 3]) == {0, 1}


def test_contexts_that_share_text_stay_together():
    tokens = np.array([5, 5, 5, 5, 5, 8, 8, 9, 9])
    rows = np.array([0, 0, 0, 1, 2, 3, 3, 3, 4])
    starts = np.array([20, 0, 9, 3, 3, 0, 9, 9, 0])
    halves = module._halves(tokens, rows, starts, 10)
    np.testing.assert_array_equal(halves, [1, 0, 0, 1, 0, 0, 0, 0, 1])
    halves = module._halves(tokens, rows, np.where(starts == 20, 18, starts), 10)
    np.testing.assert_array_equal(halves, [0, 0, 0, 1, 1, 0, 0, 0, 1])


def test_means_are_of_all_contexts_and_of_each_half():
    tokens, halves = np.array([3, 3, 3, 5, 9, 9]), np.array([0, 1, 0, 0, 0, 1])
    whole, first, second = half_means(np.array([1.0, 2.0, 5.0, 7.0, 4.0, 6.0]), tokens, halves)
    np.testing.assert_allclose(whole, [8 / 3, 7, 5])
    np.testing.assert_allclose(first, [3, 7, 4])
    np.testing.assert_array_equal(second, [2, np.nan, 6])
