"""Records of measures: a record and a function are all that a measure needs."""

import pytest
import torch

from dynamics.errors import OutputError
from dynamics.runs import measures
from dynamics.runs.findings import last_step_table
from dynamics.runs.measures import (
    MEASURES,
    Measure,
    identifiable_measures,
    is_norm,
    shown_measures,
    split_name,
)
from dynamics.tracking import measure_functions
from dynamics.tracking.track import track
from tests.tracking.synthetic import grow, write_series


def test_each_record_has_a_function():
    assert set(MEASURES) == {*measure_functions.FUNCTIONS}
    assert all(suffix == measure.suffix for suffix, measure in MEASURES.items())


def test_names_are_split_into_embedding_and_record():
    assert split_name("input_embedding_norm") == ("input_embedding", MEASURES["norm"])
    assert is_norm("output_embedding_norm_centered") and not is_norm(
        "input_embedding_unused_distance"
    )
    with pytest.raises(
        OutputError, match="'output_embedding_nrm'; did you mean 'output_embedding_n"
    ):
        split_name("output_embedding_nrm")


def test_labels_are_those_of_sentences_tables_and_axes():
    labels = shown_measures()
    assert {*labels} - {*identifiable_measures()} == {"output_embedding_norm"}
    centred = labels["output_embedding_norm_centered"]
    assert centred.sentence == "output embedding norms, uniform mean removed"
    assert centred.short == "output, uniform mean removed"
    assert centred.axis == "norm of output rows,\nuniform mean removed"
    assert labels["input_embedding_norm"].axis == "norm of input rows"


@pytest.fixture
def largest_value(monkeypatch):
    """A measure of a name that holds `_norm`, and is no norm by its record."""
    record = Measure("largest_by_norm", "displacement", labels={"input_embedding": "largest value"})
    monkeypatch.setitem(MEASURES, record.suffix, record)
    monkeypatch.setitem(
        measure_functions.FUNCTIONS, record.suffix, lambda view: view.matrix.abs().amax(dim=1)
    )


def test_a_measure_is_one_function_and_one_record(
    counts, run, largest_value, tmp_path, monkeypatch
):
    monkeypatch.setattr("dynamics.runs.findings.NAMES", {
        name: label.sentence for name, label in measures.shown_measures().items()
    })  # fmt: skip
    folder = write_series(tmp_path / "series", grow(counts))
    longer = track(folder, tmp_path / "run", counts=counts)
    name = "input_embedding_largest_by_norm"
    matrix = folder.checkpoints[-1].tensor("input_embedding")
    torch.testing.assert_close(
        torch.from_numpy(longer.array(name)[-1]), matrix.abs().amax(dim=1).float()
    )
    assert name not in run.record.measures
    bands = ["null_low", "null_high"]
    for measure in run.record.measures:
        before, after = (each.trend(measure)[bands] for each in (run, longer))
        unmoved = split_name(measure)[1].family != "displacement"
        assert before.reset_index(drop=True).equals(after.reset_index(drop=True)) == unmoved, (
            measure
        )
    assert longer.trend(name)["value"].notna().all()
    assert "input embedding norms, largest value" in last_step_table(longer)
