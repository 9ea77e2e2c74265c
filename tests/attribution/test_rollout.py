import pytest
import torch

from dynamics.attribution.rollout import attention_rollout
from tests.attribution.batches import alone, attribution_batch
from tests.attribution.blocks_by_hand import FAMILIES, TASKS, blocks_by_hand
from tests.attribution.golden_models import assert_golden, golden_batch
from tests.models.test_block_parts import IMPLEMENTATIONS, fresh


def test_golden_numbers():
    found = attention_rollout(golden_batch("gpt2")).values[0, :, 0]
    assert_golden(found, [0.320072, 0.198585, 0.152097, 0.095591, 0.233656])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_product_of_transformers_own_weights(name, implementation):
    batch = attribution_batch(fresh(name, implementation))
    found = attention_rollout(batch).values
    for index in range(2):
        ids = alone(batch, index).inputs.input_ids
        kinds = alone(batch, index).inputs.token_type_ids
        if kinds is not None and kinds.any():
            continue  # transformers' own pass, by hand, has one segment
        rolled = torch.eye(ids.shape[1], dtype=torch.float64)
        for block in blocks_by_hand(name, batch.model.network, ids):
            step = torch.zeros_like(rolled)
            for i in range(len(rolled)):
                for j in range(len(rolled)):
                    weight = sum(head[i, j] for head in block.attention) / len(block.attention)
                    step[i, j] = (weight + (i == j)) / 2
            rolled = step @ rolled
        for target in range(2):
            readout = int(batch.readouts[index, target])
            if readout >= 0:
                row = found[index, : len(rolled), target]
                torch.testing.assert_close(row, rolled[readout], rtol=0, atol=1e-6)
    sums = found.sum(1)[batch.target_mask]
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert (found[1, 3:] == 0).all(), "padding takes no part"
    assert TASKS[name] == batch.model.task
