"""Task of a model's head, from the tables of transformers."""

from collections.abc import Mapping
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto import modeling_auto

from dynamics.errors import CheckpointError
from dynamics.models.live_model import Task

AUTO_CLASSES: dict[Task, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "none": AutoModel,
}


# The classes of each task, in transformers' own tables.
_CLASS_NAMES: dict[Task, Mapping[Any, Any]] = {
    "classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "none": modeling_auto.MODEL_MAPPING_NAMES,
}


def task_of(name: str, config: Any, kind: str | None = None) -> Task:
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
            f"the task, one of {', '.join(AUTO_CLASSES)}"
        )
    remote = getattr(config, "auto_map", None) or {}
    tasks: list[Task] = [name for name, classes in _CLASS_NAMES.items() if kind in classes.values()]
    tasks = tasks or [task for task in _CLASS_NAMES if AUTO_CLASSES[task].__name__ in remote]
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
