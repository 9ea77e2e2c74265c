"""The head-on-top: what a model does after its base model, for one representation at a time.

The head is not put together from parts that are known by name. The model itself runs, while its
base model answers with the representations at hand; so the pooler, transform, bias, scaling and
softcap are the model's own. Each representation stands where the model reads its prediction out:
alone in an input of one position for a head over labels, at a position of its own for a head over
the vocabulary.

N representations, D hidden size, C labels or tokens of the vocabulary.
"""

from contextlib import ExitStack
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from dynamics.errors import CheckpointError, MeasureError
from dynamics.models.substitution import substituted

Readout = Literal["each", "first", "last", "mean"]
_TOLERANCE = 1e-4  # of the largest logit


class HeadOnTop:
    """The head of a model, checked against the model's own logits when it is made.

    Args:
        network: A model with a head over the vocabulary (causal, masked, encoder-decoder) or over
            labels (classification, regression), in evaluation mode.

    Attributes:
        over: What the head scores.
        linear: Whether chosen tokens of the vocabulary can be scored without the others.
        readout: Which representation the prediction is read from: that of each position, of the
            first or last one, or the mean of all.

    Raises:
        CheckpointError: The head applied to the representation at the read-out does not give the
            model's own logits.
        MeasureError: These are not finite.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        output = network.get_output_embeddings()
        self.over: Literal["vocabulary", "labels"] = "labels" if output is None else "vocabulary"
        self._output: nn.Linear | None = None
        self._answer: type[Any] = BaseModelOutput
        self.base, self.readout = self._check()

    @property
    def linear(self) -> bool:
        """Whether chosen columns can be computed without the others."""
        return self._output is not None

    def __call__(
        self, states: Float[Tensor, "N D"], columns: Int[Tensor, " T"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Logits that the head gives to each representation, as if it were the one read out.

        Args:
            states: What the base model gives for a position, after its final norm.
            columns: Labels or token ids wanted, in this order, repeated if need be; all when None.
                Only these rows of the output embedding are multiplied where the head is `linear`.
        """
        if not len(states):
            return self(states.new_zeros(1, states.shape[1]), columns)[:0]
        one_by_one = self.over == "labels" and self.network.config.pad_token_id is None
        parts = states.split(1) if one_by_one else [states]
        return torch.cat([self._run(part, columns) for part in parts])

    def _run(self, states: Tensor, columns: Tensor | None) -> Tensor:
        def base(*_: Any, **__: Any) -> Any:
            pooler = getattr(self.base, "pooler", None)
            pooled = {} if pooler is None else {"pooler_output": pooler(placed)}
            return self._answer(last_hidden_state=placed, **pooled)

        placed = states[:, None] if self.over == "labels" else states[None]
        only = columns if self.over == "vocabulary" else None
        with ExitStack() as stack:
            stack.enter_context(substituted(self.base, base))
            if only is not None and self._output is not None:
                stack.enter_context(_rows_only(self.network, self._output, only))
                only = None
            logits = self.network(**self._placeholders(placed)).logits.flatten(0, -2)
        chosen = columns if self.over == "labels" else only
        return logits if chosen is None else logits[:, chosen]

    def _placeholders(self, placed: Tensor) -> dict[str, Tensor | BaseModelOutput]:
        """Inputs of the right shape, whose content no head looks at."""
        config = self.network.config
        end = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
        ids = torch.full(placed.shape[:2], end, device=placed.device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            inputs |= {"decoder_input_ids": ids, "encoder_outputs": BaseModelOutput(placed)}
        return inputs

    @torch.no_grad()
    def _check(self) -> tuple[nn.Module, Readout]:
        """Find the base model, and the read-out that gives the model's logits for some input."""
        answers: dict[nn.Module, Any] = {}
        candidates = (self.network.base_model, self.network.get_decoder())
        with ExitStack() as hooks:
            for module in {*candidates} - {self.network}:
                hooks.callback(
                    module.register_forward_hook(
                        lambda module, _, answer: answers.update({module: answer})
                    ).remove
                )
            logits = self.network(**_probe(self.network)).logits
        # Some models call their decoder, not the base model around it.
        self.base = next(module for module in candidates if module in answers)
        self._answer = type(answers[self.base])
        states = answers[self.base].last_hidden_state[0]
        own = logits[0] if self.over == "vocabulary" else logits
        if not own.isfinite().all():
            raise MeasureError(
                f"{type(self.network).__name__} gives logits that are not finite; "
                f"{_fault(self.network)}"
            )
        output = self.network.get_output_embeddings()
        if isinstance(output, nn.Linear) and output.out_features == own.shape[-1]:
            self._output = output
        reads: dict[Readout, Tensor] = {
            "first": states[:1],
            "last": states[-1:],
            "mean": states.mean(0, keepdim=True),
        }
        if self.over == "vocabulary":
            reads = {"each": states}
        errors = {readout: self._error(read, own) for readout, read in reads.items()}
        readout = min(reads, key=lambda each: errors[each])
        tolerance = max(_TOLERANCE, 4 * torch.finfo(own.dtype).eps)
        if errors[readout] <= tolerance * max(1, own.abs().max().item()):
            return self.base, readout
        raise CheckpointError(
            f"{type(self.network).__name__}: its head, applied to the representation of one "
            f"position, does not give the model's own logits ({', '.join(reads)} tried); "
            "attribution through the head does not fit this architecture"
        )

    def _error(self, states: Tensor, own: Tensor) -> float:
        """Largest difference to the model's own logits, alone and together, all and some."""
        some = torch.tensor([own.shape[-1] - 1, 0], device=own.device)
        alone = torch.cat([self(each) for each in states.split(1)])
        return max(
            (alone - own).abs().max().item(),
            (self(states, some) - own[:, some]).abs().max().item(),
        )


def _fault(network: PreTrainedModel) -> str:
    """Why logits are not finite."""
    weights = network.named_parameters()
    bad = next((name for name, weight in weights if not weight.isfinite().all()), None)
    if bad is None:
        return "its weights are finite, so its dtype is too narrow for them: use another dtype"
    return f"its weights are at fault: {bad} holds NaN or infinity"


def _rows_only(network: PreTrainedModel, output: nn.Linear, rows: Tensor) -> ExitStack:
    """Let the output embedding multiply these rows, and what is added to its logits fit them."""
    bias = None if output.bias is None else output.bias[rows]
    stack = ExitStack()
    stack.enter_context(
        substituted(output, lambda states: nn.functional.linear(states, output.weight[rows], bias))
    )
    added = getattr(network, "final_logits_bias", None)
    if added is not None:
        network.final_logits_bias = added[:, rows]
        stack.callback(setattr, network, "final_logits_bias", added)
    return stack


def _probe(network: PreTrainedModel) -> dict[str, Tensor]:
    """An input of five tokens, none of them padding, that ends with the end of a sentence."""
    config = network.config
    roles = {name: getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    special = {each for ids in roles.values() for each in (ids if isinstance(ids, list) else [ids])}
    ids = [each for each in range(config.get_text_config().vocab_size) if each not in special][-5:]
    if isinstance(roles["eos"], int) and roles["eos"] != roles["pad"]:
        ids[-1] = roles["eos"]
    probe = torch.tensor([ids], device=network.device)
    return {"input_ids": probe} | (
        {"decoder_input_ids": probe}
        if config.is_encoder_decoder and network.get_output_embeddings() is not None
        else {}
    )
