"""Splits of a data set in a folder, by the conventions of the hub: its card, or file names."""

import glob
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dynamics.errors import CorpusError, one_line

Content = TypeVar("Content")

_KEYWORDS = {
    "train": ["train", "training"],
    "validation": ["validation", "valid", "dev", "val"],
    "test": ["test", "testing", "eval", "evaluation"],
}
_SPLIT_OF_KEYWORD = {word: split for split, words in _KEYWORDS.items() for word in words}
_KEYWORD = re.compile(rf"(?:^|(?<=[-._ 0-9=]))({'|'.join(_SPLIT_OF_KEYWORD)})(?=[-._ 0-9]|$)")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*\..*")
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def canonical_split(split: str) -> str:
    """Return the name of a split of which there are several spellings.

    Example:
        >>> canonical_split("dev"), canonical_split("train"), canonical_split("extra")
        ('validation', 'train', 'extra')
    """
    return _SPLIT_OF_KEYWORD.get(split, split)


def split_of(path: Path) -> str | None:
    """Return the split that the path of a file within a data set names, None where it names none.

    A word for a split counts where it stands alone, in the nearest folder or else in the name of
    the file; a file whose name has words for two of them names none. Shards in a folder `data` may
    have splits of any name.

    Example:
        >>> [split_of(Path(path)) for path in ("data/train-00000-of-00001.parquet", "a/dev/1.txt")]
        ['train', 'validation']
        >>> [split_of(Path(path)) for path in ("latest.txt", "data/en-00000-of-00001.parquet")]
        [None, 'en']
    """
    *folders, filename = path.parts
    for name in [*reversed(folders), filename]:
        splits = {_SPLIT_OF_KEYWORD[word] for word in _KEYWORD.findall(name.lower())}
        if len(splits) == 1:
            return splits.pop()
    shard = _SHARD.fullmatch(filename) if folders == ["data"] else None
    return shard[1] if shard else None


@dataclass(frozen=True)
class Configuration:
    """A configuration of a data set, as its card describes it.

    Attributes:
        name: Name of the configuration.
        is_default: True if it is taken where none is named.
        patterns: Patterns of its files, relative to the card, by split; empty where the card leaves
            them to the names of the files.
        folder: Folder of its files, relative to the card.
    """

    name: str
    is_default: bool
    patterns: Mapping[str, list[str]]
    folder: str


def configurations(folder: Path) -> list[Configuration]:
    """Return the configurations that the card of a data set, its README.md, describes.

    Raises:
        CorpusError: The card's front matter is malformed.
    """
    card = folder / "README.md"
    if not card.is_file():
        return []
    front_matter = _FRONT_MATTER.match(card.read_text("utf-8", "replace"))
    try:
        content = yaml.safe_load(front_matter[1]) if front_matter else None
        entries = content.get("configs") or [] if isinstance(content, dict) else []
        return [_configuration(entry) for entry in entries]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise CorpusError(
            f"the configurations in {card} cannot be read ({reason}); repair or remove its front "
            "matter, or name the files with a pattern"
        ) from error


def _configuration(entry: dict[str, Any]) -> Configuration:
    """Configuration of an entry in a card; its files may be one pattern, a list, or by split."""
    data_files = entry.get("data_files") or {}
    if isinstance(data_files, list) and isinstance(data_files[0], dict):
        data_files = {item["split"]: item["path"] for item in data_files}
    elif not isinstance(data_files, dict):
        data_files = {"train": data_files}
    patterns = {
        str(split): [paths] if isinstance(paths, str) else list(paths)
        for split, paths in data_files.items()
    }
    name = entry["config_name"]
    is_default = bool(entry.get("default")) or name == "default"
    return Configuration(name, is_default, patterns, entry.get("data_dir") or "")


def choose_configuration(folder: Path, name: str | None) -> Configuration | None:
    """Return the configuration of that name, or the only or default one; None where there is none.

    Raises:
        CorpusError: There is no such configuration, several without a default, or the card is
            malformed.
    """
    by_name = {configuration.name: configuration for configuration in configurations(folder)}
    listed = ", ".join(by_name) or "none"
    if name is not None:
        if name not in by_name:
            raise CorpusError(
                f"the card of {folder} has no configuration {name!r}; it describes: {listed}"
            )
        return by_name[name]
    defaults = [entry for entry in by_name.values() if entry.is_default]
    if len(by_name) > 1 and len(defaults) != 1:
        raise CorpusError(
            f"the card of {folder} describes {len(by_name)} configurations ({listed}); name one, "
            f"as {folder}:{next(iter(by_name))}"
        )
    return next(iter(defaults or by_name.values()), None)


def splits_of_files(
    folder: Path, paths: Iterable[Path], configuration: Configuration | None
) -> dict[Path, str | None]:
    """Return the split of each file: by the card, by `dataset_dict.json`, or by its name.

    Files that the card assigns to no split of the configuration are left out.
    """
    paths = list(paths)
    if configuration is not None:
        root = folder / configuration.folder
        if configuration.patterns:
            by_path = {
                path: split
                for split, patterns in configuration.patterns.items()
                for pattern in patterns
                for path in map(root.joinpath, glob.glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
            }
            return {path: by_path[path] for path in paths if path in by_path}
        paths = [path for path in paths if path.is_relative_to(root)]
        return {path: split_of(path.relative_to(root)) for path in paths}
    # A dictionary of data sets that was saved to disk has a folder for each split.
    saved = read_saved(folder / "dataset_dict.json", lambda content: content["splits"]) or []
    relative = {path: path.relative_to(folder) for path in paths}
    return {
        path: within.parts[0] if within.parts[0] in saved else split_of(within)
        for path, within in relative.items()
    }


def read_saved(path: Path, read: Callable[[Any], Content]) -> Content | None:
    """Read a JSON file that `datasets` saved beside the data; None where there is none.

    Raises:
        CorpusError: The file is damaged.
    """
    try:
        return read(json.loads(path.read_text("utf-8"))) if path.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is damaged ({error}); save the data set again") from error
