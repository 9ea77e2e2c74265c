"""Occlusion: the loss of a prediction when one token is taken away.

B inputs, P positions, T targets.
"""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.errors import ConfigError
from dynamics.scores.norms import mean_row

ROWS = 256  # occluded inputs that run at once


@torch.no_grad()
def occlusion(batch: AttributionBatch) -> Scores:
    """The prediction of each target minus that without each token: exact leave-one-out.

    `occlude_with` says by what the token is replaced: with `auto` by the mask token, or by the mean
    row of the embedding where the tokenizer has none; padding and unknown tokens keep positions,
    `delete` closes the gap. An encoder-decoder that classifies looks for its read-out, the end of
    a sentence, among the ids: there the row is replaced and the id stays. A read-out that is
    deleted is read one position earlier; a position after the read-out of a causal LM scores 0.

    Raises:
        ConfigError: The tokenizer has no such token, or the only token would be deleted.
    """
    prediction = batch.predictions(batch.read())
    scores = torch.zeros(batch.visible.shape, device=prediction.device)
    for chunk in batch.visible.any(-1).nonzero().split(ROWS):
        indices, positions = chunk.T
        occluded = _predict_without(batch, indices, positions)
        # Leave-one-out: f(x) - f(x without token i), for every i by itself.
        scores[indices, positions] = (prediction[indices] - occluded).float()
    return Scores(scores)


def _predict_without(
    batch: AttributionBatch, indices: Int[Tensor, " N"], positions: Int[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Return the predictions for these inputs, each without the token at one position."""
    copies, rows = batch.select(indices), None
    kind, model, ids = _replacement(batch), batch.model, copies.scored_ids
    copy_index = torch.arange(len(ids), device=ids.device)
    if kind == "delete":
        copies = _with_deletions(copies, positions)
    elif kind == "mean" or (model.is_encoder_decoder and model.output.over == "labels"):
        rows = copies.stack.look_up(ids).clone()
        rows[copy_index, positions] = _replacement_row(copies, kind).to(rows)
    else:
        ids = ids.clone()
        ids[copy_index, positions] = cast(int, model.token_id(kind))
        copies = copies.with_ids(ids)
    return copies.predictions(copies.read(rows=rows))


def _replacement(batch: AttributionBatch) -> str:
    """Return the kind of replacement, with `auto` resolved."""
    model, kind = batch.model, batch.settings.occlude_with
    if kind == "auto":
        return "mean" if model.token_id("mask") is None else "mask"
    if kind in ("mask", "pad", "unk") and model.token_id(kind) is None:
        raise ConfigError(
            f"the tokenizer of {model.name} has no {kind} token to occlude with; mean, "
            "delete and auto need none"
        )
    return kind


def _replacement_row(batch: AttributionBatch, kind: str) -> Float[Tensor, " E"]:
    """Return the row of a special token, or the mean row, as the embedding module looks it up."""
    if kind == "mean":
        return batch.stack.as_looked_up(mean_row(batch.embedding_matrix))
    return batch.stack.look_up(torch.tensor(batch.model.token_id(kind), device=batch.model.device))


def _with_deletions(batch: AttributionBatch, positions: Int[Tensor, " N"]) -> AttributionBatch:
    """Delete one token of each input; read-outs behind it move along."""
    ids = batch.scored_ids
    if (batch.token_mask.sum(1) < 2).any():
        raise ConfigError("a text of one token has nothing left when it is deleted")
    # Original positions that stay: those before the deleted token, and one further behind it.
    remaining = torch.arange(ids.shape[1] - 1, device=ids.device).expand(len(ids), -1)
    remaining = remaining + (remaining >= positions[:, None])
    shorter = batch.with_ids(ids.gather(1, remaining), remaining)
    if batch.scores_encoder:
        return shorter
    moved = batch.readouts - (batch.readouts >= positions[:, None]).long()
    return replace(shorter, readouts=torch.where(batch.target_mask, moved.clamp_min(0), -1))
