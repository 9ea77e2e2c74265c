"""One tensor over the network: the same numbers as from a folder, and few bytes."""

import json
import pickle

import numpy as np
import pytest
import torch

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.hub.revisions import HubRevision
from tests.checkpoints.writers import FILES, FORMATS, assert_same, neox, write_checkpoint
from tests.hub.standin import commit_of, sha256_of

ROLES = ["input_embedding", "output_embedding", "final_norm_weight", "final_norm_bias"]
SPARE = 300_000  # bytes beyond the tensor


def like_pythia(vocab_size, hidden_size, layers, context=256):
    """A state dict with the tensors of a GPT-NeoX in float16, in their order, masks included."""
    D = hidden_size
    tensors = {"gpt_neox.embed_in.weight": torch.randn(vocab_size, D)}
    for at in range(layers):
        layer = f"gpt_neox.layers.{at}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors |= {
                f"{layer}{norm}.weight": torch.ones(D),
                f"{layer}{norm}.bias": torch.ones(D),
            }
        tensors[f"{layer}attention.bias"] = torch.ones(1, 1, context, context).bool()
        tensors[f"{layer}attention.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{layer}attention.rotary_emb.inv_freq"] = torch.ones(8)
        for name, shape in {
            "attention.query_key_value": (3 * D, D),
            "attention.dense": (D, D),
            "mlp.dense_h_to_4h": (4 * D, D),
            "mlp.dense_4h_to_h": (D, 4 * D),
        }.items():
            tensors[f"{layer}{name}.weight"] = torch.randn(shape)
            tensors[f"{layer}{name}.bias"] = torch.randn(shape[0])
    tensors["gpt_neox.final_layer_norm.weight"] = torch.randn(D)
    tensors["gpt_neox.final_layer_norm.bias"] = torch.randn(D)
    tensors["embed_out.weight"] = torch.randn(vocab_size, D)
    return {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}


