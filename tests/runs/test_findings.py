"""The sentences say what was planted, and no more."""

import numpy as np
import pytest

from dynamics.runs.findings import findings, last_step_table
from tests.tracking.synthetic import (
    GAIN,
    INPUT,
    OUTPUT,
    directions,
    grow,
    log_count,
    make_counts,
    tracked,
)


def outputs(change, counts=None):
    """A series whose last output embedding is `change` of (rows of norm 1, standardised log f)."""
    counts = counts or make_counts()
    frequency = log_count(counts)
    frequency = ((frequency - frequency.mean()) / frequency.std())[:, None]
    rows = directions(len(counts.table), np.random.default_rng(9))
    series = grow(counts, steps=(0, 4, 16), slope=0)
    for step in (4, 16):
        series[step][OUTPUT] = change(rows, frequency).astype(np.float32)
    return series


def sentences(run, **settings):
    return " ".join(findings(run, **settings))


@pytest.fixture
def random():
    """Nothing is there to find: fresh random rows at every step."""
    series = grow(make_counts(), steps=(0, 4, 16), slope=0)
    for step, tensors in series.items():
        for key in (INPUT, OUTPUT):
            rng = np.random.default_rng([step, key == INPUT])
            tensors[key] = rng.standard_normal(tensors[key].shape).astype(np.float32)
        tensors[GAIN] = np.ones_like(tensors[GAIN])
    return series


def test_nothing_planted_nothing_claimed(tmp_path, random):
    text = sentences(tracked(tmp_path, series=random))
    assert "At step 0 none of 9 gauges of norm correlates with frequency" in text
    assert "a sign for the output embedding is not decided" in text
    assert text.count("not by the end") == 3
    assert "tokens have the longer output rows" not in text


@pytest.mark.parametrize(("sign", "who"), [(1, "frequent"), (-1, "rare")])
def test_centrings_that_agree_are_said_to(tmp_path, sign, who):
    series = outputs(lambda rows, frequency: rows * np.exp(0.3 * sign * frequency))
    text = sentences(tracked(tmp_path, series=series))
    assert f"under both centrings {who} tokens have the longer output rows" in text
    assert "uniform mean removed from step 4 on" in text


def test_centrings_that_disagree_are_said_to(tmp_path):
    """Rows lie on a line by frequency. The unigram mean is at its frequent end; the uniform mean
    is at its rare end, where rows that never occur draw it.
    """

    def along_one_direction(rows, frequency):
        place = frequency - frequency.min()
        place[20:32] = -(place.sum() - place[20:32].sum()) / 12
        return 0.1 * rows + place * np.eye(rows.shape[1])[0]

    run = tracked(tmp_path, series=outputs(along_one_direction))
    last = {
        measure: run.trend(f"output_embedding_{measure}")["value"].iloc[-1]
        for measure in ("norm_centered", "norm_centered_frequency")
    }
    assert last["norm_centered"] > 0.2 > -0.2 > last["norm_centered_frequency"]
    text = sentences(run)
    assert "the two centrings of the output embedding disagree, so its sign is not decided" in text


def test_a_norm_that_correlates_from_the_start_is_said_to(tmp_path):
    series = grow(make_counts())
    for tensors in series.values():
        tensors[INPUT] = tensors[INPUT] * (1 + log_count(make_counts())[:, None] / 5)
    text = sentences(tracked(tmp_path, series=series.copy()))
    assert (
        "At step 0 4 of 9 gauges of norm correlate with frequency: the largest rho is +0." in text
    )


def test_the_step_from_which_frequency_shows_is_the_first_that_lasts(tmp_path, random):
    """At step 4 it shows and is gone again at 16; from 64 on it stays."""
    loud = make_counts()
    rows = directions(len(loud.table), np.random.default_rng(3))
    with_frequency = (rows * (1 + log_count(loud)[:, None])).astype(np.float32)
    series = {
        step: random[min(step, 16)] | ({INPUT: with_frequency} if step in (4, 64, 128) else {})
        for step in (0, 4, 16, 64, 128)
        if step in random or step > 16
    }
    text = sentences(tracked(tmp_path, series=series))
    assert "stays: input embedding norms from step 64 on" in text


