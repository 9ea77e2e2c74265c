"""The documentation of the running Python installation, as a corpus that needs no network.

Docstrings of the standard library are read from its source files, which are parsed and never
imported (importing `antigravity` opens a browser). Modules compiled into the interpreter have no
source: theirs are read from the modules. Last come the topics that `help()` shows.
"""

import ast
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages"}
_BRANCHES = ("body", "handlers", "orelse", "finalbody")


def python_docs() -> Iterator[str]:
    """Docstrings and help topics of the running interpreter, each once, in a fixed order.

    The order is that of module names and, within a module, of the source. The same interpreter
    gives the same documents in every process; another version or build gives others.
    """
    yielded: set[str] = set()
    for document in map(inspect.cleandoc, _all_documents()):
        if document not in yielded:
            yielded.add(document)
            yield document


def _all_documents() -> Iterator[str]:
    """Docstrings of source files, then of compiled modules, then help topics, with repetitions."""
    from pydoc_data.topics import topics

    for path in _source_files():
        yield from _node_docstrings(ast.parse(path.read_bytes()))
    for name in sorted(sys.builtin_module_names):
        yield from _compiled_docstrings(name)
    for _, topic in sorted(topics.items()):
        yield topic


def _source_files() -> list[Path]:
    """Files of the standard library, by module name."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(library) for path in library.rglob("*.py")]
    sources = [path for path in paths if _LEFT_OUT.isdisjoint(path.parts)]
    return [library / path for path in sorted(sources, key=lambda path: path.with_suffix("").parts)]


def _node_docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings in a part of a module, in the order of the source; empty where there is none."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node, clean=False) or ""
    for branch in _BRANCHES:
        children = getattr(node, branch, ())
        for child in children if isinstance(children, list) else ():
            yield from _node_docstrings(child)


def _compiled_docstrings(name: str) -> Iterator[str]:
    """Docstrings of compiled members: sessions add Python functions to `sys` and `builtins`."""
    module = importlib.import_module(name)
    yield module.__doc__ or ""
    for _, member in sorted(vars(module).items()):
        if inspect.isbuiltin(member) or inspect.isclass(member):
            yield _docstring(member)
        if inspect.isclass(member):
            for _, method in sorted(vars(member).items()):
                if inspect.isroutine(method) or inspect.isdatadescriptor(method):
                    yield _docstring(method)


def _docstring(thing: object) -> str:
    """Docstring of a class or function, empty for none and for what is not text."""
    docstring = getattr(thing, "__doc__", None)
    return docstring if isinstance(docstring, str) else ""
