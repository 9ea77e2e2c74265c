"""What reading costs: memory, and what the cache of tensors saves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.cache import TensorCache
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.hub.transport import Transport
from tests.checkpoints.writers import assert_same, write_checkpoint
from tests.hub.conftest import PATIENCE
from tests.hub.test_remote_reading import CONFIG, like_pythia

PEAK = """
import json, sys
from pathlib import Path
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

(checkpoint,) = open_hub_series("org/model", hub=Hub(sys.argv[1]))
checkpoint.tensor("final_norm_weight")
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
tensor = checkpoint.tensor("input_embedding")
print(json.dumps([memory("VmHWM") - before, tensor.nbytes]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("format_name", ["safetensors", "legacy"])
def test_peak_memory_is_one_tensor_and_little_more(tmp_path, standin, publish, format_name):
    publish(write_checkpoint(tmp_path / "main", like_pythia(50304, 384, 1), format_name, CONFIG))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, standin.endpoint], capture_output=True, text=True, check=True
    )
    peak, tensor = json.loads(done.stdout)
    assert tensor == 38_633_472
    assert peak <= tensor + 16_000_000


def test_a_second_run_reads_from_the_cache(tmp_path, standin, publish):
    """After one HEAD, which says that the file is the same, nothing more is asked for."""
    publish(write_checkpoint(tmp_path / "main", like_pythia(50000, 96, 1), "old zip", CONFIG))
    cache = TensorCache(tmp_path / "cache", 50_000_000)
    read = []
    for _ in range(2):
        standin.reset()
        hub = Hub(standin.endpoint, transport=Transport(PATIENCE, cache=cache))
        (checkpoint,) = open_hub_series("org/model", hub=hub)
        read.append(checkpoint.tensor("input_embedding"))
        read.append(checkpoint.tensor("input_embedding", slice(7, 9)))
    assert_same(read[0], Checkpoint(tmp_path / "main", 0).tensor("input_embedding"))
    assert_same(read[0], read[2])
    assert_same(read[1], read[3])
    assert all(path.startswith(("/api", "/org")) for _, path, _ in standin.requests)


def test_a_cache_that_was_damaged_is_not_believed(tmp_path, standin, publish):
    publish(write_checkpoint(tmp_path / "main", like_pythia(5000, 96, 1), config=CONFIG))
    hub = Hub(standin.endpoint, transport=Transport(PATIENCE, cache=TensorCache(tmp_path / "c")))
    before = open_hub_series("org/model", hub=hub).checkpoints[0].tensor("input_embedding")
    for path in (tmp_path / "c").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    again = open_hub_series("org/model", hub=hub).checkpoints[0].tensor("input_embedding")
    assert_same(again, before)


def test_nothing_is_kept_unless_asked_for(tmp_path, publish, hub, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    publish(write_checkpoint(tmp_path / "main", like_pythia(500, 96, 1), config=CONFIG))
    open_hub_series("org/model", hub=hub).checkpoints[0].tensor("input_embedding")
    assert [path.name for path in tmp_path.iterdir()] == ["main"]
