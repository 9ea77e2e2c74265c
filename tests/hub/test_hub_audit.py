"""The audit over HTTP: planted defects are caught by hashes, and no weights are sent."""

import numpy as np
import pytest
import torch

from dynamics.audit.series_audit import audit_series
from dynamics.checkpoints.hub.hub_series import open_hub_series
from tests.tracking.trajectories import STEPS, embeddings, write

REPO = "org/model"
ROWS, COLUMNS = 1500, 32  # more rows than an audit reads


@pytest.fixture
def serve(tmp_path, publish):
    def serve(tensors, main=13000, repo=REPO, **settings):
        write(tmp_path, tensors, **settings)
        for step in tensors:
            publish(tmp_path / f"step{step}", f"step{step}", repo)
        publish(tmp_path / f"step{main}", "main", repo)

    return serve


@pytest.fixture(scope="module")
def trained():
    return embeddings(np.random.default_rng(5), rows=ROWS, columns=COLUMNS)


@pytest.fixture
def tensors(trained):
    return dict(trained)


def test_clean(serve, hub, standin, tensors):
    serve(tensors)
    audit = audit_series(open_hub_series(REPO, hub=hub))
    assert audit.findings == ()
    assert audit.level == "none"
    assert audit.requests == len(standin.requests) <= 1 + 3 * (len(STEPS) + 1)
    assert audit.received <= 70_000 * (len(STEPS) + 1)  # headers: the first 64 kB of each file
    heads = [path for method, path, _ in standin.requests if method == "HEAD"]
    assert len(heads) == len(STEPS) + 1


def test_planted_defects_are_caught_without_weights(serve, hub, tensors):
    tensors[5000] = tensors[9000]
    tensors[64] = tensors[13000]
    tensors[3000] = {key: torch.cat([value, value[:1]]) for key, value in tensors[3000].items()}
    tensors[0] = tensors[1]
    del tensors[8000]
    serve(tensors, main=12000)
    every = ",".join(map(str, STEPS))
    audit = audit_series(open_hub_series(REPO, hub=hub), steps=every)
    assert set(audit.flagged_steps) == {0, 1, 64, 3000, 5000, 9000}
    assert {(finding.kind, finding.steps) for finding in audit.wrong} == {
        ("missing", (8000,)),
        ("repeated", (0, 1)),
        ("repeated", (64,)),
        ("repeated", (5000, 9000)),
        ("main", (12000,)),
        ("changed", (3000,)),
    }


def test_rows_tell_which_of_two_is_right_and_what_hashes_cannot_show(serve, hub, tensors):
    tensors[5000] = tensors[9000]
    tensors[64] = {key: value * 1.001 for key, value in tensors[13000].items()}
    serve(tensors)
    series = open_hub_series(REPO, hub=hub)
    assert set(audit_series(series).flagged_steps) == {5000, 9000}
    before = hub.transport.traffic.received
    audit = audit_series(series, tensors="rows")
    assert set(audit.flagged_steps) == {64, 5000}
    rows = 2 * 1024 * COLUMNS * 2
    assert audit.received - before <= (len(STEPS) + 1) * (rows + 70_000)


def test_a_series_of_the_catalog(serve, hub, tensors):
    repo = "EleutherAI/pythia-70m"
    tensors[1] = tensors[0]
    tensors[143000] = tensors.pop(13000)
    serve(tensors, main=143000, repo=repo)
    audit = audit_series(open_hub_series(repo, hub=hub), steps="0,1,2,4000")
    assert audit.wrong == []
    said = {finding.kind: finding for finding in audit.findings}
    assert said["repeated"].severity == "explained"
    assert "learning rate 0 (catalog)" in said["repeated"].message
    audit = audit_series(open_hub_series(repo, hub=hub))
    (missing,) = audit.wrong
    assert len(missing.steps) == 154 - len(STEPS)


def test_shards_are_compared_and_not_whole_checkpoints(serve, hub, tensors, tmp_path):
    shard = "model-00001-of-00004.safetensors"  # has the input embedding
    serve(tensors, format_name="sharded safetensors")
    (tmp_path / "step5000" / shard).write_bytes((tmp_path / "step13000" / shard).read_bytes())
    audit = audit_series(open_hub_series(REPO, hub=hub))
    (found,) = audit.wrong
    assert (found.role, found.flagged) == ("input_embedding", (5000,))


def test_a_branch_without_weights(serve, hub, tensors, tmp_path):
    serve(tensors)
    (tmp_path / "step32/model.safetensors").unlink()
    audit = audit_series(open_hub_series(REPO, hub=hub))
    assert list(audit.flagged_steps) == [32]
    assert "holds no weights" in audit.flagged_steps[32]
