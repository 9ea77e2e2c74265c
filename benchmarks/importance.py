"""Cost of running the model of one checkpoint: importances, surgery and agreement.

    python benchmarks/importance.py [--threads N] [--quick]

A random GPT-NeoX in the shape of Pythia-14M, rows of 64 tokens; for importances, each of them and
all together, these are the contexts of the probe set. Forwards are rows that pass the base model;
heads are positions whose logits are computed. Each size is run after the loss of the same rows, and
its time divided by that of this plain pass with loss. --quick takes the smallest sizes alone.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dynamics.importance.agreement import agreement_rows
from dynamics.importance.importances import choose_importances, measure_contexts
from dynamics.importance.probes import ProbeSet
from dynamics.importance.surgery import surgery_rows
from dynamics.models.live_model import LiveModel
from dynamics.runs.surgeries import SURGERIES

TOKENS, VOCABULARY = 64, 50304
SIZES = {"all": (8, 16, 32), "surgery": (4, 8, 16), "agreement": (2, 4, 8)}  # rows
SIZES = dict.fromkeys(choose_importances(["all"]), (8,)) | SIZES


class NoTokens:
    """A tokenizer without special tokens, with the only attributes that are needed."""

    mask_token_id = pad_token_id = unk_token_id = None
    all_special_ids = ()
    model_max_length = TOKENS


@dataclass
class Passed:
    """Counts of the rows that went through a base model, and of positions through its head."""

    forwards: int = 0
    heads: int = 0


@contextmanager
def counted(network: GPTNeoXForCausalLM) -> Iterator[Passed]:
    """Count rows and positions inside the block."""
    passed = Passed()

    def base(module: object, args: tuple[torch.Tensor, ...], output: object) -> None:
        passed.forwards += len(args[0])

    def head(module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        passed.heads += output.numel() // VOCABULARY

    hooks = [
        network.gpt_neox.layers[0].register_forward_hook(base),
        network.lm_head.register_forward_hook(head),
    ]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


def shape() -> LiveModel:
    """An untrained model in the shape of Pythia-14M."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=2048,
    )
    network = GPTNeoXForCausalLM(config).eval()
    return LiveModel(network, NoTokens(), "causal", "pythia-14m's shape")  # pyright: ignore


def measure(name: str, model: LiveModel, ids: np.ndarray, counts: np.ndarray) -> list[object]:
    """Run the measurement of a name in `SIZES` on these rows."""
    rng = np.random.default_rng(0)
    if name == "surgery":
        return list(surgery_rows(model, ids, counts, tuple(SURGERIES), rng))
    if name == "agreement":
        return list(agreement_rows(model, ids[:, :-1], counts, rng))
    positions = rng.integers(TOKENS // 4, 3 * TOKENS // 4, len(ids))
    replacements = rng.integers(0, VOCABULARY, len(ids))
    probes = ProbeSet(ids[:, :-1], positions, replacements, np.arange(len(ids)) % 2)
    return list(measure_contexts(model, probes, [name]).values())


def seconds(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Print the cost of a checkpoint, for a growing number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, rng = shape(), np.random.default_rng(1)
    _ = model.head, model.network(torch.zeros(1, TOKENS, dtype=torch.long))  # warm
    counts = (10**6 / np.arange(1, VOCABULARY + 1)).astype(int) + 1
    print(f"torch {torch.__version__}, {options.threads} threads, rows of {TOKENS} tokens")
    print(f"{'':30}{'rows':>6}{'s':>9}{'s per row':>11}{'forwards':>10}{'heads':>9}  plain passes")
    for name, sizes in SIZES.items():
        for size in sizes[: 1 if options.quick else None]:
            ids = rng.integers(0, VOCABULARY, (size, TOKENS + 1))
            rows = torch.from_numpy(ids)
            with torch.no_grad():
                plain = seconds(lambda rows=rows: model.network(rows[:, :-1], labels=rows[:, 1:]))
            with counted(model.network) as passed:  # pyright: ignore[reportArgumentType]
                took = seconds(lambda name=name, ids=ids: measure(name, model, ids, counts))
            print(
                f"{name:30}{size:6d}{took:9.2f}{took / size:11.3f}{passed.forwards:10d}"
                f"{passed.heads:9d}  {took / plain:.1f}"
            )


if __name__ == "__main__":
    main()
