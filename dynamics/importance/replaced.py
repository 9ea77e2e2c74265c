"""A module looks up or multiplies another matrix for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def weight_replaced(module: nn.Module, weight: Tensor) -> Iterator[None]:
    """Let a module hold another weight; afterwards it holds the very parameter it held.

    Modules that share the parameter keep it: a tied matrix is untied inside the block and tied
    after it, however the block ends.

    Args:
        module: An embedding, or a linear map.
        weight: Of the shape that it has.
    """
    before = module.weight
    assert isinstance(before, nn.Parameter) and before.shape == weight.shape
    module.weight = nn.Parameter(weight, requires_grad=False)
    try:
        yield
    finally:
        module.weight = before
