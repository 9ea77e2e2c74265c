"""Norms of both embeddings over a series on a slow network, against loading every model.

A stand-in for the hub answers after 40 ms and sends 200 Mbit/s over each connection, or over all of
them together. Weights are random float16 in the shapes of Pythia-160m and Pythia-1b. All revisions
of a series are one file under different commits; neither side keeps anything from one revision for
the next by its digest: DYNAMICS_CACHE is off, and the hub cache of transformers is emptied after
each revision. Every way is a new process; seconds are those of the work, without imports. The
repositories and revisions have their public names. Takes 5 GB of disk and about six minutes with
one baseline, two or three more with each other; --small leaves out the 1b shape.

Whole models are loaded as transformers does, as magikarp (Land & Bartolo 2024) does, tokenizer
included, and by TransformerLens, which is in no extra. It goes into an environment of its own that
sees this one, whose Python then runs this program; docs/decisions.md has its limits.
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
from itertools import islice, product
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
VOCABULARY, TOKENS = 50304, 50277
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000, 4000, 5000)  # Pythia's first
CONNECTIONS = 8
LATENCY, MBIT = "0.04", "200"
NOWHERE = "http://127.0.0.1:9"
SPARE = 150e6  # bytes of memory a tracking process may take beside its tensors

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
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.hub.transport import Transport

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
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.hub.transport import Transport
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

place, steps = sys.argv[1], sys.argv[2].split(",")
begin()
for step in steps:
    if Path(place).exists():
        matrices = load(f"{place}/step{step}")
    else:
        matrices = load(place, revision=f"step{step}")
    for matrix in matrices:
        torch.linalg.vector_norm(matrix.float(), dim=1)
    del matrices, matrix
    shutil.rmtree(Path(os.environ["HF_HOME"], "hub"), ignore_errors=True)
end()
"""
_TRANSFORMERS = """
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

def load(name, **revision):
    model = AutoModelForCausalLM.from_pretrained(name, **revision)
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight
"""
# What magikarp/model.py (0d466b2) and magikarp/tokenization.py (39a9045) of cohere-ai/magikarp do;
# they read `main` only: the revision is added here.
_MAGIKARP = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM

def load(name, **revision):
    tokenizer = AutoTokenizer.from_pretrained(
        name, use_fast=True, clean_up_tokenization_spaces=False, **revision
    )
    tokens = len(tokenizer.get_vocab())
    model = AutoModelForCausalLM.from_pretrained(name, **revision)
    (embedding,) = (
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) and len(module.weight) >= tokens
    )
    head = model.lm_head if hasattr(model, "lm_head") else model.embed_out
    return embedding.weight.detach(), head.weight.detach()
"""
_TRANSFORMER_LENS = """
from transformer_lens import TransformerBridge
from transformers import GPTNeoXForCausalLM

def load(name, **revision):
    model = TransformerBridge.boot_transformers(name, **revision)
    return model.W_E, model.W_U.T
"""


@dataclass(frozen=True)
class Baseline:
    """A way to load all of a model.

    Attributes:
        program: Defines `load(name, **revision)`, which gives both embeddings, rows being tokens.
        install: What has to be installed for it.
    """

    program: str
    install: str

    def missing(self) -> str:
        """Why it does not run here, and what to do; empty when it does."""
        command = [sys.executable, "-c", self.program]
        tried = subprocess.run(command, capture_output=True, text=True)
        if tried.returncode == 0:
            return ""
        *_, last = ["", *tried.stderr.splitlines()]
        return f"not installed: pip install {self.install} ({last})"


BASELINES = {
    "transformers": Baseline(_TRANSFORMERS, "transformers"),
    "magikarp": Baseline(_MAGIKARP, "transformers"),
    "TransformerLens": Baseline(
        _TRANSFORMER_LENS, "--constraint constraints.txt 'transformer-lens>=4'"
    ),
}


@dataclass(frozen=True)
class Shape:
    """A model, and how much of a series of it is read.

    Attributes:
        name: Of the model, `pythia-` left out.
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


