"""What stands in a training folder before the first step."""

import pandas as pd
import pytest

from dynamics.config import load
from dynamics.corpus.counts import count_stream, read_counts
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.errors import ConfigError, CorpusError
from dynamics.training.prepare import prepare
from tests.training.small import small, write_corpus


@pytest.mark.parametrize("window", [None, 3])
def test_counts_have_the_information_gain_that_was_asked_for(tmp_path, window):
    settings = small(write_corpus(tmp_path / "text"), corpus={"information_window": window})
    stream, vocab_size = prepare(settings, tmp_path, lambda line: None)
    counts = read_counts(tmp_path / "counts.parquet")
    assert counts.info.window == window
    expected = count_stream(
        stream,
        load_tokenizer(tmp_path / "tokenizer"),
        vocab_size=vocab_size,
        information=None if window is None else InformationSettings(window),
    )
    pd.testing.assert_frame_equal(counts.table, expected.table)


def test_text_is_read_with_the_settings_of_the_corpus(tmp_path):
    """The same stream from files, from a column of a split, and from a table under another name."""
    folder = write_corpus(tmp_path / "text")
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    (tmp_path / "rows").mkdir()
    rows = pd.DataFrame({"body": texts, "text": "other"})
    rows.to_json(tmp_path / "rows/train.jsonl", orient="records", lines=True)
    rows[:9].to_json(tmp_path / "rows/test.jsonl", orient="records", lines=True)
    rows.to_csv(tmp_path / "rows.txt")
    streams, notes = [], []
    for name, (source, corpus) in {
        "files": (folder, {}),
        "split": (tmp_path / "rows", {"text_column": "body"}),
        "named": (tmp_path / "rows", {"text_column": "body", "split": "train"}),
        "table": (tmp_path / "rows.txt", {"text_column": "body", "format": "csv"}),
    }.items():
        (tmp_path / name).mkdir()
        stream, _ = prepare(small(source, corpus=corpus), tmp_path / name, notes.append)
        streams.append(stream.ids.tolist())
    assert all(stream == streams[0] for stream in streams)
    skipped = [note for note in notes if "skipped: test.jsonl (split test)" in note]
    assert len(skipped) == 2  # once for each, though the text is read twice
    settings = small(tmp_path / "rows.txt", corpus={"split": "test", "format": "csv"})
    with pytest.raises(CorpusError, match=r"has no splits, but corpus\.split=test"):
        prepare(settings, tmp_path / "table", notes.append)


def test_settings_without_a_format_are_recorded_as_before_there_was_one(tmp_path):
    assert "format" not in small(tmp_path).model_dump(mode="json")["corpus"]
    dumped = small(tmp_path, corpus={"format": "csv"}).model_dump(mode="json")
    assert dumped["corpus"]["format"] == "csv"


def test_a_window_of_nothing_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "name: x\ntraining: {steps: 9}\ncorpus: {information_window: 0}"
    )
    with pytest.raises(ConfigError, match=r"corpus.information_window: input should be greater th"):
        load(tmp_path / "x.yaml")
