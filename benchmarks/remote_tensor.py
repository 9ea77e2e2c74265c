"""One embedding of a Pythia-160m over a slow network, against loading the model with transformers.

A stand-in for the hub answers after 40 ms and sends 200 Mbit/s over each connection. Every way is a
new process; seconds are those of reading alone, without imports. Prints requests, megabytes sent to
it and seconds (median of the rounds) for every file format. Takes minutes and 1 GB of disk.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from transformers import GPTNeoXConfig  # noqa: E402

from tests.hub.test_remote_reading import SERIES_FORMATS, write_like_pythia  # noqa: E402

ROUNDS = 3
NETWORK = ["--latency", "0.04", "--mbit", "200"]
SHAPE = (50304, 768, 12, 2048)

_OURS = """
import time
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.hub.transport import Transport
began = time.perf_counter()
hub = Hub(transport=Transport(connections={}))
(checkpoint,) = open_hub_series("org/model", hub=hub)
checkpoint.tensor("input_embedding", {})
print(time.perf_counter() - began)
"""
_THEIRS = """
import time
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM
began = time.perf_counter()
AutoModelForCausalLM.from_pretrained("org/model").get_input_embeddings().weight
print(time.perf_counter() - began)
"""
WAYS = {
    "8 connections": _OURS.format(8, None),
    "1 connection": _OURS.format(1, None),
    "1000 rows": _OURS.format(8, slice(1000)),
    "from_pretrained": _THEIRS,
}


def _measure(program: str, endpoint: str) -> tuple[float, int, float]:
    """Seconds, requests and megabytes of one way."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    settings |= {"DISABLE_SAFETENSORS_CONVERSION": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as home:
        urllib.request.urlopen(f"{endpoint}/__reset").close()
        environment = os.environ | settings | {"HF_HOME": home}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, check=True
        )
        with urllib.request.urlopen(f"{endpoint}/__counts") as answer:
            counts = json.load(answer)
    return float(done.stdout), counts["requests"], counts["sent"] / 1e6


def _compare(format_name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "org/model/main")
        folder.parent.mkdir(parents=True)
        write_like_pythia(folder, format_name, SHAPE)
        GPTNeoXConfig(
            vocab_size=50304, hidden_size=768, intermediate_size=3072, num_hidden_layers=12
        ).save_pretrained(folder)
        command = [sys.executable, "-m", "tests.hub.standin", root, *NETWORK]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                endpoint = server.stdout.readline().strip()
                for way, program in WAYS.items():
                    rounds = [_measure(program, endpoint) for _ in range(ROUNDS)]
                    seconds = statistics.median(each[0] for each in rounds)
                    _, requests, megabytes = rounds[0]
                    print(f"{format_name:20} {way:16} {requests:4} {megabytes:8.2f} {seconds:7.2f}")
            finally:
                server.terminate()


def main() -> None:
    """Measure and print."""
    print(f"{'format':20} {'way':16} {'req.':>4} {'MB':>8} {'s':>7}")
    for format_name in SERIES_FORMATS:
        _compare(format_name)


if __name__ == "__main__":
    main()
