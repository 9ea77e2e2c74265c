"""The head-on-top gives a model's own logits, whatever the model."""

import pytest
import torch
import transformers as hf
from torch import nn

from dynamics.errors import CheckpointError
from dynamics.models.head import HeadOnTop
from dynamics.models.output import NetworkOutput
from dynamics.models.patching import forward_replaced
from tests.models.tiny import (
    CLASSIFIERS,
    CONFIGS,
    LANGUAGE_MODELS,
    SEQ2SEQ,
    D,
    V,
    build,
    language_task,
    tokenizer,
)

UNTIED = ("bert", "gpt2", "llama", "gemma2", "opt", "bloom", "t5", "bart")
COLUMNS = torch.tensor([7, 0, V - 1, 7])


def own_answers(network, inputs):
    """Final representations and logits of the model itself."""
    with torch.no_grad():
        answer = network(**inputs, output_hidden_states=True)
    states = getattr(answer, "decoder_hidden_states", None) or answer.hidden_states
    return states[-1], answer.logits


def inputs_of(network, text="the cat sat on the mat", **settings):
    ids = torch.tensor([tokenizer(settings.pop("name"))(text)["input_ids"]])
    inputs = {"input_ids": ids}
    if network.config.is_encoder_decoder and network.get_output_embeddings() is not None:
        inputs["decoder_input_ids"] = ids[:, :5]
    return inputs


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models(name):
    network = build(name)
    head = HeadOnTop(NetworkOutput(network))
    states, logits = own_answers(network, inputs_of(network, name=name))
    assert (head.output.over, head.readout, head.output.linear) == ("vocabulary", "each", True)
    with torch.no_grad():
        torch.testing.assert_close(head(states[0]), logits[0], rtol=1e-5, atol=1e-5)
        chosen, all_of_them = head(states[0], COLUMNS), head(states[0])[:, COLUMNS]
    torch.testing.assert_close(chosen, all_of_them, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", UNTIED)
def test_tied_and_untied_heads_are_the_models_own(name):
    network = build(name, tie_word_embeddings=False)
    if name == "t5":
        network.lm_head.weight = nn.Parameter(torch.randn(V, D))
    assert network.get_output_embeddings().weight is not network.get_input_embeddings().weight
    states, logits = own_answers(network, inputs_of(network, name=name))
    with torch.no_grad():
        torch.testing.assert_close(HeadOnTop(NetworkOutput(network))(states[0]), logits[0])


@pytest.mark.parametrize("scaled", [True, False])
def test_the_scaling_of_t5_is_in_its_head(scaled):
    network = build("t5", scale_decoder_outputs=scaled)
    states = torch.randn(3, D)
    expected = nn.functional.linear(states * (D**-0.5 if scaled else 1), network.lm_head.weight)
    with torch.no_grad():
        torch.testing.assert_close(HeadOnTop(NetworkOutput(network))(states), expected)


def test_the_bias_that_bart_adds_is_in_its_head():
    network, states = build("bart"), torch.randn(3, D)
    bias = network.final_logits_bias
    assert bias.abs().min() > 0
    head = HeadOnTop(NetworkOutput(network))
    expected = nn.functional.linear(states, network.lm_head.weight) + bias
    with torch.no_grad():
        torch.testing.assert_close(head(states), expected)
        torch.testing.assert_close(head(states, COLUMNS), expected[:, COLUMNS])
    assert network.final_logits_bias is bias


def test_the_softcap_of_gemma_2_is_in_its_head():
    network, states = build("gemma2"), 9 * torch.randn(3, D)
    raw = nn.functional.linear(states, network.lm_head.weight)
    with torch.no_grad():
        logits = HeadOnTop(NetworkOutput(network))(states, COLUMNS)
    assert raw.abs().max() > 2 >= logits.abs().max()
    torch.testing.assert_close(logits, 2 * torch.tanh(raw[:, COLUMNS] / 2))


def test_an_output_embedding_inside_a_larger_head_is_not_taken_for_all_of_it():
    """The head of DeBERTa's newer files multiplies by the input embedding after a dense layer."""
    network = build("deberta", legacy=False)
    head = HeadOnTop(NetworkOutput(network))
    states, logits = own_answers(network, inputs_of(network, name="deberta"))
    assert not head.output.linear
    with torch.no_grad():
        torch.testing.assert_close(head(states[0]), logits[0])
        torch.testing.assert_close(head(states[0], COLUMNS), logits[0][:, COLUMNS])


READOUTS = dict.fromkeys(CLASSIFIERS, "last")
READOUTS |= dict.fromkeys(
    ("bert", "roberta", "deberta", "distilbert", "electra", "modernbert"), "first"
)
READOUTS |= dict.fromkeys(("gemma2", "opt"), "last_not_padding")  # which name a padding token
READOUTS |= dict.fromkeys(("bart", "t5"), "end_of_sentence")
READOUTS["modernbert_mean"] = "mean"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    network = build(name, "classification")
    head = HeadOnTop(NetworkOutput(network))
    assert (head.output.over, head.readout, head.output.linear) == ("labels", READOUTS[name], False)
    states, logits = own_answers(network, inputs_of(network, "the cat sat", name=name))
    read = {"first": states[:, 0], "mean": states.mean(1)}.get(head.readout, states[:, -1])
    if name == "bart":  # reads what its decoder gives for the shifted text
        assert states.shape[1] == 5
    with torch.no_grad():
        torch.testing.assert_close(head(read), logits)
        torch.testing.assert_close(head(read, torch.tensor([2, 0])), logits[:, [2, 0]])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "opt"])
