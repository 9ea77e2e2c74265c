"""Index of the Python source: modules, first lines of docstrings, and names they define.

The map of the project (`architecture.md`, and the links of other pages to functions and records) is
generated from this index, so that it follows when a module moves or a name changes.
"""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Module:
    """A Python file of the project.

    Attributes:
        name: Its dotted name; that of the package for an `__init__.py`.
        path: Its path, relative to the root of the project.
        summary: First line of its docstring; empty without one.
        names: Names it defines at the top level, and methods as `Class.method`.
    """

    name: str
    path: Path
    summary: str
    names: frozenset[str]

    @property
    def is_package(self) -> bool:
        """Whether the file is the `__init__.py` of a package."""
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        """Dotted name of the package the module stands in; of a package the package itself."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


@cache
def modules(folder: str = "dynamics") -> tuple[Module, ...]:
    """Return the modules below a folder of the project, sorted by path."""
    return tuple(_module(path) for path in sorted((ROOT / folder).rglob("*.py")))


def find(label: str) -> Path:
    """Return the file that a label means, relative to the root of the project.

    A label is a name (`METHODS`, `Run.trend`), a name with its package in front where several
    packages define it (`report.GAUGES`), or a module (`runs.record`). The package comes first, then
    tests, then scripts.

    Raises:
        LookupError: Nothing has that name, or several modules define it.
    """
    for folder in ("dynamics", "tests", "scripts"):
        if files := sorted(set(_matches(label, folder))):
            break
    else:
        raise LookupError(f"no module defines {label}; correct the page, or the name")
    if len(files) > 1:
        places = ", ".join(map(str, files))
        raise LookupError(f"{label} is defined in {places}; put the package in front of it")
    return files[0]


def _matches(label: str, folder: str) -> Iterator[Path]:
    prefix, _, name = label.rpartition(".")
    for module in modules(folder):
        place = module.name.removeprefix("dynamics.")
        inside = f"{place}.".startswith(f"{prefix}.")
        is_module = label in (module.name, place)
        in_package = bool(prefix) and inside and name in module.names
        if is_module or in_package or label in module.names:
            yield module.path


def layers() -> list[list[str]]:
    """Return the layers of the package, top down, from the import contract in pyproject.toml."""
    (contract,) = (each for each in contracts() if each["type"] == "layers")
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]


def contracts() -> list[dict[str, Any]]:
    """Return the import contracts that `make check` verifies."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def _module(path: Path) -> Module:
    tree = ast.parse(path.read_text("utf-8"))
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, relative, summary, frozenset(_names(tree)))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef)
            )
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (name.id for name in names if isinstance(name, ast.Name))
