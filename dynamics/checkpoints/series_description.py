"""What the catalog knows about a series, and what reading it costs."""

from typing import Any

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.series import CheckpointSeries

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, None: 2}

# Measured for one tensor: where a file is, where the tensor is in it, and the tensor itself.
_REQUESTS_SAFETENSORS = 4
_REQUESTS_TORCH = 9


def describe(name: str) -> dict[str, Any]:
    """Facts about a public series, from the catalog alone.

    Args:
        name: Its name, an alias or a full repository id.

    Returns:
        The entry of the catalog, `steps` and `cost` among it.

    Raises:
        CheckpointError: There is no such series.
    """
    series = find(name)
    facts = series.model_dump(exclude={"expected", "expected_count", "last"})
    facts["defects"] = [defect.model_dump() | {"url": defect.url} for defect in series.defects]
    return facts | {
        "steps": {
            "rule": series.expected,
            "expected": series.count,
            "last": series.last,
            "tokens_seen_at_last": None if series.last is None else series.tokens_seen(series.last),
        },
        "cost": cost(series),
    }


def cost(series: PublicSeries, checkpoints: int | None = None) -> dict[str, Any] | None:
    """Bytes and requests that reading the embeddings costs, against whole models.

    Args:
        series: The series.
        checkpoints: How many are read; as many as are expected when None.

    Returns:
        None when shapes are not known. What depends on something unknown is None, and what is
        taken for granted instead is listed under `assumed`. Whole models are counted without
        buffers that some files carry.
    """
    if series.rows is None or series.hidden_size is None:
        return None
    count = checkpoints if checkpoints is not None else series.count
    embeddings = 1 if series.tied else 2
    embedding = series.rows * series.hidden_size * _BYTES[series.dtype]
    whole = None if series.parameters is None else series.parameters * _BYTES[series.dtype]
    few = _REQUESTS_SAFETENSORS + embeddings - 1
    many = (_REQUESTS_TORCH if "torch" in series.format else _REQUESTS_SAFETENSORS) + embeddings - 1
    assumed = ["2 bytes per number"] if series.dtype is None else []
    return {
        "checkpoints": count,
        "embeddings": embeddings,
        "bytes_per_embedding": embedding,
        "bytes_per_checkpoint": embeddings * embedding,
        "bytes": _times(embeddings * embedding, count),
        "whole_model_bytes_per_checkpoint": whole,
        "whole_model_bytes": _times(whole, count),
        "share": None if whole is None else embeddings * embedding / whole,
        "requests_per_checkpoint": [few, many],
        "requests": None if count is None else [1 + few * count, 1 + many * count],
        "assumed": [*assumed, *(["not tied"] if series.tied is None else [])],
    }


def hub_facts(series: CheckpointSeries, known: PublicSeries) -> dict[str, Any]:
    """What a hub has of a public series: names that exist, and the index of the last checkpoint.

    Args:
        series: The series, opened.
        known: Its entry in the catalog.

    Raises:
        CheckpointError: The last checkpoint cannot be read.
    """
    last = series.checkpoints[-1]
    before = last.traffic.requests
    wanted: tuple[Role, ...] = ("input_embedding", "output_embedding")
    located = [last.locate(role) for role in wanted[: 1 if last.tied else 2] if last.has(role)]
    needed = sum(each.nbytes for each in located)
    files = {each.filename: each.file_bytes for each in located}
    missing = sorted(set(known.expected_steps or ()) - set(series.steps))
    return {
        "checkpoints": len(series),
        "first": series.steps[0],
        "last": series.steps[-1],
        "missing": missing,
        "files": list(files),
        "dtype": str(located[0].dtype).removeprefix("torch."),
        "rows": last.vocab_size,
        "tied": last.tied,
        "bytes_per_checkpoint": needed,
        "file_bytes_per_checkpoint": sum(files.values()),
        "bytes": needed * len(series),
        "file_bytes": sum(files.values()) * len(series),
        "requests_to_index_one": last.traffic.requests - before,
    }


def _times(size: int | None, count: int | None) -> int | None:
    return None if size is None or count is None else size * count
