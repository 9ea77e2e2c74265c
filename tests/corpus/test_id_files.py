"""Files of ids from other tools: read as their headers say, refused in another type."""

import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.tokens import open_stream
from dynamics.errors import CorpusError

OPTIONS = r"\(--dtype, stream.dtype or probe.dtype\)"


def zipfian(vocab_size, number=8000, seed=0, permuted=False):
    """Ids drawn by Zipf's law; frequent ones are the small ones unless permuted."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size + 1)
    ids = rng.choice(vocab_size, number, p=weights / weights.sum())
    return rng.permutation(vocab_size)[ids] if permuted else ids


def opened(path, dtype=None, **settings):
    return open_stream(path, dtype=dtype, sequence_length=15, **settings).ids.reshape(-1)


def refusal(path, dtype=None, **settings):
    with pytest.raises(CorpusError) as caught:
        opened(path, dtype, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("permuted", [False, True], ids=["by rank", "permuted"])
@pytest.mark.parametrize("vocab_size", [65, 300, 4096, 50257, 65_000, 128_256, 262_144])
@pytest.mark.parametrize("disk", ["<u2", "<u4", "<u8", ">u2", ">u4", "<i4"])
def test_ids_read_in_another_type_are_refused_with_theirs(tmp_path, vocab_size, disk, permuted):
    if vocab_size > np.iinfo(disk).max + 1:
        pytest.skip("does not fit")
    ids = zipfian(vocab_size, permuted=permuted)
    path = tmp_path / "train.bin"
    ids.astype(disk).tofile(path)
    unsigned = np.dtype(disk.replace("i", "u"))
    name = disk if disk[0] == ">" else unsigned.name
    for dtype in (None, "uint16", "uint32", "int32", "uint64", ">u2", disk):
        order_and_size = np.dtype(dtype or "uint16").str[::2]  # "<u2" without its kind
        if order_and_size == unsigned.str[::2]:
            assert np.array_equal(opened(path, dtype), ids)
        elif dtype != ">u2" or vocab_size > 65:  # a few ids of one byte leave little to tell by
            message = refusal(path, dtype)
            assert re.search(rf"train.bin is not of type .*; give the type .* {OPTIONS}$", message)
            if vocab_size != 65_000 or disk != ">u2":  # whose ids make sense in both orders, nearly
                assert f"give the type {name} (" in message
    if disk[0] == ">":
        assert np.array_equal(opened(path, disk), ids)


LEGITIMATE = {
    "padding": lambda ids, rng: np.where(np.arange(len(ids)) % 160 < 90, ids, 0),
    "much padding": lambda ids, rng: np.where(np.arange(len(ids)) % 160 < 9, ids, 0),
    "end of text is 0": lambda ids, rng: np.where(rng.random(len(ids)) < 0.4, 0, ids),
    "mostly 0": lambda ids, rng: np.where(rng.random(len(ids)) < 0.99, 0, ids),
    "all 0": lambda ids, rng: np.zeros_like(ids),
    "one row alternates": lambda ids, rng: np.where(
        (np.arange(len(ids)) < 160) & (np.arange(len(ids)) % 2 == 1), 0, ids
    ),
    "half alternates": lambda ids, rng: np.where(
        (np.arange(len(ids)) < len(ids) // 2) & (np.arange(len(ids)) % 2 == 1), 0, ids
    ),
    "repeats": lambda ids, rng: np.repeat(ids, 2)[: len(ids)],
    "sorted": lambda ids, rng: np.sort(ids),
    "few": lambda ids, rng: ids[:32],
}


@pytest.mark.parametrize("vocab_size", [2, 4, 17, 65, 128, 250, 256, 300, 1000, 50257, 65_536])
@pytest.mark.parametrize("kind", LEGITIMATE)
def test_what_texts_do_is_not_refused(tmp_path, vocab_size, kind):
    path = tmp_path / "train.bin"
    for permuted in (False, True):
        drawn = zipfian(vocab_size, permuted=permuted)
        ids = LEGITIMATE[kind](drawn, np.random.default_rng(1))
        for dtype in ("uint16", "uint32", "int32"):
            ids.astype(dtype).tofile(path)
            assert np.array_equal(opened(path, dtype), ids)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 65_535), min_size=16, max_size=60), st.sampled_from(["<u2", "<u4"]))
def test_a_few_ids_are_never_refused(tmp_path_factory, ids, dtype):
    path = tmp_path_factory.mktemp("ids") / "train.bin"
    np.array(ids, dtype).tofile(path)
    if dtype == "<u4" and max(ids) < 1 << 16:
        assert opened(path, "uint32").tolist() == ids[: len(ids) // 16 * 16]


def test_a_vocabulary_beyond_16_bits_is_read_in_32(tmp_path):
    ids = zipfian(128_256)
    ids.astype("<u4").tofile(tmp_path / "train.bin")
    assert np.array_equal(opened(tmp_path / "train.bin", vocab_size=128_256), ids)


def test_only_a_sample_of_a_long_file_is_looked_at(tmp_path):
    ids = zipfian(50257, 2_000_000)
    ids.astype("<u4").tofile(tmp_path / "train.bin")
    assert "every second id is 0; give the type uint32" in refusal(tmp_path / "train.bin")
    assert np.array_equal(opened(tmp_path / "train.bin", "uint32"), ids)


@pytest.mark.parametrize(("magic", "version", "disk"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_the_header_of_llm_c_tells_the_type(tmp_path, magic, version, disk):
    ids = zipfian(50257)
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids)
    path = tmp_path / "train.bin"
    path.write_bytes(header.tobytes() + ids.astype(disk).tobytes())
    assert np.array_equal(opened(path), ids)
    assert np.array_equal(opened(path, np.dtype(disk).name), ids)
    other = {"<u2": "uint32", "<u4": "uint16"}[disk]
    assert re.search(
        rf"its header \(llm.c\) states that the ids of .* are {np.dtype(disk).name}, but {other} "
        rf"was given; leave the type out {OPTIONS}",
        refusal(path, other),
    )
    path.write_bytes(path.read_bytes()[:-2])
    assert re.search(r"is cut: its header \(llm.c\) states 8,000 ids of", refusal(path))


def megatron_index(lengths, code, itemsize):
    pointers = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * itemsize
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
    documents = np.arange(len(lengths) + 1).astype("<i8")
    return (
        head
        + lengths.astype("<i4").tobytes()
        + pointers.astype("<i8").tobytes()
        + documents.tobytes()
    )


@pytest.mark.parametrize(("code", "disk"), [(8, "<u2"), (4, "<i4"), (5, "<i8")])
def test_the_index_of_megatron_tells_the_type(tmp_path, code, disk):
    ids = zipfian(50257)
    path, index = tmp_path / "data_text_document.bin", tmp_path / "data_text_document.idx"
    ids.astype(disk).tofile(path)
    index.write_bytes(megatron_index(np.array([3000, 5000]), code, np.dtype(disk).itemsize))
    assert np.array_equal(opened(path), ids)
    wrong = "uint32" if disk == "<u2" else "uint16"
    assert f"states that the ids of {path} are {np.dtype(disk).name}" in refusal(path, wrong)
    assert "is the index of a Megatron data set, not a flat file of token ids; name the .bin" in (
        refusal(index)
    )
    index.write_bytes(megatron_index(np.array([3000, 4000]), code, np.dtype(disk).itemsize))
    assert "but data_text_document.idx beside it states" in refusal(path)
    index.write_bytes(megatron_index(np.array([3000, 5000]), 6, np.dtype(disk).itemsize))
    assert "describes data of type 6, which is not an integer type" in refusal(path)
    index.write_bytes(b"another kind of index")
    if disk == "<u2":
        assert np.array_equal(opened(path), ids)


def test_a_numpy_header_tells_the_type(tmp_path):
    ids = zipfian(50257)
    np.save(tmp_path / "a.npy", ids.astype("<u4"))
    for dtype in (None, "uint32", "int32"):
        assert np.array_equal(opened(tmp_path / "a.npy", dtype), ids)
    assert "states that its ids are uint32, but uint16 was given" in refusal(
        tmp_path / "a.npy", "uint16"
    )
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:70])
    assert re.search(
        r"a.npy cannot be read: .*; write or fetch it again", refusal(tmp_path / "a.npy")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"Words of a text that somebody took for ids.\n" * 9,
            "holds text, not token ids; leave -",
        ),
        ("Ein Wörterbuch – für Leser.\n".encode() * 9, "holds text, not token ids; leave --sequen"),
        (b"PK\x03\x04" + b"\x00" * 90, "is a zip archive, not a flat file of token ids; unpack it"),
        (b"PAR1" + b"\x00" * 90, "is parquet, not a flat file of token ids"),
        (b"\x1f\x8b\x08\x00" + b"\x00" * 90, "is gzip, not a flat file of token ids; name it .gz"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer, .* git lfs pull"),
        (b"\x01\x00" * 40 + b"\x00", "has 81 bytes of ids, no multiple of the 2 bytes of uint16"),
        (b"", "is empty; expected integers"),
    ],
    ids=range(8),
)
def test_what_holds_no_ids_is_refused(tmp_path, content, message):
    (tmp_path / "train.bin").write_bytes(content)
    assert re.search(message, refusal(tmp_path / "train.bin"))


def test_bytes_of_a_text_may_be_the_ids(tmp_path):
    content = b"A model of bytes reads texts as they are.\n" * 20
    (tmp_path / "train.bin").write_bytes(content)
    assert bytes(opened(tmp_path / "train.bin", "uint8")) == content[: len(content) // 16 * 16]
