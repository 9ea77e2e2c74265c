"""Models from wherever a checkpoint can be; nothing that is missing is made up."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import open_series
from dynamics.corpus.tokenizers.loading import vocabulary_size
from dynamics.errors import CheckpointError, ConfigError, MismatchError, StepError
from dynamics.models.load import load_model
from dynamics.training.train import train
from tests.models.tiny import CONFIGS, POSITIONS, build, language_task, live, tokenizer, write
from tests.training.small import small, write_corpus

IDS = torch.tensor([[7, 9, 12, 5, 8]])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    write(folder, "gpt2")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    write(folder, "bert")
    return folder


@pytest.fixture
def changed(gpt2, tmp_path):
    """A copy of the model whose config.json says something else."""

    def changed(folder=gpt2, **entries):
        target = tmp_path / "changed"
        shutil.copytree(folder, target)
        told = json.loads((target / "config.json").read_text()) | entries
        (target / "config.json").write_text(json.dumps(told))
        return target

    return changed


def steps_of(parent, names, name="gpt2", **settings):
    for index, step in enumerate(names):
        network = write(parent / step, name, **settings)
        if index + 1 < len(names):  # earlier steps differ
            with torch.no_grad():
                network.get_input_embeddings().weight += 1
            network.save_pretrained(parent / step)
    return parent


def same_weights(model, network):
    own = network.state_dict()
    return all(own[key].equal(value) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_folder(name, tmp_path):
    network = write(tmp_path, name)
    model = load_model(tmp_path)
    assert (model.task, model.name, model.revision) == (language_task(name), str(tmp_path), None)
    assert type(model.network) is type(network)
    assert not model.network.training
    assert same_weights(model, network)
    assert model.tokenizer.get_vocab() == tokenizer(name).get_vocab()
    assert model.is_encoder_decoder == (name in ("t5", "bart"))
    assert model.output.over == "vocabulary"


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart"])
@pytest.mark.parametrize("task", ["classification", "regression", "none"])
def test_what_the_head_is_for_stands_in_the_configuration(name, task, tmp_path):
    network = write(tmp_path, name, task)
    model = load_model(str(tmp_path))
    assert model.task == task
    assert same_weights(model, network)


def test_regression_with_several_labels_says_so(tmp_path):
    write(tmp_path, "bert", "classification", problem_type="regression")
    assert load_model(tmp_path).task == "regression"


def test_the_pretraining_model_of_bert_is_a_masked_one(tmp_path):
    with torch.random.fork_rng():
        network = hf.BertForPreTraining(CONFIGS["bert"]()).eval()
    network.save_pretrained(tmp_path)
    tokenizer("bert").save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.task == "masked"
    with torch.no_grad():
        found, own = model.network(IDS).logits, network(IDS).prediction_logits
    torch.testing.assert_close(found, own)


def test_the_model_without_its_head_when_asked(bert):
    model = load_model(bert, task="none")
    assert isinstance(model.network, hf.BertModel)
    with pytest.raises(CheckpointError, match=r"\(BertModel\) has no head, so it predicts nothing"):
        _ = model.head


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("BertForTokenClassification", {}),
        ("BertForQuestionAnswering", {}),
        ("BertForMultipleChoice", {}),
        ("BertForNextSentencePrediction", {}),
        ("WhisperForConditionalGeneration", {}),
    ],
)
def test_other_heads_are_refused_by_name(kind, config, changed, bert):
    with pytest.raises(CheckpointError, match=rf"changed: the head of {kind} is not covered"):
        load_model(changed(bert, architectures=[kind], **config))


@pytest.mark.parametrize("told", [None, []])
def test_a_configuration_that_names_no_architecture(told, changed):
    folder = changed(architectures=told)
    with pytest.raises(CheckpointError, match=r"names no architecture.*give the task, one of caus"):
        load_model(folder)
    assert load_model(folder, task="causal").task == "causal"


def test_a_head_that_is_not_in_the_files_is_never_made_up(bert, tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"lacks weights that BertForSequenceClassification has and that would be random: "
        r"bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight, classifier\.bias, "
        r"classifier\.weight; give the task that it was trained for, or none",
    ):
        load_model(bert, task="classification")
    write(tmp_path, "electra", "none")
    with pytest.raises(CheckpointError, match=r"would be random: .* and \d+ more; give"):
        load_model(tmp_path, task="masked")


def test_a_missing_block_is_no_head_but_missing_all_the_same(changed):
    folder = changed()
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if ".h.1." not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"would be random: transformer\.h\.1\."):
        load_model(folder)


def test_weights_of_another_shape_are_refused_in_one_line(changed):
    with pytest.raises(CheckpointError, match=r"changed: cannot be loaded: [^\n]*$"):
        load_model(changed(n_embd=24))


def test_a_task_that_models_of_a_type_have_no_head_for(changed):
    with pytest.raises(
        CheckpointError, match=r"changed: transformers has no head for the task masked on models o"
    ):
        load_model(changed(), task="masked")


def test_a_masked_model_is_no_causal_one(bert):
    with pytest.raises(
        CheckpointError,
        match=r"as a BertLMHeadModel, a prediction depends on tokens that come after it.*"
        r"give the task masked",
    ):
        load_model(bert, task="causal")


def test_safetensors_stand_before_older_weights(gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    assert same_weights(load_model(tmp_path), build("gpt2"))


@pytest.mark.parametrize("damage", ["config", "weights", "tokenizer", "kind"])
def test_damaged_files_are_told_in_one_line(damage, changed):
    folder = changed(**({"model_type": "gpt9"} if damage == "kind" else {}))
    file = {"config": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}
    if damage in file:
        (folder / file[damage]).write_bytes(b"{12345678 no")
    with pytest.raises(CheckpointError) as told:
        load_model(folder)
    assert "\n" not in str(told.value)
    assert str(folder) in str(told.value)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("config.json", r"has no config\.json, which names the architecture of the weights"),
        ("model.safetensors", r"no checkpoint inside"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer\.json, .*put the files of the one it"),
    ],
)
def test_a_file_that_is_not_there(file, told, changed):
    folder = changed()
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=told):
        load_model(folder)


def test_embeddings_alone_are_no_model(changed):
    folder = changed()
    (folder / "model.safetensors").rename(folder / "embeddings.safetensors")
    with pytest.raises(CheckpointError, match="holds the embeddings only"):
        load_model(folder)


def test_a_tokenizer_with_more_ids_than_rows(tmp_path):
    write(tmp_path, "llama", vocab_size=20)
    largest = max(tokenizer("llama").get_vocab().values())
    with pytest.raises(
        MismatchError, match=rf"its tokenizer has ids up to {largest}, its embedding 20 rows"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtypes(dtype, gpt2):
    model = load_model(gpt2, dtype=dtype)
    assert {each.dtype for each in model.network.parameters()} == {getattr(torch, dtype)}
    assert model.embedding_matrix.dtype == getattr(torch, dtype)
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dtype": "float16"}, "float16 on a CPU is slow and overflows; use float32 or bfloat16"),
        ({"dtype": "flaot32"}, r"there is no dtype 'flaot32'; did you mean 'float32'\?"),
        ({"dtype": "int8"}, "there is no dtype 'int8'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used: .*; cpu always can"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used: .*; cpu always can"),
        ({"task": "causla"}, r"there is no task 'causla'; did you mean 'causal'\?"),
    ],
)
def test_settings_that_do_not_exist(settings, told, gpt2):
    with pytest.raises(ConfigError, match=told):
        load_model(gpt2, **settings)


def test_code_that_comes_along_is_not_run(changed):
    folder = changed(model_type="own", auto_map={"AutoConfig": "own.Config"})
    ran = folder / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(CheckpointError, match="needs code from its own files, which is not run"):
        load_model(folder)
    assert not ran.exists()


def test_nothing_is_printed(gpt2, capfd):
    load_model(gpt2)
    assert capfd.readouterr() == ("", "")
    assert hf.utils.logging.is_progress_bar_enabled()


def test_the_last_checkpoint_of_a_folder(tmp_path):
    series = steps_of(tmp_path, ["step-2", "step-10"])
    assert load_model(series).name == str(tmp_path / "step-10")
    assert same_weights(load_model(series), build("gpt2"))
    first = load_model(open_series(series).checkpoints[0])
    assert first.name == str(tmp_path / "step-2")
    assert not same_weights(first, build("gpt2"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study as it lies on disk: one tokenizer for the training, embeddings alone between."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    training = folder / "training"
    steps = ["step-00000000", "step-00000004", "step-00000008"]
    steps_of(training / "checkpoints", steps, with_tokenizer=False)
    (training / "train.json").write_text("{}")
    tokenizer("gpt2").save_pretrained(training / "tokenizer")
    return folder


@pytest.mark.parametrize("part", ["", "training", "training/checkpoints"])
def test_a_study_or_training_of_ours(part, study):
    model = load_model(study / part)
    assert model.name == str(study / "training" / "checkpoints" / "step-00000008")
    assert model.tokenizer.get_vocab() == tokenizer("gpt2").get_vocab()


def test_a_checkpoint_of_ours(study, monkeypatch):
    at = study / "training" / "checkpoints" / "step-00000004"
    expected = tokenizer("gpt2").get_vocab()
    assert load_model(at).tokenizer.get_vocab() == expected
    assert load_model(Checkpoint(at, 4)).tokenizer.get_vocab() == expected
    monkeypatch.chdir(at)
    assert load_model(".").tokenizer.get_vocab() == expected
    monkeypatch.chdir(at.parent)
    assert load_model(Checkpoint(Path(at.name), 4)).tokenizer.get_vocab() == expected


def test_two_checkpoints_of_one_step(tmp_path, gpt2):
    for name in ("step-4", "checkpoint-4"):
        shutil.copytree(gpt2, tmp_path / name)
    with pytest.raises(StepError, match="are both step 4"):
        load_model(tmp_path)


@pytest.mark.parametrize("place", ["gone", "gone@main"])
def test_a_folder_that_does_not_exist(place, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{place}: does not exist"):
        load_model(tmp_path / place)
    with pytest.raises(CheckpointError, match=r"did you mean 'pythia-160m'\?"):
        load_model("pythia-161m")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_longest_input_is_run_and_one_more_token_is_not(name):
    """Tables of positions end where `max_length` says; models without one take any length."""
    model = live(name, "none")
    model.tokenizer.model_max_length, before = 10**30, model.tokenizer.model_max_length
    try:
        longest = model.max_length
    finally:
        model.tokenizer.model_max_length = before
    unlimited = name in ("bloom", "mamba", "t5")
    assert longest == (None if unlimited else POSITIONS)
    if name == "t5":
        return
    model.network(torch.full((1, POSITIONS), 7))
    if name in ("bert", "roberta", "distilbert", "electra", "gpt2", "opt", "bart"):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model.network(torch.full((1, POSITIONS + 1), 7))


def test_a_tokenizer_may_limit_further(monkeypatch):
    model = live("roberta", "none")
    monkeypatch.setattr(model.tokenizer, "model_max_length", 12)
    assert model.max_length == 12


@pytest.mark.parametrize("architecture", ["gpt-neox", "bert"])
def test_what_a_training_of_ours_wrote(architecture, tmp_path):
    """The weights of the file, under whatever keys; more rows than the tokenizer has entries."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    settings = small(
        write_corpus(tmp_path / "text"),
        model={"architecture": architecture},
        checkpoints={"steps": "every(6)", "embeddings": "every(4)"},
    )
    try:
        series = open_series(train(settings, tmp_path / "training"))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    model = load_model(tmp_path)
    last = series.checkpoints[-1]
    assert (series.steps, model.name) == ([0, 4, 6, 8, 12], str(last.path))
    assert model.task == {"gpt-neox": "causal", "bert": "masked"}[architecture]
    assert model.embedding_matrix.equal(last.tensor("input_embedding"))
    output = model.network.get_output_embeddings().weight
    assert output.equal(last.tensor("output_embedding"))
    assert not output.equal(model.embedding_matrix)
    assert vocabulary_size(model.tokenizer) == 300 == len(model.embedding_matrix) - 4
    assert model.max_length == 16
    assert model.output.linear
    with pytest.raises(CheckpointError, match=r"step-00000004: holds the embeddings only, and"):
        load_model(series.checkpoints[1])


