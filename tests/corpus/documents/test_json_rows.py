"""Rows of JSON in every layout, against the standard library's reading of the whole file."""

import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.documents import json_rows
from dynamics.corpus.documents.json_rows import read_json
from dynamics.errors import CorpusError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(
    st.builds(lambda text, other: {"other": other, "text": text}, st.text(max_size=30), VALUES),
    max_size=6,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ROWS, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_layouts_agree_whatever_is_read_at_once(tmp_path_factory, rows, indent, ascii_, size):
    path = tmp_path_factory.mktemp("json") / "a.json"
    printed = [json.dumps(row, indent=indent, ensure_ascii=ascii_) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_READ_BYTES", size)
        for content in ("\n".join(printed), "[" + " ,\n".join(printed) + "]\n", "\ufeff[\n]"):
            path.write_text(content, "utf-8", errors="surrogatepass")
            expected = [row["text"] for row in rows] if "{" in content else []
            assert list(read_json(path, "text")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": "b"', r"a\.json, entry 2 is not JSON \(.*\); repair it"),
        ('[{"text": "a"} {"text": "b"}]', r"is not JSON \(expected ',', found '\{' before byte 29"),
        ('[{"text": "a"}', r"is not JSON \(expected ',', found 'the end of the file'"),
        ('[{"text": "a"}]\n[]', "has content after its array of 1 entries"),
        ('[{"text": "a"}, 3]', "entry 2 is a JSON int, not an object with a 'text' entry"),
        ('["a", "b"]', "line 1 is a JSON list, not an object with a 'text' entry, and its own ent"),
        ('{\n "text": "a"\n}\n{\n', r"a\.json, object 2 is not JSON"),
        (
            '{\n "data": [{"text": "a"}]\n}',
            r"object 1 .* a list of rows under 'data'; .*'\.data\[\]'",
        ),
        ('{"rows": [{"text": "a"}], "n": 1}', r"line 1 has no column 'text', but .* under 'rows'"),
        (
            '{"text": {"0": "a"}}',
            "holds an object with the keys 0, expected text; its columns are: ",
        ),
        (
            '{"text": [{"role": "user", "content": "a"}], "id": 3}',
            "holds a list of objects with the keys role, content, expected text; .* are: text, id$",
        ),
        ('{"id": 1, "te\\nxt": "a"}', "has no column 'text'; its columns are: id, te xt$"),
        ('[{"text": "a"}, {"text": "\udcff"}]', "is not UTF-8: byte 0xff at offset 26; convert"),
        ("[" * 100_000, "entry 1|line 1 is a JSON list"),
        ('{"a":' * 100_000, "line 1 is not JSON"),
    ],
    ids=range(15),
)
def test_what_is_no_row_is_named_by_its_place(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError) as caught:
        list(read_json(path, "text"))
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["array", "lines", "objects"])
def test_memory_holds_a_row_and_not_the_file(tmp_path, layout):
    row = json.dumps({"text": "word " * 2000})
    rows = {"array": f"[{','.join([row] * 2000)}]", "lines": f"{row}\n" * 2000}
    rows["objects"] = "\n".join([row.replace("{", "{\n")] * 2000)
    (tmp_path / "a.json").write_text(rows[layout])
    assert (tmp_path / "a.json").stat().st_size > 20_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_json(tmp_path / "a.json", "text")) == 2000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
