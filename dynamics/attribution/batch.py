"""A batch of inputs with the targets to explain, and the scores of an attribution.

B inputs, P positions, T targets, D hidden size. Inputs are padded on the right with positions, and
with targets of readout -1; scores are NaN there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.attribution.settings import AttributionSettings
from dynamics.axes import EmbeddingMatrix
from dynamics.errors import CheckpointError, ConfigError
from dynamics.models.live_model import Batch, LiveModel, Reading
from dynamics.models.output import nearly_equal
from dynamics.models.stack import Stack
from dynamics.scores.logits import CHUNK, LogitForm, log_form, shift

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class AttributionBatch:
    """A batch of inputs, and the targets whose prediction is explained.

    Attributes:
        model: The model.
        inputs: Token ids of the inputs.
        readouts: Position that each target is read from, -1 where an input has fewer targets.
        targets: Label or token id of each target.
        foils: Label or token id that each target is contrasted with, -1 for none.
        settings: Settings of the methods.
        reading: Result of a forward pass over the inputs, where there has been one.
        shared: Results that do not depend on the layer of the settings, by name, each with the
            inputs that it is of; see `shared_result`.

    Raises:
        ConfigError: The logit form is that of a softmax over labels, and the model predicts a
            number or labels that do not compete.
    """

    model: LiveModel
    inputs: Batch
    readouts: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    foils: Int[Tensor, "B T"]
    settings: AttributionSettings = field(default_factory=AttributionSettings)
    reading: Reading | None = None
    shared: dict[str, tuple[Batch, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        form = self.settings.logit_form
        if self.model.task == "regression" and form != "raw":
            raise ConfigError(
                f"{self.model.name} predicts a number, not a softmax over labels, so its logit "
                f"form is raw, not {form}"
            )
        if self.model.is_multi_label and form == "centered":
            raise ConfigError(
                f"the labels of {self.model.name} do not compete, so the mean over them means "
                "nothing; use the logit form raw or log_probability"
            )

    @property
    def form(self) -> LogitForm:
        """Form of the logits: a sigmoid's log-probability where labels do not compete."""
        form = self.settings.logit_form
        independent = self.model.is_multi_label and form == "log_probability"
        return "log_sigmoid" if independent else form

    @property
    def scores_encoder(self) -> bool:
        """Return whether the scored tokens are the source of an encoder-decoder."""
        return self.model.is_encoder_decoder and self.settings.side == "source"

    @property
    def scored_ids(self) -> Int[Tensor, "B P"]:
        """Token ids of the scored positions."""
        return getattr(self.inputs, self._scored_fields[0])

    @property
    def token_mask(self) -> Bool[Tensor, "B P"]:
        """Mask of the scored positions that hold a token, not padding."""
        return getattr(self.inputs, self._scored_fields[1]).bool()

    @property
    def _scored_fields(self) -> tuple[str, str]:
        """Fields of `inputs` with the ids and the mask of the scored tokens."""
        if self.model.is_encoder_decoder and not self.scores_encoder:
            return "decoder_input_ids", "decoder_attention_mask"
        return "input_ids", "attention_mask"

    @property
    def stack(self) -> Stack:
        """The part of the model that reads the scored tokens."""
        return self.model.stack(self.settings.side)

    @property
    def embedding_matrix(self) -> EmbeddingMatrix:
        """The embedding that looks up the scored tokens, before any scaling of its module."""
        weight = self.stack.embedding.weight
        assert isinstance(weight, Tensor)
        return weight

    def select(self, indices: Int[Tensor, " N"]) -> "AttributionBatch":
        """Return the batch of these inputs, repeated as often as their index is."""
        return replace(
            self,
            inputs=self.inputs.map(lambda tensor: tensor[indices]),
            readouts=self.readouts[indices],
            targets=self.targets[indices],
            foils=self.foils[indices],
            reading=None,
        )

    def alone(self, index: int) -> Batch:
        """Return one input without its padding, as a batch of one."""
        return self.inputs.part([index], self.inputs.lengths[index])

    def shared_result(self, name: str, compute: Callable[[], Result]) -> Result:
        """Return a result that the layers of these inputs share, computed once.

        Args:
            name: Name of the result.
            compute: Computes it; it must not depend on the settings.
        """
        inputs, result = self.shared.get(name, (None, None))
        if inputs is not self.inputs:
            result = compute()
            self.shared[name] = (self.inputs, result)
        return cast(Result, result)

    def with_ids(
        self, ids: Int[Tensor, "B Q"], original_positions: Int[Tensor, "B Q"] | None = None
    ) -> "AttributionBatch":
        """Return the batch with other tokens.

        Args:
            ids: Token ids of the scored positions.
            original_positions: Position that each of them had, where tokens are left out.
        """
        ids_field, mask_field = self._scored_fields
        changes = {ids_field: ids}
        if original_positions is not None:
            fields = (mask_field, *(["token_type_ids"] if ids_field == "input_ids" else []))
            tensors = {name: getattr(self.inputs, name) for name in fields}
            changes |= {
                name: tensor.gather(1, original_positions)
                for name, tensor in tensors.items()
                if tensor is not None
            }
        return replace(self, inputs=replace(self.inputs, **changes), reading=None)

    @property
    def target_mask(self) -> Bool[Tensor, "B T"]:
        """Mask of the targets that exist."""
        return self.readouts >= 0

    @cached_property
    def visible(self) -> Bool[Tensor, "B P T"]:
        """Mask of the positions that can have a part in the prediction of each target."""
        visible = self.token_mask[:, :, None] & self.target_mask[:, None, :]
        if self.model.is_causal and not self.scores_encoder:
            positions = torch.arange(visible.shape[1], device=visible.device)
            visible = visible & (positions[None, :, None] <= self.readouts[:, None, :])
        return visible

    def read(self, rows: Float[Tensor, "B P E"] | None = None, *, blocks: bool = False) -> Reading:
        """Run the model on the inputs, or return the reading of an earlier run.

        Args:
            rows: Rows to use instead of those that the embedding looks up for the scored tokens.
            blocks: Keep the output of each block.
        """
        reading = self.reading
        if reading is not None and rows is None and (reading.scored.blocks or not blocks):
            return reading
        return self.model.read(
            self.inputs,
            side=self.settings.side,
            rows=rows,
            blocks=blocks,
            columns=self._columns,
        )

    @property
    def _columns(self) -> Int[Tensor, " K"] | None:
        """The targets and foils, ascending; None before there are any."""
        columns = [self.targets[self.target_mask], self.foils[self.target_mask]]
        distinct = torch.unique(torch.cat(columns))
        distinct = distinct[distinct >= 0]
        return distinct if len(distinct) else None

    def read_out(self, final: Float[Tensor, "B P D"]) -> Float[Tensor, "B T D"]:
        """Return the representation that each target is read from."""
        if self.model.head.readout == "mean":
            weights = self.inputs.attention_mask.to(final.dtype)[:, :, None]
            mean = (final * weights).sum(1) / weights.sum(1)
            return mean[:, None].expand(-1, self.readouts.shape[1], -1)
        input_index = torch.arange(len(final), device=final.device)[:, None]
        return final[input_index, self.readouts.clamp_min(0)]

    def predictions(self, reading: Reading) -> Float[Tensor, "B T"]:
        """Return the explained number: the network's logit of each target in the settings' form.

        Differentiable; 0 for targets that do not exist.
        """
        targets, foils = self.targets[self.target_mask], self.foils[self.target_mask]
        values = self._logits(reading, targets)
        if (foils >= 0).any():
            contrast = self._logits(reading, torch.where(foils >= 0, foils, targets))
            values = torch.where(foils >= 0, values - contrast, values)
        if self.form in ("centered", "log_probability"):
            # What both logits of a contrast have subtracted cancels.
            values = torch.where(foils >= 0, values, values - self._shifts(reading))
        return torch.zeros(
            self.target_mask.shape, dtype=values.dtype, device=values.device
        ).masked_scatter(self.target_mask, values)

    def network_logits(self, reading: Reading) -> Float[Tensor, "N K"]:
        """Return the network's own logits for each existing target, in the reading's columns."""
        assert reading.logits is not None
        input_index, _ = self.target_mask.nonzero().unbind(-1)
        if reading.columns is None:
            return reading.logits[input_index]
        return reading.logits[input_index, self.readouts[self.target_mask]]

    def head_logits(self, reading: Reading, *, all_columns: bool = False) -> Float[Tensor, "N C"]:
        """Return the head's logits for each existing target, checked against the network's own.

        Args:
            reading: Reading of these inputs unchanged.
            all_columns: Return all columns, not those of the reading alone.

        Raises:
            CheckpointError: The two differ: the head does not read the one representation that it
                reads in other inputs.
        """
        model, states = self.model, self.read_out(reading.read.final)[self.target_mask]
        columns = reading.columns
        logits = model.head(states, None if all_columns else columns)
        compared = logits[:, columns] if all_columns and columns is not None else logits
        expected = self.network_logits(reading)
        if expected.isfinite().all() and not nearly_equal(compared, expected):
            raise CheckpointError(
                f"{model.name} ({type(model.network).__name__}): for this input the network gives "
                f"a logit of {_largest_difference(expected, compared)}: its head does not read the "
                f"representation that it reads in other inputs ({model.head.readout}); use a "
                "method that needs predictions only, such as gradient_x_input or occlusion"
            )
        return logits

    def _logits(self, reading: Reading, columns: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return one logit for each existing target, without what `_shifts` subtracts."""
        logits = self.network_logits(reading)
        target_index = torch.arange(len(columns), device=columns.device)
        if reading.columns is None:
            return log_form(logits[target_index, columns], self.form)
        if torch.isin(columns, reading.columns).all():
            place = (reading.columns[None] == columns[:, None]).int().argmax(1)
            return log_form(logits[target_index, place], self.form)
        # The network ran before its prediction was known; its head was compared with it then.
        states = self.read_out(reading.read.final)[self.target_mask]
        distinct, place = torch.unique(columns, return_inverse=True)
        return log_form(self.model.head(states, distinct)[target_index, place], self.form)

    def _shifts(self, reading: Reading) -> Float[Tensor, " N"]:
        """Return the number that the form subtracts from every logit of a prediction."""
        form = self.form
        if reading.columns is None:
            return shift(self.network_logits(reading), form)
        states = self.read_out(reading.read.final)[self.target_mask]
        return torch.cat([shift(self.model.head(chunk), form) for chunk in states.split(CHUNK)])

    def lens_divergence(self) -> Float[Tensor, "B T"] | None:
        """Return KL(final prediction || prediction from the layer of the settings) in nats.

        None where the scored tokens are not those that predictions are read from.
        """
        reading, layer = self.read(blocks=True), self.settings.layer
        if reading.scored is not reading.read or layer is None:
            return None
        lens = self.model.stack(self.settings.side).as_final(reading.read, layer)
        divergences = torch.zeros(self.target_mask.shape, device=self.target_mask.device)
        for chunk in self.target_mask.nonzero().split(CHUNK):
            index = tuple(chunk.T)
            lens_log, final_log = (
                self.model.head(self.read_out(states)[index]).float().log_softmax(-1)
                for states in (lens, reading.read.final)
            )
            # KL(p || q) = sum of p (log p - log q)
            divergences[index] = (final_log.exp() * (final_log - lens_log)).sum(-1)
        return divergences


def _largest_difference(expected: Tensor, computed: Tensor) -> str:
    """Return the two numbers that differ most, in words."""
    index = (expected - computed).abs().argmax()
    return f"{expected.flatten()[index]:.4g} and its head {computed.flatten()[index]:.4g}"


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a batch by one method.

    Attributes:
        values: Score of each position for each target.
        norm: Norm factor of the score, where the method has one.
        logit: Logit factor of the score, where the method has one.
        checks: Numbers that say whether the scores can be trusted, one for each target: what a sum
            of scores should be, and how far from it they are.
    """

    values: Float[Tensor, "B P T"]
    norm: Float[Tensor, "B P"] | None = None
    logit: Float[Tensor, "B P T"] | None = None
    checks: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
