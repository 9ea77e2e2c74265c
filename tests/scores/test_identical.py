"""Rows that are equal bit by bit, against a comparison of every pair."""

import numpy as np
import pytest
import torch

from dynamics.scores.identical import identical_rows


def slowly(matrix):
    """For each row the lowest id of a row with the same bytes, where another row has them."""
    contents = [row.contiguous().view(torch.uint8).numpy().tobytes() for row in matrix]
    return {
        row: contents.index(content)
        for row, content in enumerate(contents)
        if contents.count(content) > 1
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_groups_are_those_of_every_pair(dtype, width):
    rng = np.random.default_rng(3)
    kinds = torch.tensor(rng.standard_normal((900, width))).to(dtype)
    matrix = kinds[torch.tensor(rng.integers(0, 900, 1500))].clone()
    matrix[7], matrix[1400] = 0, 0  # far apart, in two parts that are read
    matrix[9] = matrix[7]
    matrix[9, width - 1] = -0.0  # equal in value, not in its bits
    found = identical_rows(matrix)
    assert dict(zip(found.ids.tolist(), found.representatives.tolist(), strict=True)) == slowly(
        matrix
    )
    assert found.groups == len({*slowly(matrix).values()})
    sizes = torch.bincount(found.representatives)
    assert found.largest.tolist() == (found.ids[found.representatives == sizes.argmax()]).tolist()


def test_rows_that_agree_where_they_are_looked_at_first_are_compared_whole():
    matrix = torch.zeros(4, 100)
    matrix[1, 51] = matrix[3, 51] = 1e-9
    found = identical_rows(matrix)
    assert (found.ids.tolist(), found.representatives.tolist()) == ([0, 1, 2, 3], [0, 1, 0, 1])


@pytest.mark.parametrize("matrix", [torch.randn(50, 6), torch.empty(0, 6), torch.ones(1, 6)])
def test_without_equal_rows_there_are_no_groups(matrix):
    found = identical_rows(matrix)
    assert (len(found.ids), found.groups, len(found.largest)) == (0, 0, 0)
    scores = torch.arange(len(matrix))
    assert found.tie(scores.clone()).equal(scores)


def test_equal_rows_get_the_score_of_the_first_of_them():
    found = identical_rows(torch.tensor([[1.0], [2.0], [1.0], [3.0], [2.0]]))
    assert found.tie(torch.tensor([1.0, 2.0, 1.5, 3.0, 2.5])).tolist() == [1, 2, 1, 3, 2]
