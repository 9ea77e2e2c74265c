"""Description of a series from the catalog, and the cost of reading its embeddings."""

from typing import Any

from dynamics.checkpoints.architectures import ROLES
from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.formats.tensor_entries import dtype_name
from dynamics.checkpoints.series import CheckpointSeries

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, None: 2}

# Measured for one tensor: requests for the address of the file, its header, and the tensor itself.
_REQUESTS_SAFETENSORS = 4
_REQUESTS_TORCH = 9


def describe_series(name: str) -> dict[str, Any]:
    """Describe a public series from the catalog alone.

    Args:
        name: Its name, an alias or a full repository id.

    Returns:
        The entry of the catalog with the `url` of each defect, `steps` in place of `expected`,
        `expected_count` and `last`, and `cost`, None where shapes are not known.

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
    """Compute the bytes and requests of reading the embeddings, compared with whole models.

    Args:
        series: The series.
        checkpoints: Number of checkpoints to read; the expected number when None.

    Returns:
        None when shapes are not known. Values that depend on something unknown are None;
        assumptions made are listed under `assumed`. Whole models are counted without the buffers
        that some files carry.
    """
    if series.rows is None or series.hidden_size is None:
        return None
    count = checkpoints if checkpoints is not None else series.count
    embeddings = 1 if series.tied else 2
    embedding = series.rows * series.hidden_size * _BYTES[series.dtype]
    model_bytes = None if series.parameters is None else series.parameters * _BYTES[series.dtype]
    fewest = _REQUESTS_SAFETENSORS + embeddings - 1
    most = (_REQUESTS_TORCH if "torch" in series.format else _REQUESTS_SAFETENSORS) + embeddings - 1
    assumed = ["2 bytes per number"] if series.dtype is None else []
    return {
        "checkpoints": count,
        "embeddings": embeddings,
        "bytes_per_embedding": embedding,
        "bytes_per_checkpoint": embeddings * embedding,
        "bytes": _times(embeddings * embedding, count),
        "whole_model_bytes_per_checkpoint": model_bytes,
        "whole_model_bytes": _times(model_bytes, count),
        "share": None if model_bytes is None else embeddings * embedding / model_bytes,
        "requests_per_checkpoint": [fewest, most],
        "requests": None if count is None else [1 + fewest * count, 1 + most * count],
        "assumed": [*assumed, *(["not tied"] if series.tied is None else [])],
    }


def hub_facts(series: CheckpointSeries, catalog_entry: PublicSeries) -> dict[str, Any]:
    """Compare a public series on a hub with the catalog, and measure the last checkpoint's files.

    Args:
        series: The series, opened.
        catalog_entry: Its entry in the catalog.

    Raises:
        CheckpointError: The last checkpoint cannot be read.
    """
    last = series.checkpoints[-1]
    earlier_requests = last.traffic.requests
    located = [last.locate(role) for role in ROLES[: 1 if last.tied else 2] if last.has(role)]
    embedding_bytes = sum(tensor.nbytes for tensor in located)
    files = {tensor.filename: tensor.file_bytes for tensor in located}
    missing = sorted(set(catalog_entry.expected_steps or ()) - set(series.steps))
    return {
        "checkpoints": len(series),
        "first": series.steps[0],
        "last": series.steps[-1],
        "missing": missing,
        "files": list(files),
        "dtype": dtype_name(located[0].dtype),
        "rows": last.vocab_size,
        "tied": last.tied,
        "bytes_per_checkpoint": embedding_bytes,
        "file_bytes_per_checkpoint": sum(files.values()),
        "bytes": embedding_bytes * len(series),
        "file_bytes": sum(files.values()) * len(series),
        "requests_to_index_one": last.traffic.requests - earlier_requests,
    }


def _times(size: int | None, count: int | None) -> int | None:
    """Return the product, None where one of the two is not known."""
    return None if size is None or count is None else size * count
