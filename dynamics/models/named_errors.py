"""Errors of torch or transformers, turned into one line that names the model and the operation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from dynamics.errors import DynamicsError, MeasureError, message_of


@contextmanager
def named_errors(network: PreTrainedModel, name: str, work: str) -> Iterator[None]:
    """Turn an exception of a network into a `MeasureError` of one line; a `DynamicsError` passes.

    A network may raise anything: its code is that of a hundred architectures, or comes with the
    files of the model.

    Args:
        network: The model.
        name: Name or folder of the model.
        work: The operation, as the subject of a sentence.

    Raises:
        DynamicsError: As raised in the block.
        MeasureError: Any other exception was raised in the block.
    """
    try:
        yield
    except DynamicsError:
        raise
    except torch.OutOfMemoryError as error:
        raise MeasureError(
            f"{name} ({type(network).__name__}): {work} needs more memory than the device has; "
            "use a smaller batch, shorter texts or a narrower dtype"
        ) from error
    except Exception as error:
        raise MeasureError(
            f"{name} ({type(network).__name__}): {work} ends in an error: {message_of(error)}; the "
            "architecture may not be covered (--debug shows the traceback)"
        ) from error
