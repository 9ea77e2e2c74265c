"""Memory that tracking takes above the process at rest."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import remote_series
from benchmarks.remote_series import SHAPES, SPARE

WORKERS = 2
SHAPE = replace(SHAPES[0], layers=1, steps=5)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc"
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("series")
    remote_series._write(root / "org/model/step0", SHAPE)
    return root


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_one_tensor_for_each_checkpoint_under_way_and_one_more(root, tmp_path, place):
    steps = ",".join(map(str, remote_series.STEPS[: SHAPE.steps]))
    settings = (str(tmp_path / "run"), steps, "8", str(WORKERS))
    if place == "folder":
        taken = remote_series._run(remote_series._TRACK, str(root / "org/model"), *settings)
    else:
        with remote_series._served(root, "--mbit", "2000") as endpoint:
            taken = remote_series._run(
                remote_series._TRACK, "org/model", *settings, endpoint=endpoint
            )
    assert SHAPE.tensor < taken.memory < (WORKERS + 1) * SHAPE.tensor + SPARE