@pytest.mark.parametrize("pad", [None, 1, "eos"])
def test_classifiers_with_and_without_a_padding_token(name, pad):
    network = build(name, "classification")
    pad = network.config.eos_token_id if pad == "eos" else pad
    network.config.pad_token_id = pad
    ids = torch.tensor([[5, 9, 7, 8]])
    states, logits = own_answers(network, {"input_ids": ids})
    with torch.no_grad():
        found = HeadOnTop(NetworkOutput(network))(states[0])
    assert found.shape == (4, 3)
    torch.testing.assert_close(found[-1:], logits)


@pytest.mark.parametrize("labels", [1, 3])
def test_every_representation_is_read_as_if_it_were_the_one_read_out(labels):
    """Alone or among others, and by the pooler where the model has one."""
    network, states = build("bert", "classification", num_labels=labels), torch.randn(5, D)
    head = HeadOnTop(NetworkOutput(network))
    with torch.no_grad():
        expected = network.classifier(network.bert.pooler(states[:, None]))
        torch.testing.assert_close(head(states), expected)
        torch.testing.assert_close(torch.cat([head(each[None]) for each in states]), expected)


@pytest.mark.parametrize(
    ("name", "task"), [("gpt2", "causal"), ("gpt2", "classification"), ("bert", "classification")]
)
def test_nothing_to_read_gives_nothing(name, task):
    head = HeadOnTop(NetworkOutput(build(name, task)))
    assert head(torch.empty(0, D)).shape == (0, V if task == "causal" else 3)
    if task == "causal":
        assert head(torch.randn(2, D), torch.tensor([], dtype=torch.long)).shape == (2, 0)


def test_several_end_of_sentence_tokens():
    network = build("llama", eos_token_id=[2, 5, V - 1])
    states, logits = own_answers(network, inputs_of(network, name="llama"))
    with torch.no_grad():
        torch.testing.assert_close(HeadOnTop(NetworkOutput(network))(states[0]), logits[0])


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma2", "t5"])
def test_half_precision(name):
    network = build(name, dtype=torch.bfloat16)
    states, logits = own_answers(network, inputs_of(network, name=name))
    with torch.no_grad():
        found = HeadOnTop(NetworkOutput(network))(states[0])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, logits[0], rtol=0.02, atol=0.02)


def test_gradients_reach_the_representations():
    head, states = HeadOnTop(NetworkOutput(build("roberta"))), torch.randn(2, D, requires_grad=True)
    head(states, torch.tensor([3]))[0].sum().backward()
    assert states.grad is not None
    assert states.grad[0].abs().min() > 0
    assert states.grad[1].abs().max() == 0


class ReadsNeighbours(hf.BertForMaskedLM):
    """A head that adds the representation of the token before."""

    def __init__(self, config):
        super().__init__(config)
        own = self.cls.forward
        self.cls.forward = lambda states: own(states + states.roll(1, 1))


class ReadsBothEnds(hf.BertForSequenceClassification):
    """A head that adds the first and the last representation."""

    def __init__(self, config):
        super().__init__(config)
        own = self.bert.forward

        def both(*args, **named):
            answer = own(*args, **named)
            answer.pooler_output = self.bert.pooler(answer[0][:, :1] + answer[0][:, -1:])
            return answer

        self.bert.forward = both


@pytest.mark.parametrize(
    ("kind", "tried"), [(ReadsNeighbours, "each"), (ReadsBothEnds, "first, .*, mean")]
)
def test_a_head_that_reads_two_positions_is_refused(kind, tried):
    torch.manual_seed(0)
    network = kind(CONFIGS["bert"]()).eval()
    with pytest.raises(
        CheckpointError,
        match=rf"{kind.__name__}: its head, applied to the representation of one position, does "
        rf"not give the model's own logits \({tried} tried\)",
    ):
        HeadOnTop(NetworkOutput(network))


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "opt"])
def test_the_model_is_as_it_was_also_after_an_error(name):
    network = build(name)
    inputs = inputs_of(network, name=name)
    _, before = own_answers(network, inputs)
    hooks = sum(len(each._forward_hooks) for each in network.modules())  # of transformers
    head = HeadOnTop(NetworkOutput(network))
    reads = (
        rf"its head reads representations of {D} numbers, and those that are scored have {D + 1}"
    )
    with pytest.raises(CheckpointError, match=reads), torch.no_grad():
        head(torch.randn(2, D + 1), COLUMNS)
    with pytest.raises(IndexError), torch.no_grad():
        head(torch.randn(2, D), torch.tensor([V]))
    assert not [each for each in network.modules() if "forward" in vars(each)]
    assert sum(len(each._forward_hooks) for each in network.modules()) == hooks
    _, after = own_answers(network, inputs)
    assert after.equal(before)


def test_substitutions_nest_and_are_undone_in_order():
    module = nn.Linear(2, 2)
    given = torch.randn(1, 2)
    own = module(given)
    with forward_replaced(module, lambda _: "outer"):
        with pytest.raises(KeyError), forward_replaced(module, lambda _: "inner"):
            assert module(given) == "inner"
            raise KeyError
        assert module(given) == "outer"
    assert module(given).equal(own)
    assert "forward" not in vars(module)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_source_has_no_part_in_the_head(name):
    network = build(name)
    assert language_task(name) == "seq2seq"
    states = torch.randn(4, D)
    head = HeadOnTop(NetworkOutput(network))
    with torch.no_grad():
        assert head(states).equal(head(states))
        torch.testing.assert_close(head(states)[1:], head(states[1:]))
