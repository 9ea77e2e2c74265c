"""The token stream of a public series over the network."""

import numpy as np
import pytest
from huggingface_hub import constants

from dynamics.__main__ import main
from dynamics.checkpoints.catalog.public_series import find
from dynamics.corpus.counts import read_counts
from dynamics.corpus.public import public_counts
from dynamics.corpus.public.public_counts import (
    cache_folder,
    find_public_counts,
    find_public_stream,
    public_exposures,
)
from dynamics.corpus.public.remote_stream import open_remote_stream
from dynamics.corpus.public.sample import SampleSettings
from dynamics.corpus.tokenizers.loading import train_tokenizer
from dynamics.errors import CheckpointError, CorpusError
from tests.hub.standin import Repository, commit_of

DATASET = "EleutherAI/pile-standard-pythia-preshuffled"
ROWS, WIDTH, STEP = 640, 2049, 64  # a step is 262 kB
IDS = 290


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["The cat sat on the mat, and the cat was glad."] * 9, 265).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(0, 265, (ROWS, WIDTH)).astype("<u2")


@pytest.fixture
def pile(standin, tmp_path, ids):
    """The stream in 3 shards, none of which ends with a row; 21 rows are beyond the training."""
    folder = tmp_path / "pile"
    folder.mkdir()
    content = ids.tobytes()
    third = len(content) // 3 // 2 * 2 + 1  # splits even an id
    for at in range(3):
        stop = None if at == 2 else (at + 1) * third
        (folder / f"document-0000{at}-of-00002.bin").write_bytes(content[at * third : stop])
    (folder / "document.idx").write_bytes(b"index")
    standin.repositories[f"datasets/{DATASET}"] = Repository(branches={"main": folder})
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A catalog whose Pythia was trained for 9 steps of 64 rows."""

    def find_small(name):
        series = find(name)
        stream = series.corpus.stream
        small = stream and stream.model_copy(update={"rows_per_step": STEP})
        corpus = series.corpus.model_copy(update={"stream": small})
        return series.model_copy(update={"last": 9, "corpus": corpus})

    monkeypatch.setattr(public_counts, "find", find_small)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))


def sampled(hub, tokenizer, name="pythia-160m", tokens=300_000, seed=0, **reports):
    settings = SampleSettings(tokens, STEP, seed)
    return find_public_counts(name, settings, tokenizer=tokenizer, hub=hub, **reports)


def test_counts_of_a_sample(pile, standin, hub, tokenizer, ids):
    lines, done = [], []
    counts = sampled(
        hub, tokenizer, report=lines.append, on_progress=lambda *each: done.append(each)
    )
    folder = next(cache_folder().glob("*/*/rows-*")).parent
    starts = sorted(int(path.name.split("-")[1]) for path in folder.iterdir())
    blocks = np.concatenate([ids[start : start + STEP] for start in starts])
    assert counts.table["count"].tolist() == np.bincount(blocks.reshape(-1)).tolist()
    assert len(starts) == 3
    assert max(starts) < 9 * STEP
    assert counts.info.sampled_from == f"{DATASET}@{commit_of(f'datasets/{DATASET}', pile)}"
    assert counts.info.stream_tokens == 9 * STEP * WIDTH
    assert done == [(each, 3) for each in range(4)]
    # The list, where each of three files is, and a range for each block, two across a border.
    ranges = sum(method == "GET" for method, path, _ in standin.requests if "/blob/" in path)
    assert len(standin.requests) == 1 + 3 + ranges
    assert 3 <= ranges <= 5
    assert lines == [
        f"counting a sample of {DATASET}: at most 1 MB in about 5 requests, about 0 s at "
        "100 Mbit/s, once",
        f"read {lines[1][5:8]} MB in {len(standin.requests)} requests; in "
        f"{cache_folder() / DATASET.replace('/', '--')}",
    ]


def test_the_second_time_nothing_is_asked(pile, standin, hub, tokenizer):
    first = sampled(hub, tokenizer)
    standin.reset()
    again = sampled(hub, tokenizer, "EleutherAI/pythia-70m-seed3")  # another order, the same counts
    assert again.table.equals(first.table)
    assert again.info == first.info
    assert not standin.requests
    sampled(hub, tokenizer, seed=1)
    assert standin.requests


def test_going_on_after_an_error(pile, standin, hub, tokenizer):
    standin.fail("no range", match=r"/blob/.*document-00002.*bytes=")
    with pytest.raises(CheckpointError):
        sampled(hub, tokenizer, tokens=10**9)
    before = [
        headers["Range"]
        for _, path, headers in standin.requests
        if "document-00000" in path and "Range" in headers
    ]
    standin.faults.clear()
    standin.reset()
    counts = sampled(hub, tokenizer, tokens=10**9)
    assert counts.table["relative_frequency_se"].tolist() == [0] * 265
    after = [
        headers["Range"]
        for _, path, headers in standin.requests
        if "document-00000" in path and "Range" in headers
    ]
    assert len(before) == 4
    assert len(after) <= 1  # of the block that goes on in a file that was not read


def test_exposure_up_to_a_step(pile, hub, ids):
    steps = [0, 1, 5, 9]
    found = np.array(list(public_exposures("pythia-160m", steps, 300, hub=hub)))
    for step, (inputs, targets) in zip(steps, found, strict=True):
        rows = ids[: step * STEP]
        assert inputs.tolist() == np.bincount(rows[:, :-1].reshape(-1), minlength=300).tolist()
        assert targets.tolist() == np.bincount(rows[:, 1:].reshape(-1), minlength=300).tolist()


@pytest.mark.parametrize("kind", ["cut", 503, 429])
def test_faults_for_the_moment_change_nothing(
    pile, standin, hub, tokenizer, kind, tmp_path, monkeypatch
):
    expected = sampled(hub, tokenizer)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "other"))
    headers = {"RateLimit": '"cdn";r=0;t=0'} if kind == 429 else {}
    standin.fail(kind, match="/blob/", times=3, headers=headers)
    found = sampled(hub, tokenizer)
    assert found.table.equals(expected.table)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no range", "ignores byte ranges"),
        ("short", "sent Content-Range"),
        ("shifted", "sent Content-Range"),
        (404, "answered 404"),
    ],
)
def test_faults_that_stay_are_one_line(pile, standin, hub, tokenizer, kind, message):
    standin.fail(kind, match="/blob/")
    with pytest.raises(CheckpointError, match=f"^{DATASET}@main/document-.*{message}") as caught:
        sampled(hub, tokenizer)
    assert "\n" not in str(caught.value)


def test_addresses_that_expire(pile, standin, hub, tokenizer):
    expected = sampled(hub, tokenizer)
    stream = open_remote_stream(DATASET, "uint16", WIDTH, hub=hub)
    standin.expire()
    assert stream.read(0, 60).shape == (60, WIDTH)
    assert expected is not None


def test_a_stream_that_is_not_all_there(pile, standin, hub, tokenizer):
    (pile / "document-00002-of-00002.bin").unlink()
    message = r"has 426 rows of 2049 ids of type uint16, where at least 576 are expected"
    with pytest.raises(CorpusError, match=message):
        sampled(hub, tokenizer)
    (pile / "document-00000-of-00002.bin").unlink()
    with pytest.raises(CorpusError, match=r"has 1 of its files, document-00001-of-00002.bin to"):
        sampled(hub, tokenizer)


def test_no_data_set(hub, tokenizer):
    with pytest.raises(CheckpointError, match=f"^{DATASET}: http.* has no such repository"):
        sampled(hub, tokenizer)


def test_offline(pile, standin, hub, tokenizer, monkeypatch):
    first = sampled(hub, tokenizer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    standin.reset()
    assert sampled(hub, tokenizer).table.equals(first.table)
    with pytest.raises(CheckpointError, match=f"^{DATASET}@main: is not in the hub cache"):
        sampled(hub, tokenizer, seed=2)
    assert not standin.requests


def test_a_tokenizer_too_small(pile, hub, tmp_path):
    train_tokenizer(["tiny"] * 3, 258).save_pretrained(tmp_path / "tiny")
    with pytest.raises(CorpusError, match=f"{DATASET}@.* holds the id 26., but the vocabulary has"):
        sampled(hub, tmp_path / "tiny")


def test_nothing_known(hub):
    for name in ("olmo-2-0425-1b", "runs/x", "org/model"):
        assert find_public_counts(name, hub=hub) is None
        assert find_public_stream(name) is None
    with pytest.raises(CorpusError, match="there is no token stream of org/model, so its exact"):
        public_exposures("org/model", [1], 10, hub=hub)
    with pytest.raises(CorpusError, match="only in another order of pythia-14m-seed1"):
        public_exposures("pythia-14m-seed1", [1], 10, hub=hub)


def test_costs_of_pythia(monkeypatch):
    monkeypatch.setattr(public_counts, "find", find)
    cost = find_public_stream("pythia-12b").sample_cost(SampleSettings())
    assert cost == "201 MB in about 70 requests, about 17 s at 100 Mbit/s"


def test_from_the_command_line(pile, standin, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", standin.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", standin.endpoint + "".join(template[1:])
    )
    command = ["count", "pythia-160m", "-o", str(tmp_path / "counts.parquet")]
    with pytest.raises(SystemExit) as end:
        main([*command, "--tokenizer", str(tokenizer), "--sample-tokens", "200_000_000"])
    shown = capsys.readouterr()
    assert end.value.code == 0, shown.err
    counts = read_counts(tmp_path / "counts.parquet")
    assert counts.info.tokens_counted == 9 * STEP * WIDTH
    assert f"counting a sample of {DATASET}" in shown.err
    assert "tokens, 265 entries" in shown.out
