"""Baselines that do not run the model: a method that does not beat them explains nothing.

B inputs, P positions, T targets.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.inputs import surfaces
from dynamics.errors import ConfigError, MismatchError


def random(batch: AttributionBatch) -> Scores:
    """One draw of uniform numbers from the seed and the tokens, whatever else is in the batch.

    A single draw says little: average over many seeds when comparing with it.
    """
    scores = torch.zeros(batch.visible.shape)
    for index, (ids, mask) in enumerate(zip(batch.scored_ids, batch.token_mask, strict=True)):
        tokens = ids[mask].tolist()
        # A generator of its own for each input, so that neighbours in the batch change nothing.
        digest = hashlib.sha256(repr((batch.settings.seed, tokens)).encode()).digest()
        draw = np.random.default_rng(np.frombuffer(digest, np.uint32)).random(len(tokens))
        scores[index, : len(tokens)] = torch.tensor(draw, dtype=scores.dtype)[:, None]
    return Scores(scores.to(batch.scored_ids.device))


def recency(batch: AttributionBatch) -> Scores:
    """Minus the distance of each position from the read-out: nearest first."""
    positions = torch.arange(batch.scored_ids.shape[1], device=batch.readouts.device)
    distances = (positions[None, :, None] - batch.readouts[:, None, :]).abs()
    return Scores(-distances.float())


def inverse_log_frequency(batch: AttributionBatch) -> Scores:
    """-ln of each token's relative frequency in nats: rarest first.

    One is added to every count, so that a token without occurrences has a score.

    Raises:
        ConfigError: There are no counts.
        MismatchError: The counts are of another vocabulary.
    """
    counts = batch.settings.counts
    if counts is None:
        raise ConfigError(
            "inverse_log_frequency needs the counts of the tokens (counts=counts.parquet)"
        )
    if int(batch.scored_ids.max()) >= len(counts):
        raise MismatchError(
            f"the counts have {len(counts)} tokens and the input holds id "
            f"{int(batch.scored_ids.max())}; they are of another tokenizer"
        )
    smoothed = np.asarray(counts, dtype=float) + 1
    # -ln p with add-one counts
    information = torch.tensor(np.log(smoothed.sum()) - np.log(smoothed))
    return _of_tokens(batch, information[batch.scored_ids.cpu()])


def token_length(batch: AttributionBatch) -> Scores:
    """Number of characters of each token, without the space before it: longest first."""
    texts = [surfaces(batch.model, ids) for ids in batch.scored_ids.tolist()]
    lengths = [[len(token.strip().removeprefix("##")) for token in text] for text in texts]
    return _of_tokens(batch, torch.tensor(lengths))


def _of_tokens(batch: AttributionBatch, scores: Float[Tensor, "B P"]) -> Scores:
    """Repeat one score per token for every target."""
    scores = scores.float().to(batch.readouts.device)
    return Scores(scores[:, :, None].expand(-1, -1, batch.readouts.shape[1]))
