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
        names: Names it defines at the top level, methods as `Class.method`, and tests in classes.
        imports: What it imports, as dotted names: modules, and what is imported from them.
        fixtures: Names of the fixtures of pytest that it defines.
    """

    name: str
    path: Path
    summary: str
    names: frozenset[str]
    imports: frozenset[str]
    fixtures: tuple[str, ...]

    @property
    def is_package(self) -> bool:
        """True for the `__init__.py` of a package."""
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

    A label is a module (`runs.record`), a name (`METHODS`, `Run.trend`), or a name with its package
    or module in front where several define it (`runs.Run`). A module comes before a name, the
    package before tests and scripts.

    Raises:
        LookupError: Nothing has that name, or several modules define it.
    """
    for folder in ("dynamics", "tests", "scripts"):
        files = [
            module.path for module in modules(folder) if label in (module.name, _place(module))
        ]
        if files := files or sorted(set(_matches(label, folder))):
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
        inside = bool(prefix) and f"{_place(module)}.".startswith(f"{prefix}.")
        if label in module.names or (inside and name in module.names):
            yield module.path


def _place(module: Module) -> str:
    return module.name.removeprefix("dynamics.")


def tests_of(module: Module) -> list[Path]:
    """Return the test files of a module, those of its own package first.

    The file that is named after it; else those that import it; else those of the modules that
    import it.
    """
    named = Path("tests", *module.path.parts[1:-1], f"test_{module.path.name}")
    tests = [test for test in modules("tests") if test.path.name.startswith("test_")]
    if any(test.path == named for test in tests):
        return [named]
    files = {test.path for test in tests if module.name in test.imports}
    if not files:
        users = [user for user in modules() if module.name in user.imports and user != module]
        files = {path for user in users for path in tests_of(user)}
    return sorted(files, key=lambda path: (path.parent != named.parent, path))


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
    names, imports = frozenset(_names(tree)), frozenset(_imports(tree))
    return Module(name, relative, summary, names, imports, tuple(_fixtures(tree)))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        methods = node.body if isinstance(node, ast.ClassDef) else []
        for method in methods:
            if isinstance(method, ast.FunctionDef):
                yield f"{node.name}.{method.name}"
                if method.name.startswith("test_"):
                    yield method.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (name.id for name in names if isinstance(name, ast.Name))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _fixtures(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            decorators = (ast.unparse(decorator) for decorator in node.decorator_list)
            if any(text.startswith("pytest.fixture") for text in decorators):
                yield node.name
