"""Counts from a table: tokens are matched as the tokenizer spells them, as text, or by id."""

import csv
import lzma
import re

import numpy as np
import pandas as pd
import pytest

from dynamics.corpus.counts import is_counts_file, read_counts
from dynamics.corpus.table_counts import read_table_counts, vocabulary_spellings
from dynamics.corpus.token_matching import match, spellings
from dynamics.corpus.token_table import read_token_table
from dynamics.corpus.tokenizers.kinds import surfaces_and_kinds
from dynamics.corpus.tokenizers.loading import (
    load_tokenizer,
    tokenizer_sha256,
    train_tokenizer,
    vocabulary_size,
)
from dynamics.errors import CorpusError, MismatchError
from tests.corpus.many_tokenizers import CUT, WHOLE, tokenizer_of

ROWS = 300


def table(path, **columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def own_spellings(tokenizer):
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}


def counted(path, tokenizer, rows=ROWS):
    lines = []
    counts = read_table_counts(path, tokenizer, rows, "the series", lines.append)
    return counts, lines


@pytest.mark.parametrize("spelling", ["own", "text", "id"])
def test_every_token_is_found_however_it_is_named(tmp_path, tokenizer, spelling):
    own, texts = own_spellings(tokenizer), surfaces_and_kinds(tokenizer, ROWS)[0]
    order = np.random.default_rng(0).permutation(ROWS).tolist()
    names = {"own": own.__getitem__, "text": texts.__getitem__, "id": str}[spelling]
    key = "token_id" if spelling == "id" else "token"
    path = table(tmp_path / "t.csv", **{key: map(names, order), "count": order})
    counts, lines = counted(path, tokenizer)
    assert counts.table["count"].tolist() == list(range(ROWS))
    assert lines == [
        f"{path}: 300 of 300 rows match a token; they cover 100.0% of 300 tokens of the series"
    ]
    assert counts.info.tokenizer_sha256 == tokenizer_sha256(tokenizer)
    assert counts.info.corpus_digest == read_token_table(path).sha256
    assert counts.info.tokens_counted == sum(range(ROWS))


@pytest.mark.parametrize("name", sorted(CUT | WHOLE))
def test_tokens_of_every_kind_of_tokenizer_are_found_by_their_spelling(tmp_path, name):
    """By the tokenizer's own spelling all are, by text those that share it with no other."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(name))
    own, rows = own_spellings(tokenizer), vocabulary_size(tokenizer)
    ids = sorted(own)
    path = table(tmp_path / "t.csv", token=[own[i] for i in ids], count=[i + 1 for i in ids])
    found = counted(path, tokenizer, rows)[0].table["count"].to_numpy()
    known = vocabulary_spellings(tokenizer, rows, "x")
    clear = [i for i in ids if own[i] not in known.texts or i in known.texts[own[i]]]
    assert (found[clear] == np.array(clear) + 1).all()
    texts = surfaces_and_kinds(tokenizer, rows)[0]
    alone = [i for i in ids if texts[i] and known.texts[texts[i]] == [i] and texts[i] not in own]
    if alone:
        path = table(tmp_path / "t.csv", token=[texts[i] for i in alone], count=[1] * len(alone))
        assert np.flatnonzero(counted(path, tokenizer, rows)[0].table["count"]).tolist() == alone


def test_what_is_a_spelling_of_two_tokens_is_read_as_the_rest_of_the_table(tmp_path):
    """In GPT-2's alphabet `é` is the byte 0xe9, and the text `é` is the token of two others."""
    known = spellings(
        "x",
        ["\\xe9", "é", " b", "b"],
        ["byte", *["word_start"] * 3],
        own={"é": 0, "Ã©": 1, "Ġb": 2, "b": 3},
    )
    for rest, expected in [("Ġb", [2, 0]), (" b", [2, 1]), ("b", [3, -1])]:
        path = table(tmp_path / "t.csv", token=[rest, "é"], count=[1, 1])
        matched = match(read_token_table(path), known)
        assert matched.ids.tolist() == expected
        assert bool(matched.notes) == (rest == "b")
    assert matched.notes == (
        f"{path}: 1 tokens are ambiguous and left out: 'é' (line 3: token 0 or 1); give a column "
        "token_id to have them",
    )


