"""Attribution batches from rows of token ids, as a token stream has them, without a tokenizer.

B inputs, P positions, T = 1 target.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.live_model import Batch, LiveModel


@torch.no_grad()
def batch_of_ids(
    model: LiveModel, ids: Int[Tensor, "B P"], settings: AttributionSettings | None = None
) -> AttributionBatch:
    """Make a batch that explains the model's own prediction at the last position of each row.

    A causal LM predicts the token after the row; in a masked LM the last token is masked first. The
    target is that of `attribute` for a text with these token ids; special tokens count as others.

    Args:
        model: A causal or a masked LM.
        ids: Token ids, without padding.
        settings: Settings of the methods; the defaults of `AttributionSettings` when None.

    Returns:
        The batch with its one target per row, and the reading of one forward pass.

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
    _check_ids(model, ids)
    ids = ids.to(model.device, torch.long)
    if model.task == "masked":
        mask = model.tokenizer.mask_token_id
        if not isinstance(mask, int):
            raise ConfigError(f"the tokenizer of {model.name} has no mask token")
        ids = torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], mask)], dim=1)
    no_target = torch.full_like(ids[:, :1], -1)
    readouts = torch.full_like(no_target, ids.shape[1] - 1)
    inputs = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids) if model.has_segments else None)
    settings = settings or AttributionSettings()
    batch = AttributionBatch(model, inputs, readouts, no_target, no_target, settings)
    # The reading has the guard columns only: no target is known before the head is applied.
    batch = replace(batch, reading=batch.read())
    logits = batch.head_logits(batch.read(), all_columns=True)
    if not logits.isfinite().all():
        raise MeasureError(
            f"{model.name} gives logits that are not finite; its weights or its dtype are at fault"
        )
    return replace(batch, targets=logits.argmax(-1, keepdim=True))


def _check_ids(model: LiveModel, ids: Int[Tensor, "B P"]) -> None:
    """Refuse rows that are empty, longer than the window, or hold ids outside the vocabulary.

    Raises:
        ConfigError: One of them is the case.
    """
    rows, window = len(model.embedding_matrix), model.max_length
    if not ids.numel():
        raise ConfigError(
            f"ids of shape {tuple(ids.shape)} hold no token; give rows of one or more"
        )
    if window is not None and ids.shape[1] > window:
        raise ConfigError(
            f"rows of {ids.shape[1]} tokens do not fit the window of {model.name}, {window} tokens"
        )
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= rows:
        wrong = lowest if lowest < 0 else highest
        raise ConfigError(
            f"token id {wrong} is outside the vocabulary of {model.name} (0 to {rows - 1})"
        )
