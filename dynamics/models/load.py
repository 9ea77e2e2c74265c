"""A model that runs, from wherever its checkpoint is: a folder, a training of ours, a hub.

A weight that is not in the files is an error: transformers would make it up at random.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from dynamics.checkpoints.catalog import PublicSeries, find
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub import Hub
from dynamics.checkpoints.opening import open_any
from dynamics.checkpoints.quantised import FLOATS
from dynamics.checkpoints.revisions import HubRevision
from dynamics.checkpoints.stores import LocalFolder, read_json
from dynamics.checkpoints.weight_files import (
    SHARD_INDEX,
    WEIGHTS_FILES,
    no_weights,
    other_weights_file,
    standard_files,
)
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.kinds import own_tokens
from dynamics.corpus.tokenizer import load_tokenizer
from dynamics.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    MismatchError,
    did_you_mean,
)
from dynamics.models.live import LiveModel, Task
from dynamics.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_CLASSES: dict[Task, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "none": AutoModel,
}
_TASKS: dict[str, Task] = {  # by the end of a class's name
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForConditionalGeneration": "seq2seq",
    "ForSequenceClassification": "classification",
    "Model": "none",
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
_EMBEDDINGS_ONLY = WEIGHTS_FILES[-1]
_SHOWN = 4  # keys a message shows
_LONGEST = 300  # characters of a cause that a message shows


def load_model(
    place: Checkpoint | Path | str,
    *,
    task: Task | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    hub: Hub | None = None,
) -> LiveModel:
    """Load a model with its head and its tokenizer, in evaluation mode.

    Args:
        place: A checkpoint, or what `find_checkpoint` understands.
        task: What the head predicts; None for what `config.json` says. `none` loads the model
            without its head.
        dtype: A name in `DTYPES`, whatever the dtype on disk.
        device: As torch calls it.
        trust_remote_code: Run code that the checkpoint brings along.
        hub: The hub, as the environment says when None.

    Raises:
        ConfigError: A setting is unknown, or float16 is asked for on a CPU.
        CheckpointError: The checkpoint is not there, is damaged, of an unknown kind, without
            tokenizer, or without some of the weights that its class needs.
        MismatchError: The tokenizer has ids that the embedding has no row for.
        StepError: Two checkpoints of a folder are of one step.
    """
    numbers, target = _numbers(dtype, device, task)
    checkpoint = place if isinstance(place, Checkpoint) else find_checkpoint(place, hub)
    name = checkpoint.store.name
    folder = _fetch(checkpoint)
    _check_numbers(name, folder)
    with quiet_transformers(warnings=False):
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            task = task or _task(name, config)
            network, told = _CLASSES[task].from_pretrained(
                folder,
                config=config,
                dtype=numbers,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
        except CheckpointError:
            raise
        except Exception as error:  # files may be wrong in every way
            raise CheckpointError(_unloadable(name, error, task)) from error
        tokenizer = _tokenizer(checkpoint, folder, trust_remote_code=trust_remote_code)
    _check_complete(name, network, told["missing_keys"], task)
    _check_embedding(name, network)
    _check_rows(name, network, tokenizer)
    network.to(target)
    if task == "causal":
        _check_causal(name, network)
    repo = checkpoint.place.repo if isinstance(checkpoint.place, HubRevision) else name
    return LiveModel(network.eval(), tokenizer, task, repo, checkpoint.revision, checkpoint)


def find_checkpoint(place: Path | str, hub: Hub | None = None) -> Checkpoint:
    """The checkpoint that a model is loaded from.

    Args:
        place: The folder of a model; a folder of checkpoints, a training folder or a study folder
            (their last checkpoint); a name of the catalog or a hub repository, as
            namespace/name (its last checkpoint, or the only one), perhaps with `@` and a branch,
            tag or commit.
        hub: The hub, as the environment says when None.

    Raises:
        CheckpointError: There is no such folder, name, repository or revision.
        StepError: Two checkpoints of a folder are of one step.
    """
    path = Path(place).expanduser()
    if path.exists() or str(place).startswith((".", "~", "/")):
        training = path / "training"
        is_study = (training / "train.json").is_file()
        return open_any(str(training if is_study else path), hub).checkpoints[-1]
    name, _, revision = str(place).partition("@")
    known = _known(name)
    if known is not None and known.where == "repository":
        # A checkpoint has a repository of its own, whose name must not mean the last of them.
        if "/" in name:
            return Checkpoint(HubRevision(hub or Hub(), name, revision or "main"), 0)
        if revision:
            raise CheckpointError(
                f"{place}: each checkpoint of {name} has a repository of its own; name one of "
                f"them, such as {known.repositories[0]}"
            )
    if not revision:
        return open_any(str(place), hub).checkpoints[-1]
    repo = known.repositories[0] if known is not None else name
    return Checkpoint(HubRevision(hub or Hub(), repo, revision), 0)


def _known(name: str) -> PublicSeries | None:
    try:
        return find(name)
    except CheckpointError as error:
        if "/" in name:
            return None
        raise CheckpointError(f"there is no folder {name!r} here, and {error}") from error


def _numbers(dtype: str, device: str, task: Task | None) -> tuple[torch.dtype, torch.device]:
    """The settings as torch knows them."""
    if dtype not in DTYPES:
        raise ConfigError(f"there is no dtype {dtype!r}; {did_you_mean(dtype, DTYPES)}")
    if task is not None and task not in _CLASSES:
        raise ConfigError(f"there is no task {task!r}; {did_you_mean(task, _CLASSES)}")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used: {_one_line(error)}; cpu always can"
        ) from error
    if target.type == "cpu" and dtype == "float16":
        raise ConfigError("float16 on a CPU is slow and overflows; use float32 or bfloat16")
    return DTYPES[dtype], target


def _fetch(checkpoint: Checkpoint) -> Path:
    """A folder on this machine with everything that loading needs."""
    store = checkpoint.store
    weights = next((name for name in standard_files(store) if store.open(name)), None)
    measurable = other_weights_file(store) if weights is None else weights
    if measurable is not None and measurable not in WEIGHTS_FILES:
        raise CheckpointError(
            f"{store.name}: the weights in {measurable} can be measured, but no model can be run "
            "from them; load them into their model, save it with save_pretrained, and give that "
            "folder"
        )
    if weights == _EMBEDDINGS_ONLY:
        raise CheckpointError(
            f"{store.name}: holds the embeddings only, which are no model that runs; give a "
            "checkpoint with all weights"
        )
    if read_json(store, "config.json") is None:
        raise CheckpointError(
            f"{store.name}: has no config.json, which tells what model the weights are of"
        )
    if weights is None:
        raise CheckpointError(no_weights(store))
    stem, _, suffix = weights.removesuffix(SHARD_INDEX).rpartition(".")
    shards = [f"{stem}-*-of-*.{suffix}"] if weights.endswith(SHARD_INDEX) else []
    return store.folder([weights, *shards, *_BESIDE_WEIGHTS])


def _task(name: str, config: Any) -> Task:
    """The task of the class that the configuration names."""
    kind = next(iter(config.architectures or ()), None)
    if kind is None:
        raise CheckpointError(
            f"{name}: config.json names no architecture, so it is not known what the head is for; "
            f"give the task, one of {', '.join(_CLASSES)}"
        )
    task: Task | None = next((task for end, task in _TASKS.items() if kind.endswith(end)), None)
    if task is None or (task == "seq2seq" and not config.is_encoder_decoder):
        raise CheckpointError(
            f"{name}: the head of {kind} is not covered; heads over the vocabulary and over the "
            "labels of a text are (ForCausalLM, LMHeadModel, ForMaskedLM, ForConditionalGeneration "
            "of text from text, ForSequenceClassification); task none loads the model without it"
        )
    if task == "causal" and config.is_encoder_decoder:
        return "seq2seq"
    single = config.num_labels == 1 or config.problem_type == "regression"
    return "regression" if task == "classification" and single else task


def _tokenizer(
    checkpoint: Checkpoint, folder: Path, *, trust_remote_code: bool
) -> "PreTrainedTokenizerFast":
    """The tokenizer beside the weights, or that of the training which wrote them."""
    places = [folder]
    if checkpoint.path is not None:
        places.append(Path(os.path.abspath(checkpoint.path)).parents[1] / "tokenizer")  # noqa: PTH100
    for place in places:
        if any((place / each).is_file() for each in _TOKENIZER_FILES):
            try:
                return load_tokenizer(place, trust_remote_code=trust_remote_code)
            except CorpusError as error:
                raise CheckpointError(str(error)) from error
    raise CheckpointError(
        f"{checkpoint.store.name}: has no tokenizer ({', '.join(_TOKENIZER_FILES)}); put the files "
        "of the one it was trained with beside its weights"
    )


def _check_numbers(name: str, folder: Path) -> None:
    """Refuse codes whose quantizer config.json does not name: they would be loaded as weights."""
    store = LocalFolder(folder)
    if (read_json(store, "config.json") or {}).get("quantization_config"):
        return
    weights = Weights(store)
    for key in weights:
        if key.endswith(".weight") and weights[key].dtype not in FLOATS:
            dtype = str(weights[key].dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{name}: {key!r} holds {dtype} codes, and config.json names no "
                "quantization_config, so that transformers would take the codes for weights; save "
                "the model in float32, or add the quantization_config that it was saved with"
            )


def _check_embedding(name: str, network: PreTrainedModel) -> None:
    """Refuse a model whose input embedding is not of floating-point numbers that add up."""
    dtype = cast(torch.Tensor, network.get_input_embeddings().weight).dtype
    if dtype not in FLOATS:
        raise CheckpointError(
            f"{name}: transformers loads its input embedding as "
            f"{str(dtype).removeprefix('torch.')}, which no model runs with; save the model in "
            "float32"
        )


def _check_complete(
    name: str, network: PreTrainedModel, missing: Collection[str], task: Task
) -> None:
    """Refuse weights that were made up; without a head the pooler is not used."""
    needed = sorted(key for key in missing if task != "none" or "pooler" not in key)
    if needed:
        more = len(needed) - _SHOWN
        raise CheckpointError(
            f"{name}: lacks weights that {type(network).__name__} has and that would be random: "
            f"{', '.join(needed[:_SHOWN])}{f' and {more} more' if more > 0 else ''}; give the task "
            "that it was trained for, or none"
        )


def _check_rows(name: str, network: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Refuse ordinary entries without a row; a special one without is nothing's padding or mask."""
    rows = len(cast(torch.Tensor, network.get_input_embeddings().weight))
    own = own_tokens(tokenizer)
    beyond = [i for i in tokenizer.get_vocab().values() if i >= rows]
    if any(i not in own for i in beyond):
        raise MismatchError(
            f"{name}: its tokenizer has ids up to {max(beyond)}, its embedding {rows} rows; give "
            "the tokenizer that it was trained with"
        )
    for role, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) in beyond:
            setattr(tokenizer, role, None)


@torch.no_grad()
def _check_causal(name: str, network: PreTrainedModel) -> None:
    """Refuse a masked model under a causal head: its predictions look at what they predict."""
    ids = torch.arange(4, device=network.device).repeat(2, 1)
    ids[1, -1] = 0
    before, after = network(input_ids=ids).logits[:, 0].float()
    if (before - after).abs().max() > 1e-2 * before.abs().max():
        raise CheckpointError(
            f"{name}: as a {type(network).__name__}, a prediction depends on tokens that come "
            "after it, so it is no causal language model; give the task masked"
        )


def _unloadable(name: str, error: Exception, task: Task | None) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"{name}: needs code that it brings along, which is not run; set trust_remote_code if "
            "you trust it"
        )
    if "Unrecognized configuration class" in str(error):
        return (
            f"{name}: transformers has no head for the task {task} on models of this type; give "
            "the task that it was trained for, or none"
        )
    return f"{name}: cannot be loaded: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
