"""What is asked of a batch of inputs, and what a method answers.

B inputs, P positions, T targets, D hidden size. Inputs are padded on the right with positions,
and with targets of readout -1; what is scored there is NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.axes import EmbeddingMatrix
from dynamics.errors import CheckpointError, ConfigError
from dynamics.models.live_model import Batch, LiveModel, Reading, Side
from dynamics.models.output import nearly_equal
from dynamics.models.stack import Stack
from dynamics.scores.logits import CHUNK, LogitForm, log_form, shift


@dataclass(frozen=True)
class Protocol:
    """How scores are made where the released code of NormXLogit and sound practice differ.

    Attributes:
        unsigned_gradients: Gradient methods take the absolute value of each feature's share before
            they sum; signed methods are then compared with unsigned ones.
        embeds_twice: Gradient methods get the output of the embedding module as if it were the
            embedding's row, so that positions, segments and norms are applied twice and segments
            are those of a first segment.
        fixed_steps: Integrated gradients take 50 steps from zero, converged or not.
        ranks_special: Special tokens other than the first are ranked with the others.
    """

    unsigned_gradients: bool = False
    embeds_twice: bool = False
    fixed_steps: bool = False
    ranks_special: bool = False


PROTOCOLS: dict[str, Protocol] = {
    "sound": Protocol(),
    "paper": Protocol(
        unsigned_gradients=True, embeds_twice=True, fixed_steps=True, ranks_special=True
    ),
}


@dataclass(frozen=True, eq=False)
class Settings:
    """How an attribution is made.

    Attributes:
        norm_source: Which norm: `row` of the embedding, `row_centered` (the mean row subtracted),
            `module_output` (what the first block gets), or `layer N`.
        logit_form: Which logit: `raw`, `centered` (mean over all logits subtracted) or
            `log_probability` (nats; of each label alone where labels do not compete).
        layer: Layer whose representations the head reads, 0 for the embeddings; None for the last.
        side: Whose tokens are scored, in an encoder-decoder.
        protocol: A name in `PROTOCOLS`.
        baseline: What integrated gradients start from: `zero`, `pad`, `mask`, or `auto`.
        steps: Steps of integrated gradients to begin with; doubled until they have converged.
        occlude_with: What occlusion puts in place of a token: `mask`, `pad`, `unk`, `mean` (the
            mean row), `delete`, or `auto`.
        seed: Of the random scores.
        counts: Of each token id, for the baseline that ranks by frequency.
    """

    norm_source: str = "module_output"
    logit_form: LogitForm = "raw"
    layer: int | None = None
    side: Side = "source"
    protocol: Literal["sound", "paper"] = "sound"
    baseline: Literal["auto", "zero", "pad", "mask"] = "auto"
    steps: int = 50
    occlude_with: Literal["auto", "mask", "pad", "unk", "mean", "delete"] = "auto"
    seed: int = 0
    counts: np.ndarray | None = None

    @property
    def rules(self) -> Protocol:
        """The switches of the protocol."""
        return PROTOCOLS[self.protocol]


@dataclass(frozen=True, eq=False)
class Question:
    """A batch of inputs, and the targets whose prediction is explained.

    Attributes:
        model: The model.
        batch: Its inputs.
        readouts: Position that each target is read from, -1 where an input has fewer targets.
        targets: Label or token id of each target.
        foils: Label or token id that each is contrasted with, -1 for none.
        settings: How.
        reading: What a forward pass gave, where it was made already.

    Raises:
        ConfigError: The model predicts a number, and the logit form is that of a softmax.
    """

    model: LiveModel
    batch: Batch
    readouts: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    foils: Int[Tensor, "B T"]
    settings: Settings = field(default_factory=Settings)
    reading: Reading | None = None

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
        """The form of the logits: labels that do not compete have probabilities of their own."""
        form = self.settings.logit_form
        alone = self.model.is_multi_label and form == "log_probability"
        return "log_sigmoid" if alone else form

    @property
    def crosses(self) -> bool:
        """Whether the tokens that are scored are the source of an encoder-decoder."""
        return self.model.is_encoder_decoder and self.settings.side == "source"

    @property
    def scored_ids(self) -> Int[Tensor, "B P"]:
        """Token ids of the positions that are scored."""
        return getattr(self.batch, self._scored[0])

    @property
    def attended(self) -> Bool[Tensor, "B P"]:
        """Positions that hold a token."""
        return getattr(self.batch, self._scored[1]).bool()

    @property
    def _scored(self) -> tuple[str, str]:
        """Names of what is scored in the batch."""
        if self.model.is_encoder_decoder and not self.crosses:
            return "decoder_input_ids", "decoder_attention_mask"
        return "input_ids", "attention_mask"

    @property
    def stack(self) -> Stack:
        """The part of the model that holds the tokens that are scored."""
        return self.model.stack(self.settings.side)

    @property
    def embedding_matrix(self) -> EmbeddingMatrix:
        """The rows of the tokens that are scored, before any scaling of the module."""
        weight = self.stack.embedding.weight
        assert isinstance(weight, Tensor)
        return weight

    def select(self, inputs: Int[Tensor, " N"]) -> "Question":
        """The same question of some inputs, each as often as it is named."""
        return replace(
            self,
            batch=self.batch.map(lambda each: each[inputs]),
            readouts=self.readouts[inputs],
            targets=self.targets[inputs],
            foils=self.foils[inputs],
            reading=None,
        )

    def with_ids(
        self, ids: Int[Tensor, "B Q"], kept: Int[Tensor, "B Q"] | None = None
    ) -> "Question":
        """The same question with other tokens.

        Args:
            ids: Of the positions that are scored.
            kept: Position that each of them had, where some are left out.
        """
        names = self._scored
        changed = {names[0]: ids}
        if kept is not None:
            beside = (names[1],) if names[0] != "input_ids" else (names[1], "token_type_ids")
            values = {name: getattr(self.batch, name) for name in beside}
            changed |= {
                name: value.gather(1, kept) for name, value in values.items() if value is not None
            }
        return replace(self, batch=replace(self.batch, **changed), reading=None)

    @property
    def asked(self) -> Bool[Tensor, "B T"]:
        """Which targets exist."""
        return self.readouts >= 0

    @cached_property
    def visible(self) -> Bool[Tensor, "B P T"]:
        """Which positions can have a part in the prediction of each target."""
        seen = self.attended[:, :, None] & self.asked[:, None, :]
        if self.model.is_causal and not self.crosses:
            positions = torch.arange(seen.shape[1], device=seen.device)
            seen = seen & (positions[None, :, None] <= self.readouts[:, None, :])
        return seen

    def read(self, rows: Float[Tensor, "B P E"] | None = None, *, blocks: bool = False) -> Reading:
        """Run the model on the batch, without its head, or give the reading that was made.

        Args:
            rows: Taken instead of the embedding's rows of the tokens that are scored.
            blocks: Whether what each block gives is needed.
        """
        made = self.reading
        if made is not None and rows is None and (made.scored.blocks or not blocks):
            return made
        return self.model.read(
            self.batch,
            side=self.settings.side,
            rows=rows,
            blocks=blocks,
            columns=self._columns,
        )

    @property
    def _columns(self) -> Int[Tensor, " K"] | None:
        """The targets and foils, ascending; None where there is none yet."""
        named = torch.unique(torch.cat([self.targets[self.asked], self.foils[self.asked]]))
        named = named[named >= 0]
        return named if len(named) else None

    def read_out(self, final: Float[Tensor, "B P D"]) -> Float[Tensor, "B T D"]:
        """The representation that each target is read from."""
        if self.model.head.readout == "mean":
            weights = self.batch.attention_mask.to(final.dtype)[:, :, None]
            mean = (final * weights).sum(1) / weights.sum(1)
            return mean[:, None].expand(-1, self.readouts.shape[1], -1)
        rows = torch.arange(len(final), device=final.device)[:, None]
        return final[rows, self.readouts.clamp_min(0)]

    def predictions(self, reading: Reading) -> Float[Tensor, "B T"]:
        """What is explained: the network's own logit of each target, in the form of the settings.

        Differentiable; 0 for targets that do not exist.
        """
        inputs, _ = self.asked.nonzero().unbind(-1)
        targets, foils = self.targets[self.asked], self.foils[self.asked]
        values = self._logits(reading, inputs, targets)
        if (foils >= 0).any():
            contrast = self._logits(reading, inputs, torch.where(foils >= 0, foils, targets))
            values = torch.where(foils >= 0, values - contrast, values)
        if self.form in ("centered", "log_probability"):
            values = torch.where(foils >= 0, values, values - self._shifts(reading, inputs))
        return torch.zeros(
            self.asked.shape, dtype=values.dtype, device=values.device
        ).masked_scatter(self.asked, values)

    def own_logits(self, reading: Reading) -> Float[Tensor, "N K"]:
        """The network's own logits for each target that exists, of the columns of the reading."""
        assert reading.logits is not None
        inputs, _ = self.asked.nonzero().unbind(-1)
        if reading.columns is None:
            return reading.logits[inputs]
        return reading.logits[inputs, self.readouts[self.asked]]

    def head_logits(self, reading: Reading, *, every: bool = False) -> Float[Tensor, "N C"]:
        """What the head gives for each target that exists, held against the network's own logits.

        Args:
            reading: Of these inputs as they are.
            every: Whether all columns are wanted, or those of the reading.

        Raises:
            CheckpointError: The two differ: the head does not read the one representation that it
                reads in other inputs.
        """
        model, states = self.model, self.read_out(reading.read.final)[self.asked]
        logits = model.head(states, None if every else reading.columns)
        compared = logits[:, reading.columns] if every and reading.columns is not None else logits
        own = self.own_logits(reading)
        if own.isfinite().all() and not nearly_equal(compared, own):
            raise CheckpointError(
                f"{model.name} ({type(model.network).__name__}): for this input the network gives "
                f"a logit of {_largest_difference(own, compared)}: its head does not read the "
                f"representation that it reads in other inputs ({model.head.readout}); use a "
                "method that needs predictions only, such as gradient_x_input or occlusion"
            )
        return logits

    def _logits(
        self, reading: Reading, inputs: Int[Tensor, " N"], wanted: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """One logit for each target that exists, in a form that looks at each alone."""
        own, columns = self.own_logits(reading), reading.columns
        each = torch.arange(len(wanted), device=wanted.device)
        if columns is None:
            return log_form(own[each, wanted], self.form)
        if torch.isin(wanted, columns).all():
            place = (columns[None] == wanted[:, None]).int().argmax(1)
            return log_form(own[each, place], self.form)
        # The network ran before it was known what it predicts; its head was held against it then.
        states = self.read_out(reading.read.final)[self.asked]
        distinct, column = torch.unique(wanted, return_inverse=True)
        return log_form(self.model.head(states, distinct)[each, column], self.form)

    def _shifts(self, reading: Reading, inputs: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """What the form of the settings subtracts from every logit of a prediction."""
        form = self.form
        if reading.columns is None:
            return shift(self.own_logits(reading), form)
        states = self.read_out(reading.read.final)[self.asked]
        return torch.cat([shift(self.model.head(some), form) for some in states.split(CHUNK)])

    def lens_divergence(self) -> Float[Tensor, "B T"] | None:
        """KL(final prediction || prediction from the layer of the settings) in nats.

        None where the tokens that are scored are not those that predictions are read from.
        """
        reading, layer = self.read(blocks=True), self.settings.layer
        if reading.scored is not reading.read or layer is None:
            return None
        lens = self.model.stack(self.settings.side).as_final(reading.read, layer)
        divergences = torch.zeros(self.asked.shape, device=self.asked.device)
        where = self.asked.nonzero()
        for some in where.split(CHUNK):
            index = tuple(some.T)
            before, after = (
                self.model.head(self.read_out(final)[index]).float().log_softmax(-1)
                for final in (lens, reading.read.final)
            )
            divergences[index] = (after.exp() * (after - before)).sum(-1)
        return divergences


def _largest_difference(own: Tensor, other: Tensor) -> str:
    """Two numbers side by side, where they differ most."""
    index = (own - other).abs().argmax()
    return f"{own.flatten()[index]:.4g} and its head {other.flatten()[index]:.4g}"


@dataclass(frozen=True, eq=False)
class Scores:
    """What a method answers.

    Attributes:
        values: Score of each position for each target.
        norm: The norms, where the score has that factor.
        logit: The logits, where it has that factor.
        checks: Numbers that say whether the scores can be trusted, one for each target: what a sum
            of scores should be, and how far from it they are.
    """

    values: Float[Tensor, "B P T"]
    norm: Float[Tensor, "B P"] | None = None
    logit: Float[Tensor, "B P T"] | None = None
    checks: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
