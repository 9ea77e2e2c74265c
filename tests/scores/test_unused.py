"""Indicators of under-trained tokens against whole-matrix formulas."""

import numpy as np
import pytest
import torch

from dynamics.scores.norms import mean_row
from dynamics.scores.spectrum import first_component, second_moment
from dynamics.scores.unused import cosine_distance_without, cosine_distances, unit

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


def test_cosine_distances_from_products_and_norms(matrix, target):
    rows = matrix.double()
    found = cosine_distances(rows @ unit(target), rows.norm(dim=1))
    np.testing.assert_allclose(found, dense(rows.numpy(), target.numpy()), atol=1e-12)


def test_cosine_distances_without_a_direction(matrix, target):
    rows, vector = matrix.double().numpy(), target.numpy()
    component = np.linalg.svd(rows - rows.mean(axis=0))[2][0]
    moment = second_moment(matrix, shift=mean_row(matrix))
    found = cosine_distance_without(matrix, target, first_component(moment))
    without = [each - np.outer(each @ component, component) for each in (rows, vector[None])]
    np.testing.assert_allclose(found, dense(without[0], without[1][0]), atol=2e-5)


def test_ends_and_zeros():
    matrix = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 5.0], [0.0, 0.0]]).double()
    norms = matrix.norm(dim=1)
    for vector, distances in (([1.0, 0.0], [0, 2, 1, 1]), ([0.0, 0.0], [1, 1, 1, 1])):
        products = matrix @ unit(torch.tensor(vector))
        assert cosine_distances(products, norms).tolist() == distances


def test_the_matrix_stays_as_it_is(matrix, target):
    before = matrix.clone()
    cosine_distance_without(matrix, target, torch.eye(16, dtype=torch.float64)[0])
    assert matrix.equal(before)
