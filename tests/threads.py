"""One thread inside a block: what threads add up in another order differs in the last bit."""

from contextlib import contextmanager


@contextmanager
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
