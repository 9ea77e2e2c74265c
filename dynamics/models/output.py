"""The logits of a network with its head, over labels or the vocabulary, cut to chosen columns.

B inputs, P positions, C labels or tokens of the vocabulary, K chosen columns.
"""

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache, cached_property, partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics.errors import CheckpointError, MeasureError
from dynamics.models.patching import attribute_replaced, forward_replaced, outputs_recorded

Logits = Float[Tensor, "B P K"] | Float[Tensor, "B K"]
FINAL = "last_hidden_state"
ROUNDING = 1e-4  # of the largest logit: tolerance between two ways of computing the same logits


class NetworkOutput:
    """The logits of a whole network, all of them or some columns.

    Args:
        network: A model with a head over the vocabulary (causal, masked, encoder-decoder) or over
            labels (classification, regression), in evaluation mode.

    Attributes:
        over: Domain of the logits: the vocabulary for those of a position, labels for those of a
            whole input.
        columns: Number C of labels or tokens of the vocabulary.
        base: The part that returns the representations which the head reads.

    Raises:
        CheckpointError: No part returns representations.
        MeasureError: The logits of a probe of five tokens are not finite.
    """

    @torch.no_grad()
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        self._matrix: nn.Linear | None = None
        probe = probe_inputs(network, sentence_ids(network, 5))
        # Some models call their decoder, not the base model around it, or name neither.
        candidates = [_without_head(network), _without_head(network.get_decoder())]
        candidates = [part for part in (*candidates, *network.modules()) if part is not network]
        with outputs_recorded(candidates) as outputs:
            logits = network(**accepted(network, probe)).logits
        bases = [part for part in candidates if hasattr(outputs.get(part), FINAL)]
        if not bases:
            raise CheckpointError(
                f"{type(network).__name__}: no part of it returns {FINAL}, so the "
                "representations of its tokens cannot be read"
            )
        self.base = bases[0]
        check_finite(logits, network)
        self.over: Literal["vocabulary", "labels"] = "vocabulary" if logits.dim() > 2 else "labels"
        self.columns: int = logits.shape[-1]
        matrix = network.get_output_embeddings() if self.over == "vocabulary" else None
        if isinstance(matrix, nn.Linear) and matrix.out_features == self.columns:
            self._matrix = matrix
            try:
                cut = self(probe, self.guards)
            except RuntimeError:  # the network adds a vector over all columns to the logits
                cut = logits
            if not nearly_equal(cut, logits[..., self.guards]):
                self._matrix = None

    @property
    def linear(self) -> bool:
        """Return whether chosen columns can be computed without the others."""
        return self._matrix is not None

    @cached_property
    def guards(self) -> Int[Tensor, " K"]:
        """The last and the first column, compared where no columns are chosen."""
        return torch.tensor([self.columns - 1, 0], device=self.network.device)

    @property
    def every_column(self) -> Int[Tensor, " C"]:
        """All labels or tokens of the vocabulary."""
        return torch.arange(self.columns, device=self.network.device)

    def __call__(
        self, inputs: Mapping[str, Any], columns: Int[Tensor, " K"] | None = None
    ) -> Logits:
        """Run the whole network.

        Args:
            inputs: Inputs of the network by name; those that it does not accept are left out.
            columns: Labels or token ids to return, in this order, with repetitions; all when None.
                Only these rows of the output embedding are multiplied where the head is `linear`.
        """
        matrix, network = self._matrix, self.network
        with ExitStack() as replaced:
            if columns is not None and matrix is not None:
                bias = None if matrix.bias is None else matrix.bias[columns]
                cut = partial(nn.functional.linear, weight=matrix.weight[columns], bias=bias)
                replaced.enter_context(forward_replaced(matrix, cut))
                # Some encoder-decoders (BART) add a vector over all columns behind the matrix.
                if (added := getattr(network, "final_logits_bias", None)) is not None:
                    cut_bias = attribute_replaced(network, "final_logits_bias", added[:, columns])
                    replaced.enter_context(cut_bias)
            logits = network(**accepted(network, inputs)).logits
        return logits if columns is None or self.linear else logits[..., columns]


