"""Second moments, effective rank and whitened norms against dense computations and closed forms."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from dynamics.scores.norms import mean_row
from dynamics.scores.spectrum import effective_rank, first_component, norm_under, second_moment

ROWS = 2100  # more than two chunks


@pytest.fixture(params=[torch.float64, torch.float32, torch.float16], ids=str)
def matrix(request):
    return (torch.randn(ROWS, 24, dtype=torch.float64) + 1.5).to(request.param)


def tolerance(matrix):
    return 1e-12 if matrix.dtype == torch.float64 else 1e-5


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_the_mean_of_outer_products(matrix, shifted, weighted):
    shift = mean_row(matrix) if shifted else None
    weights = torch.randint(0, 50, (ROWS,)) if weighted else None
    share = (
        np.full(ROWS, 1 / ROWS) if weights is None else (weights.double() / weights.sum()).numpy()
    )
    rows = matrix.double().numpy() - (0 if shift is None else shift.numpy())
    expected = sum(p * np.outer(v, v) for p, v in zip(share, rows, strict=True))
    found = second_moment(matrix, shift=shift, weights=weights)
    np.testing.assert_allclose(found, expected, atol=tolerance(matrix) * expected.max())


def test_the_effective_rank_is_that_of_the_singular_values(matrix):
    singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(second_moment(matrix)) == pytest.approx(expected, rel=1e-4)


def test_effective_ranks_that_are_known():
    orthogonal = torch.linalg.qr(torch.randn(64, 8, dtype=torch.float64)).Q
    assert effective_rank(second_moment(orthogonal)) == pytest.approx(8)
    assert effective_rank(second_moment(orthogonal[:, :3] @ torch.randn(3, 8).double())) < 3
    assert effective_rank(second_moment(torch.ones(64, 8).double())) == pytest.approx(1, abs=1e-5)
    assert np.isnan(effective_rank(second_moment(torch.zeros(64, 8))))


def test_a_rotation_leaves_the_effective_rank():
    matrix = torch.randn(300, 12, dtype=torch.float64) * torch.linspace(0.1, 2, 12).double()
    turned = matrix @ torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    found, expected = (effective_rank(second_moment(each)) for each in (turned, matrix))
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_first_component_is_the_first_right_singular_vector():
    matrix = torch.randn(500, 6, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 1, 1, 1]) + 2
    centered = matrix - matrix.mean(dim=0)
    expected = torch.linalg.svd(centered).Vh[0]
    found = first_component(second_moment(matrix, shift=mean_row(matrix)))
    assert abs(found @ expected).item() == pytest.approx(1)


def test_the_whitened_norm_is_that_of_the_root_of_the_moment():
    outputs, inputs = torch.randn(2, 1500, 10, dtype=torch.float64)
    moment = second_moment(outputs, shift=mean_row(outputs))
    values, vectors = np.linalg.eigh(moment.numpy())
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    shift = mean_row(inputs)
    expected = np.linalg.norm((inputs - shift).numpy() @ root, axis=1)
    np.testing.assert_allclose(norm_under(inputs, moment, shift=shift), expected, rtol=1e-10)


def test_twice_the_divergence_is_the_squared_whitened_norm():
    """A softmax over outputs, inputs near their mean: Oyama's law to second order."""
    rng = np.random.default_rng(3)
    outputs, inputs = rng.standard_normal((50, 6)), 0.01 * rng.standard_normal((40, 6))
    base = softmax(rng.standard_normal(50))
    given = softmax(np.log(base) + inputs @ outputs.T, axis=1)
    divergence = (given * np.log(given / base)).sum(axis=1)
    outputs = torch.from_numpy(outputs)
    weights = torch.from_numpy(base)
    moment = second_moment(outputs, shift=mean_row(outputs, weights), weights=weights)
    norms = norm_under(torch.from_numpy(inputs), moment, shift=torch.zeros(6).double())
    np.testing.assert_allclose(norms**2, 2 * divergence, rtol=0.05)
