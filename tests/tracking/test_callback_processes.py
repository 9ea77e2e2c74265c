"""Two processes train the same with and without the callback; one of them writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynamics import Run, open_series, track
from tests.tracking import two_processes

pytestmark = pytest.mark.slow

TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
    "--standalone", "--local-addr", "127.0.0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [*TORCHRUN, two_processes.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (folder / "messages").write_text(done.stderr)
    return folder


def test_two_processes_end_with_the_same_bits_with_and_without_it(trained):
    ends = [
        load_file(trained / f"{name}.rank-{rank}.safetensors")
        for name in ("plain", "measured", "unwritable")
        for rank in (0, 1)
    ]
    for key, weight in ends[0].items():
        assert all(torch.equal(end[key], weight) for end in ends), key


def test_the_run_is_that_of_the_checkpoints(trained, tmp_path):
    run = Run(trained / "run")
    assert run.steps == [0, 1, 2, 3]
    tracked = track(open_series(trained / "measured"), tmp_path / "tracked")
    for measure in ("input_embedding_norm", "output_embedding_norm_centered"):
        np.testing.assert_array_equal(run.array(measure)[1:], tracked.array(measure))


def test_what_cannot_be_measured_on_the_first_process_holds_up_none(trained):
    assert Run(trained / "broken-run").steps == [0, 1]
    for rank in (0, 1):
        assert load_file(trained / f"broken.rank-{rank}.safetensors")
    lines = [
        line
        for line in (trained / "messages").read_text().splitlines()
        if line.startswith("norms are not measured from step")
    ]
    assert ["step 0 on" in lines[0], "step 2 on" in lines[1], len(lines)] == [True, True, 2]
