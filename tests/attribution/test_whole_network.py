"""The explained number is the network's own logit for an input, whatever else is in the batch.

Expected numbers are logits of the untouched model, called as its users call it.
"""

import numpy as np
import pytest
import torch
import transformers as hf
from torch.nn.functional import logsigmoid

import dynamics
from dynamics.attribution.methods import METHODS
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.models.live_model import LiveModel
from tests.models import tiny

SHAPE = {
    "vocab_size": tiny.V,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "initializer_range": 0.5,
}
TEXTS = ["the cat sat", "a very bad film", "the man ran on the mat and the dog sat on the mat"]


def model_of(kind, config, tokenizer="bert", task="classification"):
    torch.manual_seed(0)
    network = kind(config).eval()
    return LiveModel(network, tiny.tokenizer(tokenizer), task, kind.__name__)


CLASSIFIERS = {
    "longformer": lambda: model_of(
        hf.LongformerForSequenceClassification,
        hf.LongformerConfig(**SHAPE, attention_window=[4, 4], num_labels=3, pad_token_id=0),
    ),
    "albert": lambda: model_of(
        hf.AlbertForSequenceClassification,
        hf.AlbertConfig(**SHAPE, embedding_size=8, num_labels=3, pad_token_id=0),
    ),
    "convbert": lambda: model_of(
        hf.ConvBertForSequenceClassification,
        hf.ConvBertConfig(**SHAPE, embedding_size=16, num_labels=3, head_ratio=1),
    ),
    "nystromformer": lambda: model_of(
        hf.NystromformerForSequenceClassification,
        hf.NystromformerConfig(**SHAPE, num_labels=3),
    ),
    "squeezebert": lambda: model_of(
        hf.SqueezeBertForSequenceClassification,
        hf.SqueezeBertConfig(
            **SHAPE, num_labels=3, embedding_size=16, q_groups=1, k_groups=1, v_groups=1,
            post_attention_groups=1, intermediate_groups=1, output_groups=1,
        ),
    ),
    "xlnet": lambda: model_of(
        hf.XLNetForSequenceClassification,
        hf.XLNetConfig(
            vocab_size=tiny.V, d_model=16, n_layer=2, n_head=2, d_inner=24, num_labels=3
        ),
    ),
    "bart": lambda: tiny.live("bart", "classification"),
    "modernbert_mean": lambda: tiny.live("modernbert_mean", "classification"),
}  # fmt: skip


def own_logits(model, text, **inputs):
    encoded = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model.network(**encoded, **inputs).logits[0]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("method", ["logit", "occlusion"])
def test_classifiers_are_explained_alone_and_in_a_batch(name, method):
    model = CLASSIFIERS[name]()
    settings = AttributionSettings(norm_source="row")
    together = list(dynamics.attribute(model, TEXTS, method=method, settings=settings))
    for text, found in zip(TEXTS, together, strict=True):
        own = own_logits(model, text)
        (target,) = found.targets
        assert target.token_id == int(own.argmax())
        if method == "logit" and name not in ("bart", "modernbert_mean"):  # read elsewhere
            assert found.logit[target.position, 0] == pytest.approx(float(own.max()), abs=1e-4)
        (alone,) = dynamics.attribute(model, [text], method=method, settings=settings)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4, rtol=1e-4)


def test_what_a_network_mixes_is_run_apart():
    batching = {name: make().batching for name, make in CLASSIFIERS.items()}
    assert batching["convbert"] == batching["nystromformer"] == "equal_length"
    assert batching["longformer"] == batching["albert"] == batching["bart"] == "padded"


@pytest.mark.parametrize("window", [12, 13])
def test_the_trial_of_batches_fits_the_window(window):
    config = hf.BertConfig(**SHAPE | {"max_position_embeddings": window}, num_labels=3)
    assert model_of(hf.BertForSequenceClassification, config).batching == "padded"


class MixesInputs(hf.BertForSequenceClassification):
    """Each input gets the mean of all that are in the batch."""

    def forward(self, *args, **kwargs):
        answer = super().forward(*args, **kwargs)
        answer.logits = answer.logits - answer.logits.mean(0)
        return answer


def test_a_network_that_mixes_inputs_of_one_length_is_run_one_by_one():
    model = model_of(MixesInputs, hf.BertConfig(**SHAPE, num_labels=3))
    assert model.batching == "one_by_one"
    texts = ["the cat sat", "a bad film"]
    found = list(dynamics.attribute(model, texts, method="gradient_norm"))
    for text, each in zip(texts, found, strict=True):
        (alone,) = dynamics.attribute(model, [text], method="gradient_norm")
        np.testing.assert_allclose(each.scores, alone.scores, atol=1e-6)


