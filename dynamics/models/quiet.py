"""Switch off the progress bars and warnings of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet_transformers(*, warnings: bool = True) -> Iterator[None]:
    """Switch off the progress bars that transformers shows for each file it writes or reads.

    Args:
        warnings: Keep the warnings of transformers.
    """
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if not warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
