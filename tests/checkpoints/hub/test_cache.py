import os

import pytest

from dynamics.checkpoints.hub.cache import TensorCache
from dynamics.errors import ConfigError, OutputError


def test_what_is_put_is_got(tmp_path):
    cache = TensorCache(tmp_path / "new", 1000)
    assert cache.get("a") is None
    cache.put("a", b"content")
    assert bytes(cache.get("a")) == b"content"
    cache.put("a", bytearray(b"other"))
    assert bytes(cache.get("a")) == b"other"


def test_what_is_got_can_be_written_to(tmp_path):
    cache = TensorCache(tmp_path, 1000)
    cache.put("a", b"content")
    cache.get("a")[0] = 0
    assert bytes(cache.get("a")) == b"content"


def test_the_longest_unused_goes_first(tmp_path):
    cache = TensorCache(tmp_path, 3 * 132)
    for age, key in enumerate("abc"):
        cache.put(key, bytes(100))
        os.utime(tmp_path / f"{key}.range", (age, age))
    cache.get("a")
    cache.put("d", bytes(100))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    cache.put("too large", bytes(1000))
    assert cache.get("too large") is None
    cache.put("e", bytes(3 * 132 - 32))
    assert [key for key in "abcde" if cache.get(key)] == ["e"]


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_bytes(bytes(5000))
    cache = TensorCache(tmp_path, 1000)
    cache.put("a", bytes(900))
    cache.put("b", bytes(900))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.range", "thesis.tex"]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"x" + c[1:], lambda c: c[:5]])
def test_damage_counts_as_absent(tmp_path, damage):
    cache = TensorCache(tmp_path, 1000)
    cache.put("a", b"content")
    path = tmp_path / "a.range"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get("a") is None


def test_off_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("DYNAMICS_CACHE", raising=False)
    monkeypatch.delenv("DYNAMICS_CACHE_BYTES", raising=False)
    assert TensorCache.from_environment() is None
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    assert TensorCache.from_environment() == TensorCache(tmp_path, 20_000_000_000)
    monkeypatch.setenv("DYNAMICS_CACHE_BYTES", "5")
    assert TensorCache.from_environment() == TensorCache(tmp_path, 5)
    monkeypatch.setenv("DYNAMICS_CACHE_BYTES", "5GB")
    with pytest.raises(ConfigError, match="DYNAMICS_CACHE_BYTES is '5GB'; a number of bytes"):
        TensorCache.from_environment()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the cache cannot be written .*DYNAMICS_CACHE"):
        TensorCache(tmp_path / "file" / "inside", 1000).put("a", b"content")
