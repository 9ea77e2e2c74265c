"""Twins in a training: where their rows stand and how they start, and folders of older versions."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.training_folder import read_training
from dynamics.corpus.tokens import open_stream
from dynamics.errors import MismatchError
from dynamics.runs.slope_trends import slope_rows
from dynamics.runs.trends import TrendInput
from dynamics.statistics.vocabulary import parse_rule
from dynamics.training.prepare import training_rows
from dynamics.training.preview import preview
from dynamics.training.rates import unused_row_factor
from dynamics.training.recorded import as_recorded, completed
from dynamics.training.train import train
from tests.training.small import STEPS, kept_steps, small, untimed_log, weights
from tests.zipf_text import zipf_documents

ENTRIES = 600


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number, text in enumerate(zipf_documents(words=300, documents=100, length=500)):
        (folder / f"{number:03}.txt").write_text(text)
    return folder


def with_twins(text, twins, **changes):
    corpus = changes.pop("corpus", {}) | {"twins": twins}
    return small(text, corpus=corpus, tokenizer={"vocab_size": ENTRIES}, **changes)


@pytest.mark.parametrize("architecture", ["gpt-neox", "bert"])
def test_twins_come_after_the_tokenizer_and_are_trained_before_placebo_rows(
    corpus, tmp_path, architecture
):
    twins = {"tokens": 10, "share": [0.25, 0.125]}
    settings = with_twins(
        corpus,
        twins,
        corpus={"placebo_rows": 4, "held_out_rows": 3},
        model={"architecture": architecture},
        training={"weight_decay": 0.5},
    )
    lines = []
    expected = preview(settings, tmp_path / "t", report=lines.append)
    assert sum(line.startswith("10 tokens have twins (shares") for line in lines) == 1
    train(settings, tmp_path / "t")
    described = json.loads((tmp_path / "t/train.json").read_text())
    counts = pd.read_parquet(tmp_path / "t/counts.parquet")
    assert described["vocab_size"] == len(counts) == ENTRIES + 24
    assert described["settings"]["corpus"]["twins"] == twins | {
        "drawn": "per_seed",
        "initial_rows": "copied",
    }
    assert counts["kind"].tolist()[-24:] == ["twin"] * 20 + ["padding"] * 4
    assert expected.parameters == sum(p.numel() for p in weights(tmp_path / "t", 0).values())
    series = open_series(tmp_path / "t")
    for role in ("input_embedding", "output_embedding"):
        first = series.checkpoints[0].tensor(role)
        originals = counts["twin_of"].tolist()[ENTRIES:-4]
        assert torch.equal(first[ENTRIES:-4], first[originals])
        assert len(torch.unique(first, dim=0)) == len(first) - 20  # no other rows are alike
    first, last = (
        each.tensor("input_embedding").double()
        for each in (series.checkpoints[0], series.checkpoints[-1])
    )
    assert len(first) == ENTRIES + 24
    decayed = first * unused_row_factor(settings.training, STEPS)
    moved = (last - decayed).norm(dim=1) > 1e-4
    assert moved[ENTRIES:-4].sum() > 5 and not moved[-4:].any()  # few steps meet not every twin
    if settings.model.masked:
        stream = open_stream(tmp_path / "t")
        random_ids = training_rows(settings, stream, tmp_path / "t").random_ids
        assert np.isin(np.arange(ENTRIES, ENTRIES + 20), random_ids).all()
        assert random_ids.max() == ENTRIES + 19


FORMER = {"drawn": "fixed", "initial_rows": "independent"}
TWINS = {"tokens": 10, "share": 0.25}


def as_an_older_version_wrote_it(folder):
    described = json.loads((folder / "train.json").read_text())
    for name in FORMER:
        del described["settings"]["corpus"]["twins"][name]
    (folder / "train.json").write_text(json.dumps(described))
    described = json.loads((folder / "tokens.json").read_text())
    described["twin_share"] = described.pop("twin_shares")[0]
    described["twins"] = {token: ids[0] for token, ids in described["twins"].items()}
    (folder / "tokens.json").write_text(json.dumps(described))


def interrupt(line):
    if line["step"] == 5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("has_state", [True, False])
def test_a_training_of_an_older_version_resumes_to_its_own_bits(corpus, tmp_path, has_state):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(with_twins(corpus, TWINS | FORMER), whole)
    settings = with_twins(
        corpus, TWINS | FORMER, checkpoints={"state_every": 3 if has_state else 9}
    )
    with pytest.raises(KeyboardInterrupt):
        train(settings, cut, on_step=interrupt)
    as_an_older_version_wrote_it(cut)
    today = with_twins(corpus, TWINS, checkpoints=settings.checkpoints.model_dump())
    lines = []
    preview(today, cut)
    train(today, cut, report=lines.append)
    assert lines[0] == (
        f"{cut} was begun by an older version; its twins stay as they are "
        "(corpus.twins.drawn=fixed, corpus.twins.initial_rows=independent)"
    )
    for step in kept_steps(whole):
        expected, found = weights(whole, step), weights(cut, step)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert untimed_log(cut) == untimed_log(whole)
    settings_there = completed(read_training(cut).settings)
    assert settings_there == as_recorded(today, cut).model_dump(mode="json")
    train(today, cut)  # finished: nothing is left to do


def test_settings_that_an_older_training_has_not_are_refused_where_they_are_stated(
    corpus, tmp_path
):
    train(with_twins(corpus, TWINS | FORMER), tmp_path / "t")
    as_an_older_version_wrote_it(tmp_path / "t")
    for name, stated in {"drawn": "per_seed", "initial_rows": "copied"}.items():
        with pytest.raises(
            MismatchError, match=rf"corpus.twins.{name} is \w+ in the folder, {stated} in the"
        ):
            train(with_twins(corpus, TWINS | {name: stated}), tmp_path / "t")
    train(with_twins(corpus, TWINS | FORMER), tmp_path / "t")
    with pytest.raises(MismatchError, match=r"share is 0.25 in the folder, \[0.25, 0.5\] in the s"):
        train(with_twins(corpus, {"tokens": 10, "share": [0.25, 0.5]}), tmp_path / "t")


def test_a_training_of_today_is_held_to_what_it_recorded(corpus, tmp_path):
    settings = with_twins(corpus, TWINS)
    assert as_recorded(settings, tmp_path / "t") is settings
    train(settings, tmp_path / "t")
    assert as_recorded(settings, tmp_path / "t") is settings
    recorded = read_training(tmp_path / "t").settings
    assert completed(recorded) == recorded
    with pytest.raises(MismatchError, match=r"drawn is per_seed in the folder, fixed in the sett"):
        train(with_twins(corpus, TWINS | {"drawn": "fixed"}), tmp_path / "t")


def test_settings_without_twins_are_completed_as_before(corpus):
    recorded = small(corpus).model_dump(mode="json")
    assert completed(recorded) == recorded
    assert completed({"corpus": 3}) == {"corpus": 3}


@pytest.fixture(scope="module")
def equally_likely(corpus, tmp_path_factory):
    """Rows of slopes at the end of a training whose first twins are as likely as their tokens."""
    folder = tmp_path_factory.mktemp("half") / "t"
    settings = with_twins(
        corpus,
        {"tokens": 60, "share": [0.4, 0.2]},
        training={"steps": 150, "batch_size": 16, "warmup_steps": 10},
        checkpoints={"steps": "0,150", "state_every": 150},
    )
    train(settings, folder)
    checkpoint = open_series(folder).checkpoints[-1]
    norms = {
        f"{role}_norm": checkpoint.tensor(role).norm(dim=1).double().numpy()[None]
        for role in ("input_embedding", "output_embedding")
    }
    tokens = pd.read_parquet(folder / "counts.parquet")
    rows = pd.DataFrame(slope_rows(TrendInput([150], tokens, norms, None), parse_rule("count>=10")))
    return tokens, norms, rows.set_index(["measure", "statistic", "given"]).sort_index()


@pytest.mark.parametrize("role", ["input_embedding", "output_embedding"])
def test_two_ids_that_are_equally_likely_have_equal_norms(equally_likely, role):
    """Negative control: which of the two is the twin is chance, in training as in counts."""
    tokens, norms, rows = equally_likely
    twin_of = tokens["twin_of"].to_numpy()
    first = np.flatnonzero((twin_of >= 0) & np.isclose(tokens["occurrence_share"], 0.4))
    norm = norms[f"{role}_norm"][0]
    ratio = np.log(norm[twin_of[first]] / norm[first])
    assert ratio.std() > 0.01 and len(ratio) == 60  # they did learn apart
    assert abs(ratio.mean()) < 3.5 * ratio.std() / np.sqrt(60)
    mean = rows.loc[f"{role}_norm", "twin_mean_minus_curve", ""]
    assert mean["n"] == 60
    assert abs(mean["value"]) < 1.5 * (mean["high"] - mean["low"]) / 2
    # the second twins of these tokens, half as likely, are held against the curve
    assert rows.loc[f"{role}_norm", "twin_minus_curve", ""]["n"] > 50
