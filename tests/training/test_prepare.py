"""What stands in a training folder before the first step."""

import pandas as pd
import pytest

from dynamics.config import load
from dynamics.corpus.counts import count_stream, read_counts
from dynamics.corpus.information import InformationSettings
from dynamics.corpus.tokenizer import load_tokenizer
from dynamics.errors import ConfigError
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


def test_a_window_of_nothing_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "name: x\ntraining: {steps: 9}\ncorpus: {information_window: 0}"
    )
    with pytest.raises(ConfigError, match=r"corpus.information_window: input should be greater th"):
        load(tmp_path / "x.yaml")
