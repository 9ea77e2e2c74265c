import pytest
import torch

from dynamics.attribution.value_zeroing import value_zeroing
from tests.attribution.batches import alone, attribution_batch
from tests.attribution.blocks_by_hand import FAMILIES, blocks_by_hand
from tests.attribution.golden_models import assert_golden, golden_batch, golden_model
from tests.models.test_block_parts import IMPLEMENTATIONS, fresh

GOLDEN = {
    1: [0.204217, 0.182317, 0.273256, 0.200838, 0.139372],
    2: [0.113503, 0.125859, 0.064992, 0.111635, 0.584010],
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_golden_numbers(implementation):
    network = golden_model("bert").network
    network.set_attn_implementation(implementation)
    for layer, expected in GOLDEN.items():
        batch = golden_batch("bert", layer=layer, mixing="single")
        assert_golden(value_zeroing(batch).values[0, :, 0], expected)
    rolled = value_zeroing(golden_batch("bert")).values[0, :, 0]
    assert_golden(rolled, [0.238497, 0.152260, 0.241892, 0.233136, 0.134215])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_it_is_the_turn_of_each_state_without_one_value(name):
    """By hand: the value map gives zeros at one position, and the whole network runs again."""
    batch = alone(attribution_batch(fresh(name)), 1)
    ids, network = batch.inputs.input_ids, batch.model.network
    readout = int(batch.readouts[0, 0])
    for layer, block in enumerate(blocks_by_hand(name, network, ids), 1):
        outputs = []
        kinds = (
            {}
            if batch.inputs.token_type_ids is None
            else {"token_type_ids": batch.inputs.token_type_ids}
        )

        def keep(_, __, output, outputs=outputs):
            outputs.append((output if isinstance(output, torch.Tensor) else output[0])[0, readout])

        with block.module.register_forward_hook(keep):
            network(ids, **kinds)
            for position in range(ids.shape[1]):

                def zeroed(_, __, output, position=position, rows=block.rows):
                    output = output.clone()
                    output[:, position, rows] = 0
                    return output

                with block.value.register_forward_hook(zeroed):
                    network(ids, **kinds)
        clean, *changed = outputs
        turns = [1 - (clean @ c) / (clean.norm() * c.norm()) for c in changed]
        expected = torch.stack(turns) / sum(turns)
        settings = {"layer": layer, "mixing": "single"}
        settings = type(batch.settings)(**settings)
        found = value_zeroing(replace_settings(batch, settings)).values[0, :, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def replace_settings(batch, settings):
    from dataclasses import replace

    return replace(batch, settings=settings)
