"""Every model class of transformers is explained exactly or refused, see the script's docstring."""

import importlib.metadata
import json

import pytest

from scripts.attribution_classes import METHODS, RESULTS, TASKS, model_classes, verdicts
from scripts.small_models import ModelClass

CLASSES = [(task, each) for task in TASKS for each in model_classes(task)]
RECORDS = json.loads(RESULTS.read_text("utf-8"))
WHAT_EACH_SHOWS = {
    ("causal", "qwen3_next", "Qwen3NextForCausalLM"): "caches that not every stack has",
    ("causal", "codegen", "CodeGenForCausalLM"): "a configuration without pad_token_id",
    ("causal", "mllama", "MllamaForCausalLM"): "a base model under another name than its prefix",
    ("causal", "cpmant", "CpmAntForCausalLM"): "positions in front of those of the input",
    ("causal", "gemma3n_text", "Gemma3nForCausalLM"): "several streams of representations",
    ("causal", "prophetnet", "ProphetNetForCausalLM"): "a head that reads more than one output",
    ("masked", "longformer", "LongformerForMaskedLM"): "positions behind those of the input",
    ("masked", "mobilebert", "MobileBertForMaskedLM"): "a head that adds to every column",
    ("masked", "ibert", "IBertForMaskedLM"): "an embedding that answers with a tuple",
    ("masked", "mbart", "MBartForConditionalGeneration"): "a decoder that starts with the end",
    ("masked", "funnel", "FunnelForMaskedLM"): "blocks behind others",
    ("masked", "xlm", "XLMWithLMHeadModel"): "blocks in several lists",
    ("masked", "perceiver", "PerceiverForMaskedLM"): "no matrix with a row for each token",
    ("seq2seq", "switch_transformers", "SwitchTransformersForConditionalGeneration"):
        "an encoder that answers with more than representations",
    ("seq2seq", "granite_speech", "GraniteSpeechForConditionalGeneration"):
        "a decoder in the table of encoder-decoders",
    ("seq2seq", "fsmt", "FSMTForConditionalGeneration"): "parts that are no models",
    ("classification", "markuplm", "MarkupLMForSequenceClassification"):
        "a list of embeddings before the list of blocks",
    ("classification", "xlnet", "XLNetForSequenceClassification"): "positions before inputs",
    ("classification", "t5gemma", "T5GemmaForSequenceClassification"): "a read-out moved by one",
    ("classification", "eurobert", "EuroBertForSequenceClassification"):
        "a mean over labels of positions, not over representations",
}  # fmt: skip


def recorded(task, model_class):
    for record in RECORDS["classes"]:
        if (record["task"], record["model_type"], record["class"]) == (
            task, model_class.model_type, model_class.name
        ):  # fmt: skip
            return {method: record[method] for method in METHODS}
    raise AssertionError(f"{task} {model_class}: run python -m scripts.attribution_classes")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("named", WHAT_EACH_SHOWS, ids=WHAT_EACH_SHOWS.values())
def test_classes_that_differ_from_the_others(named):
    task, *name = named
    model_class = ModelClass(*name)
    assert verdicts(model_class, task) == recorded(task, model_class)


@pytest.mark.sweep
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("task", "model_class"), CLASSES, ids=str)
def test_every_class(task, model_class):
    assert verdicts(model_class, task) == recorded(task, model_class)


class TestTable:
    def test_it_is_of_the_installed_transformers(self):
        installed = importlib.metadata.version("transformers")
        assert RECORDS["transformers"] == installed, "run python -m scripts.attribution_classes"

    def test_every_class_is_in_it(self):
        listed = [(each["task"], each["model_type"], each["class"]) for each in RECORDS["classes"]]
        assert listed == [(task, each.model_type, each.name) for task, each in CLASSES]

    @pytest.mark.parametrize("method", METHODS)
    def test_nine_in_ten_are_exact_and_none_is_wrong(self, method):
        said = [each[method] for each in RECORDS["classes"]]
        built = [each for each in said if not each.startswith("not built: ")]
        assert built.count("exact") >= 0.9 * len(built)
        assert all(each == "exact" or each.startswith("refused: ") for each in built)
        assert all(len(each) > 20 and "\n" not in each for each in said if each != "exact")
