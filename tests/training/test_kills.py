"""A training killed at any moment and started again ends with the same bits."""

import json
import random
import shutil
import signal
import time

import pytest

from tests.training.children import child, finish, train_and_die, train_on_a_full_disk
from tests.training.small import ARCHITECTURES, assert_same_training, small

pytestmark = pytest.mark.slow

KILLED, NEVER = -signal.SIGKILL, ("never", 0)


def killable(corpus, architecture, tied, dropout=0.1, **training):
    return small(
        corpus,
        model={"architecture": architecture, "tied": tied, "dropout": dropout},
        training=training,
        checkpoints={"steps": "every(4)", "embeddings": "every(3)", "state_every": 3},
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kills_at_any_moment_leave_no_trace(corpus, tmp_path, architecture, tied):
    settings = killable(corpus, architecture, tied)
    undisturbed, killed = tmp_path / "one/t", tmp_path / "two/t"
    undisturbed.parent.mkdir()
    killed.parent.mkdir()
    assert finish(child(train_and_die, settings, undisturbed, NEVER)) == 0
    changes = json.loads((tmp_path / "one/seen").read_text())["change"]
    rng = random.Random(f"{architecture} {tied}")
    planned = [
        ("change", 10),  # before there is a training folder
        ("weights", 2),  # in the first snapshot
        ("state", 1),  # in the first state's optimizer
        ("step", 5),
        ("weights", 1),  # in the checkpoint of step 4, again
        ("state", 3),
        *(("change", rng.randrange(5, changes // 2)) for _ in range(4)),
        ("step", 11),
    ]
    statuses = [finish(child(train_and_die, settings, killed, moment)) for moment in planned]
    for _ in range(2):
        process = child(train_and_die, settings, killed, NEVER)
        time.sleep(rng.random() * 0.3)
        process.kill()
        statuses.append(finish(process))
    assert set(statuses) <= {0, KILLED} and statuses.count(KILLED) >= 6
    assert finish(child(train_and_die, settings, killed, NEVER)) == 0
    assert_same_training(killed, undisturbed)
    assert {path.name for path in killed.parent.iterdir()} <= {"t", "seen"}


def test_a_kill_before_each_change_of_a_file_leaves_no_trace(corpus, tmp_path):
    settings = killable(corpus, "gpt-neox", tied=False, steps=5)
    folders = [tmp_path / str(number) / "t" for number in range(400)]
    for folder in folders:
        folder.parent.mkdir()
    assert finish(child(train_and_die, settings, folders[0], NEVER)) == 0
    for change in range(1, json.loads((tmp_path / "0/seen").read_text())["change"] + 1):
        assert finish(child(train_and_die, settings, folders[change], ("change", change))) == KILLED
        assert finish(child(train_and_die, settings, folders[change], NEVER)) == 0
        assert_same_training(folders[change], folders[0])
        shutil.rmtree(folders[change])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_first_start(corpus, tmp_path, threads):
    settings = killable(corpus, "llama", tied=False, threads=threads)
    for name, moment in [("one", NEVER), ("two", ("step", 7)), ("two", NEVER)]:
        (tmp_path / name).mkdir(exist_ok=True)
        finish(child(train_and_die, settings, tmp_path / name / "t", moment))
    assert_same_training(tmp_path / "two/t", tmp_path / "one/t")


@pytest.mark.parametrize(
    "step, bytes_left, file",
    [
        (1, 100, "train.jsonl"),
        (4, 4_000, "checkpoints/step-00000004"),
        (5, 100_000, "state"),  # the model fits, its optimizer does not
    ],
)
def test_a_disk_that_fills_up_is_one_line_and_the_training_goes_on_to_the_same_bits(
    corpus, tmp_path, step, bytes_left, file
):
    settings, folder = small(corpus), tmp_path / "full/t"
    folder.parent.mkdir()
    assert finish(child(train_on_a_full_disk, settings, folder, step, bytes_left)) == 2
    line = (tmp_path / "full/error").read_text()
    assert line.startswith(f"OutputError: cannot write {folder / file}")
    assert "\n" not in line
    assert not list(folder.rglob("*partial*"))
    (tmp_path / "one").mkdir()
    for each in (folder, tmp_path / "one/t"):
        assert finish(child(train_and_die, settings, each, NEVER)) == 0
    assert_same_training(folder, tmp_path / "one/t")


@pytest.mark.parametrize("bytes_left", [100, 2_000, 9_000])
def test_a_disk_that_is_full_from_the_start_leaves_no_folder(corpus, tmp_path, bytes_left):
    arguments = small(corpus), tmp_path / "full/t", 0, bytes_left
    (tmp_path / "full").mkdir()
    assert finish(child(train_on_a_full_disk, *arguments)) == 2
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["error"]
    line = (tmp_path / "full/error").read_text()
    assert line.startswith("OutputError: cannot write") and "\n" not in line
