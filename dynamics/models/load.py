"""Load a live model from a folder, a training folder, a hub, or memory.

A weight that is missing from the files is an error: transformers would fill it with random numbers.
"""

import os
from collections.abc import Collection, Mapping
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
    Pipeline,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto

from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.opening import open_any
from dynamics.checkpoints.quantised import FLOATS
from dynamics.checkpoints.stores import LocalFolder, read_json
from dynamics.checkpoints.training_folder import is_training
from dynamics.checkpoints.weight_files import (
    SHARD_INDEX,
    WEIGHTS_FILES,
    no_weights,
    other_weights_file,
    standard_files,
)
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.tokenizers.kinds import own_tokens
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    MismatchError,
    did_you_mean,
    message_of,
)
from dynamics.models.live_model import LiveModel, Task
from dynamics.models.named_errors import named_errors
from dynamics.models.output import accepted
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
# The classes of each task in transformers' own tables, and the auto class that remote code names.
_TASKS: dict[Task, tuple[Mapping[Any, Any], str]] = {
    "classification": (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForSequenceClassification",
    ),
    "seq2seq": (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM",
    ),
    "causal": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "AutoModelForCausalLM"),
    "masked": (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "AutoModelForMaskedLM"),
    "none": (modeling_auto.MODEL_MAPPING_NAMES, "AutoModel"),
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
_SHOWN = 4  # keys in a message


def load_model(
    place: Checkpoint | Path | str | PreTrainedModel | Pipeline,
    *,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
    task: Task | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    hub: Hub | None = None,
) -> LiveModel:
    """Load a model with its head and its tokenizer, in evaluation mode.

    Args:
        place: A checkpoint, or a place for `find_checkpoint`; or a model of transformers or a
            pipeline, which is used as it is: its dtype and device stay, its mode becomes that of
            evaluation.
        tokenizer: Tokenizer of a model of transformers; a checkpoint and a pipeline have their own
            when None.
        task: Kind of prediction of the head; None to take it from `config.json` or from the class
            of a model. `none` loads the model without its head.
        dtype: A dtype of torch, a name in `DTYPES`, or `auto` for the one on disk.
        device: Device in torch's notation.
        device_map: Device of each part, as transformers takes it; `device` when None.
        attn_implementation: Name in transformers, such as `eager` or `sdpa`; its default when None.
        trust_remote_code: Run code from the checkpoint.
        hub: Client of the hub; one set up from the environment when None.

    Raises:
        ConfigError: A setting is unknown, the dtype is float16 on a CPU, or a model comes without
            tokenizer.
        CheckpointError: The checkpoint does not exist, is damaged, of an unknown kind, without
            tokenizer, or without some of the weights that its class needs.
        MismatchError: The tokenizer has ids that the embedding has no row for.
        StepError: Two checkpoints of a folder are of one step.

    Example::

        load_model("runs/demo/training")  # the last checkpoint of a training
        load_model("EleutherAI/pythia-70m@step1000", dtype="bfloat16", device="cuda")
        load_model(network, tokenizer=tokenizer)  # a model of transformers in memory
    """
    if isinstance(place, PreTrainedModel | Pipeline) or hasattr(place, "merge_and_unload"):
        return _from_memory(place, tokenizer, task)
    if not isinstance(place, Checkpoint | Path | str):
        raise ConfigError(
            f"cannot load a model from a {type(place).__name__}; give a folder, the name of a "
            "series or repository, a checkpoint, a model of transformers with its tokenizer, or a "
            "pipeline"
        )
    torch_dtype, torch_device = _parse_settings(dtype, device, task)
    checkpoint = place if isinstance(place, Checkpoint) else find_checkpoint(place, hub)
    name = checkpoint.store.name
    folder = _fetch(checkpoint)
    _check_not_quantised(name, folder)
    options = {"attn_implementation": attn_implementation, "device_map": device_map}
    with quiet_transformers(warnings=False):
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            task = task or _task(name, config)
            network, loading_info = _CLASSES[task].from_pretrained(
                folder,
                config=config,
                dtype=torch_dtype,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
                **{key: value for key, value in options.items() if value is not None},
            )
        except CheckpointError:
            raise
        except Exception as error:  # damaged files and foreign code may raise anything
            raise CheckpointError(_unloadable(name, error, task)) from error
        tokenizer = tokenizer or _tokenizer(checkpoint, folder, trust_remote_code=trust_remote_code)
    _check_complete(name, network, loading_info["missing_keys"], task)
    _check_embedding(name, network)
    if device_map is None:
        network.to(torch_device)
    repo = checkpoint.place.repo if isinstance(checkpoint.place, HubRevision) else name
    return _live(network, tokenizer, task, repo, checkpoint)


