import numpy as np
import pytest

from tests.models import tiny


@pytest.fixture(scope="session")
def corpus():
    """Rows of ids of the tiny vocabulary, as frequent as Zipf has it."""
    rng = np.random.default_rng(5)
    share = 1 / np.arange(1, tiny.V - 5)
    ids = rng.choice(np.arange(6, tiny.V), (40, 33), p=share / share.sum())
    return ids.astype(np.uint16)
