"""Representations inside a base model: its embeddings, the output of each block, the final states.

B inputs, P positions, D hidden size, L blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from dynamics.errors import CheckpointError

Hidden = Float[Tensor, "B P D"]
_NEIGHBOURS = 2  # positions on either side that an embedding may mix in, as convolutions do
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "decoder_layers")


@dataclass(frozen=True)
class States:
    """Representations of the positions of a batch.

    Attributes:
        final: Input of the head, after the final norm.
        first: Input of the first block; None where it cannot be observed.
        blocks: Output of each block, before the final norm; empty when not requested.
        first_missing: Reason why the input of the first block cannot be observed.
    """

    final: Hidden
    first: Hidden | None = None
    blocks: tuple[Hidden, ...] = ()
    first_missing: str = "the model does not call its first block as a module"

    @property
    def embedding(self) -> Hidden:
        """Input of the first block.

        It is the output of the embedding module, after position and segment embeddings, scaling and
        normalisation where the model has them.

        Raises:
            CheckpointError: It cannot be observed.
        """
        if self.first is None:
            raise CheckpointError(
                f"{self.first_missing}, so its input for each token cannot be read; use the norm "
                "source row, or a method without norms"
            )
        return self.first


Order = Literal["batch_first", "positions_first"]
"""Order of the first two axes of a tensor: inputs then positions, or positions then inputs."""


class Stack:
    """Embeddings, blocks and final norm of a base model, of its encoder or of its decoder.

    Args:
        module: A module of transformers that returns `last_hidden_state`.

    Attributes:
        module: The same.
        looked_up_order: Order of the rows that the embedding looks up; None where they are not one
            for each position.
        first_order: Order of the input of the first block, likewise.

    Raises:
        CheckpointError: No list of blocks is found in it.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        # In a model for images or audio as well, the blocks are those of its language model.
        text = module.get_decoder() if isinstance(module, PreTrainedModel) else module
        lists = [part for part in text.modules() if isinstance(part, nn.ModuleList) and len(part)]
        if not lists:
            raise CheckpointError(f"{type(module).__name__} has no list of blocks")
        self._blocks = _blocks_of(text, lists)
        self.looked_up_order: Order | None = "batch_first"
        self.first_order: Order | None = "batch_first"

    @property
    def embedding(self) -> nn.Module:
        """The module that looks up the rows of tokens, with its scaling in some models.

        Raises:
            CheckpointError: The module does not say which of its parts that is.
        """
        if not isinstance(self.module, PreTrainedModel):
            raise CheckpointError(
                f"{type(self.module).__name__} does not say which of its parts looks up the rows "
                "of tokens"
            )
        return self.module.get_input_embeddings()

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... E"]:
        """Return the rows of token ids, as the embedding module looks them up."""
        return _tensor(self.embedding(ids))

    def as_looked_up(self, row: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Scale a row as the embedding module scales the rows of its matrix.

        Raises:
            CheckpointError: The module does more than to scale its rows.
        """
        # The longest row tells the factor best; rows of zeros (padding) tell nothing.
        weight: Any = self.embedding.weight
        token = weight.norm(dim=1).argmax()
        stored, output = weight[token].double(), self.look_up(token[None])[0].double()
        # Least squares of output = factor * stored.
        factor = (stored @ output) / (stored @ stored)
        atol = 1e-3 * float(output.norm())
        if not torch.allclose(stored * factor, output, rtol=1e-2, atol=atol):
            raise CheckpointError(
                f"{type(self.embedding).__name__} does more than to scale its rows, so no other "
                "row can replace one of them"
            )
        return row * factor.to(row.dtype)

    def arrange(self, run: Callable[[list[int]], object], ids: list[int]) -> None:
        """Find out how the looked-up rows and the input of the first block are ordered.

        An input is run, then once more with another token at one position: before the first block
        the row of that position changes, and at most its neighbours.

        Args:
            run: Runs the network on one input.
            ids: Token ids of the input, all different, ten or more.
        """
        # In the middle, so that neighbours on both sides show.
        position = len(ids) // 2
        changed_ids = [*ids[:position], ids[position + 1], *ids[position + 1 :]]
        with self.observed(looked_up=True) as observed:
            run(ids)
        with self.observed(looked_up=True) as changed:
            run(changed_ids)
        self.first_order = _order(observed.first, changed.first, len(ids), position)
        self.looked_up_order = _order(observed.looked_up, changed.looked_up, len(ids), position)

    @property
    def first_block(self) -> nn.Module:
        """The first block."""
        return self._blocks[0]

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, in order."""
        return self._blocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def read(
        self, *, rows: Float[Tensor, "B P E"] | None = None, blocks: bool = False, **inputs: Any
    ) -> States:
        """Run the base model by itself.

        Args:
            rows: As in `observed`.
            blocks: As in `observed`.
            inputs: Inputs of the model by name.

        Raises:
            CheckpointError: As in `observed`.
        """
        with self.observed(rows=rows, blocks=blocks) as observed:
            self.module(**inputs)
        return observed.states

    @contextmanager
    def observed(
        self,
        *,
        rows: Float[Tensor, "B P E"] | None = None,
        blocks: bool = False,
        looked_up: bool = False,
    ) -> Iterator["Observed"]:
        """Record the states of the base model while it runs, alone or inside a larger network.

        Args:
            rows: Rows to use instead of those that the embedding looks up; positions, segments and
                norms are added to them once, by the model. Positions that the model adds behind
                them (to fill a window), and another stack that shares the embedding, keep the rows
                that it looks up.
            blocks: Record the output of each block.
            looked_up: Record the rows that the embedding looks up.

        Yields:
            The record, complete once the base model has run.

        Raises:
            CheckpointError: `rows` are passed, and the order of looked-up rows is unknown, see
                `arrange`.
        """
        if rows is not None and self.looked_up_order is None:
            raise CheckpointError(
                f"{type(self.module).__name__} does not look up one row for each position of its "
                "input, in their order, so rows cannot be changed; use a method that changes none, "
                "such as normxlogit with the norm source row"
            )
        observed = Observed(self, blocks)

        def started(*_: Any) -> None:
            # The stack may run several times inside the block: the last run counts.
            observed.is_running = True
            observed.first.clear()
            observed.outputs.clear()
            observed.looked_up.clear()

        def ended(_: nn.Module, __: Any, output: Any) -> None:
            observed.is_running = False
            observed.output = output

        def embedded(_: nn.Module, __: Any, output: Any) -> Any:
            if not observed.is_running:  # another stack that shares the embedding
                return None
            looked_up_rows, order = _tensor(output), self.looked_up_order
            if rows is None or order is None:
                observed.looked_up.append(looked_up_rows.detach().clone())
                return None
            # A copy: some models scale the looked-up rows in place.
            added = _arranged(looked_up_rows, order)[:, rows.shape[1] :]
            replaced = _arranged(torch.cat([rows, added.to(rows)], dim=1), order)
            return replaced if isinstance(output, Tensor) else (replaced, *output[1:])

        def first_started(_: nn.Module, args: Any, named: Any) -> None:
            observed.first.append(args[0] if args else named["hidden_states"])

        def block_ended(_: nn.Module, __: Any, output: Any) -> None:
            observed.outputs.append(_tensor(output))

        first_block = self._blocks[0]
        with ExitStack() as hooks:
            hooks.enter_context(self.module.register_forward_pre_hook(started))
            hooks.enter_context(self.module.register_forward_hook(ended))
            hooks.enter_context(
                first_block.register_forward_pre_hook(first_started, with_kwargs=True)
            )
            if rows is not None or looked_up:
                hooks.enter_context(self.embedding.register_forward_hook(embedded))
            for block in self._blocks if blocks else ():
                hooks.enter_context(block.register_forward_hook(block_ended))
            yield observed

    def as_final(self, states: States, layer: int) -> Hidden:
        """Return the input of the head if the model ended after a block.

        Args:
            states: States recorded with `blocks`.
            layer: 0 for the embeddings, L for the last block.

        Raises:
            CheckpointError: No final norm turns the last block's output into the head's input.
        """
        if layer == self.depth:
            return states.final
        norm = self.final_norm(states)
        return norm(states.blocks[layer - 1] if layer else states.embedding)

    def final_norm(self, states: States) -> nn.Module:
        """Return the module that turns the output of the last block into the input of the head.

        It is found by its result, not by its name: none (an identity) is tried first.

        Args:
            states: States recorded with `blocks`.

        Raises:
            CheckpointError: No module does.
        """
        last = states.blocks[-1]
        for module in (nn.Identity(), *self._norms(last.shape[-1])):
            normed = module(last)
            if normed.shape == states.final.shape and torch.allclose(
                normed, states.final, rtol=1e-4, atol=1e-5
            ):
                return module
        raise CheckpointError(
            f"{type(self.module).__name__}: no final norm turns the output of the last block into "
            "the input of the head, so the head cannot be applied to other layers than the last"
        )

    def _norms(self, width: int) -> list[nn.Module]:
        """List the norms outside the blocks whose weight has this width, or that have no weight."""
        in_blocks = {id(module) for block in self._blocks for module in block.modules()}
        return [
            module
            for module in self.module.modules()
            if type(module).__name__.endswith("Norm")
            and id(module) not in in_blocks
            and getattr(module, "weight", torch.empty(width)).shape == (width,)
        ]


@dataclass(eq=False)
class Observed:
    """Record of the last run of a stack.

    Attributes:
        stack: The stack.
        blocks: Outputs of the blocks are recorded.
        first: Input of the first block, each time it ran.
        outputs: Output of each block, if recorded.
        looked_up: Rows that the embedding looked up, if recorded.
        output: Output of the base model; None before it ran.
        is_running: The base model has started and not ended.
    """

    stack: Stack
    blocks: bool
    first: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    looked_up: list[Tensor] = field(default_factory=list)
    output: Any = None
    is_running: bool = False

    @property
    def states(self) -> States:
        """The representations.

        Raises:
            CheckpointError: The base model was not called as a module or returns none; or blocks
                are recorded, and some ran more than once.
        """
        name = type(self.stack.module).__name__
        final = getattr(self.output, "last_hidden_state", None)
        if final is None:
            raise CheckpointError(
                f"{name} does not show the representations of its positions while it runs, so its "
                "tokens cannot be scored"
            )
        if self.blocks and len(self.outputs) != self.stack.depth:
            raise CheckpointError(
                f"{name} runs {self.stack.depth} blocks {len(self.outputs)} times, so its layers "
                "cannot be separated; only the last one can be read"
            )
        if not self.first:
            return States(final, None, tuple(self.outputs))
        if (order := self.stack.first_order) is None:
            form = " x ".join(map(str, self.first[0].shape))
            missing = f"the first block of {name} gets {form} numbers in an unknown order"
            return States(final, None, tuple(self.outputs), missing)
        # Some models fill the window of their attention behind the positions of the inputs.
        first, *blocks = (
            _arranged(layer, order)[:, : final.shape[1]] for layer in (self.first[0], *self.outputs)
        )
        return States(final, first, tuple(blocks))


def _arranged(tensor: Tensor, order: Order) -> Tensor:
    """Convert between an order and inputs then positions; the conversion is its own inverse."""
    return tensor if order == "batch_first" else tensor.transpose(0, 1)


def _blocks_of(text: nn.Module, lists: list[nn.ModuleList]) -> nn.ModuleList:
    """Return the first list as long as the configuration has layers, else the largest one."""
    config: Any = getattr(text, "config", None)
    config = config.get_text_config() if isinstance(config, PreTrainedConfig) else config
    layers = {getattr(config, name, None) for name in _LAYERS}
    matching = [blocks for blocks in lists if len(blocks) in layers]
    largest = max(lists, key=lambda blocks: sum(weight.numel() for weight in blocks.parameters()))
    return matching[0] if matching else largest


def _order(
    tensors: Sequence[Tensor], changed: Sequence[Tensor], positions: int, changed_position: int
) -> Order | None:
    """Return the order of the first tensor, from the rows that a changed token changes in it.

    None where there is no tensor, or it has not one row for each position of one input.
    """
    if not tensors or not changed or tensors[0].shape != changed[0].shape or tensors[0].dim() != 3:
        return None
    for order in get_args(Order):
        rows = _arranged(tensors[0], order)
        if len(rows) != 1:
            continue
        differs = (rows != _arranged(changed[0], order)).any(2)[0]
        changed_rows = differs.nonzero().flatten().tolist()
        is_mixed = any(abs(row - changed_position) > _NEIGHBOURS for row in changed_rows)
        if not is_mixed and (rows.shape[1] == positions or changed_rows == [changed_position]):
            return order
    return None


def _tensor(output: Any) -> Tensor:
    """Return the output of a module, or the first of several."""
    return output if isinstance(output, Tensor) else output[0]
