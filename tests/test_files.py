import json
import os

import pytest

from dynamics.files import PARTIAL, sha256_file, whole_file, whole_folder, write_json


class Killed(BaseException):
    pass


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep/er/table"
    with whole_file(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, Killed])
def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, error):
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_never_written_is_an_error_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / f"table{PARTIAL}").write_text("half of another")
    with whole_file(tmp_path / "table") as partial:
        partial.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table", "new")]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "table").mkdir()
    with pytest.raises(IsADirectoryError) as raised, whole_file(tmp_path / "table"):
        raise AssertionError("nothing should be written")
    assert raised.value.filename == str(tmp_path / "table")


def test_a_folder_appears_at_once(tmp_path):
    (tmp_path / f"made{PARTIAL}/old").mkdir(parents=True)
    with whole_folder(tmp_path / "made") as partial:
        (partial / "file").write_text("whole")
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "made") as partial:
        (partial / "file").write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_stays_as_it_is(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/file").write_text("old")
    with pytest.raises(OSError), whole_folder(tmp_path / "made") as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "made/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_json_is_readable_stable_and_unicode(tmp_path):
    content = {"é": [1, 2.5, None], "b": {"c": True}}
    for name in "xy":
        write_json(tmp_path / name, content)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert json.loads((tmp_path / "x").read_text("utf-8")) == content
    assert "é" in (tmp_path / "x").read_text("utf-8")


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "x", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x", {"new": object()})
    assert json.loads((tmp_path / "x").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_digest_is_that_of_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error_that_names_itself(tmp_path):
    (tmp_path / f"table{PARTIAL}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "table") as partial:
        partial.write_text("x")
    assert not list(tmp_path.iterdir())
