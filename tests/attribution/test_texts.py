"""Single texts and several, special tokens, and the words of a text."""

import json
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import dynamics
from dynamics.attribution.input_files import read_dataset, read_texts
from dynamics.attribution.inputs import encode
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import ConfigError
from dynamics.models.live_model import LiveModel
from tests.models import tiny

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>"]
MESSAGES = [{"role": "user", "content": "the cat sat"}]


def chat_model(single="<s> $A", template=TEMPLATE):
    """A decoder over single bytes, whose tokenizer has a chat template."""
    alphabet = [*SPECIAL, *pre_tokenizers.ByteLevel.alphabet()]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", additional_special_tokens=SPECIAL[4:],
    )  # fmt: skip
    tokenizer.chat_template = template
    network = tiny.build("gpt2", vocab_size=len(alphabet), n_positions=128)
    return LiveModel(network, tokenizer, "causal", "chat")


class TestOneText:
    @pytest.mark.parametrize("content", ["the cat", {"text": "the cat"}])
    def test_a_string_and_a_mapping_are_one(self, content):
        (found,) = dynamics.attribute(tiny.live("gpt2"), content)
        assert found.text == "the cat"

    def test_a_list_and_any_other_iterable_are_several(self):
        for texts in (["the cat", "a dog"], (text for text in ("the cat", "a dog"))):
            found = dynamics.attribute(tiny.live("gpt2"), texts)
            assert [each.text for each in found] == ["the cat", "a dog"]

    @pytest.mark.parametrize("content", [MESSAGES, [MESSAGES], [{"messages": MESSAGES}]])
    def test_messages_are_a_conversation(self, content):
        model = chat_model()
        (found,) = dynamics.attribute(model, content)
        expected = model.tokenizer.apply_chat_template(
            MESSAGES, add_generation_prompt=True, return_dict=False
        )
        assert found.token_ids == expected
        assert found.text.endswith("<|im_start|>assistant\n")

    def test_a_conversation_that_ends_with_an_answer_asks_for_none(self):
        model, answered = chat_model(), [*MESSAGES, {"role": "assistant", "content": "ok"}]
        (found,) = dynamics.attribute(model, answered)
        assert found.text.endswith("<|im_start|>assistant\nok<|im_end|>\n")

    def test_messages_in_files(self, tmp_path):
        lines = tmp_path / "chats.jsonl"
        lines.write_text(json.dumps({"messages": MESSAGES, "target": "id:9"}) + "\n")
        assert read_texts(lines) == [{"messages": MESSAGES, "target": "id:9"}]
        assert read_dataset(str(lines), "messages") == [{"messages": MESSAGES}]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"messages": "the cat"}, "chat messages are a list of mappings with 'role' and"),
            ({"messages": MESSAGES, "text": "the cat"}, "without a 'text' beside them"),
            ({"messages": []}, "chat messages are a list of mappings"),
            ("  ", "the text is empty"),
            ({"txt": "the cat"}, r"the text is empty \(None\)"),
        ],
    )
    def test_what_is_none_is_refused(self, content, message):
        with pytest.raises(ConfigError, match=message):
            next(dynamics.attribute(chat_model(), content))

    def test_templates_that_are_missing_or_refuse(self):
        with pytest.raises(ConfigError, match="has no chat template; give the text that the model"):
            next(dynamics.attribute(chat_model(template=None), MESSAGES))
        refusing = chat_model(template="{{ raise_exception('no user\nmay speak') }}")
        with pytest.raises(ConfigError, match="template of chat refuses the messages: no user may"):
            next(dynamics.attribute(refusing, MESSAGES))


class TestSpecialTokens:
    @pytest.mark.parametrize("single", ["$A", "<s> $A", "<s> $A </s>", "$A </s>"])
    @pytest.mark.parametrize("text", ["ab", "<s>ab", "<s>ab</s>", "ab</s>", "<s><s>ab"])
    def test_none_is_added_twice(self, single, text):
        model = chat_model(single)
        found = encode(model, text).tokens
        plain = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [0] * (single.startswith("<s>") and plain[0] != 0) + plain
        expected += [1] * (single.endswith("</s>") and plain[-1] != 1)
        assert found.ids == expected
        assert found.special == [token_id in (0, 1) for token_id in expected]

    def test_a_long_text_keeps_one_at_its_beginning(self):
        model = chat_model()
        for length in (126, 127, 128, 140):
            for text in ("a" * length, "<s>" + "a" * length):
                found = encode(model, text)
                assert found.tokens.ids[0] == 0 and 0 not in found.tokens.ids[1:]
                assert len(found.tokens) == min(128, length + 1)
                assert found.dropped == max(0, length + 1 - 128)

    def test_those_in_the_text_are_not_ranked(self):
        (found,) = dynamics.attribute(chat_model(), MESSAGES)
        ranked = {found.tokens[index] for index in found.ranking()}
        assert not ranked & {*SPECIAL} and "c" in ranked

    def test_what_stands_for_a_word_is_ranked(self):
        model = tiny.live("bert")
        found = next(dynamics.attribute(model, "the [MASK] 東 sat", target_spec=TargetSpec("cat")))
        ranked = {found.tokens[index] for index in found.ranking()}
        assert {"[MASK]", "[UNK]"} <= ranked and not ranked & {"[CLS]", "[SEP]"}


class TestWords:
    @pytest.mark.parametrize(
        "text",
        [
            "I 😀 你好 世界 cafe\u0301 ok",
            " two  spaces\n\nand a line ",
            "東京",
            "a<|im_end|> b\tc ",
        ],
    )
    def test_they_are_cut_from_the_text(self, text):
        (found,) = dynamics.attribute(chat_model("$A"), text, method="norm")
        assert "".join(found.to_word_level().tokens) == text
        assert len(found.to_word_level().tokens) < len(found.tokens)

    def test_scores_are_sums_over_the_tokens_of_a_word(self):
        (found,) = dynamics.attribute(chat_model("$A"), "I 😀 ok", method="norm")
        words = found.to_word_level()
        assert words.tokens == ["I", " 😀", " ok"]
        cut = np.cumsum([0, 1, 5, 3])
        expected = [found.scores[slice(*ends), 0].sum() for ends in pairwise(cut)]
        np.testing.assert_allclose(words.scores[:, 0], expected)

    def test_a_continuation_of_split_characters_is_whole(self):
        content = {"text": "the cat", "continuation": "東 sat 世"}
        found = next(
            dynamics.attribute(
                chat_model(), content, target_spec=TargetSpec("given"), method="norm"
            )
        )
        assert "".join(found.to_word_level().tokens) == "<s>the cat東 sat 世"

    def test_a_hidden_word_is_not_shown(self):
        (found,) = dynamics.attribute(
            tiny.live("bert"), "the cat sat", target_spec=TargetSpec(position=2)
        )
        assert found.to_word_level().tokens[2] == "[MASK]"


def test_a_default_of_a_larger_vocabulary_is_no_token():
    """GPT-2's configuration keeps the ids of 50,257 entries unless told otherwise."""
    model = tiny.live("gpt2", eos_token_id=50256, bos_token_id=50256)
    found = next(dynamics.attribute(model, "the cat sat"))
    assert found.targets[0].token_id < tiny.V
