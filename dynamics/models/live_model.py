"""A model that runs: its tokenizer, its head, and the representations it gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
    probe_ids,
    probe_inputs,
    special_id,
)
from dynamics.models.stack import Stack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Task = Literal["causal", "masked", "seq2seq", "classification", "regression", "none"]
Side = Literal["source", "target"]
Made = TypeVar("Made")
_NO_LIMIT = 10**9  # transformers writes a number beyond this where a tokenizer knows no limit


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

    def __repr__(self) -> str:
        return f"<LiveModel {self.name}: {type(self.network).__name__}, {self.task}>"

    def __post_init__(self) -> None:
        self.network.eval()  # dropout would give another answer each time

    @cached_property
    def weights(self) -> str | None:
        """Which weights it was loaded with, see `Checkpoint.identity`; None when it was not."""
        return None if self.checkpoint is None else self.checkpoint.identity()

    @cached_property
    def output(self) -> NetworkOutput:
        """The logits of the whole network.

        Raises:
            CheckpointError: The model has no head.
            MeasureError: It gives logits that are not finite.
        """
        if self.task == "none":
            raise CheckpointError(
                f"{self.name} ({type(self.network).__name__}) has no head, so it predicts nothing "
                "that could be attributed; give a model with a language-model or classification "
                "head"
            )
        return self._named(lambda: NetworkOutput(self.network))

    @cached_property
    def head(self) -> HeadOnTop:
        """The head-on-top, compared with the model's own logits.

        Raises:
            CheckpointError: The model has no head, or its head does not read one representation.
            MeasureError: It gives logits that are not finite.
        """
        output = self.output
        return self._named(lambda: HeadOnTop(output))

    def _named(self, make: Callable[[], Made]) -> Made:
        """Make something of the network; an error is told with the name of the model."""
        try:
            return make()
        except (CheckpointError, MeasureError) as error:
            named = str(error).startswith(f"{self.name}: ")  # its class, if made in memory
            raise type(error)(str(error) if named else f"{self.name}: {error}") from error

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
        limits = [limit for name in names if (limit := getattr(config, name, 0) or 0) > 0]
        tables = (getattr(each, "position_embeddings", None) for each in self.network.modules())
        limits += [
            table.num_embeddings - table.padding_idx - 1
            for table in tables
            if isinstance(table, nn.Embedding) and table.padding_idx is not None
        ]
        stated = self.tokenizer.model_max_length
        return min([*limits, *([stated] if stated < _NO_LIMIT else [])], default=None)

    @property
    def is_multi_label(self) -> bool:
        """Whether several labels of a text may hold at once."""
        problem = getattr(self.network.config, "problem_type", None)
        return self.task == "classification" and problem == "multi_label_classification"

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
        if self.is_encoder_decoder:
            source = Stack(_base(self.network.get_encoder()))
            target = Stack(_base(self.network.get_decoder()))
        else:
            source = target = Stack(
                _base(self.network) if self.task == "none" else self.output.base
            )
        ids = probe_ids(self.network, 11 * "t" + "e") or probe_ids(self.network, 12 * "t") or []
        for stack in dict.fromkeys((source, target)):
            with named_errors(self.network, self.name, "a forward pass"), torch.no_grad():
                stack.arrange(self._probe, ids)
        return {"source": source, "target": target}

    @torch.no_grad()
    def decoder_ids(self, source: Sequence[int]) -> list[int]:
        """Token ids that the decoder gets where it is given none, as the network makes them.

        Args:
            source: Token ids of the input.

        Raises:
            CheckpointError: The decoder gets no token ids.
        """
        given: list[Tensor] = []

        def stop(_: nn.Module, args: Any, named: Mapping[str, Any]) -> None:
            ids = named.get("input_ids", args[0] if args else None)
            if isinstance(ids, Tensor):
                given.append(ids)
            raise _DecoderReachedError

        inputs: dict[str, Any] = {"input_ids": torch.tensor([source], device=self.device)}
        inputs["encoder_outputs"] = BaseModelOutput(inputs["input_ids"][:, :, None].float())
        decoder = self.stack("target").module
        hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.network(**accepted(self.network, inputs))
        except _DecoderReachedError:
            pass
        finally:
            hook.remove()
        if not given:
            raise CheckpointError(
                f"{self.name} ({type(self.network).__name__}): its decoder gets no token ids, so "
                "it is not known what it reads"
            )
        return given[0][0].tolist()

    def _probe(self, ids: list[int]) -> None:
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
            side: Whose tokens are scored, in an encoder-decoder.
            rows: Taken instead of the embedding's rows of the tokens that are scored.
            blocks: Whether to keep what each block gives, for the tokens that are scored.
            columns: Tokens of the vocabulary whose logits are wanted; two that stand for the others
                when None. Of labels there are all.

        What an input gives does not depend on what else is in the batch: inputs that a network
        would mix are run apart.

        Raises:
            CheckpointError: The network does not show its representations.
        """

        def run(batch: Batch, rows: Float[Tensor, "B P E"] | None) -> Reading:
            return self._run(batch, side, rows, blocks=blocks, columns=columns)

        if len(batch) == 1 or self.batching == "padded":
            return run(batch, rows)
        decoded = self.is_encoder_decoder and side == "target"
        return run_in_parts(run, batch, rows, self.batching, scores_decoder=decoded)

    @cached_property
    def batching(self) -> Batching:
        """Which inputs may be run together without a part in what each other gives, by trial."""
        network = self.network
        short, long = (
            probe_ids(network, length * "t" + "e") or probe_ids(network, length * "t" + "t") or []
            for length in (4, 12)
        )
        probes = [short, [*short[-2::-1], short[-1]], long]
        segments = [[0] * len(ids) for ids in probes] if self.has_segments else None
        decoder = probes if self.is_encoder_decoder else None

        def run(batch: Batch, rows: Float[Tensor, "B P E"] | None) -> Reading:
            return self._run(batch, "source", rows)

        with torch.no_grad():
            return find_batching(run, self.padded(probes, segments, decoder))

    def padded(
        self,
        ids: Sequence[Sequence[int]],
        segments: Sequence[Sequence[int]] | None = None,
        decoder: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Inputs as one batch.

        Args:
            ids: Token ids of each.
            segments: Segment of each token, where the model has segments.
            decoder: Token ids that the decoder gets, where there is one.
        """
        own = special_id(self.network, "pad")
        known = (own, self.tokenizer.pad_token_id, 0)
        padding = next(token for token in known if isinstance(token, int))
        batch = padded_batch(ids, segments, decoder, padding=padding)
        return batch.map(lambda tensor: tensor.to(self.device))

    def _run(
        self,
        batch: Batch,
        side: Side,
        rows: Float[Tensor, "B P E"] | None,
        *,
        blocks: bool = False,
        columns: Int[Tensor, " K"] | None = None,
    ) -> Reading:
        output = None if self.task == "none" else self.output
        if output is None or output.over == "labels":
            columns = None
        elif columns is None:
            columns = output.guards
        with ExitStack() as stack:
            observed = {
                name: stack.enter_context(
                    self.stack(name).observed(
                        rows=rows if name == side else None, blocks=blocks and name == side
                    )
                )
                for name in (("source", "target") if self.is_encoder_decoder else (side,))
            }
            inputs = stack.enter_context(self._inputs(batch))
            logits = None
            if output is None:
                self.network(**accepted(self.network, inputs))
            else:
                logits = output(inputs, columns)
        scored = observed[side].states
        crosses = self.is_encoder_decoder and side == "source"
        read = observed["target"].states if crosses else scored
        return Reading(scored, read, logits, columns)

    @contextmanager
    def _inputs(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """A batch as the network takes it.

        A classifier may find its last token by the padding token of its configuration. Where none
        is named it refuses a batch; for the batch it gets one that no text of it holds.
        """
        inputs = {name: each for name, each in vars(batch).items() if each is not None}
        if self.task not in ("classification", "regression") or len(batch.input_ids) == 1:
            yield inputs
            return
        padding = special_id(self.network, "pad")
        if padding is None:
            used = set(batch.input_ids[batch.attention_mask.bool()].tolist())
            padding = next(token for token in count() if token not in used)
        inputs["input_ids"] = batch.input_ids.masked_fill(batch.attention_mask == 0, padding)
        with _attribute(self.network.config.get_text_config(), "pad_token_id", padding):
            yield inputs


class _DecoderReachedError(Exception):
    """Ends a pass before the decoder runs."""


@contextmanager
def _attribute(place: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for a while."""
    had, before = hasattr(place, name), getattr(place, name, None)
    setattr(place, name, value)
    try:
        yield
    finally:
        if had:
            setattr(place, name, before)
        else:
            delattr(place, name)


def _base(network: Any) -> Any:
    """The model without its head."""
    return getattr(network, "base_model", network)
