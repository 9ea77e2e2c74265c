"""Tokenizers by name come from the hub that was given, as transformers would load the files."""

import json
import tempfile

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.hub.transport import Patience, Transport
from dynamics.corpus.tokenizers.loading import (
    fetch_tokenizer,
    load_tokenizer,
    tokenizer_sha256,
    train_tokenizer,
)
from dynamics.errors import CheckpointError, CorpusError

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(["the cat sat on the mat"] * 9, 262).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_same_tokenizer_as_from_the_folder(folder, publish, hub):
    loaded = load_tokenizer(publish(folder), hub)
    expected = AutoTokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert tokenizer_sha256(loaded) == tokenizer_sha256(expected)
    assert loaded.eos_token == expected.eos_token
    assert loaded("the cat").input_ids == expected("the cat").input_ids


def test_only_small_files_are_asked_for_and_of_the_revision(folder, publish, hub, standin):
    repo = publish(folder, "step8")
    fetch_tokenizer(HubRevision(hub, repo, "step8"))
    asked = {path.rpartition("/")[2] for _, path, _ in standin.requests}
    assert asked == {
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        "added_tokens.json",
    }
    assert all("/step8/" in path for _, path, _ in standin.requests)


def test_without_a_class_the_models_config_tells_it(folder, publish, hub, standin):
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    loaded = load_tokenizer(publish(folder), hub)
    assert type(loaded) is type(AutoTokenizer.from_pretrained(folder))
    assert any(path.endswith("/config.json") for _, path, _ in standin.requests)


def test_an_old_repository_without_tokenizer_json(folder, publish, hub, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [" ".join(pair) for pair in content["merges"]]
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (old / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    loaded = load_tokenizer(publish(old), hub)
    assert loaded("the cat").input_ids == load_tokenizer(folder)("the cat").input_ids


def test_what_is_wrong_names_the_repository(publish, hub, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    with pytest.raises(CorpusError, match=r"org/model holds no tokenizer \(tok") as told:
        load_tokenizer(publish(tmp_path / "empty"), hub)
    assert tempfile.gettempdir() not in str(told.value)
    with pytest.raises(CheckpointError, match=r"org/other: .* has no such repository"):
        load_tokenizer("org/other", hub)


def test_an_endpoint_that_is_not_there_is_given_up_after_as_many_tries_as_ours():
    hub = Hub("http://127.0.0.1:9", transport=Transport(Patience(tries=2, first_wait=0.01)))
    with pytest.raises(CheckpointError, match=r"127.0.0.1:9 cannot be reached .*\(2 tries\)"):
        load_tokenizer("org/model", hub)
    assert hub.transport.traffic.requests == 2


def test_the_token_goes_along(folder, publish, standin):
    repo = publish(folder)
    load_tokenizer(repo, Hub(standin.endpoint, token="secret"))
    sent = {headers.get("authorization") for _, _, headers in standin.requests}
    assert sent == {"Bearer secret"}
