"""What attribution costs: NormXLogit against forward passes, gradients and full logits.

    python benchmarks/attribution.py [--threads N] [--quick]

A random GPT-NeoX in the shape of Pythia-14M, one text of 128 tokens, its last 32 tokens as targets.
After a warm-up the ways take turns in one process with pinned threads; seconds are medians, a ratio
is the median over turns. Forwards and backwards are counted in inputs that pass the base model.
Memory is the peak above the process at rest. --quick takes fewer turns and leaves the sweep out.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dynamics.attribution.methods import METHODS
from dynamics.attribution.question import Question, Settings
from dynamics.models.live import Batch, LiveModel

TOKENS, TARGETS, TURNS = 128, 32, 15
SWEEP = (1, 2, 3, 4)  # inputs of a batch


@dataclass(frozen=True)
class Way:
    """One way to answer.

    Attributes:
        run: Does it.
        turns: How often it is timed; what takes seconds is timed less often.
        target: How many times NormXLogit's time it should take at least.
    """

    run: Callable[[], object]
    turns: int = TURNS
    target: float | None = None


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


def question(model: LiveModel, inputs: int, settings: Settings) -> Question:
    """The last tokens of random texts, each from those before it."""
    ids = torch.randint(50000, (inputs, TOKENS), generator=torch.Generator().manual_seed(1))
    readouts = torch.arange(TOKENS - TARGETS - 1, TOKENS - 1).expand(inputs, -1)
    targets = ids[:, TOKENS - TARGETS :]
    return Question(
        model,
        Batch(ids, torch.ones_like(ids)),
        readouts,
        targets,
        -torch.ones_like(targets),
        settings,
    )


def full_logits(asked: Question) -> torch.Tensor:
    """NormXLogit by way of every logit of every position, as a plain script would do it."""
    with torch.no_grad():
        answer = asked.model.network(
            input_ids=asked.batch.input_ids, output_hidden_states=True, use_cache=False
        )
        norms = answer.hidden_states[0].norm(dim=-1)
        rows = torch.arange(len(norms))[:, None, None]
        positions = torch.arange(TOKENS)[None, :, None]
        return norms[:, :, None] * answer.logits[rows, positions, asked.targets[:, None]]


def forward(asked: Question) -> object:
    """One forward pass without head."""
    with torch.no_grad():
        return asked.model.network.base_model(
            input_ids=asked.batch.input_ids, attention_mask=asked.batch.attention_mask
        )


def memory(name: str) -> int:
    """A number of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def once(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a run, and the peak of memory above what was held before."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory("VmRSS"), time.perf_counter()
    run()
    return time.perf_counter() - began, memory("VmHWM") - before


def compare(turns: int) -> None:
    """Print what each way costs for the same 32 targets."""
    model = shape()
    counter = Counter(model.network)  # pyright: ignore[reportArgumentType]
    asked = question(model, 1, Settings())
    fifty = question(model, 1, Settings(protocol="paper"))
    ways = {
        "forward without head": Way(lambda: forward(asked), turns),
        "NormXLogit": Way(lambda: METHODS["normxlogit"].function(asked), turns),
        "full logits": Way(lambda: full_logits(asked), turns, 3),
        "gradient x input": Way(lambda: METHODS["gradient_x_input"].function(asked), turns, 10),
        "IG-50 (captum)": Way(lambda: METHODS["integrated_gradients"].function(fifty), 2, 100),
    }
    found, expected = METHODS["normxlogit"].function(asked).values, full_logits(asked)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), "the two do not agree"
    counts = {}
    for name, way in ways.items():
        counter.forwards = counter.backwards = 0
        way.run()
        counts[name] = counter.forwards, counter.backwards
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    for turn in range(turns):
        for name, way in ways.items():
            if turn < way.turns:
                took, peak = once(way.run)
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak)
    own = seconds["NormXLogit"]
    print(f"{'way':22}{'ms':>10}{'forwards':>10}{'backwards':>11}{'MB':>8}  against NormXLogit")
    for name, way in ways.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], own, strict=False))
        wanted = "" if way.target is None else f" (at least {way.target:g}x)"
        print(
            f"{name:22}{statistics.median(seconds[name]) * 1e3:10.2f}{counts[name][0]:10d}"
            f"{counts[name][1]:11d}{peaks[name] / 1e6:8.1f}  {ratio:.2f}x{wanted}"
        )
    without = seconds["forward without head"]
    ratio = statistics.median(a / b for a, b in zip(own, without, strict=True))
    print(f"NormXLogit costs {ratio:.2f} forward passes without head (at most 1.15)")


def sweep(turns: int) -> None:
    """Print whether the cost of a batch is linear in its tokens."""
    model = shape()
    print(f"\n{'tokens':>8}{'ms':>10}{'us per token':>14}")
    for inputs in SWEEP:
        asked = question(model, inputs, Settings())
        METHODS["normxlogit"].function(asked)
        took = statistics.median(
            once(lambda asked=asked: METHODS["normxlogit"].function(asked))[0] for _ in range(turns)
        )
        tokens = inputs * TOKENS
        print(f"{tokens:8d}{took * 1e3:10.2f}{took / tokens * 1e6:14.1f}")


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
    compare(5 if options.quick else TURNS)
    if not options.quick:
        sweep(TURNS)


if __name__ == "__main__":
    main()
