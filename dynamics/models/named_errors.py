"""An error of torch or transformers in one line that names the model and what was done with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from dynamics.errors import DynamicsError, MeasureError, message_of


@contextmanager
def named_errors(network: PreTrainedModel, name: str, work: str) -> Iterator[None]:
    """Turn an error that a network ends in into one line; errors of ours pass.

    What a network raises cannot be foreseen: its code is that of a hundred architectures, and of
    whoever wrote the files.

    Args:
        network: The model.
        name: Where it comes from.
        work: What was done with it, as the subject of a sentence.

    Raises:
        DynamicsError: It was raised inside.
        MeasureError: Any other exception was raised.
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
            "architecture may not fit what was asked (--debug shows where)"
        ) from error
