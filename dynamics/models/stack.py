"""The base model read from inside: embeddings, what each block gives, what the head gets.

B inputs, P positions, D hidden size, L blocks.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynamics.errors import CheckpointError

Hidden = Float[Tensor, "B P D"]


@dataclass(frozen=True)
class States:
    """Representations of the positions of a batch.

    Attributes:
        embedding: What the first block gets: the output of the embedding module, after position and
            segment embeddings, scaling and normalisation where the model has them.
        final: What the head gets, after the final norm.
        blocks: What each block gives, before the final norm; empty when not asked for.
    """

    embedding: Hidden
    final: Hidden
    blocks: tuple[Hidden, ...] = ()


class Stack:
    """Embeddings, blocks and final norm of a base model, of its encoder or of its decoder.

    Args:
        module: A module of transformers that gives `last_hidden_state`.

    Raises:
        CheckpointError: No list of blocks is found in it.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        lists = [each for each in module.modules() if isinstance(each, nn.ModuleList) and len(each)]
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
        """Run the base model.

        Args:
            rows: Taken instead of what the embedding looks up; positions, segments and norms are
                added to it once, by the model.
            blocks: Whether to keep what each block gives.
            inputs: As the model takes them.

        Raises:
            CheckpointError: Blocks are asked for, and some run more than once.
        """
        first: list[Tensor] = []
        outputs: list[Tensor] = []
        with ExitStack() as hooks:
            hooks.callback(
                self._blocks[0]
                .register_forward_pre_hook(
                    lambda _, args, named: first.append(
                        args[0] if args else named["hidden_states"]
                    ),
                    with_kwargs=True,
                )
                .remove
            )
            if rows is not None:
                hooks.callback(self.embedding.register_forward_hook(lambda *_: rows).remove)
            for block in self._blocks if blocks else ():
                hooks.callback(
                    block.register_forward_hook(
                        lambda *passed: outputs.append(_tensor(passed[-1]))
                    ).remove
                )
            answer = self.module(**inputs)
        if blocks and len(outputs) != self.depth:
            raise CheckpointError(
                f"{type(self.module).__name__} runs {self.depth} blocks {len(outputs)} times, so "
                "its layers cannot be told apart; only the last one can be read"
            )
        return States(first[0], answer.last_hidden_state, tuple(outputs))

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


def _tensor(answer: Any) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]
