"""How far each attribution method agrees with occlusion, inside inputs.

    python scripts/agreement.py MODEL TEXTS [-n 300] [--words 30] [--counts counts.parquet]

takes passages of TEXTS at random, attributes the next token that a causal LM predicts with every
method that fits it, and prints a Markdown table: the mean over passages of Spearman's correlation
with occlusion of the log-probability, the read-out left out, and its interval over passages.
Without counts, tokens are counted in TEXTS.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from dynamics.attribution.attribute import attribute
from dynamics.attribution.methods import METHODS
from dynamics.attribution.question import Settings
from dynamics.corpus.counts import count_documents, read_counts
from dynamics.corpus.sources import documents
from dynamics.errors import ConfigError
from dynamics.evaluation.agreement import Agreement, within_input_agreement
from dynamics.models.live import LiveModel
from dynamics.models.load import load_model

SEEDS = 20  # draws of the random baseline
REFERENCE = Settings(logit_form="log_probability")


def passages(texts: list[str], count: int, words: int, seed: int) -> Iterator[str]:
    """Runs of words that begin anywhere in a document, longer documents more often."""
    rng = np.random.default_rng(seed)
    split = [each for text in texts if len(each := text.split()) > words]
    weights = np.array([len(each) - words for each in split], dtype=float)
    for chosen in rng.choice(len(split), count, p=weights / weights.sum()):
        start = rng.integers(len(split[chosen]) - words)
        yield " ".join(split[chosen][start : start + words])


def scores(model: LiveModel, texts: list[str], method: str, settings: Settings) -> list[np.ndarray]:
    """Scores of the predicted next token, without the read-out and the special tokens."""
    found = attribute(model, texts, method=method, settings=settings, exclude_readout=True)
    return [np.where(each.special, np.nan, each.scores[:, 0]) for each in found]


def agreement(
    model: LiveModel, texts: list[str], method: str, settings: Settings, reference: list[np.ndarray]
) -> Agreement:
    """A method against the reference; random scores averaged over draws inside each passage."""
    draws = range(SEEDS) if method == "random" else [0]
    each = [scores(model, texts, method, replace(settings, seed=seed)) for seed in draws]
    return within_input_agreement([np.stack(one, 1) for one in zip(*each, strict=True)], reference)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--words", type=int, default=30)
    parser.add_argument("--counts")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    texts = list(documents(options.texts))
    rows = model.embedding_matrix.shape[0]
    counts = (
        count_documents(texts, model.tokenizer, vocab_size=rows)
        if options.counts is None
        else read_counts(options.counts)
    )
    settings = Settings(counts=counts.table["count"].to_numpy())
    chosen = list(passages(texts, options.n, options.words, seed=0))
    reference = scores(model, chosen, "occlusion", REFERENCE)
    print("| method | agreement | 95 % interval | passages |\n|---|---|---|---|")
    for method in METHODS:
        try:
            found = agreement(model, chosen, method, settings, reference)
        except ConfigError as error:
            print(f"| {method} | {error} | | |")
            continue
        print(
            f"| {method} | {found.mean:+.3f} | {found.low:+.3f} to {found.high:+.3f} "
            f"| {found.inputs} |"
        )


if __name__ == "__main__":
    main()
