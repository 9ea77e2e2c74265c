"""Questions about rows of token ids, as a token stream has them: no text, no tokenisation.

B inputs, P positions, T = 1 target.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from dynamics.attribution.question import Question, Settings
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.live_model import Batch, LiveModel


@torch.no_grad()
def question_of_ids(
    model: LiveModel, ids: Int[Tensor, "B P"], settings: Settings | None = None
) -> Question:
    """Ask for the model's own prediction at the last position of each row.

    A causal LM predicts what follows the row; in a masked LM the last token is masked first. What
    `attribute` asks of a text with these token ids; special tokens are not told from others.

    Args:
        model: A causal or a masked LM.
        ids: Token ids, without padding.
        settings: How; the paper's norm and logit when None.

    Returns:
        The question with its one target, read once without head.

    Raises:
        ConfigError: The model is no causal or masked LM, its tokenizer has no mask token, a row is
            empty or longer than the model's window, or an id has no row in the embedding.
        MeasureError: The model gives logits that are not finite.
    """
    if model.task not in ("causal", "masked"):
        raise ConfigError(
            f"{model.name} is no causal or masked language model (its task is {model.task}), so it "
            "predicts no token of a row"
        )
    _check(model, ids)
    ids = ids.to(model.device, torch.long)
    if model.task == "masked":
        mask = model.tokenizer.mask_token_id
        if not isinstance(mask, int):
            raise ConfigError(f"the tokenizer of {model.name} has no mask token")
        ids = torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], mask)], dim=1)
    nothing = torch.full_like(ids[:, :1], -1)
    readouts = torch.full_like(nothing, ids.shape[1] - 1)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids) if model.has_segments else None)
    question = Question(model, batch, readouts, nothing, nothing, settings or Settings())
    question = replace(question, reading=question.read())
    logits = question.head_logits(question.read(), every=True)
    if not logits.isfinite().all():
        raise MeasureError(
            f"{model.name} gives logits that are not finite; its weights or its dtype are at fault"
        )
    return replace(question, targets=logits.argmax(-1, keepdim=True))


def _check(model: LiveModel, ids: Int[Tensor, "B P"]) -> None:
    rows, longest = len(model.embedding_matrix), model.max_length
    if not ids.numel():
        raise ConfigError(
            f"ids of shape {tuple(ids.shape)} hold no token; give rows of one or more"
        )
    if longest is not None and ids.shape[1] > longest:
        raise ConfigError(
            f"rows of {ids.shape[1]} tokens do not fit the window of {model.name}, {longest} tokens"
        )
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= rows:
        wrong = lowest if lowest < 0 else highest
        raise ConfigError(
            f"token id {wrong} is outside the vocabulary of {model.name} (0 to {rows - 1})"
        )