def test_a_vocabulary_of_fifty_thousand_is_found_by_text_and_own_spelling(tmp_path, shared_data):
    packed = (shared_data / "tokenizers" / "roberta_base_tokenizer.json.xz").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress(packed))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    own, rows = own_spellings(tokenizer), vocabulary_size(tokenizer)
    texts = surfaces_and_kinds(tokenizer, rows)[0]
    for names in (list(map(own.__getitem__, range(rows))), texts):
        path = table(tmp_path / "t.csv", token=names, count=range(rows))
        assert counted(path, tokenizer, rows)[0].table["count"].tolist() == list(range(rows))


def test_a_token_without_a_row_is_not_taken_to_occur_never(tmp_path, tokenizer):
    path = table(tmp_path / "t.csv", token_id=range(250), count=[0] * 5 + [9] * 245)
    counts, lines = counted(path, tokenizer)
    kinds = counts.table["kind"]
    assert (kinds[250:] == "uncounted").all()
    assert not (kinds[:250] == "uncounted").any()
    assert lines[0].endswith(
        "they cover 83.3% of 300 tokens of the series; of the other 50 nothing is known: list "
        "those that never occur with 0"
    )


def test_rows_that_are_no_token_are_counted_and_the_first_is_named(tmp_path, tokenizer):
    path = table(tmp_path / "t.csv", token=["Ġthe", "Ġnone", "Ġnever"], count=[3, 2, 1])
    counts, lines = counted(path, tokenizer)
    assert counts.table["count"].sum() == counts.info.tokens_counted == 3
    assert lines[0].startswith(
        f"{path}: 1 of 3 rows match a token (not 'Ġnone', line 3); they cover 0.3% of 300"
    )
    assert (counts.info.table.rows, counts.info.table.matched) == (3, 1)


def test_frequencies_that_are_no_whole_numbers_are_of_a_billion(tmp_path, tokenizer):
    path = table(tmp_path / "t.csv", token_id=[5, 6, 7], frequency=["0.5", "0.25", "0.25"])
    counts, lines = counted(path, tokenizer)
    assert counts.table["count"][5:8].tolist() == [500_000_000, 250_000_000, 250_000_000]
    assert "occurrences per billion tokens" in lines[0]
    assert counts.info.table.per_billion
    path = table(tmp_path / "t.csv", token_id=[5, 6], frequency=["3", "4.0"])
    assert counted(path, tokenizer)[0].table["count"][5:7].tolist() == [3, 4]


def test_without_a_tokenizer_ids_are_enough_and_spellings_are_refused(tmp_path):
    path = table(tmp_path / "t.csv", token_id=[1, 2], token=["a", "b"], count=[3, 0])
    counts, _ = counted(path, None, 4)
    assert counts.table["count"].tolist() == [0, 3, 0, 0]
    assert counts.table["kind"].tolist() == ["uncounted", "unknown", "unknown", "uncounted"]
    assert counts.info.tokenizer_sha256 is None
    path = table(tmp_path / "t.csv", token=["a"], count=[3])
    with pytest.raises(MismatchError) as error:
        counted(path, None, 4)
    assert str(error.value) == (
        f"{path} names tokens by token, and the tokenizer of the series is not known; put its "
        "tokenizer.json beside the checkpoints, or give a column token_id"
    )


