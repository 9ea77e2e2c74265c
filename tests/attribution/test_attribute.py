"""Texts in, attributions out: which prediction, from which tokens, alone or in a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import nn

from dynamics.attribution.attribute import attribute
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.models.load import load_model
from tests.models.tiny import (
    CLASSIFIERS,
    FINAL_NORMS,
    LANGUAGE_MODELS,
    MASKED,
    POSITIONS,
    SEQ2SEQ,
    V,
    live,
    tokenizer,
)

CASES = [(name, "language") for name in LANGUAGE_MODELS]
CASES += [(name, task) for name in CLASSIFIERS for task in ("classification", "regression")]


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name, task=None):
        task = None if task == "language" else task
        return made.setdefault((name, task), live(name, task))

    yield get
    made.clear()


@pytest.fixture(scope="module")
def named():
    model = live("bert", "classification")
    model.network.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    return model


def one(model, text, **settings):
    (found,) = attribute(model, [text], **settings)
    return found


def texts_for(model):
    texts = ["the cat sat on the mat", "a very bad film", "the dog ran not on the big mat was good"]
    if model.task == "masked":
        mask = model.tokenizer.mask_token
        return [
            f"{text} {mask} {mask}" if at == 1 else f"{text} {mask}"
            for at, text in enumerate(texts)
        ]
    return texts


def mask_in(model, text):
    return text.replace("_", model.tokenizer.mask_token)


def probabilities(model, ids, **inputs):
    """Of the model itself, for one input."""
    with torch.no_grad():
        return model.network(torch.tensor([ids]), **inputs).logits[0].softmax(-1)


class TestBatches:
    @pytest.mark.parametrize("case", CASES, ids="-".join)
    def test_padded_batches_equal_one_by_one(self, case, models):
        model = models(*case)
        texts = texts_for(model)
        together = [*attribute(model, texts, batch_size=3)]
        for text, found in zip(texts, together, strict=True):
            alone = one(model, text)
            assert (found.text, found.tokens, found.targets) == (text, alone.tokens, alone.targets)
            np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.norm, alone.norm, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.logit, alone.logit, rtol=1e-4, atol=1e-5)
        assert len({len(each.tokens) for each in together}) > 1

    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    def test_texts_with_different_numbers_of_targets(self, name, models):
        texts = [
            {"text": "the cat", "continuation": "sat on the mat"},
            {"text": "the very bad film", "continuation": "was"},
        ]
        model, target_spec = models(name), TargetSpec("given")
        settings = AttributionSettings(side="target")
        together = [*attribute(model, texts, target_spec=target_spec, settings=settings)]
        assert [len(each.targets) for each in together] == [4, 1]
        for text, found in zip(texts, together, strict=True):
            alone = one(model, text, target_spec=target_spec, settings=settings)
            np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4, atol=1e-5)

    def test_texts_are_taken_as_they_are_needed(self, models):
        taken = []

        def texts():
            for text in ("the cat", "the dog", "a man", "a film"):
                taken.append(text)
                yield text

        found = attribute(models("gpt2"), texts(), batch_size=2)
        assert taken == []
        assert next(found).text == "the cat"
        assert taken == ["the cat", "the dog"]
        assert [each.text for each in found] == ["the dog", "a man", "a film"]

    def test_nothing_gives_nothing(self, models):
        assert [*attribute(models("gpt2"), [])] == []

    @pytest.mark.parametrize("size", [0, -1])
    def test_an_empty_batch_is_refused(self, size, models):
        with pytest.raises(ConfigError, match=f"batch_size must be at least 1; got {size}"):
            one(models("gpt2"), "the cat", batch_size=size)


class TestTargets:
    @pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
    def test_the_next_token_of_a_causal_model(self, name, models):
        model = models(name)
        found = one(model, "the cat sat")
        ids = tokenizer(name)("the cat sat")["input_ids"]
        best = probabilities(model, ids)[-1].argmax().item()
        (target,) = found.targets
        assert (target.position, target.token_id, target.foil) == (len(ids), best, None)
        assert list(found.token_ids) == ids
        assert not np.isnan(found.scores).any()

    def test_given_tokens_of_a_causal_model(self, models):
        model = models("gpt2")
        found = one(model, "the cat sat on", target_spec=TargetSpec("given"))
        assert [each.token for each in found.targets] == [" cat", " sat", " on"]
        assert [each.position for each in found.targets] == [1, 2, 3]
        unseen = np.isnan(found.scores)
        assert unseen.tolist() == [
            [False] * 3,
            [True, False, False],
            [True, True, False],
            [True] * 3,
        ]

    def test_a_position_of_a_causal_model_is_predicted_from_those_before_it(self, models):
        model = models("gpt2")
        found = one(model, "the cat sat on", target_spec=TargetSpec("given", position=2))
        assert [(each.token, each.position) for each in found.targets] == [(" sat", 2)]
        short = one(model, "the cat", target_spec=TargetSpec(" sat"))
        np.testing.assert_allclose(found.scores[:2], short.scores, rtol=1e-5)
        predicted = one(model, "the cat sat on", target_spec=TargetSpec(position=2))
        assert predicted.targets == one(model, "the cat").targets

    @pytest.mark.parametrize("position", [0, -1, 5])
    def test_positions_that_a_causal_model_cannot_predict(self, position, models):
        with pytest.raises(
            ConfigError, match=rf"position {position} cannot .* it is one of 1 to 4"
        ):
            one(models("gpt2"), "the cat sat on", target_spec=TargetSpec(position=position))

    @pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "t5", "bart"])
    def test_a_continuation(self, name, models):
        model, settings = models(name), AttributionSettings(side="target")
        text = {"text": "the cat", "continuation": " sat on"}
        found = one(model, text, target_spec=TargetSpec("given"), settings=settings)
        assert [each.token for each in found.targets] == [" sat", " on"]
        assert [*found.tokens][-2:] == [" sat", " on"]
        before = tokenizer(name)("the cat")["input_ids"]
        if name in SEQ2SEQ:
            before = [model.network.config.decoder_start_token_id]
        assert [*found.token_ids][:-2] == before
        assert [each.position for each in found.targets] == [len(before), len(before) + 1]

    @pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
    def test_generated_tokens_are_the_most_likely_ones(self, name, models):
        model, settings = models(name), AttributionSettings(side="target")
        found = one(model, "the cat sat", target_spec=TargetSpec(generate=4), settings=settings)
        produced = [each.token_id for each in found.targets]
        assert 1 <= len(produced) <= 4
        ids = [*found.token_ids]
        assert ids[-len(produced) :] == produced
        if name in SEQ2SEQ:
            source = torch.tensor([tokenizer(name)("the cat sat")["input_ids"]])
            with torch.no_grad():
                answer = model.network(source, decoder_input_ids=torch.tensor([ids])).logits[0]
            likely = answer.argmax(-1).tolist()
        else:
            likely = probabilities(model, ids).argmax(-1).tolist()
        start = found.targets[0].position - 1
        assert likely[start : start + len(produced)] == produced
        again = one(model, "the cat sat", target_spec=TargetSpec(generate=1), settings=settings)
        np.testing.assert_allclose(
            found.scores[: start + 1, 0], again.scores[: start + 1, 0], rtol=1e-4
        )

    def test_generation_is_for_models_that_predict_what_follows(self, models):
        with pytest.raises(ConfigError, match="tiny bert cannot generate: its task is masked"):
            one(models("bert"), "the cat", target_spec=TargetSpec(generate=2))
        with pytest.raises(
            ConfigError, match=f"2 tokens and {POSITIONS} generated ones do not fit"
        ):
            one(models("gpt2"), "the cat", target_spec=TargetSpec(generate=POSITIONS))

    @pytest.mark.parametrize("name", MASKED[:-1])
    def test_masks_in_the_text(self, name, models):
        model = models(name)
        found = one(model, mask_in(model, "the _ sat on _"))
        at = [i for i, each in enumerate(found.token_ids) if each == model.tokenizer.mask_token_id]
        assert [each.position for each in found.targets] == at
        best = probabilities(model, found.token_ids)[at].argmax(-1).tolist()
        assert [each.token_id for each in found.targets] == best
        assert not np.isnan(found.scores).any()

    def test_a_position_that_is_masked(self, models):
        model = models("bert")
        found = one(model, "the cat sat", target_spec=TargetSpec("given", position=2))
        same = one(model, mask_in(model, "the _ sat"), target_spec=TargetSpec("cat"))
        assert [*found.tokens] == ["[CLS]", "the", "[MASK]", "sat", "[SEP]"]
        assert found.targets == same.targets
        np.testing.assert_allclose(found.scores, same.scores, rtol=1e-6)
        own = one(model, "the cat sat", target_spec=TargetSpec(position=2)).targets
        assert own == one(model, mask_in(model, "the _ sat")).targets

    @pytest.mark.parametrize("position", [0, 4, 5, -1])
    def test_positions_without_a_token_of_the_text(self, position, models):
        with pytest.raises(
            ConfigError, match=rf"position {position} holds no token of .* at 1 to 3"
        ):
            one(models("bert"), "the cat sat", target_spec=TargetSpec(position=position))

    def test_masks_that_are_needed(self, models):
        with pytest.raises(
            ConfigError, match=r"the text has no \[MASK\]; write it where .*--posit"
        ):
            one(models("bert"), "the cat sat")
        with pytest.raises(ConfigError, match="target 'given' needs the position of the token"):
            one(models("bert"), "the [MASK]", target_spec=TargetSpec("given"))

    @pytest.mark.parametrize(
        ("name", "written", "token"),
        [
            ("gpt2", " cat", " cat"),
            ("gpt2", "cat", " cat"),
            ("gpt2", "Ġcat", " cat"),
            ("gpt2", "id:7", None),
            ("bert", "cat", "cat"),
            ("bert", "##x", "##x"),
            ("llama", "</s>", "</s>"),
        ],
    )
    def test_tokens_by_their_text_or_id(self, name, written, token, models):
        model = models(name)
        text = "the [MASK]" if name == "bert" else "the"
        (target,) = one(model, text, target_spec=TargetSpec(written)).targets
        vocabulary = model.tokenizer.get_vocab()
        entry = written if written in vocabulary else written.replace(" ", "Ġ")
        expected = 7 if token is None else vocabulary.get(entry, vocabulary.get(f"Ġ{written}"))
        assert target.token_id == expected
        assert target.token == (token or model.tokenizer.decode([7]))

    def test_a_word_of_several_tokens(self, models):
        with pytest.raises(
            ConfigError,
            match=r"^'cats' is 2 tokens of tiny bert \('cat', '##s'\), and a target is one; name "
            r"one of them, or its number as id:N$",
        ):
            one(models("bert"), "the [MASK]", target_spec=TargetSpec("cats"))
        with pytest.raises(ConfigError, match=r"'cats' is 2 tokens of tiny gpt2 \('Ġcat', 's'\), "):
            one(models("gpt2"), "the", target_spec=TargetSpec(foil="cats"))

    def test_a_token_that_the_tokenizer_does_not_know(self, models):
        with pytest.raises(ConfigError, match="'7' is unknown to the tokenizer of tiny bert"):
            one(models("bert"), "the [MASK]", target_spec=TargetSpec("7"))
        (target,) = one(models("bert"), "the [MASK]", target_spec=TargetSpec("[UNK]")).targets
        assert target.token == "[UNK]"

    @pytest.mark.parametrize("number", [V, -1, 10**9])
    def test_ids_outside_the_vocabulary(self, number, models):
        message = rf"token id {number} is outside the vocabulary of tiny gpt2 \(0 to {V - 1}\)"
        with pytest.raises(ConfigError, match=message):
            one(models("gpt2"), "the", target_spec=TargetSpec(f"id:{number}"))

    def test_a_foil_is_subtracted(self, models):
        model = models("gpt2")
        cat, dog = (
            one(model, "the", target_spec=TargetSpec(each), method="logit")
            for each in (" cat", " dog")
        )
        found = one(model, "the", target_spec=TargetSpec(" cat", foil=" dog"), method="logit")
        np.testing.assert_allclose(found.scores, cat.scores - dog.scores, rtol=1e-4, atol=1e-5)
        assert (found.targets[0].foil, found.targets[0].foil_id) == (
            " dog",
            dog.targets[0].token_id,
        )

    def test_targets_and_foils_of_their_own(self, models):
        texts = [
            {"text": "the", "target": " cat"},
            {"text": "the", "target": " dog", "foil": " man"},
            "the",
        ]
        found = [*attribute(models("gpt2"), texts, target_spec=TargetSpec(" mat"))]
        named = [(each.targets[0].token, each.targets[0].foil) for each in found]
        assert named == [(" cat", None), (" dog", " man"), (" mat", None)]
        alone = one(models("gpt2"), "the", target_spec=TargetSpec(" dog", foil=" man"))
        np.testing.assert_allclose(found[1].scores, alone.scores, rtol=1e-5)

    def test_a_text_of_one_token_has_none_that_is_given(self, models):
        with pytest.raises(ConfigError, match="target 'given' needs a token to predict"):
            one(models("gpt2"), "the", target_spec=TargetSpec("given"))


class TestClassifiers:
    @pytest.mark.parametrize("written", ["fair", "1", "id:1"])
    def test_labels_by_name_and_number(self, written, named):
        found = one(named, "a very bad film", target_spec=TargetSpec(written, foil="good"))
        (target,) = found.targets
        assert (target.token_id, target.token, target.foil_id, target.foil) == (
            1,
            "fair",
            2,
            "good",
        )
        assert target.position == 0

    @pytest.mark.parametrize("written", ["fare", "3", "id:3", "-1"])
    def test_labels_that_do_not_exist(self, written, named):
        with pytest.raises(
            ConfigError, match=rf"no label '{written}'; it has bad \(0\), fair \(1\), good \(2\)"
        ):
            one(named, "a film", target_spec=TargetSpec(written))

    @pytest.mark.parametrize("name", CLASSIFIERS)
    def test_the_predicted_label(self, name, models):
        model = models(name, "classification")
        found = one(model, "a very bad film")
        (target,) = found.targets
        own = probabilities(model, found_source(model, found, "a very bad film"))
        assert target.token_id == own.argmax().item()
        assert target.token == f"LABEL_{target.token_id}"
        assert not np.isnan(found.scores).any()

    @pytest.mark.parametrize(
        ("name", "readout"), [("bert", 0), ("llama", -1), ("modernbert_mean", None)]
    )
    def test_the_read_out_is_left_out_on_demand(self, name, readout, models):
        found = one(models(name, "classification"), "a bad film", exclude_readout=True)
        expected = np.zeros(len(found.tokens), bool)
        if readout is not None:
            expected[readout] = True
        assert np.isnan(found.scores[:, 0]).tolist() == expected.tolist()

    def test_what_is_not_for_classifiers(self, named):
        for target_spec in (TargetSpec("given"), TargetSpec(position=1)):
            with pytest.raises(
                ConfigError, match="a classifier predicts a label of the whole text"
            ):
                one(named, "a film", target_spec=target_spec)
        with pytest.raises(
            ConfigError, match="predicts no continuation, its task is classification"
        ):
            one(named, {"text": "a film", "continuation": "is"})

    def test_a_pair_has_segments(self, named):
        found = one(named, {"text": "the cat", "text_pair": "the dog sat"})
        assert [*found.tokens] == ["[CLS]", "the", "cat", "[SEP]", "the", "dog", "sat", "[SEP]"]
        assert [*found.special] == [True, False, False, True, False, False, False, True]
        assert [*found.words] == [None, 0, 1, None, 2, 3, 4, None]
        segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
        with torch.no_grad():
            answer = named.network(torch.tensor([found.token_ids]), token_type_ids=segments).logits
            without = named.network(torch.tensor([found.token_ids])).logits
        assert found.targets[0].token_id == answer.argmax().item()
        assert not torch.allclose(answer, without)
        read = answer[0, found.targets[0].token_id].item()
        assert found.logit[0, 0] == pytest.approx(read, rel=1e-4)

    @pytest.mark.parametrize("name", ["roberta", "deberta", "modernbert"])
    def test_a_pair_without_segments(self, name, models):
        model = models(name, "classification")
        found = one(model, {"text": "the cat", "text_pair": "the dog"})
        own = probabilities(model, found.token_ids)
        assert found.targets[0].token_id == own.argmax().item()


def found_source(model, found, text):
    return model.tokenizer(text)["input_ids"] if model.is_encoder_decoder else found.token_ids


class TestInputs:
    LONG = " ".join(["the", "cat", "sat", "on", "a", "mat"] * 10)

    @pytest.mark.parametrize("name", ["bert", "roberta", "t5", "bart"])
    def test_a_long_text_loses_its_end(self, name, models):
        model = models(name)
        text = f"{model.tokenizer.mask_token} {self.LONG}" if name in MASKED else self.LONG
        found = one(model, text)
        whole = tokenizer(name)(text)["input_ids"]
        kept = POSITIONS - sum(found.special)
        start = found.special.index(False)
        assert len(found.tokens) == POSITIONS
        assert [*found.token_ids][start : start + kept] == whole[start : start + kept]
        assert found.notes[0] == (
            f"the last {len(whole) - POSITIONS} tokens were cut off: the window of tiny {name} has "
            f"{POSITIONS}"
        )

    @pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
    def test_a_long_text_loses_its_beginning_where_the_end_predicts(self, name, models):
        model = models(name)
        found = one(model, self.LONG)
        whole = tokenizer(name)(self.LONG)["input_ids"]
        specials = sum(found.special)
        assert len(found.tokens) == POSITIONS
        assert [*found.token_ids][specials:] == whole[specials - POSITIONS :]
        assert f"the first {len(whole) - POSITIONS} tokens were cut off" in found.notes[0]

    def test_a_continuation_is_never_cut_off(self, models):
        text = {"text": self.LONG, "continuation": " sat on the mat"}
        found = one(models("gpt2"), text, target_spec=TargetSpec("given"))
        assert [each.token for each in found.targets] == [" sat", " on", " the", " mat"]
        assert len(found.tokens) == POSITIONS
        assert "the first 24 tokens were cut off" in found.notes[0]

    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_a_continuation_that_does_not_fit(self, name, models):
        with pytest.raises(
            ConfigError, match=f"continuation has 60 tokens, the window of tiny {name}"
        ):
            one(
                models(name),
                {"text": "the", "continuation": f" {self.LONG}"},
                target_spec=TargetSpec("given"),
            )

    def test_a_text_that_fits_has_no_note_of_truncation(self, models):
        found = one(models("gpt2"), " ".join(self.LONG.split()[:POSITIONS]))
        assert len(found.tokens) == POSITIONS
        assert not any("cut off" in note for note in found.notes)

    @pytest.mark.parametrize("text", ["", "  \n", {"text": ""}, {"text": None}, {}, {"txt": "the"}])
    def test_an_empty_text(self, text, models):
        with pytest.raises(ConfigError, match="an attribution needs tokens to score"):
            one(models("gpt2"), text)

    def test_a_text_that_the_tokenizer_drops(self, models):
        known = Tokenizer(BPE({"a": 0}, []))
        given = replace(
            models("gpt2"), tokenizer=hf.PreTrainedTokenizerFast(tokenizer_object=known)
        )
        assert one(given, "cat").token_ids == [0]
        with pytest.raises(ConfigError, match=r"the text is empty \('dog'\)"):
            one(given, "dog")

    def test_word_level(self, models):
        model = models("bert", "classification")
        found = one(model, "the cats, sat")
        assert [*found.tokens] == ["[CLS]", "the", "cat", "##s", "[UNK]", "sat", "[SEP]"]
        assert [*found.words] == [None, 0, 1, 1, 1, 2, None]
        words = found.to_word_level()
        assert [*words.words] == [None, 0, 1, 2, None]
        expected = [*found.scores[:2, 0], found.scores[2:5, 0].sum(), *found.scores[5:, 0]]
        np.testing.assert_allclose(words.scores[:, 0], expected)

    def test_words_of_byte_level_tokens_and_of_a_continuation(self, models):
        text = {"text": "the big cat", "continuation": " ran fast"}
        found = one(models("gpt2"), text, target_spec=TargetSpec("given")).to_word_level()
        assert [each.strip() for each in found.tokens] == ["the", "big", "cat", "ran", "fast"]

    @pytest.mark.parametrize("name", ["gpt2", "bert"])
    def test_the_read_out_is_left_out_on_demand(self, name, models):
        model = models(name)
        text = mask_in(model, "the _ sat _") if name == "bert" else "the cat sat"
        target_spec = TargetSpec() if name == "bert" else TargetSpec("given")
        plain, without = (
            one(model, text, target_spec=target_spec, exclude_readout=each)
            for each in (False, True)
        )
        new = np.isnan(without.scores) & ~np.isnan(plain.scores)
        offset = 0 if name == "bert" else 1
        read = [(each.position - offset, at) for at, each in enumerate(plain.targets)]
        assert {*map(tuple, np.argwhere(new))} == {*read}
        np.testing.assert_array_equal(without.scores[~new], plain.scores[~new])


class TestLayers:
    @pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "llama", "gemma2", "mamba"])
    def test_every_layer_and_its_distance(self, name, models):
        """KL(final || lens) in nats, the lens by transformers' states and the norm by name."""
        model = models(name)
        text = mask_in(model, "the _ sat") if name in MASKED else "the cat sat"
        found = [*attribute(model, [text], layers="all", method="logit")]
        depth = model.network.config.num_hidden_layers
        assert [each.layer for each in found] == [*range(depth + 1)]
        ids = torch.tensor([found[0].token_ids])
        with torch.no_grad():
            answer = model.network(ids, output_hidden_states=True)
        hidden = answer.hidden_states
        if name == "mamba":
            hidden = (model.network.get_input_embeddings()(ids), *hidden[:-2], hidden[-1])
        norm = FINAL_NORMS.get(name, lambda _: nn.Identity())(model.network.base_model)
        read = found[0].targets[0].position - (0 if name in MASKED else 1)
        column = found[0].targets[0].token_id
        final = answer.logits[0, read].double().log_softmax(-1)
        for layer, each in enumerate(found):
            with torch.no_grad():
                states = hidden[-1] if layer == depth else norm(hidden[layer])
                logits = model.head(states[0])
            np.testing.assert_allclose(each.scores[:, 0], logits[:, column], rtol=1e-4, atol=1e-5)
            lens = logits[read].double().log_softmax(-1)
            divergence = nn.functional.kl_div(lens, final, reduction="sum", log_target=True)
            assert each.checks["kl_nats"] == [pytest.approx(divergence.item(), abs=1e-5)]
        assert found[-1].checks["kl_nats"] == [pytest.approx(0, abs=1e-6)]
        assert found[0].checks["kl_nats"][0] > 0.01

    def test_the_last_layer_is_what_none_gives(self, models):
        model = models("llama")
        (last,) = attribute(model, ["the cat"], layers=[2])
        plain = one(model, "the cat")
        np.testing.assert_array_equal(last.scores, plain.scores)
        assert (last.layer, plain.layer, plain.checks) == (2, None, {})

    def test_layers_of_several_texts_in_order(self, models):
        found = attribute(models("gpt2"), ["the cat", "a dog"], layers=[2, 0])
        order = [(each.text, each.layer) for each in found]
        assert order == [("the cat", 2), ("the cat", 0), ("a dog", 2), ("a dog", 0)]

    def test_a_source_has_no_lens(self, models):
        found = [*attribute(models("t5"), ["the cat"], layers="all")]
        assert [each.checks for each in found] == [{}, {}, {}]
        target = [
            *attribute(
                models("t5"), ["the cat"], layers=[1], settings=AttributionSettings(side="target")
            )
        ]
        assert target[0].checks["kl_nats"][0] > 0

    @pytest.mark.parametrize("layer", [3, -1])
    def test_layers_that_do_not_exist(self, layer, models):
        message = rf"tiny gpt2 has no layer {layer}; its layers are 0 \(embeddings\) to 2"
        with pytest.raises(ConfigError, match=message):
            one(models("gpt2"), "the cat", layers=[layer])
        with pytest.raises(ConfigError, match=message):
            one(models("gpt2"), "the cat", settings=AttributionSettings(layer=layer))

    def test_the_layer_of_the_settings(self, models):
        found = one(models("gpt2"), "the cat", settings=AttributionSettings(layer=1))
        (same,) = attribute(models("gpt2"), ["the cat"], layers=[1])
        np.testing.assert_array_equal(found.scores, same.scores)
        assert found.layer == 1


