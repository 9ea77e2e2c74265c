"""Folders and patterns: files of one kind and one split, skipped files named."""

import gzip
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.data_files import DataFilesPatternsDict, get_data_patterns

from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.documents.splits import split_of
from dynamics.errors import CorpusError


def write(folder, *names):
    """Files that each hold their own name as their one document."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"text": name}) + "\n"
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"text": [name]}), path)
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(line.encode()))
        else:
            path.write_text(line if "json" in path.suffix else name)
    return folder


def read(source, **settings):
    notes = []
    return list(documents(str(source), report=notes.append, **settings)), notes


def refusal(source, **settings):
    with pytest.raises(CorpusError) as caught:
        read(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CLONED = [
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/test-00000-of-00001.parquet",
    "README.md",
    "LICENSE",
    ".gitattributes",
]


def test_a_cloned_data_set_is_read_by_split(tmp_path):
    folder = write(tmp_path / "cloned", *CLONED)
    for split in (None, "train"):
        assert read(folder, split=split) == (
            CLONED[:2],
            [
                f"reading 2 .parquet files of split train in {folder}; skipped: "
                "data/test-00000-of-00001.parquet (split test), LICENSE, README.md"
            ],
        )
    assert read(folder, split="test")[0] == CLONED[2:3]
    assert read(folder, split="all")[0] == sorted(CLONED[:3])
    assert refusal(folder, split="nonsense") == (
        f"{folder} has no split 'nonsense'; the splits there are: test, train; give --split train"
    )


@pytest.mark.parametrize(
    "names",
    [
        CLONED[:3],
        ["train.jsonl", "valid.jsonl", "test.jsonl"],
        ["train/a.txt", "train/b.txt", "dev/a.txt", "testing/x.txt"],
        ["my-train_01.txt", "my-train_02.txt", "my.eval.txt"],
        ["data/en-00000-of-00002.parquet", "data/en-00001-of-00002.parquet"],
        ["en/train/1.txt", "de/train/1.txt", "en/validation/1.txt"],
        ["c4-train.00000-of-01024.json.gz", "c4-validation.00000-of-00008.json.gz"],
        ["TRAINING.txt", "trainer.txt", "latest.txt"],
    ],
)
def test_splits_are_those_of_the_hub(tmp_path, names):
    write(tmp_path, *names)
    patterns = DataFilesPatternsDict.from_patterns(get_data_patterns(str(tmp_path)))
    expected = {
        Path(path).relative_to(tmp_path.resolve()): str(split)
        for split, paths in patterns.resolve(str(tmp_path)).items()
        for path in paths
    }
    ours = {Path(name): split_of(Path(name)) for name in names}
    if set(expected.values()) == {"train"}:  # the hub's word for no split as well
        assert set(ours.values()) <= {"train", None}
    else:
        assert ours == expected


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/test.txt", "train"),
        ("train-test.txt", None),
        ("split=train/part-0.parquet", "train"),
        ("contest.txt", None),
        ("data/part-00000-of-00010.parquet", "part"),
        ("part-00000-of-00010.parquet", None),
    ],
)
def test_a_split_is_a_word_that_stands_alone(path, split):
    assert split_of(Path(path)) == split


def test_files_without_a_split_are_all_read(tmp_path):
    write(tmp_path, "b.txt", "a.txt", "trainer.txt")
    assert read(tmp_path) == (["a.txt", "b.txt", "trainer.txt"], [])
    assert read(tmp_path, split="all") == (["a.txt", "b.txt", "trainer.txt"], [])
    assert refusal(tmp_path, split="train") == (
        f"{tmp_path} has no split 'train'; no file there names a split; leave out --split"
    )


def test_some_files_named_for_a_split_and_some_not_is_ambiguous(tmp_path):
    write(tmp_path, "a.txt", "b.txt", "train journey.txt")
    assert refusal(tmp_path) == (
        f"1 of 3 files in {tmp_path} are named for a split (train), others are not, such as a.txt; "
        "give --split train, or --split all for every file"
    )
    assert read(tmp_path, split="train")[0] == ["train journey.txt"]
    assert len(read(tmp_path, split="all")[0]) == 3


def test_spellings_of_validation_are_one_split(tmp_path):
    write(tmp_path, "train.txt", "dev.txt")
    for split in ("validation", "dev", "val", "valid"):
        assert read(tmp_path, split=split)[0] == ["dev.txt"]


def test_a_folder_of_tests_is_no_training_text(tmp_path):
    write(tmp_path, "test.jsonl")
    assert "has no split 'train'; the splits there are: test; give --split test" in refusal(
        tmp_path
    )
    assert read(tmp_path / "*.jsonl")[0] == ["test.jsonl"]


def test_several_kinds_of_files_are_refused_with_a_pattern(tmp_path):
    write(tmp_path, "a.jsonl", "b.jsonl.gz", "c.txt")
    assert refusal(tmp_path) == (
        f"{tmp_path} holds files of 2 kinds (2 .jsonl, 1 .txt); name one kind with a pattern, such "
        f"as '{tmp_path}/**/*.jsonl*'"
    )
    assert read(f"{tmp_path}/**/*.jsonl*") == (["a.jsonl", "b.jsonl.gz"], [])
    assert read(f"{tmp_path}/*.txt") == (["c.txt"], [])
    assert "holds files of 2 kinds" in refusal(f"{tmp_path}/*")


def test_documentation_is_never_counted(tmp_path):
    write(tmp_path, "a.md", "README.md", "LICENSE.txt", "dataset_infos.json", "CITATION.cff")
    texts, (note,) = read(tmp_path)
    assert texts == ["a.md"]
    assert note == (
        f"reading 1 .md file in {tmp_path}; skipped: CITATION.cff, LICENSE.txt, README.md, "
        "dataset_infos.json"
    )
    assert read(tmp_path / "*.md")[0] == ["a.md"]
    assert read(tmp_path / "README.md")[0] == ["README.md"]
    (tmp_path / "a.md").unlink()
    assert refusal(f"{tmp_path}/*.md") == (
        f"no file matches {tmp_path}/*.md but README.md, which documents the data; check the "
        "pattern"
    )


def test_unknown_suffixes_are_named_and_read_by_a_pattern(tmp_path):
    write(tmp_path, "part-00000", "part-00001", "_SUCCESS")
    message = refusal(tmp_path)
    assert re.search(r"holds no text; .* it holds _SUCCESS, part-00000, part-00001; to", message)
    for name in ("part-00000", "part-00001"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    texts, notes = read(tmp_path / "part-*")
    assert texts == ["part-00000", "part-00001"]
    assert len(notes) == 1 and "holds json and is read as that" in notes[0]
    assert read(tmp_path / "*")[0] == ["part-00000", "part-00001"]


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    assert refusal(f"{tmp_path}/*.jsonl") == (
        f"no file matches {tmp_path}/*.jsonl; check the pattern"
    )


def test_one_file_in_two_compressions_is_refused(tmp_path):
    write(tmp_path, "a.jsonl", "a.jsonl.gz", "b.jsonl")
    assert "a.jsonl and a.jsonl.gz beside it seem to be one file twice" in refusal(tmp_path)


def test_links_are_followed_once_and_none_may_be_broken(tmp_path):
    write(tmp_path / "elsewhere", "x.txt")
    folder = write(tmp_path / "corpus", "a.txt")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert read(folder)[0] == ["a.txt", "x.txt"]
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    assert re.search(r"corpus/\w+ and .*corpus/\w+ are the same folder; remove", refusal(folder))
    (folder / "again").unlink()
    (folder / "gone.txt").symlink_to("nowhere")
    assert "gone.txt is a link to nowhere, which is not there" in refusal(folder)


CARD = """---
license: mit
configs:
- config_name: raw
  data_files:
  - split: train
    path: raw/train-*
  - split: test
    path: [raw/test-*]
