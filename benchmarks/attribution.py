"""What attribution costs: NormXLogit against forward passes, gradients and full logits.

    python benchmarks/attribution.py [--threads N] [--quick]

A random GPT-NeoX in the shape of Pythia-14M, one text of 128 tokens, its last 32 tokens as targets.
After a warm-up the ways take turns in one process with pinned threads, forwards and backwards in
the list. Times are medians with quartiles; a ratio is that of two neighbours in a turn, again with
quartiles. Integrated gradients take half a minute: they run once, without warm-up. Forwards and
backwards are counted in inputs that pass the base model. Memory is the peak above the process at
rest, in the run that warms up. --quick takes few turns, and leaves out integrated gradients and the
sweep.
"""

import argparse
import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dynamics.attribution.batch import AttributionBatch, AttributionSettings
from dynamics.attribution.methods import METHODS
from dynamics.models.live_model import Batch, LiveModel

TOKENS, TARGETS = 128, 32
QUICK, THOROUGH = 5, 40  # turns
SWEEP = (1, 2, 3, 4)  # inputs of a batch


@dataclass(frozen=True)
class Way:
    """One way to answer.

    Attributes:
        run: Does it.
        turns: How often it is timed after the run that warms up; 0 times that run.
        target: How many times NormXLogit's time it should take at least.
    """

    run: Callable[[], object]
    turns: int
    target: float | None = None


@dataclass
class Cost:
    """What a way took: seconds of each turn, inputs forwards and backwards, bytes at the peak."""

    seconds: list[float]
    forwards: int
    backwards: int
    peak: int


