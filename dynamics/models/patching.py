"""Replace a forward function, a weight or another attribute inside a block; record outputs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module call another forward function; hooks on it still run."""
    patched = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if patched is None:
            del module.forward
        else:
            module.forward = patched


def weight_replaced(module: nn.Module, weight: Tensor) -> AbstractContextManager[None]:
    """Let a module hold another weight; afterwards it holds the same parameter object again.

    Modules that share the parameter keep it: a tied matrix is untied inside the block and tied
    after it, however the block ends.

    Args:
        module: An embedding, or a linear map.
        weight: Matrix of the same shape.
    """
    parameter = module.weight
    assert isinstance(parameter, nn.Parameter) and parameter.shape == weight.shape
    return attribute_replaced(module, "weight", nn.Parameter(weight, requires_grad=False))


@contextmanager
def attribute_replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an object have another value of an attribute; one that it had not is removed again."""
    existed, previous = hasattr(owner, name), getattr(owner, name, None)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if existed:
            setattr(owner, name, previous)
        else:
            delattr(owner, name)


@contextmanager
def outputs_recorded(
    modules: Iterable[nn.Module | None],
) -> Iterator[dict[nn.Module | None, Any]]:
    """Yield the last output of each module that runs inside the block; None is no module."""
    outputs: dict[nn.Module | None, Any] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = output

    with ExitStack() as hooks:
        for module in set(modules):
            if module is not None:
                hooks.enter_context(module.register_forward_hook(record))
        yield outputs
