import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from dynamics.scores.norms import (
    CHUNK_ELEMENTS,
    READ_ROWS,
    chunks,
    cosine_between,
    displacement,
    embedding_norm,
    mean_row,
    norm_of_difference,
    norms_and_means,
    row_products,
)

ROWS, WIDTH = 2 * READ_ROWS + 37, 24  # read in two parts and a rest


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def matrix(rng):
    return torch.tensor(rng.standard_normal((ROWS, WIDTH)) + 2 * rng.standard_normal(WIDTH))


@pytest.fixture
def counts(rng):
    return torch.tensor(rng.zipf(1.5, ROWS))


def norms_in_float64(matrix, shift=0.0, gain=1.0, center=False):
    rows = (matrix.double().numpy() - shift) * gain
    rows = rows - rows.mean(axis=1, keepdims=True) if center else rows
    return np.sqrt((rows**2).sum(axis=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_every_gauge_agrees_with_float64_whatever_the_dtype_on_disk(
    matrix, counts, rng, dtype, scale
):
    stored = (matrix * scale).to(dtype)
    weights, gain = counts.numpy(), torch.tensor(rng.random(WIDTH) + 0.5, dtype=dtype)
    exact = stored.double().numpy()
    uniform, unigram = exact.mean(axis=0), weights @ exact / weights.sum()
    folded = {"shift": uniform, "gain": gain.double().numpy(), "center": True}
    for found, expected in [
        (embedding_norm(stored), norms_in_float64(stored)),
        (embedding_norm(stored, shift=mean_row(stored)), norms_in_float64(stored, uniform)),
        (embedding_norm(stored, shift=mean_row(stored, counts)), norms_in_float64(stored, unigram)),
        (
            embedding_norm(stored, shift=mean_row(stored), gain=gain, center_features=True),
            norms_in_float64(stored, **folded),
        ),
    ]:
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_little_is_lost_of_a_row_that_lies_near_the_mean(matrix, counts):
    """As that of a token that makes up most of the text does near the unigram mean."""
    stored = (matrix + 100).float()
    stored[0] += 1000
    counts[0] = 1000 * counts[1:].sum()
    exact = stored.double().numpy()
    expected = norms_in_float64(stored, counts.numpy() @ exact / counts.numpy().sum())
    assert expected[0] < 0.01 * expected[1]
    found = embedding_norm(stored, shift=mean_row(stored, counts))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    flat = embedding_norm(stored, center_features=True)
    np.testing.assert_allclose(flat, norms_in_float64(stored, center=True), rtol=1e-6)


def test_a_rotation_changes_no_norm_and_no_displacement(matrix, counts):
    rotation = torch.tensor(ortho_group(WIDTH, seed=3).rvs())
    turned, before = matrix @ rotation, matrix.roll(1, 0)
    for weights in (None, counts):
        torch.testing.assert_close(
            embedding_norm(turned, shift=mean_row(turned, weights)),
            embedding_norm(matrix, shift=mean_row(matrix, weights)),
        )
    torch.testing.assert_close(embedding_norm(turned), embedding_norm(matrix))
    torch.testing.assert_close(
        displacement(turned, before @ rotation), displacement(matrix, before)
    )


def test_norms_scale_with_the_matrix_and_cosines_do_not(matrix):
    before = matrix.roll(1, 0)
    torch.testing.assert_close(embedding_norm(3 * matrix), 3 * embedding_norm(matrix))
    scaled, change = displacement(3 * matrix, 3 * before), displacement(matrix, before)
    torch.testing.assert_close(scaled.distances / 3, change.distances)
    torch.testing.assert_close(scaled.cosines, change.cosines)


def test_one_vector_added_to_every_row_changes_raw_norms_only(matrix, counts, rng):
    moved = matrix + torch.tensor(5 * rng.standard_normal(WIDTH))
    gain = torch.tensor(rng.random(WIDTH) + 0.5)
    for weights in (None, counts):
        for center in (False, True):
            here, there = (
                embedding_norm(m, shift=mean_row(m, weights), gain=gain, center_features=center)
                for m in (matrix, moved)
            )
            torch.testing.assert_close(here, there)
    assert (embedding_norm(moved) - embedding_norm(matrix)).abs().max() > 1


def test_a_number_added_to_all_features_of_a_row_changes_nothing_under_centred_features(matrix):
    moved = matrix + torch.arange(ROWS)[:, None] / ROWS
    torch.testing.assert_close(
        embedding_norm(moved, center_features=True), embedding_norm(matrix, center_features=True)
    )


def test_rows_of_weight_zero_have_no_part_in_the_mean(matrix, counts):
    padded = torch.cat([matrix, torch.full((99, WIDTH), 1e6, dtype=matrix.dtype)])
    weights = torch.cat([counts, torch.zeros(99, dtype=counts.dtype)])
    torch.testing.assert_close(mean_row(padded, weights), mean_row(matrix, counts))
    torch.testing.assert_close(mean_row(padded, weights > 0), mean_row(matrix))


def test_the_mean_row_is_float64_and_its_weights_have_no_scale(matrix, counts):
    mean = mean_row(matrix.to(torch.bfloat16), counts)
    assert mean.dtype == torch.float64
    torch.testing.assert_close(mean_row(matrix, counts * 1000), mean_row(matrix, counts))


@pytest.mark.parametrize("weights", [torch.zeros(3), None])
def test_a_mean_of_nothing_is_an_error(weights):
    rows = torch.ones(0 if weights is None else 3, 4)
    with pytest.raises(ValueError, match="sum to zero: there is no mean row"):
        mean_row(rows, weights)


def test_a_matrix_without_rows_has_no_norms():
    empty = torch.empty(0, 5, dtype=torch.float16)
    assert embedding_norm(empty).shape == (0,)
    assert [part.shape for part in displacement(empty, empty)] == 3 * [(0,)]


def test_zero_rows_have_norm_zero_and_no_direction():
    now = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    before = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [3.0, 4.0]])
    distances, cosines, _ = displacement(now, before)
    assert distances.tolist() == [0, 5, 5, 0]
    assert cosines.tolist() == [1, 0, 0, 1]
    assert embedding_norm(now).tolist() == [0, 0, 5, 5]


