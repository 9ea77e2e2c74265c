"""Norms of both embeddings over a series on a slow network, against loading every model.

A stand-in for the hub answers after 40 ms and sends 200 Mbit/s over each connection, or over all of
them together. Weights are random float16 in the shapes of Pythia-160m and Pythia-1b. All revisions
of a series are one file under different commits; neither side keeps anything from one revision for
the next by its digest: DYNAMICS_CACHE is off, and the hub cache of transformers is emptied after
each revision. Every way is a new process; seconds are those of the work, without imports. Takes
about six minutes and 5 GB of disk; --small leaves out the 1b shape.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import GPTNeoXConfig

ROOT = Path(__file__).parents[1]
VOCABULARY = 50304
CONNECTIONS = 8
LATENCY, MBIT = "0.04", "200"
NOWHERE = "http://127.0.0.1:9"
SPARE = 100e6  # bytes of memory a tracking process may take beside its tensors

_START = """
import json, os, sys, time
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def begin():
    global began, rest
    Path("/proc/self/clear_refs").write_text("5")
    began, rest = time.perf_counter(), memory("VmRSS")

def end():
    print(json.dumps([time.perf_counter() - began, memory("VmHWM") - rest]))

"""
_TRACK = """
from concurrent.futures import ThreadPoolExecutor
import dynamics.tracking.track as tracking
from dynamics.checkpoints.hub import Hub
from dynamics.checkpoints.hub_series import open_hub_series
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.transport import Transport

place, output, steps, connections, workers = sys.argv[1:]
workers = int(workers)
begin()
if Path(place).exists():
    series = open_series(place)
else:
    series = open_hub_series(place, hub=Hub(transport=Transport(connections=int(connections))))
with ThreadPoolExecutor(workers) as pool:
    executor = pool if workers > 1 else None
    tracking.track(
        series, Path(output), steps=steps, allow_flagged=True, executor=executor, ahead=workers
    )
end()
"""
_NORMS = """
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dynamics.checkpoints.hub import Hub
from dynamics.checkpoints.hub_series import open_hub_series
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.transport import Transport
from dynamics.scores.norms import embedding_norm

place, output, steps, connections, workers = sys.argv[1:]
begin()
if Path(place).exists():
    series = open_series(place)
else:
    series = open_hub_series(place, hub=Hub(transport=Transport(connections=int(connections))))

def norms(checkpoint):
    return [
        embedding_norm(checkpoint.tensor(role)) for role in ("input_embedding", "output_embedding")
    ]

with ThreadPoolExecutor(int(workers)) as pool:
    deque(pool.map(norms, series.select(steps)), maxlen=0)
end()
"""
_LOAD = """
import shutil
import torch
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

place, steps = sys.argv[1], sys.argv[2].split(",")
begin()
for step in steps:
    if Path(place).exists():
        model = AutoModelForCausalLM.from_pretrained(f"{place}/step{step}")
    else:
        model = AutoModelForCausalLM.from_pretrained(place, revision=f"step{step}")
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.linalg.vector_norm(layer.weight.float(), dim=1)
    del model, layer
    shutil.rmtree(Path(os.environ["HF_HOME"], "hub"), ignore_errors=True)
