"""Parts of blocks add up to what the live model gives, in every architecture with a record."""

import pytest
import torch
from transformers.modeling_utils import AttentionInterface

from dynamics.errors import ConfigError, MeasureError
from dynamics.models.attention_calls import AttentionCall, attention_calls
from dynamics.models.block_layouts import LAYOUTS, layout_of
from dynamics.models.live_model import Batch
from dynamics.models.recorded_blocks import record_blocks
from tests.attribution.blocks_by_hand import FAMILIES, TASKS, blocks_by_hand, linear_norm
from tests.models import tiny

IDS = torch.tensor([[5, 6, 7, 8, 9, 14]])
INPUTS = Batch(IDS, torch.ones_like(IDS))
IMPLEMENTATIONS = ("eager", "sdpa")


def fresh(name, implementation="sdpa", **changes):
    """A model in double precision; Gemma-2, whose attention has a cap, is eager in any case."""
    task = TASKS.get(name, "causal")
    model = tiny.live(name, task, dtype=torch.float64, large_weights=True, **changes)
    if name == "gemma2":
        for block in model.network.model.layers:
            block.self_attn.attn_logit_softcapping = 1.5
    else:
        model.network.set_attn_implementation(implementation)
    return model


def test_every_record_is_tested():
    assert set(FAMILIES) == set(LAYOUTS)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", (*FAMILIES, "gpt_neox_sequential"))
class TestParts:
    @torch.no_grad()
    def test_attention_and_values_are_those_of_the_architecture(self, name, implementation):
        model = fresh(name, implementation)
        by_hand = blocks_by_hand(name, model.network, IDS)
        for parts, expected in zip(record_blocks(model, INPUTS), by_hand, strict=True):
            torch.testing.assert_close(parts.weights, expected.attention, rtol=0, atol=1e-6)
            torch.testing.assert_close(parts.values, expected.values, rtol=0, atol=1e-6)
            torch.testing.assert_close(
                parts.weights.sum(-1), torch.ones_like(parts.weights[..., 0])
            )

    @torch.no_grad()
    def test_shares_of_attention_add_up_to_what_it_adds(self, name, implementation):
        model = fresh(name, implementation)
        blocks = record_blocks(model, INPUTS)
        states = model.read(INPUTS, blocks=True).scored
        torch.testing.assert_close(blocks.reading.scored.final, states.final, rtol=0, atol=1e-12)
        previous = states.first[0]
        for parts, after in zip(blocks, states.blocks, strict=True):
            shares = parts.attention_shares().sum(1) + parts.attention_bias
            torch.testing.assert_close(shares, parts.attended, rtol=0, atol=1e-6)
            torch.testing.assert_close(parts.input, previous)
            if not parts.layout.norms_residual:
                whole = parts.input + parts.attended + parts.fed_forward
                torch.testing.assert_close(whole, after[0], rtol=0, atol=1e-6)
            previous = after[0]

    @torch.no_grad()
    def test_shares_of_attention_are_those_by_hand(self, name, implementation):
        model = fresh(name, implementation)
        by_hand = blocks_by_hand(name, model.network, IDS)
        for parts, block in zip(record_blocks(model, INPUTS), by_hand, strict=True):
            whole = block.output(block.mean_of_values())
            for i in range(IDS.shape[1]):
                for j in range(IDS.shape[1]):
                    heads = zip(block.attention, block.values, strict=True)
                    share = block.weight @ torch.cat([head[i, j] * v[j] for head, v in heads])
                    if block.output_norm:
                        share = linear_norm(block.output_norm, whole[i], share)
                    torch.testing.assert_close(
                        parts.attention_shares([i])[0, j], share, rtol=0, atol=1e-6
                    )

    def test_nothing_stays_patched(self, name, implementation):
        model, look_up = fresh(name, implementation), AttentionInterface.get_interface
        record_blocks(model, INPUTS)
        assert AttentionInterface.get_interface is look_up
        assert not any(part._forward_hooks for part in model.network.modules())
        assert not any(part._forward_pre_hooks for part in model.network.modules())


