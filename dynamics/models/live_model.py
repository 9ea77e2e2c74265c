"""A live model: network, tokenizer, head, and its representations for batches of inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from dynamics.axes import EmbeddingMatrix
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import CheckpointError, MeasureError
from dynamics.models.batches import (
    Batch,
    Batching,
    Reading,
    find_batching,
    padded_batch,
    run_in_parts,
)
from dynamics.models.head import HeadOnTop
from dynamics.models.named_errors import named_errors
from dynamics.models.output import (
    NetworkOutput,
    accepted,
    probe_inputs,
    sentence_ids,
    special_id,
)
from dynamics.models.patching import attribute_replaced
from dynamics.models.stack import Stack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Task = Literal["causal", "masked", "seq2seq", "classification", "regression", "none"]
Side = Literal["source", "target"]
Part = TypeVar("Part")
_NO_LIMIT = 10**9  # transformers stores a larger number for tokenizers without a limit


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A checkpoint as a live model, in evaluation mode.

    Attributes:
        network: The model, with its head.
        tokenizer: Its tokenizer.
        task: Kind of prediction of its head.
        name: Its folder or repository.
        revision: Branch, tag or commit on a hub, None for a folder.
        checkpoint: Checkpoint that it was loaded from, None for a model from memory.
    """

    network: PreTrainedModel
    tokenizer: "PreTrainedTokenizerFast"
    task: Task
    name: str
    revision: str | None = None
    checkpoint: Checkpoint | None = None

    def __repr__(self) -> str:
        return f"<LiveModel {self.name}: {type(self.network).__name__}, {self.task}>"

    def __post_init__(self) -> None:
        self.network.eval()  # with dropout each pass would have other results

    @cached_property
    def weights(self) -> str | None:
        """Identity of the loaded weights, see `Checkpoint.identity`; None for one from memory."""
        return None if self.checkpoint is None else self.checkpoint.identity()

    @cached_property
    def output(self) -> NetworkOutput:
        """The logits of the whole network.

        Raises:
            CheckpointError: The model has no head.
            MeasureError: Its logits are not finite.
        """
        if self.task == "none":
            raise CheckpointError(
                f"{self.name} ({type(self.network).__name__}) has no head, so it predicts nothing "
                "that could be attributed; give a model with a language-model or classification "
                "head"
            )
        return self._build(lambda: NetworkOutput(self.network))

    @cached_property
    def head(self) -> HeadOnTop:
        """The head-on-top, compared with the model's own logits.

        Raises:
            CheckpointError: The model has no head, or its head does not read one representation.
            MeasureError: Its logits are not finite.
        """
        output = self.output
        return self._build(lambda: HeadOnTop(output))

    def _build(self, build: Callable[[], Part]) -> Part:
        """Build a part of the model; messages of errors get the name of the model."""
        try:
            return build()
        except (CheckpointError, MeasureError) as error:
            # A model from memory may be named by its class, as the message is already.
            is_named = str(error).startswith(f"{self.name}: ")
            raise type(error)(str(error) if is_named else f"{self.name}: {error}") from error

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.network.device

    @property
    def embedding_matrix(self) -> EmbeddingMatrix:
        """The input embedding, before any scaling of the module that looks up its rows."""
        return cast(Tensor, self.network.get_input_embeddings().weight)

    def token_id(self, kind: str) -> int | None:
        """Return the id of the tokenizer's `mask`, `pad` or `unk` token; None where it has none."""
        return getattr(self.tokenizer, f"{kind}_token_id")

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels of a classifier."""
        return {
            int(index): str(name) for index, name in (self.network.config.id2label or {}).items()
        }

    @property
    def is_encoder_decoder(self) -> bool:
        """Return whether source and target are different inputs."""
        return bool(self.network.config.is_encoder_decoder)

    @cached_property
    def max_length(self) -> int | None:
        """Length of the longest input in tokens, special ones included; None without a limit.

        The size of the table of positions, without the rows that RoBERTa-like models keep for
        padding, or the limit of the tokenizer if that is smaller.
        """
        config = self.network.config.get_text_config()
        names = ("max_position_embeddings", "n_positions")
        limits = [limit for name in names if (limit := getattr(config, name, 0) or 0) > 0]
        tables = (getattr(part, "position_embeddings", None) for part in self.network.modules())
        limits += [
            table.num_embeddings - table.padding_idx - 1
            for table in tables
            if isinstance(table, nn.Embedding) and table.padding_idx is not None
        ]
        stated = self.tokenizer.model_max_length
        return min([*limits, *([stated] if stated < _NO_LIMIT else [])], default=None)

    @property
    def is_multi_label(self) -> bool:
        """Return whether several labels of a text may hold at once."""
        problem = getattr(self.network.config, "problem_type", None)
        return self.task == "classification" and problem == "multi_label_classification"

    @property
    def has_segments(self) -> bool:
        """Return whether the model separates a first text from a second one by segment ids."""
        return getattr(self.network.config, "type_vocab_size", 0) > 1

    @property
    def is_causal(self) -> bool:
        """Return whether the representation of a token predicts the token after it."""
        return self.task in ("causal", "seq2seq")

    def stack(self, side: Side = "source") -> Stack:
        """Return the part that reads the tokens of a side; both sides share it in most models."""
        return self._stacks[side]

    @cached_property
    def _stacks(self) -> Mapping[Side, Stack]:
        """The stack of each side, with the orders of its tensors found; one stack without sides."""
        if self.is_encoder_decoder:
            source = Stack(_base(self.network.get_encoder()))
            target = Stack(_base(self.network.get_decoder()))
        else:
            source = target = Stack(
                _base(self.network) if self.task == "none" else self.output.base
            )
        ids = sentence_ids(self.network, 12)
        for stack in dict.fromkeys((source, target)):
            with named_errors(self.network, self.name, "a forward pass"), torch.no_grad():
                stack.arrange(self._probe, ids)
        return {"source": source, "target": target}

    @torch.no_grad()
    def decoder_ids(self, source: Sequence[int]) -> list[int]:
        """Return the token ids that the network makes for its decoder from the source.

        Args:
            source: Token ids of the input.

        Raises:
            CheckpointError: The decoder gets no token ids.
        """
        decoder_inputs: list[Tensor] = []

        def stop(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if isinstance(ids, Tensor):
                decoder_inputs.append(ids)
            raise _DecoderReachedError

        inputs: dict[str, Any] = {"input_ids": torch.tensor([source], device=self.device)}
        # The encoder is not run: what it returns does not change the ids of the decoder.
        inputs["encoder_outputs"] = BaseModelOutput(inputs["input_ids"][:, :, None].float())
        decoder = self.stack("target").module
        hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
        with hook, suppress(_DecoderReachedError):
            self.network(**accepted(self.network, inputs))
        if not decoder_inputs:
            raise CheckpointError(
                f"{self.name} ({type(self.network).__name__}): its decoder gets no token ids, so "
                "the tokens that it reads are unknown"
            )
        return decoder_inputs[0][0].tolist()

    def _probe(self, ids: list[int]) -> None:
        """Run the network on one input; what is observed meanwhile counts, not the result."""
        inputs = probe_inputs(self.network, ids)
        if self.task == "none" and self.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        self.network(**accepted(self.network, inputs))

    def read(
        self,
        batch: Batch,
        *,
        side: Side = "source",
        rows: Float[Tensor, "B P E"] | None = None,
        blocks: bool = False,
        columns: Int[Tensor, " K"] | None = None,
    ) -> Reading:
        """Run the whole network, its output embedding cut to a few columns.

        Args:
            batch: Token ids.
            side: Side whose tokens are scored, in an encoder-decoder.
            rows: Rows to use instead of those that the embedding looks up for the scored tokens.
            blocks: Record the output of each block, for the scored tokens.
            columns: Token ids whose logits to compute; `NetworkOutput.guards` when None. A head
                over labels gives them all.

        The results of an input do not depend on the rest of the batch: inputs that a network would
        mix run in separate passes.

        Raises:
            CheckpointError: The representations of the network cannot be observed.
        """
        run = partial(self._run, side=side, blocks=blocks, columns=columns)
        if len(batch) == 1 or self.batching == "padded":
            return run(batch, rows)
        decoded = self.is_encoder_decoder and side == "target"
        return run_in_parts(run, batch, rows, self.batching, scores_decoder=decoded)

    @cached_property
    def batching(self) -> Batching:
        """Inputs that may run together without changing each other's results, found by trial."""
        longest = min(13, self.max_length or 13)
        lengths = (min(5, longest - 1), longest)
        short, long = (sentence_ids(self.network, length) for length in lengths)
        probes = [short, [*short[-2::-1], short[-1]], long]
        segments = [[0] * len(ids) for ids in probes] if self.has_segments else None
        decoder = probes if self.is_encoder_decoder else None
        with torch.no_grad():
            return find_batching(self._run, self.padded(probes, segments, decoder))

    def padded(
        self,
        ids: Sequence[Sequence[int]],
        segments: Sequence[Sequence[int]] | None = None,
        decoder: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Pad inputs to one batch.

        Args:
            ids: Token ids of each input.
            segments: Segment of each token, where the model has segments.
            decoder: Token ids of the decoder, where there is one.
        """
        candidates = (special_id(self.network, "pad"), self.tokenizer.pad_token_id, 0)
        padding = next(token for token in candidates if isinstance(token, int))
        batch = padded_batch(ids, segments, decoder, padding=padding)
        return batch.map(lambda tensor: tensor.to(self.device))

    def _run(
        self,
        batch: Batch,
        rows: Float[Tensor, "B P E"] | None,
        *,
        side: Side = "source",
        blocks: bool = False,
        columns: Int[Tensor, " K"] | None = None,
    ) -> Reading:
        """Run the network once, as `read` does, also where it would mix the inputs."""
        output = None if self.task == "none" else self.output
        if output is None or output.over == "labels":
            columns = None
        elif columns is None:
            columns = output.guards
        with ExitStack() as stack:
            scored = stack.enter_context(self.stack(side).observed(rows=rows, blocks=blocks))
            decoder = None
            if self.is_encoder_decoder and side == "source":  # predictions are the decoder's
                decoder = stack.enter_context(self.stack("target").observed())
            inputs = stack.enter_context(self._inputs(batch))
            logits = None
            if output is None:
                self.network(**accepted(self.network, inputs))
            else:
                logits = output(inputs, columns)
        states = scored.states
        return Reading(states, states if decoder is None else decoder.states, logits, columns)

    @contextmanager
    def _inputs(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of the network for a batch.

        A classifier may find its last token by the padding token of its configuration. Without one
        it refuses a batch; inside the block it gets one that does not occur in the batch.
        """
        inputs = batch.tensors
        if self.task not in ("classification", "regression") or len(batch.input_ids) == 1:
            yield inputs
            return
        padding = special_id(self.network, "pad")
        if padding is None:
            batch_ids = set(batch.input_ids[batch.attention_mask.bool()].tolist())
            padding = next(token for token in count() if token not in batch_ids)
        inputs["input_ids"] = batch.input_ids.masked_fill(batch.attention_mask == 0, padding)
        with attribute_replaced(self.network.config.get_text_config(), "pad_token_id", padding):
            yield inputs


class _DecoderReachedError(Exception):
    """Signal that ends a pass before the decoder runs."""


def _base(network: Any) -> Any:
    """Return the model without its head."""
    return getattr(network, "base_model", network)