def accepted(network: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that a network accepts, for a pass that keeps no cache."""
    parameters = _parameters(type(network))
    # A cache is of no use in one pass, and does not fit every stack of blocks.
    inputs = {**inputs, **({"use_cache": False} if "use_cache" in parameters else {})}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return inputs  # the network passes them on to its base model
    return {name: value for name, value in inputs.items() if name in parameters}


@cache
def _parameters(network_class: type[PreTrainedModel]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the forward function; cached because every pass needs them."""
    return inspect.signature(network_class.forward).parameters


def nearly_equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors of logits agree up to rounding; NaN agrees with nothing.

    The tolerance is a part of the largest logit, or of 1 where all are smaller: `ROUNDING`, in
    half precision 4 units of rounding.
    """
    if first.shape != second.shape:
        return False
    if not second.numel():
        return True
    tolerance = max(ROUNDING, 4 * torch.finfo(second.dtype).eps)
    difference = (first - second).abs().max().item()
    return difference <= tolerance * max(1, second.abs().max().item())


def probe_ids(network: PreTrainedModel, pattern: str) -> list[int] | None:
    """Return the token ids of a short artificial input.

    Args:
        network: The model.
        pattern: A letter for each position: `t` for an ordinary token, all of them different; `e`
            for the end of a sentence; `p` for padding.

    Returns:
        The ids; None where the model names no such token.
    """
    tokens = {letter: special_id(network, name) for letter, name in (("e", "eos"), ("p", "pad"))}
    special = {*tokens.values(), special_id(network, "bos")}
    ordinary = [token for token in range(_rows(network)) if token not in special] or [0]
    ordinary = ordinary[-len(pattern) :]
    ids = [
        tokens.get(letter, ordinary[index % len(ordinary)]) for index, letter in enumerate(pattern)
    ]
    return None if None in ids else [token for token in ids if token is not None]


def sentence_ids(network: PreTrainedModel, length: int) -> list[int]:
    """Return a probe of ordinary tokens whose last one ends a sentence, if the model has such."""
    ids = probe_ids(network, (length - 1) * "t" + "e") or probe_ids(network, length * "t")
    assert ids is not None
    return ids


def probe_inputs(network: PreTrainedModel, *rows: list[int]) -> dict[str, Tensor]:
    """Return a batch of inputs of equal length; a decoder gets the same ids."""
    ids = torch.tensor(rows, device=network.device)
    decodes = network.config.is_encoder_decoder and network.get_output_embeddings() is not None
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if decodes else {})


def _without_head(network: Any) -> Any:
    """Return the base model of a model, or the model itself where it is one; else None."""
    base = getattr(network, "base_model", None)
    return base if isinstance(base, nn.Module) else None


def special_id(network: PreTrainedModel, name: str) -> int | None:
    """Return the id of a special token from the configuration, or its text configuration.

    Args:
        network: The model.
        name: `pad`, `bos` or `eos`.

    Returns:
        The id; None where none or several are named, or one without a row in the embedding:
        configurations keep defaults of a larger vocabulary.
    """
    for config in (network.config, network.config.get_text_config()):
        token = getattr(config, f"{name}_token_id", None)
        if isinstance(token, int) and 0 <= token < _rows(network):
            return token
    return None


def _rows(network: PreTrainedModel) -> int:
    """Return the number of rows of the input embedding, which may exceed the tokenizer's ids."""
    return len(cast(Tensor, network.get_input_embeddings().weight))


def check_finite(logits: Tensor, network: PreTrainedModel) -> None:
    """Refuse logits of a probe that are not finite, and name the cause.

    Raises:
        MeasureError: A logit is NaN or infinite.
    """
    if logits.isfinite().all():
        return
    weights = network.named_parameters()
    broken = next((name for name, weight in weights if not weight.isfinite().all()), None)
    fault = (
        "its weights are finite, so its dtype is too narrow for them: use another dtype"
        if broken is None
        else f"its weights are at fault: {broken} holds NaN or infinity"
    )
    raise MeasureError(f"{type(network).__name__} gives logits that are not finite; {fault}")
