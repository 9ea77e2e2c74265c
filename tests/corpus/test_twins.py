"""Twins in a token stream: which tokens get one, how often, and what the tables say of them."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynamics.config import TwinSettings
from dynamics.corpus.count import count_corpus
from dynamics.corpus.counts import count_stream, read_counts
from dynamics.corpus.tokenizers.kinds import token_kinds
from dynamics.corpus.tokenizers.loading import train_tokenizer
from dynamics.corpus.tokens import StreamSettings, open_held_out, open_stream, write_stream
from dynamics.corpus.twins import choose_twins, make_twins, substitute
from dynamics.errors import CorpusError, MismatchError
from tests.zipf_text import zipf_documents

TOKENS, VOCABULARY = 12, 500
ONE = TwinSettings(tokens=TOKENS, share=0.25)
FIXED = TwinSettings(tokens=TOKENS, share=0.25, drawn="fixed")
TWO = TwinSettings(tokens=TOKENS, share=[0.5, 0.125])
SHAPE = StreamSettings(sequence_length=3, seed=1, held_out_rows=4)


@pytest.fixture(scope="module")
def text():
    return zipf_documents(words=150, documents=60, length=400)


@pytest.fixture(scope="module")
def tokenizer(text):
    return train_tokenizer(text, VOCABULARY)


@pytest.fixture(scope="module")
def streams(tmp_path_factory, text, tokenizer):
    """The stream without twins, and with them, by their settings."""
    folder = tmp_path_factory.mktemp("streams")
    made = {}
    for name, twins in {"plain": None, "one": ONE, "fixed": FIXED, "two": TWO}.items():
        shape = replace(SHAPE, twins=twins)
        made[name] = write_stream(folder / name, text, tokenizer, shape)
    return made


def all_ids(stream):
    return np.concatenate([stream.ids, open_held_out(stream.path.parent).ids])


def pairs(stream):
    """Each twin with its token."""
    return {twin: token for token, ids in stream.info.twins.items() for twin in ids}


@pytest.mark.parametrize(("name", "each"), [("one", 1), ("fixed", 1), ("two", 2)])
def test_undoing_the_twins_gives_the_stream_without(streams, name, each):
    plain, twinned = streams["plain"], streams[name]
    undo = pairs(twinned)
    assert list(undo) == list(range(VOCABULARY, VOCABULARY + TOKENS * each))
    assert {len(ids) for ids in twinned.info.twins.values()} == {each}
    assert twinned.info.id_count == VOCABULARY + TOKENS * each
    undone = np.arange(twinned.info.id_count)
    undone[list(undo)] = list(undo.values())
    assert np.array_equal(undone[all_ids(twinned)], all_ids(plain))
    assert set(undo) <= set(np.unique(twinned.ids)) and plain.info.id_count == VOCABULARY


def test_what_is_recorded(streams):
    twinned = streams["two"]
    written = json.loads((twinned.path.parent / "tokens.json").read_text())
    assert written["twin_shares"] == [0.5, 0.125] and written["vocab_size"] == VOCABULARY
    assert written["twins"] == {str(token): [*ids] for token, ids in twinned.info.twins.items()}
    assert open_stream(twinned.path).info == twinned.info
    assert streams["plain"].info.twins is streams["plain"].info.twin_shares is None


def test_a_description_of_one_twin_each_is_read_as_it_was_written_before(streams, tmp_path):
    shutil.copytree(streams["one"].path.parent, tmp_path / "old")
    described = json.loads((tmp_path / "old/tokens.json").read_text())
    described["twin_share"] = described.pop("twin_shares")[0]
    described["twins"] = {token: ids[0] for token, ids in described["twins"].items()}
    (tmp_path / "old/tokens.json").write_text(json.dumps(described))
    assert open_stream(tmp_path / "old").info == streams["one"].info
    described = described | {"twins": None, "twin_share": None}
    (tmp_path / "old/tokens.json").write_text(json.dumps(described))
    assert open_stream(tmp_path / "old").info.twin_shares is None


@pytest.mark.parametrize("damage", [{"twins": {"a": [500]}}, {"twin_shares": None}, {"twins": 3}])
def test_a_damaged_description_of_twins_is_named(streams, tmp_path, damage):
    shutil.copytree(streams["one"].path.parent, tmp_path / "t")
    described = json.loads((tmp_path / "t/tokens.json").read_text())
    (tmp_path / "t/tokens.json").write_text(json.dumps(described | damage))
    with pytest.raises(CorpusError, match=r"tokens.json is damaged .*; write the stream again"):
        open_stream(tmp_path / "t")


def test_fixed_twins_of_one_share_are_the_bits_of_streams_before_twins_were_drawn(streams):
    """Tokens evenly spread over ranks, and one draw for each occurrence in source order."""
    plain, fixed = all_ids(streams["plain"]), all_ids(streams["fixed"])
    order = np.random.default_rng(SHAPE.seed).permutation(len(plain))
    source, twinned = np.empty_like(plain), np.empty_like(plain)
    source[order], twinned[order] = plain, fixed
    undo = pairs(streams["fixed"])
    rng = np.random.default_rng(SHAPE.seed).spawn(1)[0]
    twin_of = {token: twin for twin, token in undo.items()}
    expected = [
        [twin_of[i] if i in twin_of and rng.random() < 0.25 else i for i in row]
        for row in source.tolist()
    ]
    assert twinned.tolist() == expected


def test_another_seed_draws_other_tokens_unless_they_are_fixed(streams, tmp_path, text, tokenizer):
    for name, twins in (("one", ONE), ("fixed", FIXED)):
        again, other = (
            write_stream(tmp_path / f"{name}{seed}", text, tokenizer, shape)
            for seed in (1, 2)
            for shape in [replace(SHAPE, twins=twins, seed=seed)]
        )
        for file in ("tokens.bin", "held_out.bin", "tokens.json"):
            here, there = (stream.path.with_name(file) for stream in (again, streams[name]))
            assert here.read_bytes() == there.read_bytes()
        assert (other.info.twins == again.info.twins) is (name == "fixed")
        assert len(set(other.info.twins) & set(again.info.twins)) < TOKENS or name == "fixed"
        ids = np.arange(VOCABULARY, VOCABULARY + TOKENS)
        places = [np.isin(all_ids(each), ids).sum(axis=1) for each in (other, again)]
        assert not np.array_equal(*map(np.sort, places)) or name == "one"


def able(stream, tokenizer, fewest):
    """Ordinary tokens that occur often enough, by falling count."""
    count = Counter(all_ids(stream).reshape(-1).tolist())
    kinds = token_kinds(tokenizer)
    ordinary = [i for i in range(VOCABULARY) if kinds[i] in ("word_start", "continuation")]
    return sorted((i for i in ordinary if count[i] >= fewest), key=lambda i: (-count[i], i))


def test_tokens_are_spread_over_the_ranks_of_those_that_can_be_chosen(streams, tokenizer):
    eligible = able(streams["plain"], tokenizer, 40)
    spread = [eligible[k * (len(eligible) - 1) // (TOKENS - 1)] for k in range(TOKENS)]
    assert list(streams["fixed"].info.twins) == spread
    for name, fewest in (("one", 40), ("two", 80)):  # 10 over the smallest share
        eligible = able(streams["plain"], tokenizer, fewest)
        groups = np.array_split(np.array(eligible), TOKENS)
        chosen = list(streams[name].info.twins)
        assert all(token in group for token, group in zip(chosen, groups, strict=True))


def test_every_token_of_a_group_is_drawn_equally_often():
    counts = np.arange(100, 160)[::-1].copy()
    wanted = TwinSettings(tokens=7, share=0.5)
    drawn = Counter(
        token
        for seed in range(2000)
        for token in choose_twins(counts, ["word_start"] * 60, wanted, np.random.default_rng(seed))
    )
    sizes = [9, 9, 9, 9, 8, 8, 8]
    expected = np.repeat(2000 / np.array(sizes), sizes)
    observed = np.array([drawn[token] for token in range(60)])
    # within a group counts sum to 2,000: 60 tokens less 7 groups are free
    assert stats.chi2(53).sf(((observed - expected) ** 2 / expected).sum()) > 1e-3


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=60),
    st.integers(1, 60),
    st.floats(0.05, 0.95),
    st.sampled_from([[1.0], [0.5, 0.5], [0.7, 0.1, 0.2]]),
    st.sampled_from(["per_seed", "fixed"]),
)
def test_any_choice_is_of_distinct_tokens_frequent_enough(counts, tokens, share, parts, drawn):
    counts, rng = np.array(counts), np.random.default_rng(0)
    kinds = ["word_start" if i % 3 else "special" for i in range(len(counts))]
    shares = [share * part for part in parts]
    least = min([*shares, 1 - sum(shares)])
    able = [i for i, n in enumerate(counts) if i % 3 and n * least >= 10 - 1e-6]
    wanted = TwinSettings(tokens=tokens, share=shares, drawn=drawn)
    if len(able) < tokens:
        with pytest.raises(CorpusError, match=f"tokens is {tokens}, but only {len(able)} ordinary"):
            choose_twins(counts, kinds, wanted, rng)
        return
    chosen = choose_twins(counts, kinds, wanted, rng)
    assert set(chosen) <= set(able) and len(chosen) == tokens
    ids = [twin for twins in chosen.values() for twin in twins]
    assert ids == list(range(len(counts), len(counts) + tokens * len(parts)))
    assert {len(twins) for twins in chosen.values()} == {len(parts)}
    falling = counts[list(chosen)]
    assert (np.diff(falling) <= 0).all()
    if drawn == "fixed":
        assert falling[0] == counts[able].max()
        assert tokens == 1 or falling[-1] == counts[able].min()


def is_share(part, whole, share):
    """Whether a share of independent draws is within four standard errors of its probability."""
    return abs(part / whole - share) < 4 * np.sqrt(share * (1 - share) / whole)


def test_every_occurrence_is_drawn_alone_with_the_same_probabilities(monkeypatch):
    table = np.random.default_rng(0).integers(0, 6, (500, 200)).astype("<u2")
    before, twins, shares = table.copy(), {2: (6, 7), 5: (8, 9)}, (0.125, 0.5)
    substitute(table, twins, shares, np.random.default_rng(1))
    assert np.array_equal(table == before, ~np.isin(table, [6, 7, 8, 9]))
    for token, ids in twins.items():
        became = table[before == token]
        for twin, share in zip((*ids, token), (*shares, 0.375), strict=True):
            assert is_share((became == twin).sum(), became.size, share)
            after = became[1:][became[:-1] == ids[0]]  # independent of what was drawn last
            assert is_share((after == twin).sum(), after.size, share)
    monkeypatch.setattr("dynamics.corpus.twins._ROWS_PER_CHUNK", 7)
    again = before.copy()
    substitute(again, twins, shares, np.random.default_rng(1))
    assert np.array_equal(again, table)


@pytest.mark.parametrize(("name", "shares"), [("one", [0.25]), ("two", [0.5, 0.125])])
def test_shares_are_the_same_at_every_place_of_a_row(streams, name, shares):
    """The last id of a row is a target only, the first an input only; all are split alike.

    In rows of 4 ids, a last one that stayed with the token would make the token 1 / 9 to 5 / 9 more
    frequent as a target than its share says.
    """
    stream = streams[name]
    ids, originals = all_ids(stream), list(stream.info.twins)
    twins = np.array(list(stream.info.twins.values()))
    width = ids.shape[1]
    for places in (*range(width), slice(width - 1), slice(1, width)):  # each; inputs; targets
        part = ids[:, places]
        occurrences = np.isin(part, [*originals, *twins.flat]).sum()
        assert occurrences > 300
        for which, share in enumerate(shares):
            assert is_share(np.isin(part, twins[:, which]).sum(), occurrences, share)
        assert is_share(np.isin(part, originals).sum(), occurrences, 1 - sum(shares))


@pytest.mark.parametrize(("name", "shares"), [("one", [0.25]), ("two", [0.5, 0.125])])
def test_counts_tell_twins_from_tokens_and_placebo_rows(streams, tokenizer, tmp_path, name, shares):
    stream = streams[name]
    rows = stream.info.id_count + 4
    counts = count_stream(stream, tokenizer, vocab_size=rows)
    table = counts.table
    without = count_stream(streams["plain"], tokenizer, vocab_size=rows).table
    of_twin = pairs(stream)
    ids, originals = list(of_twin), list(of_twin.values())
    assert table["kind"].tolist()[VOCABULARY:] == ["twin"] * len(ids) + ["padding"] * 4
    assert table["twin_of"].tolist() == [-1] * VOCABULARY + originals + [-1] * 4
    assert table["token"][ids].tolist() == table["token"][originals].tolist()
    assert (table["count"][ids] >= 5).all() and (table["count"][-4:] == 0).all()
    both = table["count"].to_numpy().copy()
    np.add.at(both, originals, both[ids])
    assert both[:VOCABULARY].tolist() == without["count"].tolist()[:VOCABULARY]
    share = table["occurrence_share"]
    assert share[ids].tolist() == shares * TOKENS
    assert set(share[originals]) == {1 - sum(shares)}
    assert set(share.drop([*ids, *originals])) == {1.0}
    assert (table["document_count"][ids] > 0).all()
    assert not {"twin_of", "occurrence_share"} & set(without)
    counts.write(tmp_path / "counts.parquet")
    assert read_counts(tmp_path / "counts.parquet").table.equals(table)


def test_counting_a_stream_with_twins_finds_their_rows(streams, tokenizer):
    twinned = streams["one"]
    assert len(count_stream(twinned, tokenizer).table) == VOCABULARY + TOKENS
    tokenizer.save_pretrained(twinned.path.parent / "tokenizer")
    assert count_corpus(str(twinned.path.parent)).table["twin_of"].max() >= 0
    with pytest.raises(MismatchError, match="the vocabulary only 499 rows"):
        count_stream(twinned, tokenizer, vocab_size=499)


def test_the_report_says_what_is_left_for_the_curve(streams, tmp_path, text, tokenizer):
    lines = []
    shape = replace(SHAPE, twins=TWO)
    stream = write_stream(tmp_path, text, tokenizer, shape, report=lines.append)
    count = np.bincount(all_ids(stream).reshape(-1))
    of_pairs = count[[*stream.info.twins, *pairs(stream)]]
    kinds = token_kinds(tokenizer)
    left = [
        i
        for i in range(VOCABULARY)
        if kinds[i] in ("word_start", "continuation")
        and i not in stream.info.twins
        and of_pairs.min() / 2 <= count[i] <= of_pairs.max() * 2
    ]
    assert (
        "12 tokens have twins (shares of their occurrences: 0.5, 0.125); they are compared with a "
        f"curve over {len(left)} ordinary tokens of such counts"
    ) in lines


def test_the_report_says_which_pairs_have_no_curve_at_their_counts():
    """All tokens occur 100 times, twins about 20 times, where there are no others."""
    table = np.repeat(np.arange(200), 100).reshape(-1, 10)
    lines, wanted = [], TwinSettings(tokens=12, share=0.2)
    counts = np.bincount(table.reshape(-1))
    make_twins(table, counts, ["word_start"] * 200, wanted, np.random.default_rng(0), lines.append)
    assert lines == [
        "12 tokens have twins (shares of their occurrences: 0.2); they are compared with a curve "
        "over 188 ordinary tokens of such counts, 12 of 12 pairs lie beyond these counts"
    ]


@pytest.mark.parametrize(
    ("twins", "message"),
    [
        (
            {"tokens": 400},
            r"corpus.twins.tokens is 400, but only \d+ ordinary tokens occur 80 times or more, as "
            r"corpus.twins.share 0.125 needs for 10 of each id; lower corpus.twins.tokens, or give "
            "more text",
        ),
        (
            {"tokens": 12, "share": [0.5, 0.499]},
            r"only \d ordinary tokens occur 10000 times or more, as corpus.twins.share \[0.5, "
            r"0.499\] needs",
        ),
        (
            {"tokens": 90, "share": 0.5},
            r"corpus.twins.tokens is 90, which leaves \d+ ordinary tokens of such counts to "
            "compare twins with, 100 are needed; lower corpus.twins.tokens, or give more text or a "
            "larger tokenizer",
        ),
    ],
)
def test_too_little_text_for_the_twins(tmp_path, text, tokenizer, twins, message):
    shape = replace(SHAPE, twins=TwinSettings(**twins))
    with pytest.raises(CorpusError, match=message) as raised:
        write_stream(tmp_path / "x", text, tokenizer, shape)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()
