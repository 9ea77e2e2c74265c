"""The head-on-top: what a model does after its base model, for one representation at a time.

The head is not put together from parts that are known by name. The model itself runs, while its
base model answers with the representations at hand; so the pooler, transform, bias, scaling and
softcap are the model's own. Each representation stands where the model reads its prediction out:
alone in an input of one position for a head over labels, at a position of its own for a head over
the vocabulary.

N representations, D hidden size, C labels or tokens of the vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
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
    noted_in,
    probe_ids,
    probe_inputs,
    special_id,
)
from dynamics.models.patching import substituted

Readout = Literal["each", "first", "last", "last_not_padding", "end_of_sentence", "mean"]
# Inputs in which the read-outs of labels differ, see `probe_ids`; the last where there is no `e`.
_PROBES = ("tttte", "tetp", "tet", "ttttt")


class HeadOnTop:
    """The head of a model, compared with the model's own logits when it is made.

    Args:
        output: The logits of the whole network.

    Attributes:
        readout: Which representation the prediction is read from: that of `each` position, or of
            the `first`, the `last`, the `last_not_padding` (the last whose token is not the padding
            token) or the last `end_of_sentence`, or the `mean` of all.

    Raises:
        CheckpointError: The head applied to the representation at the read-out does not give the
            model's own logits.
    """

    def __init__(self, output: NetworkOutput) -> None:
        self.output = output
        self.network: PreTrainedModel = output.network
        self._answer: type[Any] = BaseModelOutput
        self._encoded: Any = None  # what the encoder answered, if there is one
        self._final: tuple[nn.Module, Any] | None = None
        self._width = -1
        self.base = output.base
        self.readout: Readout = self._check()

    def __call__(
        self, states: Float[Tensor, "N D"], columns: Int[Tensor, " T"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Logits that the head gives to each representation, as if it were the one read out.

        Args:
            states: What the base model gives for a position, after its final norm.
            columns: Labels or token ids wanted, in this order, repeated if need be; all when None.
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
        one_by_one = labels and special_id(self.network, "pad") is None
        return torch.cat(
            [
                self._run(part[:, None] if labels else part[None], columns)
                for part in (states.split(1) if one_by_one else [states])
            ]
        )

    def position(self, ids: Sequence[int]) -> int | None:
        """Position that a label is read from in an input; None for the mean of all.

        Args:
            ids: Token ids of the input, its own padding tokens among them; of the source in an
                encoder-decoder, whose decoder has as many.
        """
        return None if self.readout == "mean" else _position(self.readout, ids, self.network)

    def read(
        self, states: Float[Tensor, "P D"], ids: Sequence[int], readout: Readout | None = None
    ) -> Float[Tensor, "N D"]:
        """The representations of one input that its logits are read from.

        Args:
            states: Of each position.
            ids: Token ids, as in `position`.
            readout: Another one than the model's.
        """
        readout = readout or self.readout
        if readout == "each":
            return states
        if readout == "mean":
            return states.mean(0, keepdim=True)
        position = _position(readout, ids, self.network)
        return states[position : position + 1]

    def _run(self, placed: Float[Tensor, "B P D"], columns: Tensor | None) -> Tensor:
        with self._base_gives(placed):
            return self.output(self._placeholders(placed), columns).flatten(0, -2)

    def _base_gives(self, placed: Tensor) -> AbstractContextManager[None]:
        """Let the base model answer with these representations, and pool them itself."""
        if self._final is not None:
            module, answer = self._final
            return substituted(module, lambda *_, **__: _holding(answer, placed))

        def base(*_: Any, **__: Any) -> Any:
            pooler = getattr(self.base, "pooler", None)
            pooled = {} if pooler is None else {"pooler_output": pooler(placed)}
            return self._answer(last_hidden_state=placed, **pooled)

        return substituted(self.base, base)

    def _placeholders(self, placed: Tensor) -> dict[str, Tensor | BaseModelOutput]:
        """Inputs of the right shape, whose content no head looks at."""
        end = special_id(self.network, "eos")
        ids = torch.full(placed.shape[:2], 0 if end is None else end, device=placed.device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.network.config.is_encoder_decoder:
            encoded = BaseModelOutput(placed) if self._encoded is None else self._encoded
            inputs |= {"decoder_input_ids": ids, "encoder_outputs": _holding(encoded, placed)}
        return inputs

    @torch.no_grad()
    def _check(self) -> Readout:
        """Find the read-out that gives the model's logits for some inputs."""
        labels = self.output.over == "labels"
        readouts: tuple[Readout, ...] = get_args(Readout)[1:] if labels else ("each",)
        probes = [ids for pattern in _PROBES if (ids := probe_ids(self.network, pattern))]
        observed = [self._observe(ids) for ids in (probes[:-1] or probes if labels else probes[:1])]
        name, ends = type(self.network).__name__, ""
        # The base model's pooler as a module; else the base model pools what its last part gives.
        for self._final in (None, observed[0].final):
            try:
                with named_errors(self.network, name, "its head"):
                    for readout in readouts:
                        if all(self._gives_own(readout, probe) for probe in observed):
                            return readout
            except MeasureError as error:
                ends = f" ({message_of(error.__cause__ or error)})"
        raise CheckpointError(
            f"{name}: its head, applied to the representation of one position, does not give the "
            f"model's own logits ({', '.join(readouts)} tried){ends}; attribution through the head "
            "does not fit this architecture; methods that need only predictions do, such as "
            "gradient_x_input and occlusion"
        )

    def _observe(self, ids: list[int]) -> "_Observed":
        """Run the network on a probe, and note what its base model answers."""
        answers: dict[nn.Module, Any] = {}
        encoder = self.network.get_encoder() if self.network.config.is_encoder_decoder else None
        with ExitStack() as hooks:
            for module in {self.base, *self.base.children(), encoder} - {None}:
                hooks.callback(module.register_forward_hook(noted_in(answers)).remove)
            logits = self.output(probe_inputs(self.network, ids))
        check_finite(logits, self.network)
        self._answer = type(answers[self.base])
        self._encoded = None if encoder is None else answers.get(encoder)
        states = answers[self.base].last_hidden_state
        self._width = states.shape[-1]
        finals = [
            (part, answer)
            for part in self.base.children()
            if (answer := answers.get(part)) is not None and _held(answer) is states
        ]
        own = logits if self.output.over == "labels" else logits[0]
        return _Observed(ids, states[0], own, finals[-1] if finals else None)

    def _gives_own(self, readout: Readout, probe: "_Observed") -> bool:
        """Whether the head gives the model's logits, alone and together, all columns and some."""
        read = self.read(probe.states, probe.ids, readout)
        alone = torch.cat([self(state) for state in read.split(1)])
        some = self.output.guards
        return nearly_equal(alone, probe.logits) and nearly_equal(
            self(read, some), probe.logits[:, some]
        )


