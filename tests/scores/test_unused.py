"""Indicators of under-trained tokens against whole-matrix formulas."""

import numpy as np
import pytest
import torch

from dynamics.scores.norms import mean_row
from dynamics.scores.spectrum import first_component, second_moment
from dynamics.scores.unused import cosine_distance_to, distance_to

ROWS = 1300  # more than one chunk


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16], ids=str)
def matrix(request):
    return (torch.randn(ROWS, 16, dtype=torch.float64) + 0.7).to(request.param)


@pytest.fixture
def target(matrix):
    return mean_row(matrix[-50:])


def dense(rows, vector):
    """magikarp's formula: a zero row has a cosine of 0."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(vector)
    return 1 - rows @ vector / np.maximum(norms, 1e-30)


def test_distances(matrix, target):
    expected = np.linalg.norm(matrix.double().numpy() - target.numpy(), axis=1)
    np.testing.assert_allclose(distance_to(matrix, target), expected, rtol=1e-6)


def test_cosine_distances_plain_without_a_direction_and_centred(matrix, target):
    rows, vector = matrix.double().numpy(), target.numpy()
    mean = rows.mean(axis=0)
    component = np.linalg.svd(rows - mean)[2][0]
    moment = second_moment(matrix, shift=mean_row(matrix))
    for settings, treated in [
        ({}, lambda v: v),
        ({"shift": mean_row(matrix)}, lambda v: v - mean),
        ({"without": first_component(moment)}, lambda v: v - np.outer(v @ component, component)),
    ]:
        goal = treated(vector[None])[0]
        found = cosine_distance_to(matrix, target, **settings)
        np.testing.assert_allclose(found, dense(treated(rows), goal), atol=2e-5)


def test_ends_and_zeros():
    matrix = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    target = torch.tensor([1.0, 0.0])
    assert cosine_distance_to(matrix, target).tolist() == [0, 2, 1, 1]
    assert cosine_distance_to(matrix, torch.zeros(2)).tolist() == [1, 1, 1, 1]
    assert distance_to(matrix, torch.zeros(2)).tolist() == [2, 3, 5, 0]


def test_the_matrix_stays_as_it_is(matrix, target):
    before = matrix.clone()
    distance_to(matrix, target)
    cosine_distance_to(matrix, target, shift=mean_row(matrix))
    assert matrix.equal(before)
