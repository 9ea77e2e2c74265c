"""The stand-in is held against the clients that the real hub has."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

from dynamics.checkpoints.hub.hub_series import open_hub_series
from tests.hub.standin import Repository, commit_of, sha256_of

CLIENTS = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, get_safetensors_metadata
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModelForCausalLM

api, told = HfApi(), {}
refs = api.list_repo_refs("org/model")
told["branches"] = {each.name: each.target_commit for each in refs.branches}
told["tags"] = [each.name for each in refs.tags]
told["commits"] = [each.title for each in api.list_repo_commits("org/model", revision="step1")]
(about,) = api.get_paths_info("org/model", ["model.safetensors"], revision="step1")
told["sha256"] = about.lfs.sha256
told["files"] = sorted(each.path for each in api.list_repo_tree("org/model", revision="step1"))
told["known"] = api.model_info("org/model", revision="step1").sha
told["keys"] = len(api.get_safetensors_metadata("org/model", revision="step1").weight_map)
told["absent"] = api.file_exists("org/model", "absent.bin", revision="step1")
told["download"] = hf_hub_download("org/model", "model.safetensors", revision="step1")
told["snapshot"] = snapshot_download("org/model", revision="step1")
for name, error, settings in [
    ("org/none", RepositoryNotFoundError, {}),
    ("org/model", RevisionNotFoundError, {"revision": "none"}),
    ("org/gated", GatedRepoError, {}),
]:
    try:
        hf_hub_download(name, "config.json", **settings)
    except error as caught:
        told[f"{name} {settings}"] = type(caught).__name__
hf_hub_download("org/gated", "config.json", token="secret")
for revision in ["step1", "v2", "sharded"]:
    model = AutoModelForCausalLM.from_pretrained("org/model", revision=revision)
    told[revision] = float(model.get_input_embeddings().weight.double().sum())
print(json.dumps(told))
"""


def write_model(folder, safetensors=True, **settings):
    config = transformers.GPTNeoXConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    model = transformers.GPTNeoXForCausalLM(config)
    if safetensors:
        model.save_pretrained(folder, **settings)
    else:
        config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return float(model.get_input_embeddings().weight.detach().double().sum())


@pytest.fixture
def environment(tmp_path, standin):
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": standin.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109
    }


def run(program, environment):
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_huggingface_hub_and_transformers(tmp_path, standin, hub, environment, monkeypatch):
    sums = {
        "step1": write_model(tmp_path / "step1"),
        "v2": write_model(tmp_path / "v2", safetensors=False),
        "sharded": write_model(tmp_path / "sharded", max_shard_size="2kB"),
    }
    standin.repositories |= {
        "org/model": Repository(
            {"step1": tmp_path / "step1", "sharded": tmp_path / "sharded"}, {"v2": tmp_path / "v2"}
        ),
        "org/gated": Repository({"main": tmp_path / "step1"}, gated=True),
    }
    told = run(CLIENTS, environment)
    commit = commit_of("org/model", tmp_path / "step1")
    files = ["config.json", "generation_config.json", "model.safetensors"]
    assert told["branches"]["step1"] == told["known"] == commit
    assert (told["tags"], told["commits"]) == (["v2"], ["initial commit"])
    assert told["sha256"] == sha256_of(tmp_path / "step1/model.safetensors")
    assert (told["files"], told["absent"]) == (files, False)
    assert told["keys"] > 10
    assert told["org/none {}"] == "RepositoryNotFoundError"
    assert told["org/model {'revision': 'none'}"] == "RevisionNotFoundError"
    assert told["org/gated {}"] == "GatedRepoError"
    for revision, expected in sums.items():
        assert told[revision] == pytest.approx(expected, abs=1e-12)

    # What they downloaded is read from their cache, online and offline, and is the same.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home/hub"))
    standin.reset()
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        series = open_hub_series("org/model", [r"(?:step|v)(?P<step>\d)"], hub=hub)
        for checkpoint in series:
            total = float(checkpoint.tensor("input_embedding").double().sum())
            assert total == pytest.approx(sums[checkpoint.name], abs=1e-12)
    assert not [path for _, path, _ in standin.requests if path.startswith("/blob")]


OURS = """
import json
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.errors import CheckpointError

told = {}
try:
    open_hub_series("org/model").checkpoints[0].tensor("input_embedding")
except CheckpointError as error:
    told["error"] = str(error)
else:
    told["identified"] = "authorization" in Hub()._headers
print(json.dumps(told))
"""


def test_the_environment_is_respected(tmp_path, standin, environment):
    """HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, which are read when a process starts."""
    write_model(tmp_path / "step1")
    standin.repositories["org/model"] = Repository({"step1": tmp_path / "step1"}, gated=True)
    assert "org/model: is gated, and no token is set" in run(OURS, environment)["error"]
    assert run(OURS, environment | {"HF_TOKEN": "secret"}) == {"identified": True}
    offline = run(OURS, environment | {"HF_HUB_OFFLINE": "1"})["error"]
    assert "not in the hub cache" in offline
    assert str(tmp_path / "home") in offline