class Counter:
    """Inputs that went through the base model, and gradients that came back."""

    def __init__(self, network: GPTNeoXForCausalLM) -> None:
        self.forwards = self.backwards = 0
        network.gpt_neox.layers[0].register_forward_hook(self._forward)

    def _forward(self, _: object, given: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        self.forwards += len(given[0])
        if answer.requires_grad:
            answer.register_hook(self._backward)

    def _backward(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


def shape() -> LiveModel:
    """An untrained model in the shape of Pythia-14M."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=2048,
    )
    network = GPTNeoXForCausalLM(config).eval()
    return LiveModel(network, NoTokens(), "causal", "pythia-14m's shape")  # pyright: ignore


class NoTokens:
    """A tokenizer without special tokens, which is all that the methods ask for."""

    mask_token_id = pad_token_id = unk_token_id = None
    all_special_ids = ()


def random_batch(model: LiveModel, inputs: int, settings: AttributionSettings) -> AttributionBatch:
    """The last tokens of random texts, each from those before it."""
    ids = torch.randint(50000, (inputs, TOKENS), generator=torch.Generator().manual_seed(1))
    readouts = torch.arange(TOKENS - TARGETS - 1, TOKENS - 1).expand(inputs, -1)
    targets = ids[:, TOKENS - TARGETS :]
    return AttributionBatch(
        model,
        Batch(ids, torch.ones_like(ids)),
        readouts,
        targets,
        -torch.ones_like(targets),
        settings,
    )


def full_logits(batch: AttributionBatch) -> torch.Tensor:
    """NormXLogit by way of every logit of every position, as a plain script would do it."""
    with torch.no_grad():
        answer = batch.model.network(
            input_ids=batch.inputs.input_ids, output_hidden_states=True, use_cache=False
        )
        norms = answer.hidden_states[0].norm(dim=-1)
        rows = torch.arange(len(norms))[:, None, None]
        positions = torch.arange(TOKENS)[None, :, None]
        return norms[:, :, None] * answer.logits[rows, positions, batch.targets[:, None]]


def forward(batch: AttributionBatch) -> object:
    """One forward pass without head."""
    with torch.no_grad():
        return batch.model.network.base_model(
            input_ids=batch.inputs.input_ids, attention_mask=batch.inputs.attention_mask
        )


def measured(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a run, and bytes at its peak above what was held before, nothing in reserve."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    return seconds(run), memory("VmHWM") - before


def memory(name: str) -> int:
    """A number of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def costs(ways: Mapping[str, Way], counter: Counter) -> dict[str, Cost]:
    """A first run of each way, which counts and warms up, then the ways in turns, to and fro."""
    found = {}
    for name, way in ways.items():
        counter.forwards = counter.backwards = 0
        took, peak = measured(way.run)
        first = [] if way.turns else [took]
        found[name] = Cost(first, counter.forwards, counter.backwards, peak)
    for turn in range(max(way.turns for way in ways.values())):
        due = [name for name, way in ways.items() if turn < way.turns]
        for name in due if turn % 2 == 0 else due[::-1]:
            found[name].seconds.append(seconds(ways[name].run))
    return found


def middle(values: Sequence[float], digits: int) -> str:
    """The median, and in brackets the quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratios(one: Cost, other: Cost) -> list[float]:
    """How many times the other's time one took in each turn that both were in."""
    return [a / b for a, b in zip(one.seconds, other.seconds, strict=False)]


def compare(turns: int, *, integrate: bool) -> None:
    """Print what each way costs for the same 32 targets."""
    model = shape()
    counter = Counter(model.network)  # pyright: ignore[reportArgumentType]
    batch = random_batch(model, 1, AttributionSettings())
    fifty = random_batch(model, 1, AttributionSettings(protocol="paper"))
    ways = {
        "full logits": Way(lambda: full_logits(batch), turns, 3),
        "forward without head": Way(lambda: forward(batch), turns),
        "NormXLogit": Way(lambda: METHODS["normxlogit"].function(batch), turns),
        "gradient x input": Way(
            lambda: METHODS["gradient_x_input"].function(batch), max(turns // 4, 2), 10
        ),
    }
    if integrate:
        ways["IG-50 (captum)"] = Way(
            lambda: METHODS["integrated_gradients"].function(fifty), 0, 100
        )
    found, expected = METHODS["normxlogit"].function(batch).values, full_logits(batch)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), "the two do not agree"
    taken = costs(ways, counter)
    own = taken["NormXLogit"]
    print(f"{'way':21}{'ms':>34}{'forwards':>9}{'backwards':>10}{'MB':>7}  times NormXLogit")
    for name, way in ways.items():
        cost = taken[name]
        wanted = "" if way.target is None else f", at least {way.target:g}"
        print(
            f"{name:21}{middle([1e3 * each for each in cost.seconds], 2):>34}{cost.forwards:9d}"
            f"{cost.backwards:10d}{cost.peak / 1e6:7.1f}  {middle(ratios(cost, own), 2)}{wanted}"
        )
    passes = ratios(own, taken["forward without head"])
    print(f"NormXLogit costs {middle(passes, 3)} forward passes without head, at most 1.15")


def sweep(turns: int) -> None:
    """Print whether the cost of a batch is linear in its tokens."""
    model = shape()
    batches = [random_batch(model, inputs, AttributionSettings()) for inputs in SWEEP]
    took: list[list[float]] = [[] for _ in SWEEP]
    for turn in range(turns + 1):
        for batch, times in zip(batches, took, strict=True):
            spent = seconds(lambda batch=batch: METHODS["normxlogit"].function(batch))
            if turn:  # the first warms up
                times.append(spent)
    print(f"\n{'tokens':>8}{'ms':>34}{'us per token':>14}")
    for inputs, times in zip(SWEEP, took, strict=True):
        tokens, median = inputs * TOKENS, float(np.median(times))
        spread = middle([1e3 * each for each in times], 2)
        print(f"{tokens:8d}{spread:>34}{median / tokens * 1e6:14.1f}")


def main() -> None:
    """Compare, then sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, {TOKENS} tokens, {TARGETS} targets"
    )
    if options.quick:
        compare(QUICK, integrate=False)
    else:
        compare(THOROUGH, integrate=True)
        sweep(THOROUGH)


if __name__ == "__main__":
    main()
