"""Fixtures of tracked series: counts, series, a training by hand and runs over them."""

import numpy as np
import pytest
import torch

from tests.threads import one_thread
from tests.tracking.synthetic import (
    grow,
    make_counts,
    tracked,
    write_series,
    write_training,
)


@pytest.fixture(scope="session")
def counts():
    return make_counts()


@pytest.fixture
def series(tmp_path, counts):
    return write_series(tmp_path / "series", grow(counts))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, counts):
    """A training folder made by hand, and its run.

    In float64, so that rounding swaps no two ranks: of 268 tokens one swap shows in the fourth
    decimal. Fixtures of the session come before the one that sets the threads of a test.
    """
    folder = tmp_path_factory.mktemp("trained")
    write_training(folder / "training", counts, grow(counts, dtype=np.float64))
    with one_thread():
        return folder / "training", run_of(folder / "training", folder / "run")


def run_of(training, output, **settings):
    from dynamics.checkpoints.series import open_series
    from dynamics.tracking.track import track
    from dynamics.tracking.training_data import find_counts

    opened = open_series(training)
    return track(opened, output, counts=find_counts(opened, "auto"), **settings)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of an untied series with planted trends."""
    with one_thread():
        return tracked(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def run_without_counts(tmp_path_factory, counts):
    from dynamics.tracking.track import track

    folder = tmp_path_factory.mktemp("bare")
    with one_thread():
        return track(write_series(folder / "series", grow(counts)), folder / "run")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20260718)
