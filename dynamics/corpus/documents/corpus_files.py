"""Files of a corpus: those of one kind and one split, in a folder or matching a pattern.

Skipped files are named in one line, and an ambiguous selection is refused.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamics.corpus.documents.compression import suffixes_of
from dynamics.corpus.documents.file_formats import BY_SUFFIX, compression_suffixes, known_suffix
from dynamics.corpus.documents.splits import (
    Configuration,
    canonical_split,
    choose_configuration,
    read_saved,
    splits_of_files,
)
from dynamics.errors import CorpusError
from dynamics.progress import Report

ALL_SPLITS = "all"
"""Name of the split that has every file."""

_NAMED = 4  # files that a line names before it counts the rest
_DOCUMENTATION = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|changelog|changes|authors|contributing|datasheet|"
    r"data_?card|dataset_?card)\b.*|(dataset_infos?|dataset_dict|state|config)\.json|sha256sums?.*|"
    r"md5sums?.*|checksums?.*|requirements.*\.txt|_(success|metadata|common_metadata|started|committed)"
    r".*",
    re.IGNORECASE,
)


def files_of_folder(
    folder: Path, split: str | None, report: Report, configuration: str | None = None
) -> list[Path]:
    """Return the files of text in a folder, sorted, of one suffix and one split.

    Subfolders are included, through links too; hidden files and those of `__pycache__`-like folders
    are left out. Documentation (README, LICENSE, ...) and unknown suffixes are skipped.

    Args:
        folder: The folder.
        split: The split; None takes `train` where all files name their split, and all files where
            none does. `all` takes every file.
        report: Receives a line that names the skipped files.
        configuration: One of the configurations that the folder's README.md describes.

    Raises:
        CorpusError: There is no text, or text of several suffixes, or no such split, or the
            selection is ambiguous.
    """
    folder = _snapshot(folder)
    described = choose_configuration(folder, configuration)
    files = sorted(_walk(folder, {}))
    skipped = {path: "" for path in files if known_suffix(path) is None}
    skipped |= {path: "" for path in files if _DOCUMENTATION.fullmatch(path.name)}
    skipped |= dict.fromkeys(_unlisted_arrow_files(files), "not in state.json")
    texts = [path for path in files if path not in skipped]
    if not texts:
        raise CorpusError(
            f"the folder {folder} holds no text; files that are read end in {', '.join(BY_SUFFIX)} "
            f"(and then {compression_suffixes()}); it holds {_some(folder, skipped) or 'nothing'}"
            + ("; to read other files, name them, singly or with a pattern" if skipped else "")
        )
    return _of_one_kind(folder, str(folder), texts, skipped, split, report, described)


def files_of_pattern(pattern: str, split: str | None, report: Report) -> list[Path]:
    """Return the files that match a pattern such as `data/**/*.jsonl`, sorted.

    Files are selected as in a folder, but may have any one suffix.

    Raises:
        CorpusError: No file matches, or as `files_of_folder` does.
    """
    expanded = os.path.expanduser(pattern)  # noqa: PTH111 (Path would normalise the pattern)
    matches = glob.glob(expanded, recursive=True)  # noqa: PTH207 (as a shell does)
    files = sorted(path for path in map(Path, matches) if path.is_file())
    parts = Path(expanded).parts
    plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    folder = Path(*parts[:plain])
    skipped = {path: "" for path in files if _DOCUMENTATION.fullmatch(path.name)}
    texts = [path for path in files if path not in skipped]
    if not texts:
        only = f" but {_some(folder, skipped)}, which documents the data" if skipped else ""
        raise CorpusError(f"no file matches {pattern}{only}; check the pattern")
    return _of_one_kind(folder, pattern, texts, skipped, split, report, None)


def _of_one_kind(
    folder: Path,
    name: str,
    texts: list[Path],
    skipped: dict[Path, str],
    split: str | None,
    report: Report,
    configuration: Configuration | None,
) -> list[Path]:
    """Select the files of the split, which must have one suffix."""
    splits = splits_of_files(folder, texts, configuration)
    if configuration is not None:
        if not splits:
            raise CorpusError(
                f"{name} holds no file of configuration {configuration.name!r}, which its card "
                "describes; fetch them, or name files with a pattern"
            )
        undescribed = f"not of configuration {configuration.name}"
        skipped |= {path: undescribed for path in texts if path not in splits}
    labels = set(splits.values())
    single = name != str(folder) and len(labels) == 1  # a pattern that picks one split names it
    selected_split = None if single and split is None else _chosen_split(name, splits, split)
    if selected_split is not None:
        skipped |= {
            path: f"split {label}" if label else "no split"
            for path, label in splits.items()
            if label != selected_split
        }
    paths = [path for path in texts if path not in skipped]
    suffixes = Counter(suffixes_of(path)[0] or "no suffix" for path in paths)
    if len(suffixes) > 1:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
        ending = suffixes.most_common()[0][0]
        if any(suffixes_of(path)[1] for path in paths if suffixes_of(path)[0] == ending):
            ending += "*"  # some are compressed
        raise CorpusError(
            f"{name} holds files of {len(suffixes)} kinds ({listed}); name one kind with a "
            f"pattern, such as '{folder}/**/*{ending}'"
        )
    _refuse_copies(paths)
    if skipped:
        of_split = f" of split {selected_split}" if selected_split else ""
        files = f"{len(paths)} {next(iter(suffixes))} file{'s' if len(paths) > 1 else ''}"
        report(f"reading {files}{of_split} in {name}; skipped: {_some(folder, skipped)}")
    return paths


def _chosen_split(
    name: str, splits: Mapping[Path, str | None], requested: str | None
) -> str | None:
    """Select the split to read; None for all files.

    Raises:
        CorpusError: There is no such split, or none was requested and only some files name theirs.
    """
    labels = sorted({label for label in splits.values() if label is not None})
    listed = ", ".join(labels)
    first = "train" if "train" in labels or not labels else labels[0]
    if requested == ALL_SPLITS or (requested is None and not labels):
        return None
    if requested is not None:
        for spelling in (requested, canonical_split(requested)):
            if spelling in labels:
                return spelling
        available = f"the splits there are: {listed}" if labels else "no file there names a split"
        remedy = f"give --split {first}" if labels else "leave out --split"
        raise CorpusError(f"{name} has no split {requested!r}; {available}; {remedy}")
    unlabelled = [path for path, label in splits.items() if label is None]
    if unlabelled:
        raise CorpusError(
            f"{len(splits) - len(unlabelled)} of {len(splits)} files in {name} are named for a "
            f"split ({listed}), others are not, such as {unlabelled[0].name}; give --split "
            f"{first}, or --split all for every file"
        )
    if "train" in labels:
        return "train"
    if len(labels) == 1 and canonical_split(labels[0]) not in ("validation", "test"):
        return None
    raise CorpusError(
        f"{name} has no split 'train'; the splits there are: {listed}; give --split "
        f"{first}, or --split all for every file"
    )


def _walk(folder: Path, visited: dict[str, Path]) -> Iterator[Path]:
    """Files in a folder and below it, through links too, without hidden ones.

    Args:
        folder: The folder.
        visited: Folders walked so far, by their real paths; this one and those below are added.

    Raises:
        CorpusError: A link is broken or leads to a folder that is walked anyway, or a folder cannot
            be listed.
    """
    real = os.path.realpath(folder)
    if real in visited:
        raise CorpusError(
            f"{folder} and {visited[real]} are the same folder; remove the link, or name one"
        )
    visited[real] = folder
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.is_symlink())
        paths = {path.name: path for path in folder.iterdir()}  # faster than to join each name
    except OSError as error:
        raise CorpusError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    for entry in entries:
        path = paths.get(entry.name) or folder / entry.name
        if entry.name.startswith(".") or (entry.name.startswith("__") and entry.is_dir()):
            continue
        if entry.is_file():
            yield path
        elif entry.is_dir():
            yield from _walk(path, visited)
        elif entry.is_symlink() and not path.exists():
            raise CorpusError(f"{path} is a link to {path.readlink()}, which is not there")


def _snapshot(folder: Path) -> Path:
    """The only snapshot in a hub's cache of a data set, or the folder itself."""
    snapshots = folder / "snapshots"
    if not (snapshots.is_dir() and (folder / "refs").is_dir()):
        return folder
    revisions = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if len(revisions) != 1:
        listed = ", ".join(str(path) for path in revisions) or "none"
        raise CorpusError(
            f"{folder} is a hub's cache of {len(revisions)} snapshots; name one of them: {listed}"
        )
    return revisions[0]


