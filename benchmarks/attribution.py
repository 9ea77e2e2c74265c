"""Cost of attribution: NormXLogit compared with forward passes, gradients and full logits.

    python benchmarks/attribution.py [--threads N] [--quick]

A random GPT-NeoX in the shape of Pythia-14M, one text of 128 tokens, its last 32 tokens as targets.
After a warm-up the ways take turns in one process with pinned threads, alternately in the order of
the list and in reverse. Times are medians with quartiles; a ratio is that of two runs in one turn,
again with quartiles. Integrated gradients take half a minute: they run once, without warm-up.
Forwards and backwards are counted in inputs that pass the base model. Memory is the peak above the
process at rest, in the warm-up run. --quick takes few turns, and leaves out integrated gradients
and the sweep.
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

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.methods import METHODS
from dynamics.attribution.settings import AttributionSettings
from dynamics.models.live_model import Batch, LiveModel

TOKENS, TARGETS = 128, 32
QUICK, THOROUGH = 5, 40  # turns
SWEEP = (1, 2, 3, 4)  # inputs of a batch


@dataclass(frozen=True)
class Way:
    """One way to compute scores.

    Attributes:
        run: Computes the scores.
        turns: Number of timed runs after the warm-up run; 0 to time the warm-up run itself.
        target: Time that it should take at least, in multiples of NormXLogit's.
    """

    run: Callable[[], object]
    turns: int
    target: float | None = None


@dataclass
class Cost:
    """Cost of a way: seconds of each turn, inputs forwards and backwards, bytes at the peak."""

    seconds: list[float]
    forwards: int
    backwards: int
    peak: int


class Counter:
    """Counter of inputs that go through the base model, and of gradients that come back."""

    def __init__(self, network: GPTNeoXForCausalLM) -> None:
        self.forwards = self.backwards = 0
        network.gpt_neox.layers[0].register_forward_hook(self._forward)

    def _forward(self, _: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.forwards += len(args[0])
        if output.requires_grad:
            output.register_hook(self._backward)

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
    """A tokenizer without special tokens, with the only attributes that the methods need."""

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
        output = batch.model.network(
            input_ids=batch.inputs.input_ids, output_hidden_states=True, use_cache=False
        )
        norms = output.hidden_states[0].norm(dim=-1)
        rows = torch.arange(len(norms))[:, None, None]
        positions = torch.arange(TOKENS)[None, :, None]
        return norms[:, :, None] * output.logits[rows, positions, batch.targets[:, None]]


def forward(batch: AttributionBatch) -> object:
    """One forward pass without head."""
    with torch.no_grad():
        return batch.model.network.base_model(
            input_ids=batch.inputs.input_ids, attention_mask=batch.inputs.attention_mask
        )


def measured(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a run, and bytes at its peak above the memory in use before it."""
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory, so that none is in reserve
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident = memory("VmRSS")
    return seconds(run), memory("VmHWM") - resident


def memory(name: str) -> int:
    """A number of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def seconds(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def costs(ways: Mapping[str, Way], counter: Counter) -> dict[str, Cost]:
    """Count and warm up in a first run of each way, then time the ways in turns, to and fro."""
    costs_by_name = {}
    for name, way in ways.items():
        counter.forwards = counter.backwards = 0
        took, peak = measured(way.run)
        first = [] if way.turns else [took]
        costs_by_name[name] = Cost(first, counter.forwards, counter.backwards, peak)
    for turn in range(max(way.turns for way in ways.values())):
        due = [name for name, way in ways.items() if turn < way.turns]
        for name in due if turn % 2 == 0 else due[::-1]:
            costs_by_name[name].seconds.append(seconds(ways[name].run))
    return costs_by_name


def middle(values: Sequence[float], digits: int) -> str:
    """The median, and in brackets the quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratios(cost: Cost, reference: Cost) -> list[float]:
    """Time of a way in multiples of another's, in each turn with both."""
    return [a / b for a, b in zip(cost.seconds, reference.seconds, strict=False)]


def compare(turns: int, *, integrate: bool) -> None:
    """Print the cost of each way for the same 32 targets."""
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
    scores, expected = METHODS["normxlogit"].function(batch).values, full_logits(batch)
    assert torch.allclose(scores, expected, rtol=1e-4, atol=1e-5), "the two do not agree"
    measured_costs = costs(ways, counter)
    normxlogit = measured_costs["NormXLogit"]
    print(f"{'way':21}{'ms':>34}{'forwards':>9}{'backwards':>10}{'MB':>7}  times NormXLogit")
    for name, way in ways.items():
        cost = measured_costs[name]
        goal = "" if way.target is None else f", at least {way.target:g}"
        milliseconds = middle([1e3 * s for s in cost.seconds], 2)
        multiples = middle(ratios(cost, normxlogit), 2)
        print(
            f"{name:21}{milliseconds:>34}{cost.forwards:9d}"
            f"{cost.backwards:10d}{cost.peak / 1e6:7.1f}  {multiples}{goal}"
        )
    passes = ratios(normxlogit, measured_costs["forward without head"])
    print(f"NormXLogit costs {middle(passes, 3)} forward passes without head, at most 1.15")


def sweep(turns: int) -> None:
    """Print the cost per token of batches of different sizes."""
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
        spread = middle([1e3 * s for s in times], 2)
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