def test_counts_of_a_table_are_written_and_read_like_others(tmp_path, tokenizer):
    path = table(tmp_path / "t.csv", token_id=[5, 6], count=[1, 2])
    counts = counted(path, tokenizer)[0]
    counts.write(tmp_path / "counts.parquet")
    again = read_counts(tmp_path / "counts.parquet")
    pd.testing.assert_frame_equal(again.table, counts.table)
    assert again.info == counts.info
    assert is_counts_file(tmp_path / "counts.parquet")
    counts.table.to_parquet(tmp_path / "bare.parquet")
    for other in (path, tmp_path / "bare.parquet", tmp_path / "none"):
        assert not is_counts_file(other)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"token_id": [1, 2, 1], "count": [1, 1, 1]},
            "line 2 and line 4 ('1' and '1') are both token 1 of the series; keep one row a token",
        ),
        (
            {"token": ["Ġthe", " the"], "count": [1, 1]},
            "line 2 and line 3 ('Ġthe' and ' the') are both token",
        ),
        (
            {"token_id": [1, 2], "count": [1, -1]},
            "line 3: column 'count' holds '-1', expected a whole number of 0 or more; correct it, "
            "or remove the row",
        ),
        ({"token_id": [1, 2], "count": [1, ""]}, "line 3: column 'count' holds '', expected"),
        (
            {"token_id": [1], "count": ["1.5"]},
            "line 2: column 'count' holds '1.5', expected a whole",
        ),
        ({"token_id": [1], "frequency": ["-0.1"]}, "line 2: column 'frequency' holds '-0.1'"),
        ({"token_id": [1], "count": [0]}, "every count is 0; give a table of a corpus"),
        (
            {"token_id": [299, 300], "count": [1, 1]},
            "line 3: token_id 300 is none of the series, which has 300 rows; give ids of its "
            "tokenizer",
        ),
        ({"token_id": [-1], "count": [1]}, "line 2: token_id -1 is none of the series"),
        (
            {"token_id": [1, 2], "n": [1, 1]},
            "has no column count or frequency; its columns are: token_id, n; name one so",
        ),
        (
            {"token": ["Ġnone", "Ġnever"], "count": [1, 1]},
            "none of the 2 rows of {path} ('Ġnone', 'Ġnever') is a token of the series; give a "
            "table of its vocabulary",
        ),
        (
            {"token_id": [5], "token": ["Ġthe"], "count": [1]},
            "line 2: token_id 5 stands beside 'Ġthe', which is token",
        ),
    ],
)
def test_what_is_no_table_of_counts_is_told_in_one_line(tmp_path, tokenizer, columns, message):
    path = table(tmp_path / "t.csv", **columns)
    with pytest.raises((CorpusError, MismatchError)) as error:
        counted(path, tokenizer)
    assert message.format(path=path) in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_token_beside_its_id_may_be_what_a_decoder_makes_of_it(tmp_path, tokenizer):
    the = tokenizer.get_vocab()["Ġthe"]
    for token in ("Ġthe", " the", "the", "\N{REPLACEMENT CHARACTER}", "of no token"):
        path = table(tmp_path / "t.csv", token_id=[the], token=[token], count=[3])
        assert counted(path, tokenizer)[0].table["count"][the] == 3


def test_counts_of_an_id_that_is_padding_are_refused(tmp_path, tokenizer):
    path = table(tmp_path / "t.csv", token_id=[305, 306], count=[0, 1])
    with pytest.raises(MismatchError, match="counts token_id 306, for which the tokenizer has no"):
        counted(path, tokenizer, rows=320)
    path = table(tmp_path / "t.csv", token_id=[5, 305], count=[1, 0])
    assert counted(path, tokenizer, rows=320)[0].table["kind"][305] == "padding"


@pytest.fixture(scope="module")
def words():
    """A vocabulary in which `cat` has a spelling of either kind, and the others one."""
    return train_tokenizer(["the cat the cat sat", "xcat", " dog a dog", "\nbird"] * 40, 273)


@pytest.mark.parametrize("rule", ["space", "bare", "either"])
def test_words_are_single_tokens_by_the_rule(tmp_path, words, rule):
    own = words.get_vocab()
    names = ["the", "cat", "dog", "bird", "zebra"]
    path = table(tmp_path / "t.csv", word=names, x=range(5))
    matched = match(read_token_table(path), vocabulary_spellings(words, len(own), "x"), rule)
    direct = {"space": [f"Ġ{name}" for name in names], "bare": names}
    expected = [own.get(token, -1) for token in direct.get(rule, ())]
    if rule == "either":
        expected = [own.get(f"Ġ{name}", own.get(name, -1)) for name in names]
    assert matched.ids.tolist() == expected
    (note,) = matched.notes
    found = sum(token_id >= 0 for token_id in expected)
    spelled = {
        "space": "with its leading space",
        "bare": "not with its leading space",
        "either": "with its leading space, or else without",
    }[rule]
    assert note.startswith(
        f"{path}: {found} of 5 words are one token, {spelled}; {5 - found:,} are"
    )
    assert "zebra" in note


def test_words_are_looked_up_as_the_tokenizer_reads_them(tmp_path, shared_data):
    packed = (shared_data / "tokenizers" / "bert_base_uncased_tokenizer.json.xz").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress(packed))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    names = ["Dog", "café", "zebrafish"]
    known = vocabulary_spellings(tokenizer, vocabulary_size(tokenizer), "x")
    path = table(tmp_path / "t.csv", word=names, x=range(3))
    direct = [tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
    matched = match(read_token_table(path), known)
    assert matched.ids.tolist() == [ids[0] if len(ids) == 1 else -1 for ids in direct]
    assert re.search("as the beginning of a word", matched.notes[0])
