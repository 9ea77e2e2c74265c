"""A hub stand-in, and a client of ours that reaches it and nothing else."""

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.transport import Patience, Transport
from tests.hub.standin import Repository, StandIn

PATIENCE = Patience(first_wait=0.01, timeout=1)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No token, cache or setting of whoever runs the tests."""
    torch.manual_seed(20260718)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "DYNAMICS_CACHE", "DYNAMICS_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def standin():
    with StandIn() as server:
        yield server
        close_session()


@pytest.fixture
def hub(standin):
    return Hub(endpoint=standin.endpoint, transport=Transport(PATIENCE))


@pytest.fixture
def publish(standin):
    """Make a folder a branch of a repository."""

    def publish(folder, branch="main", repo="org/model"):
        standin.repositories.setdefault(repo, Repository()).branches[branch] = folder
        return repo

    return publish


@pytest.fixture
def set_endpoint(monkeypatch):
    """What HF_ENDPOINT does where it is set before huggingface_hub is imported."""
    _, rest = constants.HUGGINGFACE_CO_URL_TEMPLATE.split("/{repo_id}")

    def set_endpoint(endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}" + rest
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return set_endpoint


@pytest.fixture
def nowhere(set_endpoint):
    """What is not told of the stand-in reaches nothing."""
    set_endpoint("http://127.0.0.1:9")