def _from_memory(
    place: Any, tokenizer: "PreTrainedTokenizerFast | None", task: Task | None
) -> LiveModel:
    """Make a live model of a network or pipeline that is in memory."""
    network = place
    if isinstance(place, Pipeline):
        network = place.model
        tokenizer = tokenizer or cast("PreTrainedTokenizerFast | None", place.tokenizer)
    kind = type(network).__name__
    if hasattr(network, "merge_and_unload"):
        raise ConfigError(
            f"a {kind} is an adapter around a model; give what its merge_and_unload() returns"
        )
    if not isinstance(network, PreTrainedModel):
        raise ConfigError(f"the model of the pipeline is a {kind}, not one of transformers")
    if tokenizer is None:
        raise ConfigError(
            f"a {kind} comes without a tokenizer; give its tokenizer with "
            "load_model(model, tokenizer=...)"
        )
    name = network.config.name_or_path or kind
    return _live(network, tokenizer, task or _task(name, network.config, kind), name, None)


def _live(
    network: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerFast",
    task: Task,
    name: str,
    checkpoint: Checkpoint | None,
) -> LiveModel:
    """Make a live model in evaluation mode; check that tokenizer and head fit it."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"the tokenizer of {name} ({type(tokenizer).__name__}) is not backed by tokenizers, so "
            "the text of its tokens is unknown; convert it to a tokenizer.json"
        )
    network.eval()
    _check_rows(name, network, tokenizer)
    if task == "causal":
        with named_errors(network, name, "a forward pass"):
            _check_causal(name, network)
    revision = None if checkpoint is None else checkpoint.revision
    return LiveModel(network, tokenizer, task, name, revision, checkpoint)


def find_checkpoint(place: Path | str, hub: Hub | None = None) -> Checkpoint:
    """Find the checkpoint to load a model from.

    Args:
        place: The folder of a model; a folder of checkpoints, a training folder or a study folder
            (their last checkpoint); a name of the catalog or a hub repository, as
            namespace/name (its last checkpoint, or the only one), optionally with `@` and a branch,
            tag or commit.
        hub: Client of the hub; one set up from the environment when None.

    Raises:
        CheckpointError: There is no such folder, name, repository or revision.
        StepError: Two checkpoints of a folder are of one step.
    """
    path = Path(place).expanduser()
    if path.exists() or str(place).startswith((".", "~", "/")):
        training = path / "training"
        return open_any(str(training if is_training(training) else path), hub).checkpoints[-1]
    name, _, revision = str(place).partition("@")
    series = _catalog_series(name)
    if series is not None and series.where == "repository":
        # A name with a namespace is the repository of one checkpoint, not of the series.
        if "/" in name:
            return Checkpoint(HubRevision(hub or Hub(), name, revision or "main"), 0)
        if revision:
            raise CheckpointError(
                f"{place}: each checkpoint of {name} has a repository of its own; name one of "
                f"them, such as {series.repositories[0]}"
            )
    if not revision:
        return open_any(str(place), hub).checkpoints[-1]
    repo = series.repositories[0] if series is not None else name
    return Checkpoint(HubRevision(hub or Hub(), repo, revision), 0)


def _catalog_series(name: str) -> PublicSeries | None:
    """Return the series of a name in the catalog; None for a repository that is not in it."""
    try:
        return find(name)
    except CheckpointError as error:
        if "/" in name:
            return None
        raise CheckpointError(f"there is no folder {name!r} here, and {error}") from error


def _parse_settings(
    dtype: str | torch.dtype, device: str | torch.device, task: Task | None
) -> tuple[torch.dtype | str, torch.device]:
    """Check the settings; return dtype and device for transformers and torch."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES and dtype != "auto":
        raise ConfigError(f"there is no dtype {dtype!r}; {did_you_mean(dtype, DTYPES)}, auto")
    if task is not None and task not in _CLASSES:
        raise ConfigError(f"there is no task {task!r}; {did_you_mean(task, _CLASSES)}")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(device)!r} cannot be used: {message_of(error)}; cpu always can"
        ) from error
    if target.type == "cpu" and dtype == "float16":
        raise ConfigError("float16 on a CPU is slow and overflows; use float32 or bfloat16")
    return DTYPES.get(dtype, dtype), target


def _fetch(checkpoint: Checkpoint) -> Path:
    """Return a local folder with everything that loading needs, downloaded if on a hub.

    Raises:
        CheckpointError: No model can be run from its files: they are of another format, hold the
            embeddings only, or have no config.json.
    """
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
            f"{store.name}: holds the embeddings only, and a model needs all weights to run; give "
            "a checkpoint with all weights"
        )
    if read_json(store, "config.json") is None:
        raise CheckpointError(
            f"{store.name}: has no config.json, which names the architecture of the weights"
        )
    if weights is None:
        raise CheckpointError(no_weights(store))
    stem, _, suffix = weights.removesuffix(SHARD_INDEX).rpartition(".")
    shards = [f"{stem}-*-of-*.{suffix}"] if weights.endswith(SHARD_INDEX) else []
    return store.folder([weights, *shards, *_BESIDE_WEIGHTS])