def _write_tokenizer(folder: Path) -> None:
    """A byte-pair tokenizer with as many tokens as Pythia's, which encodes nothing here."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(product(letters, letters), TOKENS - 1 - len(letters)))
    names = ["<|endoftext|>", *letters, *map("".join, merges)]
    pairs = Tokenizer(models.BPE({name: at for at, name in enumerate(names)}, merges))
    PreTrainedTokenizerFast(
        tokenizer_object=pairs, bos_token=names[0], eos_token=names[0]
    ).save_pretrained(folder)
    pairs.save(str(folder / "tokenizer.json"), pretty=False)


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
        architectures=["GPTNeoXForCausalLM"],
    ).save_pretrained(folder)
    _write_tokenizer(folder)
    for step in STEPS[1 : shape.steps]:
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
        f"{shape.name:5} {what:55} {taken.requests or '':>5} {taken.sent / 1e6:9.1f} "
        f"{taken.seconds:8.2f} {taken.memory / 1e6:8.0f}",
        flush=True,
    )


def _load(shape: Shape, baseline: str, place: str, where: str, endpoint: str = NOWHERE) -> Taken:
    """What a baseline takes for all checkpoints of a shape, by those it loads."""
    steps = ",".join(map(str, STEPS[: shape.loaded]))
    taken = _run(BASELINES[baseline].program + _LOAD, place, steps, endpoint=endpoint)
    taken = taken.scaled(shape.steps / shape.loaded)
    _show(shape, f"{baseline}, {shape.loaded} scaled to {shape.steps}, {where}", taken)
    return taken


def _ours(
    shape: Shape, program: str, place: str, what: str, steps: int, workers: int, endpoint: str
) -> Taken:
    """What a program of this project takes for all checkpoints of a shape, by the first `steps`."""
    with tempfile.TemporaryDirectory() as output:
        named = ",".join(map(str, STEPS[:steps]))
        arguments = (place, f"{output}/run", named, str(CONNECTIONS), str(workers))
        taken = _run(program, *arguments, endpoint=endpoint).scaled(shape.steps / steps)
    _show(shape, what, taken)
    return taken


def _compare(shape: Shape, workers: int, baselines: list[str]) -> None:
    root = Path(tempfile.mkdtemp(prefix="remote_series"))
    repo = f"EleutherAI/pythia-{shape.name}"
    folder, few = str(root / repo), min(shape.steps, 4)
    try:
        _write(root / repo / "step0", shape)
        with _served(root, "--mbit", MBIT) as endpoint:
            what = f"norms, {workers} workers, each connection"
            ours = _ours(shape, _NORMS, repo, what, shape.steps, workers, endpoint)
            what = "every measure, digests and tables"
            _ours(shape, _TRACK, repo, what, shape.steps, workers, endpoint)
            loaded = {
                name: _load(shape, name, repo, "each connection", endpoint) for name in baselines
            }
        with _served(root, "--link-mbit", MBIT) as endpoint:
            what = f"norms, {few} scaled to {shape.steps}, one link"
            linked = _ours(shape, _NORMS, repo, what, few, workers, endpoint)
        _run(_TRANSFORMERS + _LOAD, folder, "0")  # warms the files
        what = f"norms, {few} scaled to {shape.steps}, warm files"
        near = _ours(shape, _NORMS, folder, what, few, 1, NOWHERE)
        local = {name: _load(shape, name, folder, "warm files") for name in baselines}
    finally:
        shutil.rmtree(root)
    for name, theirs in loaded.items():
        fewer = theirs.sent / ours.sent
        slower = theirs.seconds / linked.seconds  # loading takes one connection, so the whole link
        print(
            f"{shape.name}, {name}: {theirs.seconds / ours.seconds:.1f}x as fast with "
            f"{CONNECTIONS} connections each (target {shape.target:g}x), {fewer:.2f}x fewer bytes; "
            f"{slower:.2f}x on one link, {slower / fewer:.2f} of the byte ratio (target 0.8); "
            f"{local[name].seconds / near.seconds:.1f}x with warm files (target 4x)"
        )
    allowed = (workers + 1) * shape.tensor + SPARE
    print(
        f"{shape.name}: memory above rest {ours.memory / 1e6:.0f} MB ({workers + 1} tensors + "
        f"{SPARE / 1e6:.0f} MB are {allowed / 1e6:.0f} MB); load of the machine "
        f"{os.getloadavg()[0]:.1f}\n",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="leave out the 1b shape")
    parser.add_argument("--workers", type=int, default=2, help="checkpoints under way at once")
    parser.add_argument(
        "--against",
        nargs="+",
        choices=BASELINES,
        default=list(BASELINES),
        help="ways of loading to compare with; those not installed are left out (default: all)",
    )
    parsed = parser.parse_args()
    missing = {name: BASELINES[name].missing() for name in parsed.against}
    baselines = [name for name, why in missing.items() if not why]
    for name, why in missing.items():
        if why:
            print(f"{name}: {why}")
    if not baselines:
        parser.exit(1, "nothing to compare with\n")
    print(f"{'shape':5} {'way':55} {'req.':>5} {'MB':>9} {'s':>8} {'MB memory':>8}")
    for shape in SHAPES:
        if shape.name == "1b" and parsed.small:
            print("1b: left out (--small)")
        elif shutil.disk_usage(tempfile.gettempdir()).free < 6e9:
            print(f"{shape.name}: left out, less than 6 GB of disk are free")
        else:
            _compare(shape, parsed.workers, baselines)


if __name__ == "__main__":
    main()