class TestTrust:
    @staticmethod
    def damage(model):
        with torch.no_grad():
            model.network.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
        return model

    def test_weights_that_are_not_numbers(self):
        with pytest.raises(
            MeasureError,
            match="^tiny gpt2: GPT2LMHeadModel gives logits that are not finite; its weights are at"
            r" fault: transformer\.h\.1\.mlp\.c_fc\.weight holds NaN or infinity$",
        ):
            one(self.damage(live("gpt2")), "the cat")

    def test_an_answer_that_is_not_a_number(self):
        model = live("gpt2")
        assert model.head.output.linear
        self.damage(model)
        message = (
            "tiny gpt2 gives logits that are not finite for 'the cat'; its weights or its dtyp"
        )
        for target_spec in (None, TargetSpec(" sat")):
            with pytest.raises(MeasureError, match=message):
                one(model, "the cat", target_spec=target_spec)
        assert np.isfinite(
            one(model, "the cat", target_spec=TargetSpec(" sat"), method="norm").scores
        ).all()

    @pytest.mark.parametrize("name", ["bert", "llama", "t5"])
    def test_a_model_without_head_has_norms_only(self, name, models):
        model = models(name, "none")
        found = one(model, "the cat", method="norm")
        with torch.no_grad():
            rows = model.network.get_input_embeddings()(torch.tensor(found.token_ids))
        if name != "bert":  # which adds positions and segments, and a norm
            np.testing.assert_allclose(found.scores[:, 0], rows.norm(dim=-1), rtol=1e-5)
        np.testing.assert_array_equal(found.scores[:, 0], found.norm)
        assert found.targets[0].token == ""
        with pytest.raises(
            CheckpointError, match=rf"tiny {name} .* has no head, so it predicts noth"
        ):
            one(model, "the cat")
        left = one(model, "the cat", method="norm", exclude_readout=True)
        assert not np.isnan(left.scores).any()

    def test_a_method_that_does_not_exist(self, models):
        with pytest.raises(ConfigError, match="no method 'normxlogits'; did you mean 'normxlogit'"):
            one(models("gpt2"), "the cat", method="normxlogits")

    def test_what_the_result_says_of_itself(self, models):
        settings = AttributionSettings("row", "centered", protocol="paper")
        found = one(models("gpt2"), "the cat", settings=settings)
        assert (found.norm_source, found.logit_form, found.protocol) == ("row", "centered", "paper")
        assert (found.method, found.model, found.revision) == ("normxlogit", "tiny gpt2", None)
        np.testing.assert_allclose(found.scores, found.norm[:, None] * found.logit, rtol=1e-5)
        assert any("predicts what follows that token" in note for note in found.notes)
        assert one(models("bert", "classification"), "the cat").notes == []


@pytest.mark.shared_data
def test_a_real_model(shared_data):
    model = load_model(shared_data / "models" / "stories260K")
    found = one(model, "Once upon a time, there was a little girl named")
    (target,) = found.targets
    assert target.token == " Lily"
    assert found.logit[-1, 0] == found.logit[:, 0].max()
    logits = one(model, "there was a little girl named", target_spec=TargetSpec(generate=1)).targets
    assert [each.token for each in logits] == [" Lily"]
