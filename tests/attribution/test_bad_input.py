"""Refusals of bad input: one line with the value found and the values expected."""

import copy
import re

import pytest
import torch
import transformers as hf

import dynamics
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import CheckpointError, ConfigError, DynamicsError
from tests.models import tiny

LABELS = "tiny bert has no label {}; it has LABEL_0 (0), LABEL_1 (1), LABEL_2 (2)"
ONE = "a target is one label or token, or its number; {} is of type {}; explain several in one"
TARGETS = [
    ("bert", "7", LABELS.format("'7'")),
    ("bert", 7, LABELS.format("'id:7'")),
    ("bert", -1, LABELS.format("'id:-1'")),
    ("bert", ["LABEL_0"], ONE.format("['LABEL_0']", "list")),
    ("bert", True, ONE.format("True", "bool")),
    ("bert", 1.5, ONE.format("1.5", "float")),
    ("gpt2", 500_000, "token id 500000 is outside the vocabulary of tiny gpt2 (0 to 95)"),
    ("gpt2", ["cat"], ONE.format("['cat']", "list")),
]
TEXTS = [
    (5, "the texts are of type int; give a text, chat messages, a mapping with 'te"),
    (None, "the texts are of type NoneType; give a text"),
    (b"the cat", "the texts are of type bytes; give a text"),
    ([None], "chat messages are a list of mappings with 'role' and 'content'"),
    ({"txt": "the cat"}, "the text is empty (None); an attribution needs tokens to score"),
    ({"text": "the cat", "continuation": 5}, "a continuation is a text, not of type int"),
]
OPTIONS = [
    ({"layers": "last"}, "layers are a list of numbers or 'all'; got 'last'"),
    ({"layers": 1}, "layers are a list of numbers or 'all'; got 1"),
    (
        {"target_spec": "cat"},
        "target_spec is of type str; give an object of dynamics.attribution.targets.TargetSpec",
    ),
    ({"settings": {"norm_source": "row"}}, "settings is of type dict; give an object of dynamics."),
]


def refusal(model, texts="the cat sat", **options):
    with pytest.raises(DynamicsError) as refused:
        list(dynamics.attribute(model, texts, **options))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def live(name):
    return tiny.live(name, "classification" if name == "bert" else None)


@pytest.mark.parametrize(("name", "target", "message"), TARGETS)
def test_targets(name, target, message):
    assert message in refusal(live(name), {"text": "the cat sat", "target": target})
    assert message in refusal(live(name), target_spec=TargetSpec(target))
    assert message in refusal(live(name), target_spec=TargetSpec(foil=target))


@pytest.mark.parametrize(("texts", "message"), TEXTS)
def test_texts(texts, message):
    assert message in refusal(live("gpt2"), texts)


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options(options, message):
    assert message in refusal(live("gpt2"), **options)


def test_a_number_names_a_label_or_a_token_and_nothing_names_the_prediction():
    for name in ("bert", "gpt2"):
        model = live(name)
        (by_number,) = dynamics.attribute(model, "the cat sat", target_spec=TargetSpec(2))
        (by_name,) = dynamics.attribute(model, "the cat sat", target_spec=TargetSpec("id:2"))
        assert by_number.targets == by_name.targets
        assert by_number.targets[0].token_id == 2
        (left_out,) = dynamics.attribute(model, {"text": "the cat sat", "target": None})
        (predicted,) = dynamics.attribute(model, "the cat sat")
        assert left_out.targets == predicted.targets


def test_a_row_that_no_token_has_is_called_by_its_number():
    model = live("gpt2")
    unused = tiny.V - 1
    assert model.tokenizer.convert_ids_to_tokens(unused) is None
    (found,) = dynamics.attribute(model, "the cat sat", target_spec=TargetSpec(unused))
    assert found.targets[0].token == f"id:{unused}"


def test_a_tokenizer_without_padding_gives_what_each_text_gives_alone():
    tokenizer = copy.deepcopy(tiny.tokenizer("gpt2"))
    tokenizer.pad_token = None
    model = dynamics.load_model(tiny.build("gpt2"), tokenizer=tokenizer)
    texts = ["the cat sat", "a bad film and the dog"]
    for text, found in zip(texts, dynamics.attribute(model, texts), strict=True):
        (alone,) = dynamics.attribute(model, text)
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    tiny.build("gpt2").save_pretrained(folder)
    tiny.tokenizer("gpt2").save_pretrained(folder)
    return folder


class TestLoading:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"attn_implementation": "quick"}, "cannot be loaded: .*\"quick\".* is not supported"),
            ({"attn_implementation": "flash_attention_2"}, "cannot be loaded: FlashAttention2 has"),
            ({"device_map": "everywhere"}, "cannot be loaded: .*'auto'.* but found everywhere"),
            ({"dtype": torch.int8}, "there is no dtype 'int8'; known are: bfloat16"),
            ({"task": "generation"}, "there is no task 'generation'; known are: causal"),
            ({"task": "masked"}, "transformers has no head for the task masked on models of this"),
        ],
    )  # fmt: skip
    def test_options(self, folder, options, message):
        with pytest.raises((ConfigError, CheckpointError)) as refused:
            dynamics.load_model(folder, **options)
        assert re.search(message, str(refused.value))
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            (
                torch.nn.Linear(2, 2),
                "cannot load a model from a Linear; give a folder, the name of",
            ),
            (None, "cannot load a model from a NoneType; give a folder"),
            (
                hf.GPT2LMHeadModel(tiny.CONFIGS["gpt2"]()),
                "give its tokenizer with load_model(model",
            ),
        ],
        ids=["module", "nothing", "no tokenizer"],
    )
    def test_objects(self, place, message):
        with pytest.raises(ConfigError) as refused:
            dynamics.load_model(place)
        assert message in str(refused.value)