@pytest.mark.parametrize("pad", ["</s>", "<unk>", None])
def test_a_decoder_classifier_is_read_where_its_class_reads_it(pad):
    """The last token that is no padding, whatever the tokenizer puts at the end of a text."""
    tokenizer = tiny.tokenizer("llama")
    vocabulary = tokenizer.get_vocab()
    config = hf.LlamaConfig(
        **SHAPE, num_key_value_heads=1, num_labels=3, eos_token_id=vocabulary["</s>"],
        pad_token_id=None if pad is None else vocabulary[pad],
    )  # fmt: skip
    model = model_of(hf.LlamaForSequenceClassification, config, "llama")
    texts = ["the cat sat</s>", "a bad film", "the dog</s> ran on the mat</s></s>"]
    for text, found in zip(texts, dynamics.attribute(model, texts, method="logit"), strict=True):
        own = own_logits(model, text)
        (target,) = found.targets
        assert target.token_id == int(own.argmax())
        assert found.logit[target.position, 0] == pytest.approx(float(own.max()), abs=1e-5)
    assert model.network.config.pad_token_id == config.pad_token_id


class ReadsByContent(hf.BertForSequenceClassification):
    """A head that reads the second position of texts that hold a film."""

    def forward(self, input_ids=None, **kwargs):
        answer = super().forward(input_ids, **kwargs)
        film = tiny.tokenizer("bert").convert_tokens_to_ids("film")
        if (input_ids == film).any():
            answer.logits = answer.logits + 1
        return answer


def test_a_head_that_another_input_contradicts_is_refused():
    model = model_of(ReadsByContent, hf.BertConfig(**SHAPE, num_labels=3))
    assert next(dynamics.attribute(model, ["the cat"], method="logit")).logit is not None
    message = (
        r"ReadsByContent \(ReadsByContent\): for this input the network gives a logit of .* and "
        r"its head .*: its head does not read the representation that it reads in other inputs "
        r"\(first\); use a method that needs predictions only, such as gradient_x_input or occ"
    )
    with pytest.raises(CheckpointError, match=message):
        next(dynamics.attribute(model, ["a bad film"]))
    found = next(dynamics.attribute(model, ["a bad film"], method="occlusion"))
    assert found.targets[0].token_id == int(own_logits(model, "a bad film").argmax())


class ReadsBothEnds(hf.BertForSequenceClassification):
    """A head that no single representation explains."""

    def forward(self, input_ids=None, **kwargs):
        answer = self.bert(input_ids, **kwargs)
        ends = answer.last_hidden_state[:, 0] * answer.last_hidden_state[:, -1]
        return hf.modeling_outputs.SequenceClassifierOutput(logits=self.classifier(ends))


def test_methods_that_need_no_head_need_no_head_check():
    model = model_of(ReadsBothEnds, hf.BertConfig(**SHAPE, num_labels=3))
    own = own_logits(model, "the cat sat")
    for method in METHODS:
        if METHODS[method].refuses(model):
            with pytest.raises(ConfigError, match=f"{method} does not cover ReadsBothEnds"):
                next(dynamics.attribute(model, ["the cat sat"], method=method))
        elif METHODS[method].needs == "head":
            with pytest.raises(CheckpointError, match="does not give the model's own logits"):
                next(dynamics.attribute(model, ["the cat sat"], method=method))
        elif method != "inverse_log_frequency":
            found = next(dynamics.attribute(model, ["the cat sat"], method=method))
            assert found.targets[0].token_id == int(own.argmax())


class TestLabels:
    NAMES = ("toxic", "insult", "threat", "obscene")

    def multi_label(self):
        config = hf.BertConfig(
            **SHAPE,
            num_labels=4,
            problem_type="multi_label_classification",
            id2label=dict(enumerate(self.NAMES)),
        )
        return model_of(hf.BertForSequenceClassification, config)

    @pytest.mark.parametrize("method", ["logit", "gradient_x_input", "occlusion"])
    def test_each_label_above_half_is_explained(self, method):
        model = self.multi_label()
        for text, found in zip(TEXTS, dynamics.attribute(model, TEXTS, method=method), strict=True):
            own = own_logits(model, text)
            above = (own.sigmoid() > 0.5).nonzero().flatten().tolist() or [int(own.argmax())]
            assert [target.token_id for target in found.targets] == above
            assert [target.token for target in found.targets] == [self.NAMES[i] for i in above]
            (alone,) = dynamics.attribute(model, [text], method=method)
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)

    def test_their_log_probability_is_that_of_each_alone(self):
        model, form = self.multi_label(), AttributionSettings(logit_form="log_probability")
        found = next(dynamics.attribute(model, TEXTS, method="logit", settings=form))
        expected = logsigmoid(own_logits(model, TEXTS[0]))
        for column, target in enumerate(found.targets):
            assert found.logit[0, column] == pytest.approx(float(expected[target.token_id]))
        whole = next(dynamics.attribute(model, TEXTS, method="occlusion", settings=form))
        masked = own_logits(model, TEXTS[0].replace("cat", "[MASK]"))
        column = found.targets[0].token_id
        expected = logsigmoid(own_logits(model, TEXTS[0])) - logsigmoid(masked)
        assert whole.scores[2, 0] == pytest.approx(float(expected[column]), abs=1e-5)

    def test_a_mean_over_labels_that_do_not_compete_is_refused(self):
        with pytest.raises(ConfigError, match="do not compete, so the mean over them means noth"):
            next(
                dynamics.attribute(
                    self.multi_label(), TEXTS, settings=AttributionSettings(logit_form="centered")
                )
            )

    def test_every_number_of_a_regression_is_explained(self):
        config = hf.BertConfig(
            **SHAPE, num_labels=2, problem_type="regression", id2label={0: "valence", 1: "arousal"}
        )
        model = model_of(hf.BertForSequenceClassification, config, task="regression")
        found = next(dynamics.attribute(model, TEXTS, method="occlusion"))
        assert [target.token for target in found.targets] == ["valence", "arousal"]
        named = next(
            dynamics.attribute(model, TEXTS, method="occlusion", target_spec=TargetSpec("arousal"))
        )
        np.testing.assert_allclose(named.scores[:, 0], found.scores[:, 1], atol=1e-6)


