"""The wheel: what is in it, and a study that runs from it where no checkout can be imported."""

import email
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from dynamics.distribution import DISTRIBUTION, VERSION

ROOT = Path(__file__).parents[1]
SOURCES = ("LICENSE", "README.md", "configs", "dynamics", "pyproject.toml")
NAME = DISTRIBUTION.replace("-", "_")
SMALL = [
    *("corpus.max_documents=400", "corpus.held_out_rows=0", "corpus.placebo_rows=0"),
    *("corpus.twins=null", "tokenizer.vocab_size=300", "model.hidden_size=16"),
    *("model.num_layers=1", "model.num_heads=2", "training.steps=4", "training.warmup_steps=1"),
    *("training.batch_size=2", "training.sequence_length=32", "training.threads=1"),
    *("tracking.importance=[]", "tracking.surgery=false", "checkpoints.steps=all"),
]

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """The output of a program that sees neither the checkout nor a hub."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy so that nothing is left beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    (sources := folder / "sources").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, sources)
        else:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, sources, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, which finds third-party packages in the running one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, cwd=folder)
    place = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    third_party = [path for path in sys.path if Path(path).name.endswith("-packages")]
    Path(place.strip(), "third_party.pth").write_text("\n".join(third_party), "utf-8")
    return folder


def test_the_wheel_holds_the_package_its_data_and_the_licence(wheel):
    assert wheel.name == f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"{NAME}-{VERSION}.dist-info/METADATA"))
        licence = archive.read(f"{NAME}-{VERSION}.dist-info/licenses/LICENSE")
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dynamics").rglob("*.py")}
    configurations = {f"dynamics/{path.relative_to(ROOT)}" for path in _configurations()}
    claims = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dynamics").rglob("20*.yaml")}
    data = {"architecture_facts.json", "catalog/public_series.yaml"}
    assert {name for name in names if not name.startswith(f"{NAME}-")} == (
        modules | configurations | claims | {f"dynamics/checkpoints/{name}" for name in data}
    )
    assert "dynamics/verdicts/claim_files/2026-11-26-pilots.yaml" in claims
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_bytes()


def _configurations():
    return [path for path in (ROOT / "configs").rglob("*") if path.is_file()]


def test_a_study_that_is_shipped_runs_outside_the_checkout(environment, tmp_path):
    python, command = environment / "bin" / "python", environment / "bin" / "dynamics"
    lines = "import dynamics, sys; print(dynamics.__file__, *sys.path, sep='\\n')"
    file, *path = run(python, "-c", lines, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(environment)
    assert str(ROOT) not in path
    assert run(command, "--version", cwd=tmp_path) == f"{DISTRIBUTION} {VERSION}\n"
    out = run(command, "study", "demo", "-o", "study", "name=wheel", *SMALL, cwd=tmp_path)
    assert "figures:" in out
    assert sorted(each.name for each in (tmp_path / "study").iterdir()) == [
        *("figures", "run", "training")
    ]
    steps = sorted(each.name for each in (tmp_path / "study/training/checkpoints").iterdir())
    assert steps == [f"step-{step:08d}" for step in range(5)]