def test_the_rules_that_change_a_sign_are_said_to(tmp_path):
    """Up to a count of 100 the norm rises with frequency, beyond it falls steeply."""
    counts = make_counts()
    frequency = log_count(counts)[:, None]
    hump = np.where(frequency < np.log(100), frequency, 2 * np.log(100) - frequency)
    series = grow(counts, slope=0)
    rows = directions(len(frequency), np.random.default_rng(4))
    series[32][INPUT] = (rows * (5 + hump)).astype(np.float32)
    text = sentences(tracked(tmp_path, series=series))
    assert "The vocabulary rule changes the sign of input embedding norms" in text


def test_no_sign_that_changes_is_said_too(tmp_path):
    series = outputs(lambda rows, frequency: rows * np.exp(0.3 * frequency))
    series[16][INPUT] = series[16][OUTPUT]
    text = sentences(tracked(tmp_path, series=series))
    assert "No sign changes over the vocabulary rules tried" in text


def test_rows_that_never_occur_are_held_against_the_decay_that_is_predicted(tmp_path):
    series = grow(make_counts())
    series[32][INPUT][20:32] = 0.97 * series[0][INPUT][20:32]
    run = tracked(tmp_path, series=series)
    text = sentences(run, unused_row_factor=0.97)
    assert (
        "12 input rows never occur: their norm changed by a factor of 0.970000; learning rates and "
        "weight decay predict 0.970000 (largest relative error"
    ) in text
    assert "largest relative error 1e-02" in sentences(run, unused_row_factor=0.97 * 1.01)
    assert "never occur" not in sentences(run)


def test_no_row_that_never_occurs_is_said(tmp_path):
    counts = make_counts()
    counts.table.loc[counts.table["count"] == 0, "count"] = 5
    text = sentences(tracked(tmp_path, counts=counts), unused_row_factor=0.9)
    assert "Every row occurs, so none can be compared with pure decay." in text


def test_what_is_left_open_is_always_said(run):
    text = sentences(run)
    for open_question in ("another seed", "encodes importance", "raw output norms"):
        assert open_question in text


def test_a_run_without_counts_or_without_a_head_is_summarised_too(run_without_counts, tmp_path):
    assert findings(run_without_counts) == [
        "norms at 4 steps; without counts nothing is correlated"
    ]
    series = grow(make_counts())
    series[0][OUTPUT] *= 0  # every gauge of the output embedding is constant at the first step
    assert "At step 0 none of 4 gauges" in sentences(tracked(tmp_path, series=series))


def test_the_table_of_the_last_step_has_every_rule_and_its_values(run):
    lines = last_step_table(run).splitlines()
    assert lines[0] == "Spearman correlation with log frequency at step 32 [95 % interval]"
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")][1:] == [
        *("count>=10", "count>=1", "count>=100", "count>=1000", "top-1000", "top-5000")
    ]
    row = run.trend("input_embedding_norm").iloc[-1]
    expected = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    assert lines[2].split("  ")[-1].strip() == expected
    assert lines[1] == f"count>=10: {row['n']} tokens"


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_norms_that_are_all_alike_are_called_undefined(tmp_path, value):
    series = grow(make_counts(), steps=(0, 4, 16))
    series[16][INPUT][:] = value
    norm = value * series[16][INPUT].shape[1] ** 0.5
    table = last_step_table(tracked(tmp_path, series=series))
    (line,) = [line for line in table.splitlines() if "undefined" in line]
    assert line.split("  undefined: ") == [
        f"  {'input embedding norms':44}",
        f"{norm:.3g} for every token of count>=10",
    ]
    assert "too few" not in table
    assert "output embedding norms, raw" in table