def test_rows_are_those_of_the_side_that_is_scored():
    config = hf.MarianConfig(
        vocab_size=tiny.V, decoder_vocab_size=tiny.V, d_model=16, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=24, max_position_embeddings=40, share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = model_of(hf.MarianMTModel, config, "t5", "seq2seq")
    matrices = {
        "source": model.network.model.encoder.embed_tokens.weight,
        "target": model.network.model.decoder.embed_tokens.weight,
    }
    for side, matrix in matrices.items():
        settings = AttributionSettings(side=side, norm_source="row")
        found = next(
            dynamics.attribute(
                model,
                [{"text": "the cat", "continuation": "the dog"}],
                target_spec=TargetSpec("given"),
                settings=settings,
            )
        )
        expected = matrix[found.token_ids].norm(dim=-1).detach()
        np.testing.assert_allclose(found.norm, expected, rtol=1e-5)


def test_the_language_part_of_a_model_that_also_sees():
    text = hf.Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8).to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = hf.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, eos_token_id=[2, 4]
    )
    model = model_of(hf.Gemma3ForConditionalGeneration, config, "gemma2", "causal")
    found = next(dynamics.attribute(model, ["the cat sat"]))
    ids = torch.tensor([found.token_ids])
    with torch.no_grad():
        own = model.network(input_ids=ids).logits[0, -1]
    assert found.targets[0].token_id == int(own.argmax())
    assert found.logit[-1, 0] == pytest.approx(float(own.max()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("name", "task", "text"),
    [("gpt2", "causal", "the cat sat"), ("bert", "masked", "the [MASK] sat")],
)
def test_every_method_in_every_dtype(name, task, text, method, dtype):
    if METHODS[method].refuses(tiny.live(name, task)):
        pytest.skip(f"{method} does not cover {name}")
    settings = AttributionSettings(counts=np.arange(1, tiny.V + 1))
    found, exact = (
        next(
            dynamics.attribute(
                tiny.live(name, task, dtype=each), [text], method=method, settings=settings
            )
        ).scores
        for each in (dtype, torch.float64)
    )
    tolerance = {torch.bfloat16: 0.2, torch.float16: 0.02, torch.float32: 1e-4}[dtype]
    assert np.nanmax(np.abs(found - exact)) <= tolerance * np.nanmax(np.abs(exact))


class FailsToRun(hf.BertForSequenceClassification):
    """Another error than torch's own, from code that came with the files."""

    def forward(self, input_ids=None, **kwargs):
        if input_ids is not None and (input_ids == 20).any():
            raise KeyError("a cache\nof its own")
        return super().forward(input_ids, **kwargs)


def test_an_error_of_a_network_is_one_line_with_model_and_method():
    model = model_of(FailsToRun, hf.BertConfig(**SHAPE, num_labels=3))
    text = model.tokenizer.convert_ids_to_tokens(20)
    with pytest.raises(
        MeasureError, match=r"FailsToRun \(FailsToRun\): a forward pass ends in an error: 'a cache"
    ) as refused:
        next(dynamics.attribute(model, [f"the {text}"]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["normxlogit", "gradient_x_input", "occlusion"])
def test_one_text_that_gives_no_number_is_named(method):
    model = model_of(hf.BertForSequenceClassification, hf.BertConfig(**SHAPE, num_labels=3))
    _ = model.head, model.batching
    film = model.tokenizer.convert_tokens_to_ids("film")
    with torch.no_grad():
        model.network.bert.embeddings.word_embeddings.weight[film] = torch.nan
    with pytest.raises(MeasureError, match="not finite for 'a bad film'; its weights"):
        list(dynamics.attribute(model, ["the cat sat", "a bad film"], method=method))