def test_nothing_stays_patched_after_an_error():
    model, look_up = fresh("gpt2"), AttentionInterface.get_interface
    with pytest.raises(IndexError), attention_calls():
        model.network(torch.tensor([[tiny.V + 5]]))
    with pytest.raises(IndexError):
        record_blocks(model, Batch(IDS + tiny.V, torch.ones_like(IDS)))
    assert AttentionInterface.get_interface is look_up
    assert not any(part._forward_hooks for part in model.network.modules())


class TestRefusals:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_feed_forward_network_that_is_scaled(self, name):
        model = fresh(name, "eager")
        block = model.stack().blocks[1]
        # The activation's map gives more behind the recorder; in BERT's, whose parts norm, all.
        path = LAYOUTS[name].feed_forward.output.rpartition(".")[0]
        part = block if name in ("bert", "roberta") else block.get_submodule(path)
        part.forward = lambda *args, run=part.forward, **more: run(*args, **more) * 1.1
        with pytest.raises(MeasureError, match=r"block 2, is not built as .* differs from that of"):
            list(record_blocks(model, INPUTS))

    def test_weights_that_are_not_those_of_the_attention(self, monkeypatch):
        def uniform(call):
            return torch.full((1, call.query.shape[1], *[call.query.shape[2]] * 2), 1 / 6).double()

        monkeypatch.setattr(AttentionCall, "weights", uniform)
        with pytest.raises(MeasureError, match="attention weights times values differs from"):
            list(record_blocks(fresh("bert"), INPUTS))

    def test_attention_that_does_not_go_through_the_interface(self):
        model = tiny.live("gpt2", reorder_and_upcast_attn=True)
        model.network.set_attn_implementation("eager")
        with pytest.raises(MeasureError, match="2 blocks call attention 0 times through the int"):
            record_blocks(model, INPUTS)

    def test_a_feed_forward_network_in_chunks(self):
        model = fresh("bert")
        for block in model.stack().blocks:
            block.chunk_size_feed_forward = 3
        with pytest.raises(MeasureError, match=r"call attention 2 times .* 18 of 12 parts"):
            record_blocks(model, INPUTS)

    @pytest.mark.parametrize("name", ["opt", "bloom", "mamba", "electra", "modernbert", "deberta"])
    def test_architectures_without_a_record(self, name):
        with pytest.raises(ConfigError, match=r"cannot be decomposed: no record .* for BERT, RoBE"):
            layout_of(tiny.build(name))

    def test_a_record_of_another_architecture(self, monkeypatch):
        monkeypatch.setitem(LAYOUTS, "opt", LAYOUTS["llama"])
        with pytest.raises(MeasureError, match=r"its blocks are not built as LLaMA: .*o_proj"):
            record_blocks(tiny.live("opt"), INPUTS)


class TestZeroedValues:
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("name", FAMILIES)
    @torch.no_grad()
    def test_a_copy_is_the_block_whose_value_map_gives_zeros(self, name, implementation):
        model = fresh(name, implementation)
        by_hand = blocks_by_hand(name, model.network, IDS)
        for parts, block in zip(record_blocks(model, INPUTS), by_hand, strict=True):
            copies = parts.with_values_zeroed(torch.tensor([-1, 0, 4]))
            torch.testing.assert_close(copies[0], parts.output, rtol=0, atol=1e-12)
            for copy, position in zip(copies[1:], (0, 4), strict=True):

                def zeroed(_, __, output, position=position, rows=block.rows):
                    output = output.clone()
                    output[:, position, rows] = 0
                    return output

                args, kwargs = parts.arguments
                with block.value.register_forward_hook(zeroed):
                    output = block.module(*args, **kwargs)
                output = output if isinstance(output, torch.Tensor) else output[0]
                torch.testing.assert_close(copy, output[0], rtol=0, atol=1e-9)
                assert (copy - copies[0]).abs().max() > 1e-3

    def test_values_that_stay_are_refused(self, monkeypatch):
        """The failure elsewhere: a hook that never sees the values of fused attention."""
        (parts, _) = record_blocks(fresh("gpt2"), INPUTS)
        monkeypatch.setattr("dynamics.models.attention_calls._without", lambda value, _: value)
        with pytest.raises(MeasureError, match=r"block 1, .*: value set to zero differs"):
            parts.with_values_zeroed(torch.tensor([2]))
