"""A study of series on a hub: seeds of two sizes, read, grouped and compared."""

import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from dynamics.__main__ import main
from dynamics.corpus.tokenizers.loading import load_tokenizer, tokenizer_sha256
from dynamics.runs.run import Run
from tests.hub.standin import Repository
from tests.tracking.synthetic import VOCABULARY, grow, make_counts, write_checkpoint

STEPS = (0, 1, 2, 512)
SERIES = ("org/toy-1m", "org/toy-1m-seed1", "org/toy-1m-seed2", "org/toy-2m")


@pytest.fixture
def served(standin, tmp_path, set_endpoint):
    """Four series of one tokenizer on the hub, and the counts that belong to them."""
    words = Tokenizer(WordLevel({f"w{at}": at for at in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "tokenizer")
    digest = tokenizer_sha256(load_tokenizer(tmp_path / "tokenizer"))
    counts = make_counts(tokenizer=digest)
    counts.write(tmp_path / "counts.parquet")
    for seed, name in enumerate(SERIES):
        branches = {}
        for step, tensors in grow(counts, seed=seed, steps=STEPS).items():
            folder = tmp_path / "hub" / name / f"step{step}"
            write_checkpoint(folder, tensors)
            shutil.copytree(tmp_path / "tokenizer", folder, dirs_exist_ok=True)
            branches[f"step{step}"] = folder
        standin.repositories[name] = Repository(branches | {"main": folder})
    set_endpoint(standin.endpoint)
    return tmp_path


def write_study(folder, *series, counts="counts.parquet"):
    path = folder / "study.yaml"
    lines = "\n".join(f"  - {name}" for name in series)
    path.write_text(f"name: toys\nseries:\n{lines}\nsteps: 0,2,last\ncounts: {folder / counts}\n")
    return path


def run_study(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["study", *map(str, arguments)])
    return end.value.code or 0


def test_seeds_of_a_size_are_one_arm_on_the_page(served, capsys):
    study = write_study(served, "org/toy-1m", "org/toy-1m-seed{1..2}", "org/toy-2m")
    assert run_study(study, "-o", served / "out") == 0
    page = (served / "out/report.md").read_text()
    assert "| org/toy-1m | 3 (default, 1, 2) | 512 | " in page
    assert "| org/toy-2m | 1 (default) | 512 | " in page
    assert "Seeds of an arm differ in initialisation and order." in page
    assert "descriptive: org/toy-1m, org/toy-2m." in page
    assert "Against the pilots" not in page  # how these were trained is not known
    runs = [Run(served / "out" / name.replace("/", "--")) for name in SERIES]
    assert all(run.steps == [0, 2, 512] for run in runs)
    z = np.arctanh([run.trend("input_embedding_norm")["value"].iloc[-1] for run in runs[:3]])
    row = next(line for line in page.splitlines() if line.startswith("| org/toy-1m | +"))
    assert row.startswith(f"| org/toy-1m | {np.tanh(z.mean()):+.3f} [")
    assert (served / "out/report/correlation.png").is_file()
    assert "org/toy-2m: done" in capsys.readouterr().err


def test_a_series_that_is_not_there_is_told_and_the_others_are_done(served, capsys):
    study = write_study(served, "org/toy-1m", "org/toy-9m")
    assert run_study(study, "-o", served / "out") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("dynamics: 1 of 2 runs failed (org/toy-9m: ")
    assert "| org/toy-1m | 1 (default) |" in (served / "out/report.md").read_text()


def test_without_counts_there_is_a_page_without_figures(served):
    study = write_study(served, "org/toy-1m")
    assert run_study(study, "-o", served / "out", "counts=none") == 0
    page = (served / "out/report.md").read_text()
    assert "Not measured in these runs." in page
    assert "![" not in page


def test_a_dry_run_tells_what_each_series_costs(served, capsys):
    study = write_study(served, "org/toy-1m", "org/toy-2m")
    assert run_study(study, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "org/toy-1m: 3 checkpoints, embeddings\n" in out
    assert out.splitlines()[-1] == "toys: 2 series, 0.00 GB in all"