def test_what_is_not_finite_shows_in_its_own_row_only(matrix):
    matrix[5, 3], matrix[READ_ROWS + 2, 0] = torch.nan, torch.inf
    norms = embedding_norm(matrix)
    assert norms[5].isnan()
    assert norms[READ_ROWS + 2].isinf()
    assert norms.isfinite().sum() == ROWS - 2


def test_displacement_agrees_with_numpy_and_is_exact_for_what_stays(matrix, rng):
    now = matrix + torch.tensor(0.1 * rng.standard_normal((ROWS, WIDTH)))
    now[::7] = matrix[::7]
    shift = torch.tensor(rng.standard_normal(WIDTH))
    distances, cosines, shifted = displacement(now.float(), matrix.float(), shift)
    a, b = now.float().double().numpy(), matrix.float().double().numpy()
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(a - b, axis=1), rtol=1e-6)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    moved = np.linalg.norm(a - b - shift.numpy(), axis=1)
    np.testing.assert_allclose(shifted, moved, rtol=1e-6)
    known = displacement(now.float(), matrix.float(), shift, embedding_norm(now.float()))
    torch.testing.assert_close(known, displacement(now.float(), matrix.float(), shift))
    assert (distances[::7] == 0).all()
    assert (cosines[::7] == 1).all()


def test_opposite_rows_have_cosine_minus_one_and_no_less(matrix):
    cosines = displacement(matrix.float(), -7 * matrix.float()).cosines
    assert cosines.min() >= -1
    torch.testing.assert_close(cosines, -torch.ones(ROWS))


