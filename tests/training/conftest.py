import gc

import pytest
import torch

from dynamics.training.train import train
from tests.training.small import small, write_corpus


@pytest.fixture(scope="package", autouse=True)
def quick_collection():
    """The Trainer collects garbage at its end; what was imported need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus")


@pytest.fixture(scope="session")
def undisturbed(corpus, tmp_path_factory):
    """The folder of `small(corpus)`, for reading only."""
    folder = tmp_path_factory.mktemp("undisturbed") / "t"
    train(small(corpus), folder)
    return folder


@pytest.fixture(autouse=True)
def process_as_it_was():
    """A training sets torch's generator and its number of threads."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