def _task(name: str, config: Any, kind: str | None = None) -> Task:
    """Return the task of a class from transformers' tables, or from the auto map of remote code.

    Args:
        name: Name of the model in messages.
        config: Its configuration.
        kind: Name of the class; the one that the configuration names when None.

    Raises:
        CheckpointError: No class is named, or its head is not covered.
    """
    kind = kind or next(iter(config.architectures or ()), None)
    if kind is None:
        raise CheckpointError(
            f"{name}: config.json names no architecture, so the task of the head is unknown; give "
            f"the task, one of {', '.join(_CLASSES)}"
        )
    remote = getattr(config, "auto_map", None) or {}
    tasks: list[Task] = [task for task, (classes, _) in _TASKS.items() if kind in classes.values()]
    tasks = tasks or [task for task, (_, auto) in _TASKS.items() if auto in remote]
    if kind in modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.values() and not tasks:
        tasks = ["masked"]  # the second head of such a model is not used
    if not tasks:
        raise CheckpointError(
            f"{name}: the head of {kind} is not covered; heads over the vocabulary (causal, masked "
            "and text-to-text models) and over the labels of a text are; task none loads the model "
            "without its head"
        )
    task: Task = tasks[0]
    if {"causal", "masked"} <= {*tasks}:
        task = "causal" if getattr(config, "causal", False) else "masked"
    if task in ("causal", "seq2seq"):  # the tables list audio decoders as text-to-text models
        return "seq2seq" if config.is_encoder_decoder else "causal"
    is_regression = config.num_labels == 1 or config.problem_type == "regression"
    return "regression" if task == "classification" and is_regression else task


def _tokenizer(
    checkpoint: Checkpoint, folder: Path, *, trust_remote_code: bool
) -> "PreTrainedTokenizerFast":
    """Load the tokenizer beside the weights, or that of the training which wrote them."""
    places = [folder]
    if checkpoint.path is not None:
        places.append(Path(os.path.abspath(checkpoint.path)).parents[1] / "tokenizer")  # noqa: PTH100
    for place in places:
        if any((place / name).is_file() for name in _TOKENIZER_FILES):
            try:
                return load_tokenizer(place, trust_remote_code=trust_remote_code)
            except CorpusError as error:
                raise CheckpointError(str(error)) from error
    raise CheckpointError(
        f"{checkpoint.store.name}: has no tokenizer ({', '.join(_TOKENIZER_FILES)}); put the files "
        "of the one it was trained with beside its weights"
    )


def _check_not_quantised(name: str, folder: Path) -> None:
    """Refuse quantised codes without a quantizer in config.json: they would load as weights."""
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


def _embedding(name: str, network: PreTrainedModel) -> torch.Tensor:
    """Return the input embedding of a model."""
    try:
        return cast(torch.Tensor, network.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError) as error:
        raise CheckpointError(
            f"{name}: {type(network).__name__} has no matrix with a row for each token, so its "
            "tokens have neither norms nor rows to attribute to"
        ) from error


def _check_embedding(name: str, network: PreTrainedModel) -> None:
    """Refuse a model whose input embedding is not of floating-point numbers for arithmetic."""
    dtype = _embedding(name, network).dtype
    if dtype not in FLOATS:
        raise CheckpointError(
            f"{name}: transformers loads its input embedding as "
            f"{str(dtype).removeprefix('torch.')}, which no model runs with; save the model in "
            "float32"
        )


def _check_complete(
    name: str, network: PreTrainedModel, missing: Collection[str], task: Task
) -> None:
    """Refuse weights that were filled at random; without a head the pooler is not used."""
    needed = sorted(key for key in missing if task != "none" or "pooler" not in key)
    if needed:
        more = len(needed) - _SHOWN
        raise CheckpointError(
            f"{name}: lacks weights that {type(network).__name__} has and that would be random: "
            f"{', '.join(needed[:_SHOWN])}{f' and {more} more' if more > 0 else ''}; give the task "
            "that it was trained for, or none"
        )


def _check_rows(name: str, network: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Refuse ordinary tokens without a row; special ones without lose their role (pad, mask)."""
    rows = len(_embedding(name, network))
    added_ids = own_tokens(tokenizer)
    beyond = [i for i in tokenizer.get_vocab().values() if i >= rows]
    if any(i not in added_ids for i in beyond):
        raise MismatchError(
            f"{name}: its tokenizer has ids up to {max(beyond)}, its embedding {rows} rows; give "
            "the tokenizer that it was trained with"
        )
    for role, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) in beyond:
            setattr(tokenizer, role, None)


@torch.no_grad()
def _check_causal(name: str, network: PreTrainedModel) -> None:
    """Refuse a masked model under a causal head: its predictions see the tokens they predict."""
    ids = torch.arange(4, device=network.device).repeat(2, 1)
    ids[1, -1] = 0  # two inputs that differ in their last token only
    first, second = network(**accepted(network, {"input_ids": ids})).logits[:, 0].float()
    if (first - second).abs().max() > 1e-2 * first.abs().max():
        raise CheckpointError(
            f"{name}: as a {type(network).__name__}, a prediction depends on tokens that come "
            "after it, so it is no causal language model; if it fills masks, give the task masked"
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
    return f"{name}: cannot be loaded: {message_of(error)}"