def test_code_that_comes_along_is_run_when_it_is_trusted(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = changed(model_type="own", architectures=["ModelForCausalLM"], auto_map=own)
    (folder / "own.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class Config(GPT2Config):\n    model_type = 'own'\n"
        "class Model(GPT2LMHeadModel):\n    config_class = Config\n"
    )
    model = load_model(folder, trust_remote_code=True)
    assert type(model.network).__name__ == "Model"
    assert same_weights(model, build("gpt2"))


def test_what_transformers_prints_comes_back(bert, capfd):
    transformers_logging.set_verbosity_info()
    try:
        capfd.readouterr()
        load_model(bert, task="none")  # transformers would tell of the head that is left out
        assert capfd.readouterr() == ("", "")
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
    finally:
        transformers_logging.set_verbosity_warning()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_codes_are_not_loaded_as_weights(gpt2, tmp_path, dtype):
    """transformers casts them and asks nothing, where no quantization_config stands."""
    shutil.copytree(gpt2, tmp_path / "codes")
    tensors = load_file(gpt2 / "model.safetensors")
    key = "transformer.wte.weight"
    scale = tensors[key].abs().amax(1, keepdim=True) / 127
    tensors |= {key: (tensors[key] / scale).round().to(dtype), f"{key}_scale": scale}
    save_file(tensors, tmp_path / "codes" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "codes")
    name = str(dtype).removeprefix("torch.")
    assert f"{key!r} holds {name} codes, and config.json names no quantization_config" in str(
        error.value
    )
    assert "\n" not in str(error.value)
