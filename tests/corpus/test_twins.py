"""Twins in a token stream: which tokens get one, how often, and what the tables say of them."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.config import TwinSettings
from dynamics.corpus.count import count_corpus
from dynamics.corpus.counts import count_stream, read_counts
from dynamics.corpus.tokenizers.kinds import token_kinds
from dynamics.corpus.tokens import StreamSettings, open_held_out, open_stream, write_stream
from dynamics.corpus.twins import choose_twins, substitute
from dynamics.errors import CorpusError, MismatchError

THREE = TwinSettings(tokens=3, share=0.25)
SHAPE = StreamSettings(sequence_length=9, seed=1, held_out_rows=4)


@pytest.fixture(scope="module")
def long_story(story):
    return story * 3


@pytest.fixture(scope="module")
def plain(tmp_path_factory, long_story, tokenizer):
    return write_stream(tmp_path_factory.mktemp("plain"), long_story, tokenizer, SHAPE)


@pytest.fixture(scope="module")
def twinned(tmp_path_factory, long_story, tokenizer):
    folder = tmp_path_factory.mktemp("twinned")
    return write_stream(folder, long_story, tokenizer, replace(SHAPE, twins=THREE))


def all_ids(stream):
    return np.concatenate([stream.ids, open_held_out(stream.path.parent).ids])


def test_undoing_the_twins_gives_the_stream_without(plain, twinned):
    undo = {twin: token for token, twin in twinned.info.twins.items()}
    assert sorted(undo) == [300, 301, 302] and twinned.info.id_count == 303
    undone = [[undo.get(i, i) for i in row] for row in all_ids(twinned).tolist()]
    assert undone == all_ids(plain).tolist()
    assert set(undo) <= set(np.unique(twinned.ids)) and plain.info.id_count == 300


def test_what_is_recorded(twinned):
    written = json.loads((twinned.path.parent / "tokens.json").read_text())
    assert written["twin_share"] == 0.25 and written["vocab_size"] == 300
    assert written["twins"] == {str(token): twin for token, twin in twinned.info.twins.items()}
    assert open_stream(twinned.path).info == twinned.info


def test_writing_again_gives_the_same_bytes_and_another_seed_other_places(
    twinned, tmp_path, long_story, tokenizer
):
    again = write_stream(tmp_path / "again", long_story, tokenizer, replace(SHAPE, twins=THREE))
    for name in ("tokens.bin", "held_out.bin", "tokens.json"):
        here, there = (stream.path.with_name(name).read_bytes() for stream in (again, twinned))
        assert here == there
    shape = replace(SHAPE, twins=THREE, seed=2)
    other = write_stream(tmp_path / "other", long_story, tokenizer, shape)
    assert other.info.twins == twinned.info.twins
    places = [
        np.sort(np.isin(all_ids(each), [300, 301, 302]).sum(axis=1)) for each in (other, again)
    ]
    assert not np.array_equal(*places)


def test_tokens_are_spread_over_the_ranks_of_those_that_can_be_chosen(plain, twinned, tokenizer):
    count = Counter(all_ids(plain).reshape(-1).tolist())
    kinds = token_kinds(tokenizer)
    ordinary = [i for i in range(300) if kinds[i] in ("word_start", "continuation")]
    able = sorted((i for i in ordinary if count[i] >= 40), key=lambda i: (-count[i], i))
    middle = able[(len(able) - 1) // 2]
    assert list(twinned.info.twins) == [able[0], middle, able[-1]]


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=60),
    st.integers(1, 60),
    st.floats(0.05, 0.95),
)
def test_any_choice_is_of_distinct_tokens_frequent_enough(counts, tokens, share):
    counts = np.array(counts)
    kinds = ["word_start" if i % 3 else "special" for i in range(len(counts))]
    able = [i for i, n in enumerate(counts) if i % 3 and n * min(share, 1 - share) >= 10 - 1e-9]
    wanted = TwinSettings(tokens=tokens, share=share)
    if len(able) < tokens:
        with pytest.raises(CorpusError, match=f"tokens is {tokens}, but only {len(able)} ordinary"):
            choose_twins(counts, kinds, wanted)
        return
    chosen = choose_twins(counts, kinds, wanted)
    assert set(chosen) <= set(able) and len(chosen) == tokens
    assert list(chosen.values()) == list(range(len(counts), len(counts) + tokens))
    falling = counts[list(chosen)]
    assert (np.diff(falling) <= 0).all() and falling[0] == counts[able].max()
    assert tokens == 1 or falling[-1] == counts[able].min()


def test_every_occurrence_is_drawn_alone_with_the_same_probability(monkeypatch):
    table = np.random.default_rng(0).integers(0, 6, (500, 200)).astype("<u2")
    before, twins = table.copy(), {2: 6, 5: 7}
    substitute(table, twins, 0.125, np.random.default_rng(1))
    assert np.array_equal(table == before, ~np.isin(table, [6, 7]))
    for token, twin in twins.items():
        became = table[before == token] == twin
        assert became.mean() == pytest.approx(0.125, abs=4 * np.sqrt(0.125 * 0.875 / became.size))
        # independent of what was drawn last: four standard errors again
        after = became[1:][became[:-1]]
        assert after.mean() == pytest.approx(0.125, abs=4 * np.sqrt(0.125 * 0.875 / after.size))
    monkeypatch.setattr("dynamics.corpus.twins._ROWS_PER_CHUNK", 7)
    again = before.copy()
    substitute(again, twins, 0.125, np.random.default_rng(1))
    assert np.array_equal(again, table)


def test_counts_tell_twins_from_tokens_and_placebo_rows(twinned, plain, tokenizer, tmp_path):
    counts = count_stream(twinned, tokenizer, vocab_size=307)
    table, without = counts.table, count_stream(plain, tokenizer, vocab_size=307).table
    twins = twinned.info.twins
    assert table["kind"].tolist()[300:] == ["twin"] * 3 + ["padding"] * 4
    assert table["twin_of"].tolist() == [-1] * 300 + list(twins) + [-1] * 4
    assert table["token"].tolist()[300:303] == table["token"][list(twins)].tolist()
    assert (table["count"][300:303] >= 5).all() and (table["count"][303:] == 0).all()
    both = table["count"].copy()
    both[list(twins)] += table["count"][300:303].to_numpy()
    assert both.tolist()[:300] == without["count"].tolist()[:300]
    assert (table["document_count"][300:303] > 0).all()
    assert "twin_of" not in without
    counts.write(tmp_path / "counts.parquet")
    assert read_counts(tmp_path / "counts.parquet").table.equals(table)


def test_counting_a_stream_with_twins_finds_their_rows(twinned, tokenizer):
    assert len(count_stream(twinned, tokenizer).table) == 303
    tokenizer.save_pretrained(twinned.path.parent / "tokenizer")
    assert count_corpus(str(twinned.path.parent)).table["twin_of"].max() >= 0
    with pytest.raises(MismatchError, match="the vocabulary only 299 rows"):
        count_stream(twinned, tokenizer, vocab_size=299)


def test_too_little_text_for_the_twins(tmp_path, story, tokenizer):
    message = (
        r"corpus.twins.tokens is 96, but only \d+ ordinary tokens occur 80 times or more, as a "
        r"share of 0.125 needs; lower corpus.twins.tokens, or give more text"
    )
    with pytest.raises(CorpusError, match=message):
        write_stream(tmp_path / "x", story, tokenizer, replace(SHAPE, twins=TwinSettings()))
    assert not (tmp_path / "x").exists()
