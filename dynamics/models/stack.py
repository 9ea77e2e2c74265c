"""The base model read from inside: embeddings, what each block gives, what the head gets.

B inputs, P positions, D hidden size, L blocks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

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
        final: What the head gets, after the final norm.
        first: What the first block gets, None where the model does not show it.
        blocks: What each block gives, before the final norm; empty when not asked for.
        first_missing: Why the model does not show what its first block gets.
    """

    final: Hidden
    first: Hidden | None = None
    blocks: tuple[Hidden, ...] = ()
    first_missing: str = "the model does not call its first block as a module"

    @property
    def embedding(self) -> Hidden:
        """What the first block gets.

        It is the output of the embedding module, after position and segment embeddings, scaling and
        normalisation where the model has them.

        Raises:
            CheckpointError: The model does not show it.
        """
        if self.first is None:
            raise CheckpointError(
                f"{self.first_missing}, so what it gets for each token cannot be read; use the "
                "norm source row, or a method without norms"
            )
        return self.first


Order = Literal["batch_first", "positions_first"]
"""How the rows of a tensor are arranged: inputs then positions, or positions then inputs."""


class Stack:
    """Embeddings, blocks and final norm of a base model, of its encoder or of its decoder.

    Args:
        module: A module of transformers that gives `last_hidden_state`.

    Attributes:
        module: The same.
        looked_up_order: Order of what the embedding looks up; None where the positions of an input
            do not come first in it.
        first_order: The same of what the first block gets.

    Raises:
        CheckpointError: No list of blocks is found in it.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        # Of a model that also sees or hears, the blocks are those of its language model.
        text = module.get_decoder() if isinstance(module, PreTrainedModel) else module
        lists = [each for each in text.modules() if isinstance(each, nn.ModuleList) and len(each)]
        if not lists:
            raise CheckpointError(f"{type(module).__name__} has no list of blocks")
        self._blocks = _blocks_of(text, lists)
        self.looked_up_order: Order | None = "batch_first"
        self.first_order: Order | None = "batch_first"

    @property
    def embedding(self) -> nn.Module:
        """The module that looks rows up, with the scaling that some models have in it.

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
        """The rows of token ids, as the embedding module looks them up."""
        return _tensor(self.embedding(ids))

    def as_looked_up(self, row: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Another row, scaled as the embedding module scales the rows of its matrix.

        Raises:
            CheckpointError: What it looks up is not a multiple of its rows.
        """
        weight: Any = self.embedding.weight
        token = weight.norm(dim=1).argmax()
        stored, found = weight[token].double(), self.look_up(token[None])[0].double()
        factor = (stored @ found) / (stored @ stored)
        if not torch.allclose(stored * factor, found, rtol=1e-2, atol=1e-3 * float(found.norm())):
            raise CheckpointError(
                f"{type(self.embedding).__name__} does more than to scale its rows, so a row that "
                "is not one of them cannot stand in their place"
            )
        return row * factor.to(row.dtype)

    def arrange(self, run: Callable[[list[int]], object], ids: list[int]) -> None:
        """Find out where the positions of an input are in what passes through.

        An input is run, then once more with another token at one position: before the first block
        the row of that position changes, and at most its neighbours.

        Args:
            run: Runs the network on one input.
            ids: Token ids of the input, all different, ten or more.
        """
        at = len(ids) // 2
        passed: list[tuple[Any, Any]] = []
        for changed in (ids, [*ids[:at], ids[at + 1], *ids[at + 1 :]]):
            with self.observed(looked_up=True) as observed:
                run(changed)
            firsts, looked = observed.first, observed.looked_up
            passed.append((firsts[0] if firsts else None, looked[0] if looked else None))
        (first, row), (changed_first, changed_row) = passed
        self.first_order = _order(first, changed_first, len(ids), at)
        self.looked_up_order = _order(row, changed_row, len(ids), at)

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
            inputs: As the model takes them.

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
        """Keep what passes through the base model while it runs, alone or inside a larger network.

        Args:
            rows: Taken instead of what the embedding looks up; positions, segments and norms are
                added to it once, by the model. Positions that the model adds behind them (to fill a
                window) keep what is looked up. An embedding that is shared with another stack gives
                that stack what it looks up.
            blocks: Whether to keep what each block gives.
            looked_up: Whether to keep what the embedding looks up.

        Yields:
            Where the states are once the base model has run.

        Raises:
            CheckpointError: Rows are given, and their places are not known, see `arrange`.
        """
        if rows is not None and self.looked_up_order is None:
            raise CheckpointError(
                f"{type(self.module).__name__} does not look up one row for each position of its "
                "input, in their order, so rows cannot be changed; use a method that changes none, "
                "such as normxlogit with the norm source row"
            )
        observed = Observed(self, blocks)
        running = [False]

        def started(*_: Any) -> None:
            running[0] = True
            observed.first.clear()
            observed.outputs.clear()
            observed.looked_up.clear()

        def ended(_: nn.Module, __: Any, answer: Any) -> None:
            running[0] = False
            observed.answer = answer

        def fed(_: nn.Module, __: Any, answer: Any) -> Any:
            if not running[0]:
                return None
            found, order = _tensor(answer), self.looked_up_order
            if rows is None or order is None:
                observed.looked_up.append(found.detach().clone())
                return None
            # A copy: some models scale what is looked up in place.
            behind = _arranged(found, order)[:, rows.shape[1] :]
            given = _arranged(torch.cat([rows, behind.to(rows)], dim=1), order)
            return given if isinstance(answer, Tensor) else (given, *answer[1:])

        hooks = [
            self.module.register_forward_pre_hook(started),
            self.module.register_forward_hook(ended),
            self._blocks[0].register_forward_pre_hook(
                lambda _, args, named: observed.first.append(
                    args[0] if args else named["hidden_states"]
                ),
                with_kwargs=True,
            ),
        ]
        if rows is not None or looked_up:
            hooks.append(self.embedding.register_forward_hook(fed))
        hooks += [
            block.register_forward_hook(
                lambda *passed: observed.outputs.append(_tensor(passed[-1]))
            )
            for block in (self._blocks if blocks else ())
        ]
        try:
            yield observed
        finally:
            for hook in hooks:
                hook.remove()

    def as_final(self, states: States, layer: int) -> Hidden:
        """What the head would get if the model ended after a block.

        Args:
            states: Read with `blocks`.
            layer: 0 for the embeddings, L for the last block.

        Raises:
            CheckpointError: No final norm turns the last block's output into what the head gets.
        """
        if layer == self.depth:
            return states.final
        norm = self._final_norm(states)
        return norm(states.blocks[layer - 1] if layer else states.embedding)

    def _final_norm(self, states: States) -> nn.Module:
        last = states.blocks[-1]
        for module in (nn.Identity(), *self._norms(last.shape[-1])):
            found = module(last)
            if found.shape == states.final.shape and torch.allclose(
                found, states.final, rtol=1e-4, atol=1e-5
            ):
                return module
        raise CheckpointError(
            f"{type(self.module).__name__}: no final norm gives what the head gets from what the "
            "last block gives, so the head cannot be applied to other layers than the last"
        )

    def _norms(self, width: int) -> list[nn.Module]:
        inside = {id(each) for block in self._blocks for each in block.modules()}
        return [
            each
            for each in self.module.modules()
            if type(each).__name__.endswith("Norm")
            and id(each) not in inside
            and getattr(each, "weight", torch.empty(width)).shape == (width,)
        ]


@dataclass(eq=False)
class Observed:
    """What passed through a stack in its last run.

    Attributes:
        stack: The stack.
        blocks: Whether what each block gave was kept.
        first: What the first block got, each time it ran.
        outputs: What each block gave, where it was kept.
        looked_up: What the embedding looked up, where it was kept.
        answer: What the base model answered; None before it ran.
    """

    stack: Stack
    blocks: bool
    first: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    looked_up: list[Tensor] = field(default_factory=list)
    answer: Any = None

    @property
    def states(self) -> States:
        """The representations.

        Raises:
            CheckpointError: The base model was not called as a module or gives none; or blocks are
                asked for, and some ran more than once.
        """
        name = type(self.stack.module).__name__
        final = getattr(self.answer, "last_hidden_state", None)
        if final is None:
            raise CheckpointError(
                f"{name} does not show the representations of its positions while it runs, so its "
                "tokens cannot be scored"
            )
        if self.blocks and len(self.outputs) != self.stack.depth:
            raise CheckpointError(
                f"{name} runs {self.stack.depth} blocks {len(self.outputs)} times, so its layers "
                "cannot be told apart; only the last one can be read"
            )
        if not self.first:
            return States(final, None, tuple(self.outputs))
        if (order := self.stack.first_order) is None:
            form = " x ".join(map(str, self.first[0].shape))
            missing = f"the first block of {name} gets {form} numbers, arranged in another way"
            return States(final, None, tuple(self.outputs), missing)
        # Some models fill the window of their attention behind the positions of the inputs.
        first, *blocks = (
            _arranged(each, order)[:, : final.shape[1]] for each in (self.first[0], *self.outputs)
        )
        return States(final, first, tuple(blocks))


def _arranged(tensor: Tensor, order: Order) -> Tensor:
    """Inputs then positions made of an order, or an order of inputs then positions."""
    return tensor if order == "batch_first" else tensor.transpose(0, 1)


def _blocks_of(text: nn.Module, lists: list[nn.ModuleList]) -> nn.ModuleList:
    """The first list with as many members as the configuration has layers, or the largest one."""
    config: Any = getattr(text, "config", None)
    config = config.get_text_config() if isinstance(config, PreTrainedConfig) else config
    layers = {getattr(config, name, None) for name in _LAYERS}
    named = [each for each in lists if len(each) in layers]
    return (
        named[0]
        if named
        else max(lists, key=lambda each: sum(weight.numel() for weight in each.parameters()))
    )


def _order(
    before: Tensor | None, after: Tensor | None, positions: int, changed: int
) -> Order | None:
    """The order of a tensor of one input, by the rows that a changed position changes."""
    if before is None or after is None or before.shape != after.shape or before.dim() != 3:
        return None
    orders: tuple[Order, ...] = ("batch_first", "positions_first")
    for order in orders:
        rows = _arranged(before, order)
        if len(rows) != 1:
            continue
        differ = (rows != _arranged(after, order)).any(2)[0]
        moved = differ.nonzero().flatten().tolist()
        mixed = any(abs(row - changed) > _NEIGHBOURS for row in moved)
        if not mixed and (rows.shape[1] == positions or moved == [changed]):
            return order
    return None


def _tensor(answer: Any) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]