def _unlisted_arrow_files(files: list[Path]) -> Iterator[Path]:
    """Arrow files that `datasets` keeps beside those of a saved data set: results of its maps."""
    arrow_files = [path for path in files if path.suffix.lower() == ".arrow"]
    listed_files = {
        folder: read_saved(folder / "state.json", _listed_files)
        for folder in dict.fromkeys(path.parent for path in arrow_files)
    }
    for path in arrow_files:
        listed = listed_files[path.parent]
        if path.name.startswith("cache-") if listed is None else path.name not in listed:
            yield path


def _listed_files(state: dict[str, Any]) -> set[str]:
    """Names of the files of a saved data set, from its `state.json`."""
    return {file["filename"] for file in state["_data_files"]}


def _refuse_copies(paths: list[Path]) -> None:
    """Refuse the same file in two compressions."""
    by_content: dict[Path, Path] = {}
    for path in paths:
        plain = path.with_suffix("") if suffixes_of(path)[1] else path
        if plain in by_content:
            raise CorpusError(
                f"{by_content[plain]} and {path.name} beside it seem to be one file twice; remove "
                "one, or name the files with a pattern"
            )
        by_content[plain] = path


def _some(folder: Path, skipped: Mapping[Path, str]) -> str:
    """Names of the first few files, with their reasons if any, and the number of further files."""
    named = [
        f"{path.relative_to(folder)}{f' ({reason})' if reason else ''}"
        for path, reason in sorted(skipped.items(), key=lambda item: not item[1])[:_NAMED]
    ]
    more = len(skipped) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
