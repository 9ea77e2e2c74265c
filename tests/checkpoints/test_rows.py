"""Rows by id: what a text means, and what is read for it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.rows import parse_rows
from dynamics.errors import CheckpointError, ConfigError
from tests.checkpoints.writers import neox, write_checkpoint

ROWS, WIDTH = 700, 128  # 512 bytes a row in float32: 128 rows are as far as reading along goes


@pytest.mark.parametrize(
    ("text", "ids", "printed"),
    [
        ("5,17,290", [5, 17, 290], "5,17,290"),
        ("0:4", [0, 1, 2, 3], "0:4"),
        (" 9, 2:4 ,4:6,6", [2, 3, 4, 5, 6, 9], "2:7,9"),
        ("7:8", [7], "7"),
        ("0", [0], "0"),
    ],
)
def test_what_a_text_means(text, ids, printed):
    assert parse_rows(text).ids.tolist() == ids
    assert str(parse_rows(text)) == printed


@given(st.sets(st.integers(0, 60), min_size=1))
def test_a_set_of_rows_survives_being_printed(ids):
    selection = parse_rows(",".join(map(str, ids)))
    assert selection.ids.tolist() == sorted(ids)
    assert parse_rows(str(selection)) == selection


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot read '' in the rows ''; they are token ids and ranges"),
        ("1,,2", "cannot read '' in the rows '1,,2'"),
        ("five", "cannot read 'five' in the rows 'five'"),
        ("-1", "cannot read '-1' in the rows '-1'"),
        ("1:2:3", "cannot read '1:2:3'"),
        ("100:", "cannot read '100:'"),
        ("²", "cannot read '²'"),
        ("9:3", "the range 9:3 in the rows '9:3' holds no row"),
        ("3:3", "the range 3:3 in the rows '3:3' holds no row"),
        ("5,5", "row 5 is given twice in the rows '5,5'"),
        ("0:10,20,9:12", "row 9 is given twice"),
    ],
)
def test_what_cannot_be_read_is_told(text, told):
    with pytest.raises(ConfigError, match=told) as error:
        parse_rows(text)
    assert "\n" not in str(error.value)


def test_rows_beyond_the_matrix_are_told():
    parse_rows("0:700").check(ROWS, "org/model")
    told = "--rows selects row 700, but the embedding of org/model has 700 rows; the last one is"
    with pytest.raises(ConfigError, match=told):
        parse_rows("5,700").check(ROWS, "org/model")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("ids", [[3], [0, 699], [5, 6, 7, 300], list(range(0, 700, 150))])
def test_rows_are_those_of_the_tensor(tmp_path, kind, ids):
    tensors = neox(ROWS, WIDTH)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, kind), 0)
    for role, key in (
        ("input_embedding", "gpt_neox.embed_in.weight"),
        ("output_embedding", "embed_out.weight"),
    ):
        assert checkpoint.tensor(role, ids).equal(tensors[key][ids])
        assert checkpoint.tensor(role, np.array(ids)).equal(tensors[key][ids])
    with pytest.raises(CheckpointError, match=r"has no row 700 in a tensor of shape \(700, 128\)"):
        checkpoint.tensor("input_embedding", [*ids, 700])


def test_rows_near_each_other_are_one_range(tmp_path):
    tensors = neox(ROWS, WIDTH, dtype=torch.float32)
    located = Checkpoint(write_checkpoint(tmp_path, tensors, "safetensors"), 0).locate(
        "input_embedding"
    )
    assert located.part_bytes(np.array([0, 1, 2])) == [3 * 512]
    assert located.part_bytes(np.array([0, 129])) == [130 * 512]
    assert located.part_bytes(np.array([0, 130])) == [512, 512]
