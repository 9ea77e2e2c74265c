"""Checkpoint that a place names, and its files on disk: weights, configuration and tokenizer."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.opening import open_any
from dynamics.checkpoints.stores import read_json
from dynamics.checkpoints.training_folder import is_training
from dynamics.checkpoints.weight_files import (
    SHARD_INDEX,
    WEIGHTS_FILES,
    no_weights,
    other_weights_file,
    standard_files,
)
from dynamics.corpus.tokenizers.loading import (
    TOKENIZER_FILES,
    load_tokenizer,
    tokenizer_folder,
)
from dynamics.errors import CheckpointError, CorpusError

_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
_EMBEDDINGS_ONLY = WEIGHTS_FILES[-1]


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


def fetch(checkpoint: Checkpoint) -> Path:
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


def tokenizer_of(
    checkpoint: Checkpoint, folder: Path, *, trust_remote_code: bool
) -> PreTrainedTokenizerFast:
    """Load the tokenizer beside the weights, or that of the training which wrote them."""
    place = tokenizer_folder(folder)
    if place is None and checkpoint.path is not None:
        place = tokenizer_folder(checkpoint.path)
    if place is not None:
        try:
            return load_tokenizer(place, trust_remote_code=trust_remote_code)
        except CorpusError as error:
            raise CheckpointError(str(error)) from error
    raise CheckpointError(
        f"{checkpoint.store.name}: has no tokenizer ({', '.join(TOKENIZER_FILES)}); put the files "
        "of the one it was trained with beside its weights (dynamics track takes --tokenizer)"
    )
