import hashlib
import inspect
import json
import os
import subprocess
import sys
from pydoc_data.topics import topics

import pytest

from dynamics.corpus.documents.python_docs import python_docs

DIGEST = """
import hashlib, sys
from dynamics.corpus.documents.python_docs import python_docs
sys.displayhook = lambda value: "a session's own function, not the interpreter's"
print(hashlib.sha256("\\0".join(python_docs()).encode()).hexdigest())
assert "antigravity" not in sys.modules and "this" not in sys.modules
"""


@pytest.fixture(scope="module")
def documents():
    return list(python_docs())


def test_holds_docstrings_of_source_and_compiled_modules_and_topics(documents):
    for expected in (json.dumps.__doc__, len.__doc__, dict.setdefault.__doc__, topics["lambda"]):
        assert inspect.cleandoc(expected) in documents


def test_source_comes_before_compiled_before_topics_and_is_sorted(documents):
    expected = [json.__doc__, json.decoder.__doc__, len.__doc__, topics["assert"], topics["yield"]]
    expected.insert(1, json.dump.__doc__)
    at = [documents.index(inspect.cleandoc(text)) for text in expected if text]
    assert at == sorted(at)


def test_each_document_once_and_about_as_many_as_announced(documents):
    assert len(documents) == len(set(documents))
    assert 1_800_000 < sum(map(len, documents)) < 3_500_000


def test_leaves_out_tests_and_installed_packages(documents):
    text = "\0".join(documents)
    for absent in (pytest.fixture.__doc__, "definitions for the Python regression tests"):
        assert absent not in text


@pytest.mark.slow
def test_is_the_same_in_every_process(documents):
    here = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert [process.communicate()[0] for process in processes] == [here + "\n"] * 2
    assert not any(process.returncode for process in processes)
