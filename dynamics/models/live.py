"""A model that runs: its tokenizer, its head, and the representations it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics.axes import EmbeddingMatrix
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import CheckpointError, MeasureError
from dynamics.models.head import HeadOnTop
from dynamics.models.stack import Stack, States

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Task = Literal["causal", "masked", "seq2seq", "classification", "regression", "none"]
Side = Literal["source", "target"]
Ids = Int[Tensor, "B P"]
_NO_LIMIT = 10**9  # transformers writes a number beyond this where a tokenizer knows no limit


@dataclass(frozen=True)
class Batch:
    """Token ids of several inputs, padded on the right.

    Attributes:
        input_ids: Of the text; of the source in an encoder-decoder.
        attention_mask: 1 for tokens, 0 for padding.
        token_type_ids: Segment of each token, where the tokenizer gives it.
        decoder_input_ids: What the decoder gets, in an encoder-decoder.
        decoder_attention_mask: 1 for its tokens, 0 for padding.
    """

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids | None = None
    decoder_input_ids: Ids | None = None
    decoder_attention_mask: Ids | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Every tensor of the batch changed in the same way."""
        held = {name: each for name, each in vars(self).items() if each is not None}
        return replace(self, **{name: change(each) for name, each in held.items()})


@dataclass(frozen=True)
class Reading:
    """What a forward pass without head gives.

    Attributes:
        scored: Representations of the tokens that are scored.
        read: Those of the tokens that predictions are read from; the same, but for the source of
            an encoder-decoder.
    """

    scored: States
    read: States


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A checkpoint as a live model, in evaluation mode.

    Attributes:
        network: The model, with its head.
        tokenizer: What turns text into its token ids.
        task: What its head predicts.
        name: Where it comes from.
        revision: Branch, tag or commit on a hub, None for a folder.
        checkpoint: What it was loaded from, None when it was made otherwise.
    """

    network: PreTrainedModel
    tokenizer: "PreTrainedTokenizerFast"
    task: Task
    name: str
    revision: str | None = None
    checkpoint: Checkpoint | None = None

    @cached_property
    def weights(self) -> str | None:
        """Which weights it was loaded with, see `Checkpoint.identity`; None when it was not."""
        return None if self.checkpoint is None else self.checkpoint.identity()

    @cached_property
    def head(self) -> HeadOnTop:
        """The head-on-top, checked against the model's own logits.

        Raises:
            CheckpointError: The model has no head, or the check fails.
            MeasureError: It gives logits that are not finite.
        """
        if self.task == "none":
            raise CheckpointError(
                f"{self.name} ({type(self.network).__name__}) has no head, so it predicts nothing "
                "that could be attributed; give a model with a language-model or classification "
                "head"
            )
        try:
            return HeadOnTop(self.network)
        except (CheckpointError, MeasureError) as error:
            raise type(error)(f"{self.name}: {error}") from error

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.network.device

    @property
    def embedding_matrix(self) -> EmbeddingMatrix:
        """The rows of the input embedding, before any scaling of the module that looks them up."""
        weight = self.network.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def labels(self) -> dict[int, str]:
        """Names of what a classifier predicts."""
        return {
            int(index): str(name) for index, name in (self.network.config.id2label or {}).items()
        }

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether source and target are different inputs."""
        return bool(self.network.config.is_encoder_decoder)

    @cached_property
    def max_length(self) -> int | None:
        """The longest input in tokens, special ones included; None where nothing limits it.

        What the table of positions holds, without the rows that RoBERTa-like models keep for
        padding, or what the tokenizer says where that is less.
        """
        config = self.network.config.get_text_config()
        names = ("max_position_embeddings", "n_positions")
        limits = [limit for name in names if (limit := getattr(config, name, None))]
        tables = (getattr(each, "position_embeddings", None) for each in self.network.modules())
        limits += [
            table.num_embeddings - table.padding_idx - 1
            for table in tables
            if isinstance(table, nn.Embedding) and table.padding_idx is not None
        ]
        stated = self.tokenizer.model_max_length
        return min([*limits, *([stated] if stated < _NO_LIMIT else [])], default=None)

    @property
    def has_segments(self) -> bool:
        """Whether the model tells a first text from a second one by segment ids."""
        return getattr(self.network.config, "type_vocab_size", 0) > 1

    @property
    def is_causal(self) -> bool:
        """Whether the representation of a token predicts the token after it."""
        return self.task in ("causal", "seq2seq")

    def stack(self, side: Side = "source") -> Stack:
        """The part that holds the tokens of one side; there is one only but in encoder-decoders."""
        return self._stacks[side]

    @cached_property
    def _stacks(self) -> Mapping[Side, Stack]:
        if not self.is_encoder_decoder:
            base = self.network.base_model if self.task == "none" else self.head.base
            stack = Stack(base)
            return {"source": stack, "target": stack}
        return {
            "source": Stack(self.network.get_encoder()),
            "target": Stack(self.network.get_decoder()),
        }

    def read(
        self,
        batch: Batch,
        *,
        side: Side = "source",
        rows: Float[Tensor, "B P E"] | None = None,
        blocks: bool = False,
    ) -> Reading:
        """Run the model without its head.

        Args:
            batch: Token ids.
            side: Whose tokens are scored, in an encoder-decoder.
            rows: Taken instead of the embedding's rows of the tokens that are scored.
            blocks: Whether to keep what each block gives, for the tokens that are scored.
        """
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        own = {"rows": rows, "blocks": blocks}
        if not self.is_encoder_decoder:
            states = self.stack().read(**inputs, **own)
            return Reading(states, states)
        source = self.stack("source").read(**inputs, **(own if side == "source" else {}))
        target = self.stack("target").read(
            input_ids=batch.decoder_input_ids,
            attention_mask=batch.decoder_attention_mask,
            encoder_hidden_states=source.final,
            encoder_attention_mask=batch.attention_mask,
            **(own if side == "target" else {}),
        )
        return Reading(source if side == "source" else target, target)
