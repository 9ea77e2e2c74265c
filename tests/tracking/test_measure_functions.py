"""Measures of one embedding against float64 in numpy, where little is left of a subtraction too."""

import numpy as np
import pytest
import torch

from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.tracking.measure_functions import View, measure

ROWS, WIDTH = 2100, 32
PADDING, UNUSED = slice(-40, None), slice(0, 30)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def view_of(rng, dtype, *, final_norm="layer", common=3.0, **fields):
    """Rows around a common vector, some of them nearly at it, and some that are equal."""
    mean = common * rng.standard_normal(WIDTH)
    matrix = torch.tensor(rng.standard_normal((ROWS, WIDTH)) + mean)
    matrix[100:110] = torch.tensor(mean + 1e-4 * rng.standard_normal((10, WIDTH)))
    for rows in (UNUSED, slice(500, 503), slice(1023, 1025), [700, 1900]):
        matrix[rows] = matrix[rows][0]
    matrix[PADDING] = 0
    matrix = matrix.to(dtype)
    first = matrix.clone()
    first[50:] += torch.tensor(0.1 * rng.standard_normal((ROWS - 50, WIDTH))).to(dtype)
    counts = torch.tensor(rng.zipf(1.3, ROWS)).clamp(max=10**6)
    counts[UNUSED] = counts[PADDING] = 0
    entries = torch.ones(ROWS, dtype=torch.bool)
    entries[PADDING] = False
    return View(
        matrix=matrix,
        first=first,
        counts=counts,
        entries=entries,
        final_norm=final_norm,
        gain=torch.tensor(rng.random(WIDTH) + 0.5).float(),
        input_embedding=torch.tensor(rng.standard_normal((ROWS, WIDTH))).to(dtype),
        unused=(counts == 0) & entries,
        **fields,
    )


def expected(view):
    """Every measure of the default groups, from whole matrices in float64."""
    rows, first, inputs = (
        matrix.double().numpy() for matrix in (view.matrix, view.first, view.input_embedding)
    )
    counts, gain = view.counts.numpy(), view.gain.double().numpy()
    kept = view.entries.numpy()
    mean, unused = rows[kept].mean(axis=0), rows[view.unused.numpy()].mean(axis=0)
    folded = (rows - mean) * gain
    if view.final_norm == "layer":
        folded = folded - folded.mean(axis=1, keepdims=True)
    change = rows - first
    norms = {
        "norm": rows,
        "norm_centered": rows - mean,
        "norm_centered_frequency": rows - counts @ rows / counts.sum(),
        "norm_folded": folded,
        "distance_from_first": change,
        "distance_from_first_centered": change - change[kept].mean(axis=0),
        "unused_distance": rows - unused,
    }
    if view.final_norm == "layer":
        norms["norm_features_centered"] = rows - rows.mean(axis=1, keepdims=True)
    cosines = {
        "cosine_to_first": cosine(rows, first),
        "cosine_to_input": cosine(rows, inputs),
        "unused_cosine_distance": 1 - cosine(rows, unused),
        "unused_cosine_distance_centered": 1 - cosine(rows - mean, unused - mean),
    }
    cosines["cosine_to_first"][(change == 0).all(axis=1)] = 1
    return {name: np.linalg.norm(each, axis=1) for name, each in norms.items()}, cosines


def cosine(rows, other):
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(other, axis=-1)
    return (rows * other).sum(axis=1) / np.where(lengths > 0, lengths, 1)


@pytest.mark.parametrize("final_norm", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_measures_are_those_of_float64(rng, dtype, final_norm):
    view = view_of(rng, dtype, final_norm=final_norm)
    found = {
        name.removeprefix("output_embedding_"): scores.numpy()
        for name, scores in measure("output_embedding", view, step=1).items()
    }
    norms, cosines = expected(view)
    assert set(found) == {*norms, *cosines}
    for name, values in norms.items():
        # A change is the small difference of two rows, taken in the type of the rows.
        lost = 1e-6 if "from_first" in name and dtype != torch.float64 else 0
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=lost, err_msg=name)
    for name, values in cosines.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("common", [1.0, 100.0, 1000.0])
def test_little_is_lost_of_rows_that_lie_near_the_mean(rng, common):
    """Squares that are subtracted would leave no digit of them: they are 1e-14 of their sum."""
    view = view_of(rng, torch.float64, common=common)
    found = measure("output_embedding", view, step=1)
    norms, _ = expected(view)
    for name in ("norm_centered", "norm_folded", "norm_centered_frequency", "unused_distance"):
        kept = norms[name] > 1e-9 * norms["norm"]  # the unused rows lie at their own mean
        values = found[f"output_embedding_{name}"].numpy()
        np.testing.assert_allclose(values[kept], norms[name][kept], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_that_are_equal_have_equal_measures_to_the_last_bit(rng, dtype):
    view = view_of(rng, dtype, groups=MEASURE_GROUPS)
    groups = [range(30), range(500, 503), range(1023, 1025), (700, 1900), range(ROWS - 40, ROWS)]
    for name, scores in measure("output_embedding", view, step=1).items():
        if "first" in name.removesuffix("without_first") or "to_input" in name:
            continue  # of two rows each
        if name.startswith("input"):
            continue
        for rows in groups:
            assert len({*scores[list(rows)].tolist()}) == 1, (name, rows)


def test_rows_that_were_equal_and_moved_alike_have_equal_distances_to_the_last_bit(rng):
    view = view_of(rng, torch.float16)
    view.first[1900] = view.first[700].clone()
    found = measure("output_embedding", view, step=1)
    for name in ("distance_from_first", "cosine_to_first", "distance_from_first_centered"):
        scores = found[f"output_embedding_{name}"]
        assert len({*scores[:30].tolist()}) == len({*scores[[700, 1900]].tolist()}) == 1


def test_of_some_rows_there_is_what_needs_no_other(rng):
    view = view_of(rng, torch.float32, has_all_rows=False)
    names = {
        name.removeprefix("output_embedding_") for name in measure("output_embedding", view, step=1)
    }
    assert names == {
        *("norm", "norm_features_centered", "distance_from_first", "cosine_to_first"),
        "cosine_to_input",
    }
