import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.tokenizer import (
    END_OF_TEXT,
    MASK,
    end_of_text_id,
    load_tokenizer,
    tokenize,
    tokenizer_sha256,
    train_tokenizer,
    vocabulary_size,
)
from dynamics.errors import CorpusError

TRAIN = """
import sys
from dynamics.corpus.tokenizer import tokenizer_sha256, train_tokenizer
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
        monkeypatch.setattr("dynamics.corpus.tokenizer._BATCH_CHARACTERS", size)
        assert list(tokenize(iter(story), tokenizer)) == expected
    assert list(tokenize([], tokenizer)) == []


def test_too_little_text_says_what_it_reaches():
    with pytest.raises(
        CorpusError, match=r"too small for a vocabulary of 400: it reaches 25[7-9];"
    ):
        train_tokenizer(["aa"], 400)
    with pytest.raises(
        CorpusError, match=r"a vocabulary of 257 has no room .* ask for 258 or more"
    ):
        train_tokenizer(["aa"], 257, masked=True)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(CorpusError, match="there is no tokenizer /no/such; give a folder"):
        load_tokenizer("/no/such")
    with pytest.raises(CorpusError, match=f"the tokenizer {tmp_path} cannot be loaded: "):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"tokenizer.json cannot be loaded: "):
        load_tokenizer(tmp_path / "tokenizer.json")
