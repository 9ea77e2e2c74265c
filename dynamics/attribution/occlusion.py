"""Occlusion: what a prediction loses when one token is taken away.

B inputs, P positions, T targets.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynamics.attribution.question import Question, Scores
from dynamics.errors import ConfigError
from dynamics.scores.norms import mean_row

ROWS = 256  # occluded inputs that are run at once


@torch.no_grad()
def occlusion(question: Question) -> Scores:
    """The prediction of each target minus that without each token: exact leave-one-out.

    The token is replaced as `occlude_with` says: by the mask token, else by the mean row of the
    embedding where the tokenizer has none (`auto`); padding and unknown tokens keep positions,
    `delete` closes the gap. A classifier that is read at the end of a sentence, which it looks for
    among the ids, gets the row of the other token and keeps the id. A read-out that is deleted is
    read one position earlier; a position after the read-out of a causal LM scores 0.

    Raises:
        ConfigError: The tokenizer has no such token, or the only token would be deleted.
    """
    whole = question.predictions(question.read())
    scores = torch.zeros(question.visible.shape, device=whole.device)
    where = question.visible.any(-1).nonzero()
    for some in where.split(ROWS):
        inputs, positions = some.T
        without = _without(question, inputs, positions)
        scores[inputs, positions] = (whole[inputs] - without).float()
    return Scores(scores)


def _without(
    question: Question, inputs: Int[Tensor, " N"], positions: Int[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Predictions for these inputs, each without the token at one position."""
    several = question.select(inputs)
    kind = _replacement(question)
    if kind == "delete":
        several = _deleted(several, positions)
        return several.predictions(several.read())
    ids = several.scored_ids
    here = torch.arange(len(ids), device=ids.device)
    model = several.model
    if kind == "mean" or (model.is_encoder_decoder and model.output.over == "labels"):
        rows = several.stack.look_up(ids).clone()
        rows[here, positions] = _row(several, kind).to(rows)
        return several.predictions(several.read(rows=rows))
    ids = ids.clone()
    ids[here, positions] = getattr(model.tokenizer, f"{kind}_token_id")
    several = several.with_ids(ids)
    return several.predictions(several.read())


def _replacement(question: Question) -> str:
    """What stands in place of a token."""
    tokenizer, kind = question.model.tokenizer, question.settings.occlude_with
    if kind == "auto":
        return "mean" if tokenizer.mask_token_id is None else "mask"
    if kind in ("mask", "pad", "unk") and getattr(tokenizer, f"{kind}_token_id") is None:
        raise ConfigError(
            f"the tokenizer of {question.model.name} has no {kind} token to occlude with; mean, "
            "delete and auto need none"
        )
    return kind


def _row(question: Question, kind: str) -> Float[Tensor, " E"]:
    """The row of a special token, or the mean row, as the embedding module would look it up."""
    if kind != "mean":
        token_id = getattr(question.model.tokenizer, f"{kind}_token_id")
        return question.stack.look_up(torch.tensor([token_id], device=question.model.device))[0]
    return question.stack.as_looked_up(mean_row(question.embedding_matrix))


def _deleted(question: Question, positions: Int[Tensor, " N"]) -> Question:
    """The same inputs, each a token shorter, with read-outs that move along."""
    ids = question.scored_ids
    if (question.attended.sum(1) < 2).any():
        raise ConfigError("a text of one token has nothing left when it is deleted")
    kept = torch.arange(ids.shape[1] - 1, device=ids.device).expand(len(ids), -1)
    kept = kept + (kept >= positions[:, None])
    shorter = question.with_ids(ids.gather(1, kept), kept)
    if question.crosses:
        return shorter
    moved = question.readouts - (question.readouts >= positions[:, None]).long()
    return replace(shorter, readouts=torch.where(question.asked, moved.clamp_min(0), -1))
