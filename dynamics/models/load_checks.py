"""Checks of a loaded model: weights are complete and numbers, rows fit the tokenizer."""

from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dynamics.checkpoints.quantised import FLOATS
from dynamics.checkpoints.stores import LocalFolder, read_json
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.tokenizers.kinds import own_tokens
from dynamics.errors import CheckpointError, MismatchError
from dynamics.models.live_model import Task
from dynamics.models.output import accepted

_SHOWN = 4  # keys in a message


def check_not_quantised(name: str, folder: Path) -> None:
    """Refuse quantised codes without a quantizer in config.json: they would load as weights."""
    store = LocalFolder(folder)
    if (read_json(store, "config.json") or {}).get("quantization_config"):
        return
    weights = Weights(store)
    for key in weights:
        if key.endswith(".weight") and weights[key].dtype not in FLOATS:
            dtype = str(weights[key].dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{name}: {key!r} holds {dtype} codes, and config.json names no "
                "quantization_config, so that transformers would take the codes for weights; save "
                "the model in float32, or add the quantization_config that it was saved with"
            )


def _embedding(name: str, network: PreTrainedModel) -> torch.Tensor:
    """Return the input embedding of a model."""
    try:
        return cast(torch.Tensor, network.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError) as error:
        raise CheckpointError(
            f"{name}: {type(network).__name__} has no matrix with a row for each token, so its "
            "tokens have neither norms nor rows to attribute to"
        ) from error


def check_embedding(name: str, network: PreTrainedModel) -> None:
    """Refuse a model whose input embedding is not of floating-point numbers for arithmetic."""
    dtype = _embedding(name, network).dtype
    if dtype not in FLOATS:
        raise CheckpointError(
            f"{name}: transformers loads its input embedding as "
            f"{str(dtype).removeprefix('torch.')}, which no model runs with; save the model in "
            "float32"
        )


def check_complete(
    name: str, network: PreTrainedModel, missing: Collection[str], task: Task
) -> None:
    """Refuse weights that were filled at random; without a head the pooler is not used."""
    needed = sorted(key for key in missing if task != "none" or "pooler" not in key)
    if needed:
        more = len(needed) - _SHOWN
        raise CheckpointError(
            f"{name}: lacks weights that {type(network).__name__} has and that would be random: "
            f"{', '.join(needed[:_SHOWN])}{f' and {more} more' if more > 0 else ''}; give the task "
            "that it was trained for, or none"
        )


def check_rows(name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse ordinary tokens without a row; special ones without lose their role (pad, mask)."""
    rows = len(_embedding(name, network))
    added_ids = own_tokens(tokenizer)
    beyond = [i for i in tokenizer.get_vocab().values() if i >= rows]
    if any(i not in added_ids for i in beyond):
        raise MismatchError(
            f"{name}: its tokenizer has ids up to {max(beyond)}, its embedding {rows} rows; give "
            "the tokenizer that it was trained with"
        )
    for role, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) in beyond:
            setattr(tokenizer, role, None)


@torch.no_grad()
def check_causal(name: str, network: PreTrainedModel) -> None:
    """Refuse a masked model under a causal head: its predictions see the tokens they predict."""
    ids = torch.arange(4, device=network.device).repeat(2, 1)
    ids[1, -1] = 0  # two inputs that differ in their last token only
    first, second = network(**accepted(network, {"input_ids": ids})).logits[:, 0].float()
    if (first - second).abs().max() > 1e-2 * first.abs().max():
        raise CheckpointError(
            f"{name}: as a {type(network).__name__}, a prediction depends on tokens that come "
            "after it, so it is no causal language model; if it fills masks, give the task masked"
        )
