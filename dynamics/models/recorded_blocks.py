"""All blocks of a network for one input, from one forward pass of the live model.

P positions, D hidden size.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dynamics.errors import MeasureError
from dynamics.models.attention_calls import AttentionCall, attention_calls, precise
from dynamics.models.batches import Batch, Reading
from dynamics.models.block_layouts import BlockLayout, layout_of
from dynamics.models.block_parts import BlockParts, ModuleCall
from dynamics.models.frozen_maps import FrozenNorm, frozen_norm, tolerance
from dynamics.models.live_model import LiveModel


@contextmanager
def module_calls(modules: Iterable[nn.Module]) -> Iterator[list[ModuleCall]]:
    """Yield the calls of some modules inside the block, in order."""
    calls: list[ModuleCall] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        calls.append(ModuleCall(module, args[0], output))

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):
            hooks.enter_context(module.register_forward_hook(record))
        yield calls


@dataclass(frozen=True, eq=False)
class RecordedBlocks:
    """All blocks of a network for one input.

    Attributes:
        model: The model.
        layout: Layout of its blocks.
        reading: States and logits of the pass.
        attention: Call of attention of each block.
        arguments: Arguments of each block.
        calls: Calls of the norms and linear maps of each block, by path.
    """

    model: LiveModel
    layout: BlockLayout
    reading: Reading
    attention: Sequence[AttentionCall]
    arguments: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
    calls: Sequence[Mapping[str, ModuleCall]]

    def __len__(self) -> int:
        return len(self.attention)

    def __iter__(self) -> Iterator[BlockParts]:
        """Yield the parts of each block, checked; one after the other, as each takes memory."""
        for index, block in enumerate(self.model.stack().blocks):
            yield BlockParts(
                f"{self.model.name} ({type(self.model.network).__name__}), block {index + 1},",
                self.layout,
                block,
                self.arguments[index],
                self.attention[index],
                self.calls[index],
                precise(self.reading.scored.blocks[index])[0],
            )

    def final_norm(self, layer: int) -> FrozenNorm | None:
        """Return the norm before the head with its divisors for the output of a block.

        Args:
            layer: 1 for the first block, 0 for the embeddings.

        Returns:
            The norm; None where there is none.

        Raises:
            CheckpointError: No final norm is found.
            MeasureError: It is no norm that can be followed.
        """
        stack, states = self.model.stack(), self.reading.scored
        module = stack.final_norm(states)
        if isinstance(module, nn.Identity):
            return None
        value = states.blocks[layer - 1] if layer else states.embedding
        output = states.final if layer == len(self) else module(value)
        limit = tolerance(value.dtype)
        norm = frozen_norm(module, precise(value)[0], precise(output)[0], limit)
        if norm is None:
            raise MeasureError(
                f"{self.model.name} ({type(self.model.network).__name__}): the norm before its "
                f"head ({type(module).__name__}) is not one that can be decomposed; use a method "
                "that decomposes nothing, such as occlusion"
            )
        return norm


@torch.no_grad()
def record_blocks(
    model: LiveModel, inputs: Batch, columns: Int[Tensor, " K"] | None = None
) -> RecordedBlocks:
    """Run a network once on one input, and record what its blocks compute.

    Args:
        model: The model.
        inputs: One input, without padding.
        columns: As in `LiveModel.read`.

    Raises:
        ConfigError: No record describes its blocks.
        MeasureError: A block does not call attention or a part once, as its layout says.
    """
    layout, stack = layout_of(model.network), model.stack()
    name = f"{model.name} ({type(model.network).__name__})"
    if model.task != "none":
        _ = model.output  # it probes the model, before calls are recorded
    paths = (*layout.linear_maps, *layout.attention.norms, *layout.feed_forward.norms)
    try:
        modules = [{path: block.get_submodule(path) for path in paths} for block in stack.blocks]
    except AttributeError as error:
        raise MeasureError(
            f"{name}: its blocks are not built as {layout.name}: {error}; use a method that "
            "decomposes nothing, such as occlusion"
        ) from error
    arguments: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []

    def started(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments.append((args, kwargs))

    with ExitStack() as recording:
        for block in stack.blocks:
            hook = block.register_forward_pre_hook(started, with_kwargs=True)
            recording.enter_context(hook)
        parts = (module for by_path in modules for module in by_path.values())
        calls = recording.enter_context(module_calls(parts))
        attention = recording.enter_context(attention_calls())
        reading = model.read(inputs, blocks=True, columns=columns)
    by_module = {call.module: call for call in calls}
    inside = [{id(part) for part in block.modules()} for block in stack.blocks]
    is_ordered = len(attention) == len(inside) and all(
        id(call.module) in parts for call, parts in zip(attention, inside, strict=True)
    )
    if not is_ordered or len(calls) != len(paths) * len(inside) or len(by_module) != len(calls):
        raise MeasureError(
            f"{name}: its {stack.depth} blocks call attention {len(attention)} times through the "
            f"interface of transformers (attention implementation "
            f"{model.network.config._attn_implementation}), and {len(calls)} of "
            f"{len(paths) * len(inside)} parts; load it with attn_implementation eager or sdpa"
        )
    return RecordedBlocks(
        model,
        layout,
        reading,
        attention,
        arguments,
        [{path: by_module[module] for path, module in by_path.items()} for by_path in modules],
    )