@dataclass(frozen=True, eq=False)
class _Observed:
    """A probe that the network was run on.

    Attributes:
        ids: Its token ids.
        states: What the head got for each position.
        logits: The network's own, of the probe for labels and of each position for tokens.
        final: The part of the base model that gave the states, with its whole answer.
    """

    ids: list[int]
    states: Float[Tensor, "P D"]
    logits: Float[Tensor, "N C"]
    final: tuple[nn.Module, Any] | None


def _held(answer: Any) -> Tensor | None:
    """The representations in what a module answers."""
    if isinstance(answer, Tensor):
        return answer
    return getattr(answer, FINAL, answer[0] if isinstance(answer, tuple) else None)


def _holding(answer: Any, states: Tensor) -> Any:
    """An answer of the same form with other representations."""
    if isinstance(answer, Tensor):
        return states
    return (states,) if type(answer) is tuple else type(answer)(last_hidden_state=states)


def _position(readout: Readout, ids: Sequence[int], network: PreTrainedModel) -> int:
    """Where a label is read, as `HeadOnTop.readout` says; 0 where no such token is in the input."""
    config = network.config.get_text_config()
    marks = {
        "first": lambda token: False,
        "last": lambda token: True,
        "last_not_padding": lambda token: token != config.pad_token_id,
        "end_of_sentence": lambda token: token == config.eos_token_id,
    }[readout]
    return max((index for index, token in enumerate(ids) if marks(token)), default=0)
