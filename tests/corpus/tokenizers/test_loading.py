import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from dynamics.corpus.tokenizers.loading import (
    END_OF_TEXT,
    MASK,
    backend_errors,
    end_of_text_id,
    load_tokenizer,
    save_tokenizer,
    tokenize,
    tokenizer_sha256,
    train_tokenizer,
    vocabulary_size,
)
from dynamics.errors import CorpusError
from tests.corpus.odd_tokenizers import fast

TRAIN = """
import sys
from dynamics.corpus.tokenizers.loading import tokenizer_sha256, train_tokenizer
print(tokenizer_sha256(train_tokenizer(sys.argv[1:], 300)))
"""


def ids_of(tokenizer, text):
    return next(tokenize([text], tokenizer)).ids


def test_entries_are_special_tokens_bytes_and_merges(tokenizer, story):
    assert vocabulary_size(tokenizer) == len(tokenizer) == 300
    assert tokenizer.convert_ids_to_tokens(0) == END_OF_TEXT
    assert tokenizer.mask_token is None
    assert end_of_text_id(tokenizer) == tokenizer.pad_token_id == tokenizer.bos_token_id == 0
    masked = train_tokenizer(story, 300, masked=True)
    assert (masked.mask_token, masked.mask_token_id, len(masked)) == (MASK, 1, 300)


def test_training_is_deterministic_over_processes(tokenizer, story):
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", TRAIN, *story]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == tokenizer_sha256(tokenizer)


def test_digest_outlives_saving_and_calls(tmp_path, story):
    tokenizer = train_tokenizer(story, 300)
    digest = tokenizer_sha256(tokenizer)
    assert len(digest) == 64 and digest != tokenizer_sha256(train_tokenizer(story, 299))
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=2)
    assert tokenizer_sha256(tokenizer) == digest
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer_sha256(loaded) == digest
    assert end_of_text_id(loaded) == 0
    assert tokenizer_sha256(load_tokenizer(tmp_path / "tokenizer" / "tokenizer.json")) == digest


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_every_text_comes_back(tokenizer, text):
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert 0 not in ids


def test_special_tokens_in_text_are_text(tokenizer):
    text = f"a {END_OF_TEXT} b <script>"
    assert 0 not in ids_of(tokenizer, text)
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_truncation_saved_with_a_tokenizer_is_not_applied(tokenizer, tmp_path, story):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    loaded.backend_tokenizer.enable_truncation(2)
    loaded.backend_tokenizer.enable_padding(length=50)
    assert ids_of(loaded, story[0]) == ids_of(tokenizer, story[0])


def test_batches_change_nothing(tokenizer, story, monkeypatch):
    expected = [(text, ids_of(tokenizer, text), True) for text in story]
    for size in (1, 100, 10**6):
        monkeypatch.setattr("dynamics.corpus.tokenizers.loading._BATCH_CHARACTERS", size)
        assert list(tokenize(iter(story), tokenizer)) == expected
    assert list(tokenize([], tokenizer)) == []


def test_too_little_text_says_what_it_reaches():
    with pytest.raises(
        CorpusError, match=r"too small for a vocabulary of 400: it reaches 25[7-9];"
    ):
        train_tokenizer(["aa"], 400)
    with pytest.raises(
        CorpusError, match=r"a vocabulary of 257 has no room .* give a vocab_size of 258 or more"
    ):
        train_tokenizer(["aa"], 257, masked=True)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(CorpusError, match="there is no tokenizer /no/such; give a folder"):
        load_tokenizer("/no/such")
    with pytest.raises(CorpusError, match=f"{tmp_path} holds no tokenizer "):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"tokenizer.json cannot be loaded: "):
        load_tokenizer(tmp_path / "tokenizer.json")


def broken(tmp_path, **parts):
    """The path of a tokenizer.json with other parts."""
    spec = {"version": "1.0", "added_tokens": [], "model": {}} | parts
    for part in ("truncation", "padding", "normalizer", "pre_tokenizer", "decoder"):
        spec.setdefault(part, None)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec | {"post_processor": None}))
    return path


WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"type": "ByteLatent", "vocab": {"a": 0}}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}},
        {"model": WORD_LEVEL, "version": "2.0"},
        {"model": WORD_LEVEL, "normalizer": {"type": "NFQ"}},
        {"model": WORD_LEVEL, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA"}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0, "\ud800": 1}, "unk_token": "a"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
    ],
)
def test_a_tokenizer_that_is_damaged_or_newer_is_refused_in_one_line(tmp_path, parts):
    path = broken(tmp_path, **parts)
    with pytest.raises(CorpusError, match=rf"^the tokenizer {path} cannot be loaded: ") as raised:
        load_tokenizer(path)
    assert "\n" not in str(raised.value)


def test_ids_that_no_model_has_rows_for_are_refused(tmp_path):
    model = WORD_LEVEL | {"vocab": {"?": 0, "a": 40_000_000}}
    with pytest.raises(CorpusError, match="has 2 entries and ids up to 40,000,000, more than any"):
        load_tokenizer(broken(tmp_path, model=model))


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (models.WordLevel({"a": 0, "b": 1}), "'c'"),
        (models.WordPiece({"a": 0, "##c": 1}, unk_token="[UNK]"), "'c'"),
        (models.Unigram([("a", -1.0), ("b", -1.0)]), "'c'"),
        (models.BPE({"a": 0, "b": 1}, [], unk_token="?"), "'c'"),
    ],
)
def test_a_model_without_an_unknown_token_says_what_it_does_not_know(model, word):
    tokenizer = fast(model, pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    with pytest.raises(
        CorpusError,
        match=f"^{word} in the text cannot be tokenised: .*; its {type(model).__name__} model has "
        "no unknown token: ",
    ) as raised:
        list(tokenize(["a a", "a c a"], tokenizer))
    assert "\n" not in str(raised.value)
    assert ids_of(tokenizer, "a a") == [0, 0]


def test_a_panic_of_the_backend_is_one_line():
    tokenizer = fast(models.WordLevel(WORD_LEVEL["vocab"], unk_token="?"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=0)
    with pytest.raises(
        CorpusError, match=r"^the text cannot be tokenised: chunk size must be non-"
    ):
        list(tokenize(["a b"], tokenizer))


def test_interrupts_and_refusals_pass_through_the_backend():
    for error in (KeyboardInterrupt(), CorpusError("the corpus is gone")):
        with pytest.raises(type(error)) as raised, backend_errors("nothing works", "do nothing"):
            raise error
        assert raised.value is error


def test_text_that_is_no_unicode_is_refused_where_a_tokenizer_is_trained(tokenizer):
    with pytest.raises(
        CorpusError, match=r"no tokenizer can be trained on the corpus: .*surrogates"
    ):
        train_tokenizer(["a\ud800"], 300)
    with pytest.raises(CorpusError, match=r"^the text cannot be tokenised: "):
        list(tokenize(["a\ud800"], tokenizer))


def test_a_tokenizer_that_cannot_be_written_is_refused(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"the tokenizer cannot be written to .*file/x: "):
        save_tokenizer(tokenizer, tmp_path / "file" / "x")
