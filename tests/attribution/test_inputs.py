"""Tokens named as they are printed, and texts that follow others, with several tokenizers."""

import lzma
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace, Sequence
from transformers import PreTrainedTokenizerFast

from dynamics.attribution.inputs import encode, following_ids, parse_token, plain_ids, surfaces
from dynamics.corpus.tokenizers.loading import train_tokenizer
from dynamics.errors import ConfigError
from dynamics.models.load import load_model

STORY = ["the cat sat on the mat, and the café was glad.\n\n  The end 東京 of the cat"] * 9


def with_tokenizer(tokenizer):
    """The part of a model that tokenising needs."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=len(tokenizer)))
    network = SimpleNamespace(config=config)
    return SimpleNamespace(
        tokenizer=tokenizer, network=network, name="toy", is_causal=True, task="causal",
        max_length=None, is_encoder_decoder=False, has_segments=False,
    )  # fmt: skip


def sentencepiece():
    """A space before whatever it is given, and no splitting before merging."""
    letters = ["<unk>", *"abcdeghnst.", "\u2581"]
    merges = [("\u2581", "t"), ("\u2581t", "h"), ("\u2581th", "e"), ("\u2581", "c"), ("a", "t")]
    vocabulary = dict.fromkeys([*letters, *("".join(each) for each in merges)])
    backend = Tokenizer(BPE({each: at for at, each in enumerate(vocabulary)}, merges))
    backend.normalizer = Sequence([Prepend("\u2581"), Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def own():
    """Byte-level, as trained here: a space belongs to the word after it."""
    return train_tokenizer(STORY, 290)


@pytest.fixture(scope="module", params=[sentencepiece, own], ids=lambda made: made.__name__)
def model(request):
    return with_tokenizer(request.param())


def every_printed_token_is_understood(model, ids):
    printed = surfaces(model, ids)
    meant = [parse_token(model, each) for each in printed]
    assert surfaces(model, meant) == printed
    return printed


def test_a_token_is_named_as_it_is_printed(model):
    printed = every_printed_token_is_understood(model, range(len(model.tokenizer)))
    assert {" the", " c", "at", "a", "."} <= {*printed}


def test_a_text_that_follows_has_the_spaces_it_was_given(model):
    tokens = surfaces(model, following_ids(model, " the cat"))
    assert "".join(tokens) == " the cat"
    assert tokens[0] == " the"
    twice = surfaces(model, following_ids(model, "  the"))
    assert "".join(twice).replace("\u2581", " ") == "  the"
    assert following_ids(model, "the") == plain_ids(model, "the")


def test_a_continuation_with_a_space_is_no_longer_than_one_without():
    model = with_tokenizer(sentencepiece())
    spaced, bare = (
        encode(model, {"text": "the cat", "continuation": each}) for each in (" the end", "the end")
    )
    assert spaced == bare
    assert surfaces(model, spaced.tokens.ids)[spaced.continuation_start] == " the"
    assert plain_ids(model, " the end")[0] == model.tokenizer.get_vocab()["\u2581"]


def test_several_tokens_name_the_spelling_that_is_one():
    model = with_tokenizer(own())
    known = model.tokenizer.get_vocab()
    words = (entry[1:] for entry in known if entry.startswith("Ġ") and entry[1:].isalpha())
    word = next(each for each in words if each not in known)
    message = rf"^'{word}' is \d tokens of toy \(.*\), .* as id:N, or ' {word}', which"
    with pytest.raises(ConfigError, match=message):
        parse_token(model, word)


@pytest.mark.shared_data
def test_every_token_of_a_real_sentencepiece_model(shared_data):
    model = load_model(shared_data / "models" / "stories260K")
    printed = every_printed_token_is_understood(model, range(512))
    assert parse_token(model, " g") == model.tokenizer.get_vocab()["\u2581g"]
    assert {" g", "\n", "#", " the"} <= {*printed}
    text = {"text": "Once upon a", "continuation": " time there was"}
    tokens = encode(model, text).tokens
    assert surfaces(model, tokens.ids[1:]) == [" Once", " upon", " a", " time", " there", " was"]


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["gpt_neox_20b", "roberta_base", "bert_base_uncased"])
def test_tokens_of_real_byte_level_and_wordpiece_tokenizers(shared_data, name):
    packed = shared_data / "tokenizers" / f"{name}_tokenizer.json.xz"
    backend = Tokenizer.from_str(lzma.decompress(packed.read_bytes()).decode())
    model = with_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    every_printed_token_is_understood(model, range(1000, 30000, 997))
    assert "".join(surfaces(model, following_ids(model, " the cat"))).endswith("cat")
    assert len(following_ids(model, " the cat")) == 2
