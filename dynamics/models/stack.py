"""The base model read from inside: embeddings, what each block gives, what the head gets.

B inputs, P positions, D hidden size, L blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics.errors import CheckpointError

Hidden = Float[Tensor, "B P D"]


@dataclass(frozen=True)
class States:
    """Representations of the positions of a batch.

    Attributes:
        final: What the head gets, after the final norm.
        first: What the first block gets, None where the model does not show it.
        blocks: What each block gives, before the final norm; empty when not asked for.
    """

    final: Hidden
    first: Hidden | None = None
    blocks: tuple[Hidden, ...] = ()

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
                "the model does not call its first block as a module, so what it gets cannot be "
                "read; use the norm source row, or a method without norms"
            )
        return self.first


class Stack:
    """Embeddings, blocks and final norm of a base model, of its encoder or of its decoder.

    Args:
        module: A module of transformers that gives `last_hidden_state`.

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
        self._blocks = lists[0]

    @property
    def embedding(self) -> nn.Module:
        """The module that looks rows up, with the scaling that some models have in it."""
        return self.module.get_input_embeddings()

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
        self, *, rows: Float[Tensor, "B P E"] | None = None, blocks: bool = False
    ) -> Iterator["Observed"]:
        """Keep what passes through the base model while it runs, alone or inside a larger network.

        Args:
            rows: Taken instead of what the embedding looks up; positions, segments and norms are
                added to it once, by the model. Positions that the model adds behind them (to fill a
                window) keep what is looked up. An embedding that is shared with another stack gives
                that stack what it looks up.
            blocks: Whether to keep what each block gives.

        Yields:
            Where the states are once the base model has run.
        """
        observed = Observed(self, blocks)
        running = [False]

        def started(*_: Any) -> None:
            running[0] = True
            observed.first.clear()
            observed.outputs.clear()

        def ended(_: nn.Module, __: Any, answer: Any) -> None:
            running[0] = False
            observed.answer = answer

        def fed(_: nn.Module, __: Any, looked_up: Tensor) -> Tensor | None:
            if not running[0] or rows is None:
                return None
            # A copy: some models scale what is looked up in place.
            return torch.cat([rows, looked_up[:, rows.shape[1] :].to(rows)], dim=1)

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
        if rows is not None:
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
        answer: What the base model answered; None before it ran.
    """

    stack: Stack
    blocks: bool
    first: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
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
        return States(final, self.first[0] if self.first else None, tuple(self.outputs))


def _tensor(answer: Any) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]