def test_displacement_of_other_shapes_is_an_error():
    with pytest.raises(ValueError, match=r"shapes differ: \(3, 4\), \(2, 4\)"):
        displacement(torch.ones(3, 4), torch.ones(2, 4))


def test_chunks_share_one_buffer_of_a_thousand_rows(matrix):
    stored = matrix.half()
    starts, sizes, buffers = zip(
        *(
            (start, len(rows), rows.untyped_storage().data_ptr())
            for start, rows in chunks(stored, torch.float32)
        ),
        strict=True,
    )
    assert starts == (0, READ_ROWS, 2 * READ_ROWS)
    assert sizes == (READ_ROWS, READ_ROWS, 37)
    assert len(set(buffers)) == 1
    assert stored.untyped_storage().data_ptr() not in buffers


@pytest.mark.parametrize("size", [None, 7])
def test_chunks_of_wide_rows_are_smaller_and_every_row_comes_once_in_order(size):
    wide = torch.arange(2 * READ_ROWS + 5.0)[:, None].expand(-1, CHUNK_ELEMENTS // 100)
    parts = [(start, rows[:, 0].clone()) for start, rows in chunks(wide, torch.float32, size=size)]
    assert torch.cat([rows for _, rows in parts]).equal(wide[:, 0])
    assert all(rows[0] == start for start, rows in parts)
    assert max(len(rows) for _, rows in parts) == (size or 100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_norms_and_means_in_one_pass_are_those_of_a_pass_each(matrix, counts, dtype):
    stored = matrix.to(dtype)
    norms, means = norms_and_means(stored, [None, counts, counts > 1])
    assert norms.equal(embedding_norm(stored))
    exact = stored.double()
    for mean, weights in zip(means, (torch.ones(ROWS), counts, counts > 1), strict=True):
        expected = weights.double() @ exact / weights.double().sum()
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
    none, no_means = norms_and_means(stored, [])
    assert none.equal(norms)
    assert no_means.shape == (0, WIDTH)


def test_products_are_those_of_float64(matrix, rng):
    vectors = torch.tensor(rng.standard_normal((3, WIDTH)))
    weights = torch.tensor(rng.random(WIDTH))
    found = row_products(matrix.half(), vectors, weights)
    exact = matrix.half().double()
    torch.testing.assert_close(found.norms, exact.norm(dim=1))
    torch.testing.assert_close(found.products, exact @ vectors.T)
    torch.testing.assert_close(found.squares, exact.square() @ weights)
    assert row_products(matrix, vectors).squares is None


def test_a_difference_that_cancels_is_taken_of_the_rows(rng):
    """From squares alone a row within 1e-9 of the mean would have no digit left."""
    mean = torch.tensor(rng.standard_normal(WIDTH)) + 5
    apart = 10.0 ** -torch.arange(14, dtype=torch.float64)[:, None]
    rows = mean + apart * torch.tensor(rng.standard_normal((14, WIDTH)))
    squares = rows.square().sum(dim=1) + mean @ mean
    found = norm_of_difference(rows, squares, 2 * rows @ mean, shift=mean)
    np.testing.assert_allclose(found, (rows - mean).norm(dim=1), rtol=1e-8)


def test_nothing_is_written_into_the_matrix(matrix, counts):
    kept, before = matrix.clone(), matrix.roll(1, 0)
    embedding_norm(matrix, shift=mean_row(matrix, counts), gain=matrix[0], center_features=True)
    displacement(matrix, before)
    assert matrix.equal(kept)
    assert before.equal(kept.roll(1, 0))


def test_cosines_between_two_matrices_are_those_of_numpy():
    one, other = torch.randn(2, 1100, 7, dtype=torch.float64)
    other[3] = 0
    expected = (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)
    expected[3] = 0
    assert torch.allclose(cosine_between(one, other), expected, atol=1e-12)
    assert cosine_between(one.half(), -one.half()).eq(-1).all()
    with pytest.raises(ValueError, match=r"shapes differ: \(1100, 7\), \(7, 1100\)"):
        cosine_between(one, other.T)
