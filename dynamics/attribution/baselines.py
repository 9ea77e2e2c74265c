"""Baselines that never ask the model: a method that does not beat them explains nothing.

B inputs, P positions, T targets.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.inputs import surfaces
from dynamics.attribution.question import Question, Scores
from dynamics.errors import ConfigError, MismatchError


def random(question: Question) -> Scores:
    """One draw of uniform numbers, by the seed and the tokens, whatever else is in the batch.

    A single draw says little: whoever compares with it averages over many seeds.
    """
    scores = torch.zeros(question.visible.shape)
    for index, (ids, attended) in enumerate(
        zip(question.scored_ids, question.attended, strict=True)
    ):
        tokens = ids[attended].tolist()
        digest = hashlib.sha256(repr((question.settings.seed, tokens)).encode()).digest()
        draw = np.random.default_rng(np.frombuffer(digest, np.uint32)).random(len(tokens))
        scores[index, : len(tokens)] = torch.tensor(draw, dtype=scores.dtype)[:, None]
    return Scores(scores.to(question.scored_ids.device))


def recency(question: Question) -> Scores:
    """How near each position is to the read-out, nearest first: minus their distance."""
    positions = torch.arange(question.scored_ids.shape[1], device=question.readouts.device)
    distances = (positions[None, :, None] - question.readouts[:, None, :]).abs()
    return Scores(-distances.float())


def inverse_log_frequency(question: Question) -> Scores:
    """-ln of each token's relative frequency in nats: rarest first.

    One is added to every count, so that a token that was never seen has a score.

    Raises:
        ConfigError: There are no counts.
        MismatchError: The counts are of another vocabulary.
    """
    counts = question.settings.counts
    if counts is None:
        raise ConfigError("inverse_log_frequency needs the counts of the tokens (--counts)")
    if int(question.scored_ids.max()) >= len(counts):
        raise MismatchError(
            f"the counts have {len(counts)} tokens and the input holds id "
            f"{int(question.scored_ids.max())}; they are of another tokenizer"
        )
    smoothed = np.asarray(counts, dtype=float) + 1
    information = torch.tensor(np.log(smoothed.sum()) - np.log(smoothed))
    return _of_tokens(question, information[question.scored_ids.cpu()])


def token_length(question: Question) -> Scores:
    """How many characters each token has, without the space before it: longest first."""
    texts = [surfaces(question.model, ids) for ids in question.scored_ids.tolist()]
    lengths = [[len(each.strip().removeprefix("##")) for each in text] for text in texts]
    return _of_tokens(question, torch.tensor(lengths))


def _of_tokens(question: Question, scores: Float[Tensor, "B P"]) -> Scores:
    """The same score for every target."""
    scores = scores.float().to(question.readouts.device)
    return Scores(scores[:, :, None].expand(-1, -1, question.readouts.shape[1]))
