"""How far each attribution method agrees with occlusion, inside inputs.

    python scripts/agreement.py MODEL TEXTS [-n 300] [--words 30] [--counts counts.parquet]
        [--method NAME ...] [--device cuda] [--threads 2]

takes passages of TEXTS at random, attributes the next token that a causal LM predicts with every
method that fits it, and prints a Markdown table: the mean over passages of Spearman's correlation
with occlusion of the log-probability, the read-out left out, and its interval over passages.
Without counts, tokens are counted in TEXTS. Integrated gradients take nearly all of the time where
they do not converge: on stories260K 10 s a passage on one core, everything else 0.7 s.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from dynamics.attribution.attribute import CONVERGED, attribute
from dynamics.attribution.methods import METHODS
from dynamics.attribution.result import Attribution
from dynamics.attribution.settings import AttributionSettings
from dynamics.corpus.counts import count_documents, read_counts
from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.documents.large_text import parts_of
from dynamics.errors import ConfigError
from dynamics.models.load import load_model
from dynamics.statistics.within_input import within_input_agreement

SEEDS = 20  # draws of the random baseline
REFERENCE = AttributionSettings(logit_form="log_probability")


def passages(texts: list[str], count: int, words: int, seed: int) -> Iterator[str]:
    """Runs of words that begin anywhere in a document, longer documents more often."""
    rng = np.random.default_rng(seed)
    split = [each for text in texts if len(each := text.split()) > words]
    weights = np.array([len(each) - words for each in split], dtype=float)
    for chosen in rng.choice(len(split), count, p=weights / weights.sum()):
        start = rng.integers(len(split[chosen]) - words)
        yield " ".join(split[chosen][start : start + words])


def scores(found: list[Attribution]) -> list[np.ndarray]:
    """Scores of the predicted next token, without the special tokens."""
    return [np.where(each.special, np.nan, each.scores[:, 0]) for each in found]


def unconverged(found: list[Attribution]) -> str:
    """How many passages integrated gradients have not converged on; nothing for other methods."""
    deltas = [delta for each in found for delta in each.checks.get("completeness_delta", [])]
    return f" ({np.mean(np.array(deltas) > CONVERGED):.0%} not converged)" if deltas else ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--words", type=int, default=30)
    parser.add_argument("--counts")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=[*METHODS], metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device=options.device)
    texts = ["".join(parts_of(document)) for document in documents(options.texts)]
    rows = model.embedding_matrix.shape[0]
    counts = (
        count_documents(texts, model.tokenizer, vocab_size=rows)
        if options.counts is None
        else read_counts(options.counts)
    )
    settings = AttributionSettings(counts=counts.table["count"].to_numpy())
    chosen = list(passages(texts, options.n, options.words, seed=0))

    def attributed(method: str, settings: AttributionSettings) -> list[Attribution]:
        return list(
            attribute(model, chosen, method=method, settings=settings, exclude_readout=True)
        )

    reference = scores(attributed("occlusion", REFERENCE))
    lengths = [len(each) for each in reference]
    print(
        f"{len(chosen)} passages of {options.words} words, {min(lengths)} to {max(lengths)} tokens"
        f" with {options.model}\n"
    )
    print("| method | agreement | 95 % interval | passages |\n|---|---|---|---|", flush=True)
    for method in options.method:
        draws = range(SEEDS) if method == "random" else [settings.seed]
        try:
            found = [attributed(method, replace(settings, seed=seed)) for seed in draws]
        except ConfigError as error:
            print(f"| {method} | {error} | | |", flush=True)
            continue
        # Random scores are averaged over their draws inside each passage.
        columns = [np.stack(each, 1) for each in zip(*map(scores, found), strict=True)]
        agreed = within_input_agreement(columns, reference)
        print(
            f"| `{method}`{unconverged(found[0])} | {agreed.mean:+.3f} | {agreed.low:+.3f} to "
            f"{agreed.high:+.3f} | {agreed.inputs} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