- config_name: clean
  data_files: clean/*
---
# Card
"""


def test_configurations_of_a_card_are_those_of_the_hub(tmp_path, monkeypatch):
    names = ["raw/train-0.parquet", "raw/test-0.parquet", "clean/a.parquet"]
    folder = write(tmp_path / "cloned", *names)
    (folder / "README.md").write_text(CARD)
    assert refusal(folder) == (
        f"the card of {folder} describes 2 configurations (raw, clean); name one, as {folder}:raw"
    )
    for configuration, split in (("raw", "train"), ("raw", "test"), ("clean", "train")):
        expected = datasets.load_dataset(str(folder), configuration, split=split, streaming=True)
        texts, _ = read(f"{folder}:{configuration}", split=split)
        assert texts == [row["text"] for row in expected]
    texts, (note,) = read(f"{folder}:raw")
    assert texts == names[:1]
    assert "clean/a.parquet (not of configuration raw)" in note
    assert refusal(f"{folder}:none") == (
        f"the card of {folder} has no configuration 'none'; it describes: raw, clean"
    )
    (folder / "README.md").write_text(CARD.replace("clean/*\n", "clean/*\n  default: true\n"))
    assert read(folder)[0] == names[2:]
    (folder / "README.md").write_text(CARD.replace("clean/*\n", "clean/**\n"))
    assert read(f"{folder}:clean")[0] == names[2:]
    (folder / "README.md").write_text(CARD.replace("clean/*\n", "gone/*\n"))
    assert "holds no file of configuration 'clean', which its card" in refusal(f"{folder}:clean")
    (folder / "README.md").write_text("---\nconfigs: [\n---\n")
    assert re.search(r"the configurations in .*README.md cannot be read", refusal(folder))


def test_data_sets_that_datasets_saved_are_read_without_its_caches(tmp_path):
    rows = datasets.Dataset.from_dict({"text": [f"document {number}" for number in range(9)]})
    rows.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    shard = tmp_path / "saved" / "data-00000-of-00002.arrow"
    (tmp_path / "saved" / "cache-1.arrow").write_bytes(shard.read_bytes())
    texts, (note,) = read(tmp_path / "saved")
    assert texts == rows["text"]
    assert "skipped: cache-1.arrow (not in state.json)" in note
    splits = datasets.DatasetDict({"train": rows, "extra": rows.select([2])})
    splits.save_to_disk(str(tmp_path / "splits"))
    assert read(tmp_path / "splits")[0] == rows["text"]
    assert read(tmp_path / "splits", split="extra")[0] == ["document 2"]


def test_a_cache_of_the_hub_has_one_snapshot(tmp_path):
    folder = write(tmp_path / "datasets--a--b", "refs/main", "snapshots/1f/train.jsonl")
    assert read(folder)[0] == ["snapshots/1f/train.jsonl"]
    write(folder, "snapshots/2e/train.jsonl")
    assert "is a hub's cache of 2 snapshots; name one of them" in refusal(folder)


def test_notes_do_not_grow_with_the_files(tmp_path):
    write(tmp_path, *(f"{number}.csv1" for number in range(300)), "a.txt")
    (note,) = read(tmp_path)[1]
    assert note.endswith("skipped: 0.csv1, 1.csv1, 10.csv1, 100.csv1 and 296 more")
