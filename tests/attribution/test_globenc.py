from dataclasses import replace

import pytest
import torch

from dynamics.attribution.globenc import globenc, lengths
from dynamics.models.recorded_blocks import record_blocks
from tests.attribution.batches import alone, attribution_batch
from tests.attribution.blocks_by_hand import POST_NORM, blocks_by_hand, linear_norm
from tests.attribution.golden_models import assert_golden, golden_batch, golden_model
from tests.attribution.test_alti import states_by_hand
from tests.models.test_block_parts import IMPLEMENTATIONS, fresh


def test_golden_numbers():
    single = globenc(golden_batch("bert", layer=1, mixing="single")).values[0, :, 0]
    assert_golden(single, [0.080361, 0.079763, 2.635968, 0.079447, 0.076258])
    rolled = globenc(golden_batch("bert")).values[0, :, 0]
    assert_golden(rolled, [0.586255, 0.524238, 6.387404, 0.590712, 0.891766])


@torch.no_grad()
def test_golden_numbers_of_rows_that_sum_to_one():
    """A variant that others print: matrices divided by their row sums before the product."""
    blocks = record_blocks(golden_model("bert"), golden_batch("bert").inputs)
    first, second = (matrix / matrix.sum(1, keepdim=True) for matrix, _ in map(lengths, blocks))
    assert_golden((second @ first)[2], [0.063764, 0.060615, 0.720339, 0.063789, 0.091494])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", POST_NORM)
@torch.no_grad()
def test_it_is_the_length_of_each_vector_behind_both_norms(name, implementation):
    batch = alone(attribution_batch(fresh(name, implementation)), 0)
    batch = replace(batch, inputs=replace(batch.inputs, token_type_ids=None))
    network, ids = batch.model.network, batch.inputs.input_ids
    found, rolled = globenc(batch), torch.eye(ids.shape[1], dtype=torch.float64)
    for block in blocks_by_hand(name, network, ids):
        sums = []
        with block.last_norm.register_forward_pre_hook(lambda _, args, s=sums: s.append(args[0])):
            network(ids)
        _, terms = states_by_hand(block)
        for i, row in enumerate(terms):
            for j, term in enumerate(row):
                terms[i, j] = linear_norm(block.last_norm, sums[0][0, i], term)
        rolled = terms.norm(dim=-1) @ rolled
    for target, readout in enumerate(batch.readouts[0].tolist()):
        torch.testing.assert_close(found.values[0, :, target], rolled[readout], rtol=1e-6, atol=0)
