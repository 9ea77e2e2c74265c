"""Load a live model from a folder, a training folder, a hub, or memory.

A weight that is missing from the files is an error: transformers would fill it with random numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch
from transformers import AutoConfig, Pipeline, PreTrainedModel, PreTrainedTokenizerFast

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.errors import CheckpointError, ConfigError, did_you_mean, message_of, refuse_unknown
from dynamics.models import load_checks
from dynamics.models.checkpoint_files import fetch, find_checkpoint, tokenizer_of
from dynamics.models.devices import usable_device
from dynamics.models.live_model import LiveModel, Task
from dynamics.models.named_errors import named_errors
from dynamics.models.quiet import quiet_transformers
from dynamics.models.tasks import AUTO_CLASSES, task_of

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class TransformersOptions(TypedDict, total=False):
    """Options of `load_model` that transformers takes as they are.

    Attributes:
        device_map: Device of each part; `device` of `load_model` when None.
        attn_implementation: Name such as `eager` or `sdpa`; the default of transformers when None.
    """

    device_map: str | Mapping[str, Any] | None
    attn_implementation: str | None


def load_model(
    place: Checkpoint | Path | str | PreTrainedModel | Pipeline,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    task: Task | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    hub: Hub | None = None,
    **options: Unpack[TransformersOptions],
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
        trust_remote_code: Run code from the checkpoint.
        hub: Client of the hub; one set up from the environment when None.
        **options: See `TransformersOptions`.

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
    refuse_unknown(options, TransformersOptions, "load_model")
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
    folder = fetch(checkpoint)
    load_checks.check_not_quantised(name, folder)
    with quiet_transformers(warnings=False):
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            task = task or task_of(name, config)
            network, loading_info = AUTO_CLASSES[task].from_pretrained(
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
        tokenizer = tokenizer or tokenizer_of(
            checkpoint, folder, trust_remote_code=trust_remote_code
        )
    load_checks.check_complete(name, network, loading_info["missing_keys"], task)
    load_checks.check_embedding(name, network)
    if options.get("device_map") is None:
        network.to(torch_device)
    repo = checkpoint.place.repo if isinstance(checkpoint.place, HubRevision) else name
    return _live(network, tokenizer, task, repo, checkpoint)


def _from_memory(
    place: Any, tokenizer: PreTrainedTokenizerFast | None, task: Task | None
) -> LiveModel:
    """Make a live model of a network or pipeline that is in memory."""
    network = place
    if isinstance(place, Pipeline):
        network = place.model
        tokenizer = tokenizer or cast(PreTrainedTokenizerFast | None, place.tokenizer)
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
    return _live(network, tokenizer, task or task_of(name, network.config, kind), name, None)


def _live(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
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
    load_checks.check_rows(name, network, tokenizer)
    revision = None if checkpoint is None else checkpoint.revision
    model = LiveModel(network, tokenizer, task, name, revision, checkpoint)
    if task == "causal":
        with named_errors(network, name, "a forward pass"):
            load_checks.check_causal(name, network)
    return model


def _parse_settings(
    dtype: str | torch.dtype, device: str | torch.device, task: Task | None
) -> tuple[torch.dtype | str, torch.device]:
    """Check the settings; return dtype and device for transformers and torch."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES and dtype != "auto":
        raise ConfigError(f"there is no dtype {dtype!r}; {did_you_mean(dtype, DTYPES)}, auto")
    if task is not None and task not in AUTO_CLASSES:
        raise ConfigError(f"there is no task {task!r}; {did_you_mean(task, AUTO_CLASSES)}")
    target = usable_device(device)
    if target.type == "cpu" and dtype == "float16":
        raise ConfigError("float16 on a CPU is slow and overflows; use float32 or bfloat16")
    return DTYPES.get(dtype, dtype), target


def _unloadable(name: str, error: Exception, task: Task | None) -> str:
    """Return the message for an exception of transformers, with the remedy where one is known."""
    if "trust_remote_code" in str(error):
        return (
            f"{name}: needs code from its own files, which is not run; set trust_remote_code if "
            "you trust it"
        )
    if "Unrecognized configuration class" in str(error):
        return (
            f"{name}: transformers has no head for the task {task} on models of this type; give "
            "the task that it was trained for, or none"
        )
    return f"{name}: cannot be loaded: {message_of(error)}"
