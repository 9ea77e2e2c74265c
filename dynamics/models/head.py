"""The head-on-top: the part of a model behind its base model, for one representation at a time.

The head is not assembled from modules with known names. The model itself runs, while its base
model is replaced by a function that returns the representations at hand; so the pooler, transform,
bias, scaling and softcap are the model's own. Each representation is placed where the model reads
its prediction: alone in an input of one position for a head over labels, at a position of its own
for a head over the vocabulary.

N representations, D hidden size, C labels or tokens of the vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from dynamics.errors import CheckpointError, MeasureError, message_of
from dynamics.models.named_errors import named_errors
from dynamics.models.output import (
    FINAL,
    NetworkOutput,
    check_finite,
    nearly_equal,
    probe_ids,
    probe_inputs,
    special_id,
)
from dynamics.models.patching import forward_replaced, outputs_recorded

Readout = Literal["each", "first", "last", "last_not_padding", "end_of_sentence", "mean"]
# Inputs that tell the read-outs of labels apart, see `probe_ids`; the last one for models without
# an end of sentence.
_PROBES = ("tttte", "tetp", "tet", "ttttt")


class HeadOnTop:
    """The head of a model, compared with the model's own logits on construction.

    Args:
        output: The logits of the whole network.

    Attributes:
        readout: Representation that the prediction is read from: that of `each` position, or of
            the `first`, the `last`, the `last_not_padding` (the last whose token is not the padding
            token) or the last `end_of_sentence`, or the `mean` of all.

    Raises:
        CheckpointError: The head applied to the representation at the read-out does not give the
            model's own logits.
    """

    def __init__(self, output: NetworkOutput) -> None:
        self.output = output
        self.network: PreTrainedModel = output.network
        self._base_output: type[Any] = BaseModelOutput
        self._encoder_output: Any = BaseModelOutput()  # of the last probe, if an encoder has run
        self._final: tuple[nn.Module, Any] | None = None  # as in `_Probe`
        self._width = -1
        self.base = output.base
        self.readout: Readout = self._check()

    def __call__(
        self, states: Float[Tensor, "N D"], columns: Int[Tensor, " T"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Return the logits of each representation, as if it were the one read out.

        Args:
            states: Outputs of the base model for a position, after its final norm.
            columns: Labels or token ids to return, in this order, with repetitions; all when None.
                Only these rows of the output embedding are multiplied where the head is linear.

        Raises:
            CheckpointError: The representations are not of the size that the head reads.
        """
        if states.shape[1] != self._width:
            raise CheckpointError(
                f"{type(self.network).__name__}: its head reads representations of "
                f"{self._width} numbers, and those that are scored have {states.shape[1]}; use "
                "side target, or a method that needs predictions only"
            )
        if not len(states):
            return self(states.new_zeros(1, states.shape[1]), columns)[:0]
        labels = self.output.over == "labels"
        # Without a padding token, a classifier refuses several inputs at once.
        one_by_one = labels and special_id(self.network, "pad") is None
        return torch.cat(
            [
                self._run(part[:, None] if labels else part[None], columns)
                for part in (states.split(1) if one_by_one else [states])
            ]
        )

    def position(self, ids: Sequence[int]) -> int | None:
        """Return the position that a label is read from in an input; None for the mean of all.

        Args:
            ids: Token ids of the input, with padding tokens that are part of it; of the source in
                an encoder-decoder, whose decoder has as many.
        """
        return None if self.readout == "mean" else _position(self.readout, ids, self.network)

    def _run(self, states: Float[Tensor, "B P D"], columns: Tensor | None) -> Tensor:
        """Return the logits of the network while its base model returns these representations."""
        with self._base_replaced(states):
            return self.output(self._placeholders(states), columns).flatten(0, -2)

    def _base_replaced(self, states: Tensor) -> AbstractContextManager[None]:
        """Let the base model return these representations, with its pooler applied to them."""
        if self._final is not None:
            module, output = self._final
            return forward_replaced(module, lambda *_, **__: _with_hidden_states(output, states))

        def base(*_: Any, **__: Any) -> Any:
            # The pooler is a part of the base model, so that replacing that leaves it out.
            pooler = getattr(self.base, "pooler", None)
            pooled = {} if pooler is None else {"pooler_output": pooler(states)}
            return self._base_output(last_hidden_state=states, **pooled)

        return forward_replaced(self.base, base)

    def _placeholders(self, states: Tensor) -> dict[str, Tensor | BaseModelOutput]:
        """Return inputs of the right shape, whose content no head looks at."""
        end = special_id(self.network, "eos")
        ids = torch.full(states.shape[:2], 0 if end is None else end, device=states.device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.network.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids
            inputs["encoder_outputs"] = _with_hidden_states(self._encoder_output, states)
        return inputs

    @torch.no_grad()
    def _check(self) -> Readout:
        """Find the read-out that gives the model's own logits for the probes."""
        labels = self.output.over == "labels"
        readouts: tuple[Readout, ...] = get_args(Readout)[1:] if labels else ("each",)
        inputs = [ids for pattern in _PROBES if (ids := probe_ids(self.network, pattern))]
        probes = [self._observe(ids) for ids in (inputs[:-1] or inputs if labels else inputs[:1])]
        name, failure = type(self.network).__name__, ""
        # First the base model as a whole is replaced, and its pooler module called; then the last
        # of its parts, so that the base model pools by itself.
        for self._final in (None, probes[0].final):
            try:
                with named_errors(self.network, name, "its head"):
                    for readout in readouts:
                        if all(self._matches(readout, probe) for probe in probes):
                            return readout
            except MeasureError as error:
                failure = f" ({message_of(error.__cause__ or error)})"
        raise CheckpointError(
            f"{name}: its head, applied to the representation of one position, does not give the "
            f"model's own logits ({', '.join(readouts)} tried){failure}; attribution through the "
            "head does not fit this architecture; methods that need only predictions do, such as "
            "gradient_x_input and occlusion"
        )

    def _observe(self, ids: list[int]) -> "_Probe":
        """Run the network on a probe, and record the output of its base model."""
        encoder = self.network.get_encoder() if self.network.config.is_encoder_decoder else None
        with outputs_recorded([self.base, *self.base.children(), encoder]) as outputs:
            logits = self.output(probe_inputs(self.network, ids))
        check_finite(logits, self.network)
        self._base_output = type(outputs[self.base])
        self._encoder_output = outputs.get(encoder, BaseModelOutput())
        states = outputs[self.base].last_hidden_state
        self._width = states.shape[-1]
        finals = [
            (part, output)
            for part in self.base.children()
            if (output := outputs.get(part)) is not None and _hidden_states(output) is states
        ]
        logits = logits if self.output.over == "labels" else logits[0]
        return _Probe(ids, states[0], logits, finals[-1] if finals else None)

    def _matches(self, readout: Readout, probe: "_Probe") -> bool:
        """Return whether the head gives the model's logits, one by one and together, cut or not."""
        if readout == "each":
            states = probe.states
        elif readout == "mean":
            states = probe.states.mean(0, keepdim=True)
        else:
            states = probe.states[[_position(readout, probe.ids, self.network)]]
        one_by_one = torch.cat([self(state) for state in states.split(1)])
        columns = self.output.guards
        return nearly_equal(one_by_one, probe.logits) and nearly_equal(
            self(states, columns), probe.logits[:, columns]
        )


@dataclass(frozen=True, eq=False)
class _Probe:
    """Representations and logits of an input that the network was run on.

    Attributes:
        ids: Token ids of the input.
        states: Representation of each position that the head read.
        logits: The network's own, of the input for labels and of each position for tokens.
        final: The part of the base model that returned the states, with its whole output.
    """

    ids: list[int]
    states: Float[Tensor, "P D"]
    logits: Float[Tensor, "N C"]
    final: tuple[nn.Module, Any] | None


def _hidden_states(output: Any) -> Tensor | None:
    """Return the representations in the output of a module, None without any."""
    if isinstance(output, Tensor):
        return output
    return getattr(output, FINAL, output[0] if isinstance(output, tuple) else None)


def _with_hidden_states(output: Any, states: Tensor) -> Any:
    """Return an output of the type of another, with these representations only."""
    if isinstance(output, Tensor):
        return states
    return (states,) if type(output) is tuple else type(output)(last_hidden_state=states)


def _position(readout: Readout, ids: Sequence[int], network: PreTrainedModel) -> int:
    """Return the position that a head for labels reads; 0 for `first`, or where no token fits."""
    config = network.config.get_text_config()
    is_readout = {
        "first": lambda token: False,
        "last": lambda token: True,
        "last_not_padding": lambda token: token != config.pad_token_id,
        "end_of_sentence": lambda token: token == config.eos_token_id,
    }[readout]
    return max((index for index, token in enumerate(ids) if is_readout(token)), default=0)
