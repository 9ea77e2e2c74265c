import pytest
import torch

from dynamics.config import ModelSettings
from dynamics.training.model import _copy_rows, build_model
from tests.training.small import ARCHITECTURES

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}


def build(architecture, seed=0, end_of_text=0, copies=None, **model):
    settings = ModelSettings(architecture=architecture, **SHAPE, **model)
    return build_model(
        settings, vocab_size=50, positions=8, end_of_text=end_of_text, seed=seed, copies=copies
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_means_one_matrix_and_untied_two(architecture, tied):
    model = build(architecture, tied=tied)
    input_embedding = model.get_input_embeddings().weight
    output_embedding = model.get_output_embeddings().weight
    assert input_embedding.shape == output_embedding.shape == (50, 16)
    assert (input_embedding is output_embedding) is tied
    assert torch.equal(input_embedding, output_embedding) is tied


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_seeds_give_equal_weights_and_others_do_not(architecture):
    first, again, other = (build(architecture, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = next(key for key in first if "word_embeddings.weight" in key or first[key].shape[0] == 50)
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_starts_alike_the_end_of_text_row_too(architecture):
    model = build(architecture, end_of_text=49, initializer_range=0.3)
    assert model.get_input_embeddings().padding_idx is None
    norms = model.get_input_embeddings().weight.detach().norm(dim=1)
    assert norms[49] > 0.3
    assert norms.mean().item() == pytest.approx(0.3 * 4, rel=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_rows_start_as_copies_and_no_other_weight_depends_on_them(architecture, tied):
    plain = build(architecture, tied=tied)
    copied = build(architecture, tied=tied, copies={7: (40, 41), 9: (42, 43)})
    source = torch.arange(50)
    source[[40, 41, 42, 43]] = torch.tensor([7, 7, 9, 9])
    by_id = {id(model.get_output_embeddings().bias) for model in (plain, copied)}
    by_id |= {id(model.get_input_embeddings().weight) for model in (plain, copied)}
    by_id |= {id(model.get_output_embeddings().weight) for model in (plain, copied)}
    for before, after in zip(plain.parameters(), copied.parameters(), strict=True):
        expected = before[source] if id(before) in by_id else before
        assert torch.equal(after, expected) and (id(before) in by_id) == (id(after) in by_id)
    assert not torch.equal(
        plain.get_input_embeddings().weight, copied.get_input_embeddings().weight
    )
    assert copied.get_input_embeddings().weight.requires_grad


def test_entries_of_the_output_bias_are_copied_as_well():
    model = build("bert")
    bias = model.get_output_embeddings().bias
    bias.data = torch.arange(50.0)
    _copy_rows(model, 3, (48, 49))
    assert bias.tolist() == [*range(48), 3, 3]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_settings_reach_the_model(architecture):
    config = build(architecture, intermediate_size=24).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.n_inner if architecture == "gpt2" else config.intermediate_size) == 24
    sizes = {tuple(p.shape) for p in build(architecture, intermediate_size=24).parameters()}
    assert {(24, 16), (16, 24)} & sizes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_makes_training_mode_noisy(architecture):
    ids = torch.arange(8)[None]
    model = build(architecture, dropout=0.5).train()
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    model = build(architecture).train()
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