end()
"""


@dataclass(frozen=True)
class Shape:
    """A model, and how much of a series of it is read.

    Attributes:
        name: Of the model.
        hidden: Width.
        layers: Number of layers.
        steps: Checkpoints tracked.
        loaded: Checkpoints loaded by the baseline, whose seconds are scaled up.
        target: How many times faster tracking should be.
    """

    name: str
    hidden: int
    layers: int
    steps: int
    loaded: int
    target: float

    @property
    def tensor(self) -> int:
        """Bytes of one embedding."""
        return VOCABULARY * self.hidden * 2


@dataclass(frozen=True)
class Taken:
    """What one way took."""

    seconds: float
    memory: float
    sent: float
    requests: int

    def scaled(self, factor: float) -> "Taken":
        """The same for that many times as many checkpoints."""
        return Taken(self.seconds * factor, self.memory, self.sent * factor, self.requests)


SHAPES = (Shape("160m", 768, 12, 16, 2, 5), Shape("1b", 2048, 16, 2, 1, 15))


def _write(folder: Path, shape: Shape) -> None:
    """A checkpoint of random weights and its revisions, which are links to it."""
    width, layers = shape.hidden, shape.layers
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (VOCABULARY, width)}
    for at in range(layers):
        layer = f"gpt_neox.layers.{at}."
        for name, size in {
            "input_layernorm.weight": (width,),
            "input_layernorm.bias": (width,),
            "post_attention_layernorm.weight": (width,),
            "post_attention_layernorm.bias": (width,),
            "attention.query_key_value.weight": (3 * width, width),
            "attention.query_key_value.bias": (3 * width,),
            "attention.dense.weight": (width, width),
            "attention.dense.bias": (width,),
            "mlp.dense_h_to_4h.weight": (4 * width, width),
            "mlp.dense_h_to_4h.bias": (4 * width,),
            "mlp.dense_4h_to_h.weight": (width, 4 * width),
            "mlp.dense_4h_to_h.bias": (width,),
        }.items():
            shapes[layer + name] = size
    shapes["gpt_neox.final_layer_norm.weight"] = (width,)
    shapes["gpt_neox.final_layer_norm.bias"] = (width,)
    shapes["embed_out.weight"] = (VOCABULARY, width)
    random = np.random.default_rng(0)
    block = random.standard_normal(1 << 22, np.float32).astype(np.float16)
    header, offset = {}, 0
    for key, size in shapes.items():
        end = offset + 2 * int(np.prod(size))
        header[key] = {"dtype": "F16", "shape": size, "data_offsets": [offset, end]}
        offset = end
    described = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    described += b" " * (-len(described) % 8)
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for size in shapes.values():
            left = int(np.prod(size))
            while left:
                part = np.roll(block, int(random.integers(len(block))))[:left]
                file.write(part.tobytes())
                left -= len(part)
    GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        tie_word_embeddings=False,
        dtype="float16",
    ).save_pretrained(folder)
    for step in range(1, shape.steps):
        other = folder.with_name(f"step{step}")
        other.mkdir()
        for file in folder.iterdir():
            os.link(file, other / file.name)


@contextmanager
def _served(root: Path, *network: str) -> Iterator[str]:
    """Address of a stand-in that has hashed its files before anyone waits for it."""
    command = [sys.executable, "-m", "tests.hub.standin", str(root), "--latency", LATENCY, *network]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            endpoint = server.stdout.readline().strip()
            for branch in root.glob("*/*/*"):
                repo = branch.relative_to(root).parent.as_posix()
                url = f"{endpoint}/{repo}/resolve/{branch.name}/model.safetensors"
                request = urllib.request.Request(url, method="HEAD")
                urllib.request.urlopen(request).close()
            yield endpoint
        finally:
            server.terminate()


def _run(program: str, *arguments: str, endpoint: str = NOWHERE) -> Taken:
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    settings |= {"DISABLE_SAFETENSORS_CONVERSION": "1", "PYTHONPATH": str(ROOT)}
    remote = endpoint != NOWHERE
    settings["HF_HUB_OFFLINE"] = "0" if remote else "1"
    with tempfile.TemporaryDirectory() as home:
        if remote:
            urllib.request.urlopen(f"{endpoint}/__reset").close()
        environment = os.environ | settings | {"HF_HOME": home}
        environment.pop("DYNAMICS_CACHE", None)
        command = [sys.executable, "-c", _START + program, *arguments]
        done = subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, check=True, cwd=home
        )
        counts = {"requests": 0, "sent": 0}
        if remote:
            with urllib.request.urlopen(f"{endpoint}/__counts") as answer:
                counts = json.load(answer)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return Taken(seconds, memory, counts["sent"], counts["requests"])


def _show(shape: Shape, what: str, taken: Taken) -> None:
    print(
        f"{shape.name:5} {what:42} {taken.requests or '':>5} {taken.sent / 1e6:9.1f} "
        f"{taken.seconds:8.2f} {taken.memory / 1e6:8.0f}",
        flush=True,
    )


def _compare(shape: Shape, workers: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="remote_series"))
    repo = "org/model"
    try:
        _write(root / repo / "step0", shape)
        scale = shape.steps / shape.loaded
        how = f"loaded, {shape.loaded} scaled to {shape.steps}"

        def named(steps: int) -> str:
            return ",".join(map(str, range(steps)))

        def ours_by(
            program: str, place: str, steps: int, threads: int, endpoint: str = NOWHERE
        ) -> Taken:
            with tempfile.TemporaryDirectory() as output:
                arguments = (place, f"{output}/run", named(steps), str(CONNECTIONS), str(threads))
                return _run(program, *arguments, endpoint=endpoint).scaled(shape.steps / steps)

        with _served(root, "--mbit", MBIT) as endpoint:
            ours = ours_by(_NORMS, repo, shape.steps, workers, endpoint)
            _show(shape, f"norms, {workers} workers, each connection", ours)
            everything = ours_by(_TRACK, repo, shape.steps, workers, endpoint)
            _show(shape, "every measure, digests and tables", everything)
            theirs = _run(_LOAD, repo, named(shape.loaded), endpoint=endpoint).scaled(scale)
            _show(shape, f"{how}, each connection", theirs)
        fewer = theirs.sent / ours.sent
        allowed = (workers + 1) * shape.tensor + SPARE
        print(
            f"{shape.name}: {theirs.seconds / ours.seconds:.1f}x as fast with {CONNECTIONS} "
            f"connections each (target {shape.target:g}x), {fewer:.2f}x fewer bytes; memory above "
            f"rest {ours.memory / 1e6:.0f} MB ({workers + 1} tensors + 100 MB are "
            f"{allowed / 1e6:.0f} MB)",
            flush=True,
        )
        few = min(shape.steps, 4)
        with _served(root, "--link-mbit", MBIT) as endpoint:
            linked = ours_by(_NORMS, repo, few, workers, endpoint)
        _show(shape, f"norms, {few} scaled to {shape.steps}, one link", linked)
        slower = theirs.seconds / linked.seconds  # loading takes one connection, so the whole link
        print(
            f"{shape.name}: {slower:.2f}x on one link, {slower / fewer:.2f} of the byte ratio "
            "(target 0.8)",
            flush=True,
        )
        folder = str(root / repo)
        _run(_LOAD, folder, named(shape.loaded))  # warms the files
        near = ours_by(_NORMS, folder, few, 1)
        _show(shape, f"norms, {few} scaled to {shape.steps}, warm files", near)
        theirs = _run(_LOAD, folder, named(shape.loaded)).scaled(scale)
        _show(shape, f"{how}, warm files", theirs)
        print(
            f"{shape.name}: {theirs.seconds / near.seconds:.1f}x with warm files (target 4x); load "
            f"of the machine {os.getloadavg()[0]:.1f}\n",
            flush=True,
        )
    finally:
        shutil.rmtree(root)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="leave out the 1b shape")
    parser.add_argument("--workers", type=int, default=2, help="checkpoints under way at once")
    parsed = parser.parse_args()
    print(f"{'shape':5} {'way':42} {'req.':>5} {'MB':>9} {'s':>8} {'MB memory':>8}")
    for shape in SHAPES:
        if shape.name == "1b" and parsed.small:
            print("1b: left out (--small)")
        elif shutil.disk_usage(tempfile.gettempdir()).free < 6e9:
            print(f"{shape.name}: left out, less than 6 GB of disk are free")
        else:
            _compare(shape, parsed.workers)


if __name__ == "__main__":
    main()