def in_three_shards(folder, whole_format, tensors, config):
    """As transformers shards: several tensors in each file."""
    name, write = FILES[whole_format]
    stem, suffix = name.split(".")
    folder.mkdir(parents=True)
    keys, weight_map = list(tensors), {}
    for at in range(3):
        shard = f"{stem}-{at + 1:05}-of-00003.{suffix}"
        part = keys[at * len(keys) // 3 : (at + 1) * len(keys) // 3]
        write(folder / shard, {key: tensors[key] for key in part})
        weight_map |= dict.fromkeys(part, shard)
    (folder / f"{name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config))


CONFIG = {"model_type": "gpt_neox", "tie_word_embeddings": False}
SERIES_FORMATS = ["safetensors", "zip", "old zip", "legacy", "sharded safetensors", "sharded zip"]


def write_like_pythia(folder, format_name, shape):
    tensors = like_pythia(*shape)
    if format_name.startswith("sharded "):
        in_three_shards(folder, format_name.removeprefix("sharded "), tensors, CONFIG)
    else:
        write_checkpoint(folder, tensors, format_name, CONFIG)
    return tensors


def assert_reads_like_pythia(tmp_path, publish, hub, format_name, shape, steps):
    for step in steps:
        folder = tmp_path / f"step{step}"
        write_like_pythia(folder, format_name, shape)
        repo = publish(folder, f"step{step}")
    series = open_hub_series(repo, hub=hub)
    assert series.steps == steps
    for checkpoint in series:
        local = Checkpoint(tmp_path / checkpoint.name, checkpoint.step)
        before = checkpoint.traffic.received
        embedding = checkpoint.tensor("input_embedding")
        assert_same(embedding, local.tensor("input_embedding"))
        received = checkpoint.traffic.received - before
        assert embedding.nbytes <= received <= embedding.nbytes + SPARE
        assert checkpoint.digest("input_embedding") == local.digest("input_embedding")
        yield checkpoint, local


@pytest.mark.parametrize("format_name", SERIES_FORMATS)
def test_series_in_the_shape_of_pythia(tmp_path, publish, hub, standin, format_name):
    """160m, all sizes divided: every number as from the folder, and few bytes for it."""
    read = assert_reads_like_pythia(tmp_path, publish, hub, format_name, (5030, 96, 12), [0, 512])
    for checkpoint, local in read:
        for role in ROLES:
            assert_same(checkpoint.tensor(role), local.tensor(role))
            assert_same(checkpoint.tensor(role, slice(3, 20)), local.tensor(role, slice(3, 20)))
            assert checkpoint.file_sha256(role) == local.file_sha256(role)
        assert (checkpoint.tied, checkpoint.final_norm) == (False, "layer")
        assert checkpoint.vocab_size == 5030
        assert checkpoint.commit == commit_of("org/model", local.path)
        assert checkpoint.traffic.requests < 40
    unread = standin.sent - hub.transport.traffic.received  # bodies of refusals
    assert 0 <= unread <= 100


@pytest.mark.slow
@pytest.mark.parametrize("format_name", SERIES_FORMATS)
def test_pythia_160m_in_full(tmp_path, publish, hub, format_name):
    shape = (50304, 768, 12)
    for checkpoint, _ in assert_reads_like_pythia(tmp_path, publish, hub, format_name, shape, [0]):
        assert checkpoint.bytes("input_embedding") == 77_266_944


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_format_gives_what_the_folder_gives(tmp_path, publish, hub, format_name, dtype):
    publish(write_checkpoint(tmp_path / "main", neox(dtype=dtype), format_name))
    (remote,) = open_hub_series("org/model", hub=hub)
    local = Checkpoint(tmp_path / "main", 0)
    for role in ROLES:
        assert_same(remote.tensor(role), local.tensor(role))
        assert remote.digest(role) == local.digest(role)
    assert (remote.tied, remote.final_norm, remote.vocab_size) == (False, "layer", 12)
    assert not remote.has("output_bias")


@pytest.mark.parametrize("format_name", ["safetensors", "legacy"])
def test_tied(tmp_path, publish, hub, format_name):
    publish(write_checkpoint(tmp_path / "main", neox(tied=True), format_name))
    (remote,) = open_hub_series("org/model", hub=hub)
    assert remote.tied
    assert_same(remote.tensor("output_embedding"), remote.tensor("input_embedding"))


def test_one_head_for_each_file_and_ranges_of_one_tensor(tmp_path, publish, hub, standin):
    publish(write_checkpoint(tmp_path / "main", like_pythia(50000, 96, 1), config=CONFIG))
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    standin.reset()
    matrix = checkpoint.tensor("input_embedding")
    heads = [path for method, path, _ in standin.requests if method == "HEAD"]
    gets = [(path, headers) for method, path, headers in standin.requests if method == "GET"]
    ranges = [headers for path, headers in gets if not path.endswith("/config.json")]
    assert len(heads) == len(gets) - len(ranges) == 1
    assert len(ranges) == 1 + 8  # the header, and eight ranges at the same time
    assert all("Range" in headers and "Authorization" not in headers for headers in ranges)
    assert checkpoint.traffic.requests == len(standin.requests)
    assert checkpoint.traffic.received == standin.sent <= matrix.nbytes + 65536 + 1024
    checkpoint.tensor("output_embedding")
    assert sum(method == "HEAD" for method, _, _ in standin.requests) == 1


def test_rows_alone(tmp_path, publish, hub):
    publish(write_checkpoint(tmp_path / "main", like_pythia(50000, 96, 1), "old zip"))
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    rows = checkpoint.tensor("input_embedding", slice(40000, 41000))
    assert_same(rows, Checkpoint(tmp_path / "main", 0).tensor("input_embedding")[40000:41000])
    assert checkpoint.traffic.received <= rows.nbytes + SPARE


def test_a_shard_that_is_not_needed_is_not_asked_for(tmp_path, publish, hub, standin):
    publish(write_checkpoint(tmp_path / "main", neox(), "sharded safetensors"))
    open_hub_series("org/model", hub=hub).checkpoints[0].tensor("input_embedding")
    asked = " ".join(path for _, path, _ in standin.requests)
    assert "model-00001-of-00005" in asked
    assert "model-00002-of-00005" not in asked


def test_codes_are_read_by_the_ranges_of_their_rows(tmp_path, publish, hub, standin):
    codes = torch.randint(-127, 128, (30_000, 64), dtype=torch.int8)
    scale = torch.rand(30_000, 1)
    tensors = {
        "model.embed_tokens.weight": codes,
        "model.embed_tokens.weight_scale": scale,
        "model.norm.weight": torch.ones(64),
    }
    write_checkpoint(tmp_path / "codes", tensors, config={"tie_word_embeddings": True})
    checkpoint = Checkpoint(HubRevision(hub, publish(tmp_path / "codes"), "main"), 0)
    ids = [5, 6, 7, 20_000]
    assert_same(checkpoint.tensor("input_embedding", ids), codes[ids].float() * scale[ids])
    assert checkpoint.traffic.received < SPARE
    located = checkpoint.locate("input_embedding")
    assert located.part_bytes(np.array(ids)) == [3 * 64, 64, 3 * 4, 4]


def test_shards_that_an_index_does_not_name_are_asked_for(tmp_path, publish, hub):
    """A hub lists no files here: what the names of the shards say is tried."""
    tensors = neox()
    config = {"model_type": "gpt_neox"}
    write_checkpoint(tmp_path / "stale", tensors, "sharded safetensors", config)
    path = tmp_path / "stale" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["embed_out.weight"]
    path.write_text(json.dumps(index))
    checkpoint = Checkpoint(HubRevision(hub, publish(tmp_path / "stale"), "main"), 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors["embed_out.weight"])
    assert checkpoint.notes == (
        "model-00005-of-00005.safetensors is read, although model.safetensors.index.json does not "
        "list it: by its name it belongs to the same set",
        "model.safetensors.index.json does not name 'embed_out.weight', which its shards hold",
    )


def test_what_a_hub_revision_records(tmp_path, publish, hub):
    folder = write_checkpoint(tmp_path / "a", neox())
    publish(folder, "step3")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert (checkpoint.name, checkpoint.revision, checkpoint.path) == ("step3", "step3", None)
    assert checkpoint.commit == commit_of("org/model", folder)
    assert checkpoint.file_sha256("input_embedding") == sha256_of(folder / "model.safetensors")


def test_a_local_checkpoint_records_the_same(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "a", neox()), 3)
    assert (checkpoint.revision, checkpoint.commit) == (None, None)
    assert checkpoint.file_sha256("input_embedding") == sha256_of(tmp_path / "a/model.safetensors")
    assert (checkpoint.traffic.requests, checkpoint.traffic.received) == (0, 0)


def test_a_checkpoint_can_be_sent_to_another_process(tmp_path, publish, hub):
    publish(write_checkpoint(tmp_path / "main", neox()))
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    before = checkpoint.digest("input_embedding")
    assert pickle.loads(pickle.dumps(checkpoint)).digest("input_embedding") == before  # noqa: S301


def test_writing_to_a_tensor_changes_nothing_that_is_read_later(tmp_path, publish, hub):
    publish(write_checkpoint(tmp_path / "main", neox()))
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    first = checkpoint.tensor("input_embedding")
    kept = first.clone()
    first.zero_()
    assert_same(checkpoint.tensor("input_embedding"), kept)


def test_remote_code_is_never_run(tmp_path, publish, hub):
    config = CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    folder = write_checkpoint(tmp_path / "main", neox(), config=config)
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    publish(folder)
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    assert checkpoint.tensor("output_embedding").shape == (12, 4)


def test_a_hub_without_a_second_server(tmp_path, publish, hub, standin):
    """Mirrors serve large files themselves; there the token has to be sent along."""
    standin.redirects = False
    publish(write_checkpoint(tmp_path / "main", neox()))
    standin.repositories["org/model"].gated = True
    identified = HubRevision(hub.__class__(hub.endpoint, "secret"), "org/model", "main")
    tensor = Checkpoint(identified, 0).tensor("input_embedding")
    assert_same(tensor, Checkpoint(tmp_path / "main", 0).tensor("input_embedding"))
