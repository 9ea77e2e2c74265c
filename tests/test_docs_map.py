"""The documentation leads somewhere: links, names in the source, and the lists that order pages."""

import os
import re
from pathlib import Path

import pytest

from docs.source_index import ROOT, find, layers, modules

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("benchmarks", "configs", "docs", "dynamics", "scripts", "tests")

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
DEFINITION = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
NAMES = re.compile(r"\[(`[\w.]+`)\](?![\[(])")
LABELS = re.compile(r"\]\[([\w.]+)\]")
FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
MODULE = re.compile(rf"\b((?:{'|'.join(name for level in layers() for name in level)})\.[a-z_.]+)")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def read(page):
    """Text of a page without blocks of code, in which brackets are no links."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What a link may name behind its #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets(page):
    text = read(page)
    links = [*LINK.findall(text), *IMAGE.findall(text)]
    links += [target for _, target in DEFINITION.findall(text)]
    return [link for link in links if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: {path} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_brackets_are_defined_where_their_links_lead(page):
    text = read(page)
    definitions = dict(DEFINITION.findall(text))
    prose = DEFINITION.sub("", text)
    named = {*NAMES.findall(prose), *LABELS.findall(prose)}
    assert named == definitions.keys(), f"{name_of(page)}: run `make docs`"
    for label, target in definitions.items():
        expected = Path(os.path.relpath(ROOT / find(label.strip("`")), page.parent)).as_posix()
        assert target == expected, f"{name_of(page)}: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_pages_name_are_there(page):
    if page.name in ("CHANGELOG.md", "decisions.md"):
        return  # they tell of files as they were
    for file in FILE.findall(read(page)):
        assert (ROOT / file).exists(), f"{name_of(page)} names {file}, which is not there"


def test_every_module_has_a_docstring_and_stands_in_the_map():
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    for module in modules():
        assert module.summary, f"{module.path} has no docstring"
        entry = f"### {module.name}\n" if module.is_package else f"(../{module.path.as_posix()})"
        assert entry in page, f"{module.path} is not in docs/architecture.md; run `make docs`"


def test_the_modules_that_the_flows_name_are_there():
    flows = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs/architecture.md").read_text("utf-8"),
                       re.MULTILINE | re.DOTALL)  # fmt: skip
    assert len(flows) == 3
    files = r"\b\w+\.(json|jsonl|parquet|bin|safetensors)\b"
    for name in MODULE.findall(re.sub(files, "", "".join(flows))):
        find(name)


def test_every_page_stands_in_the_index():
    index = ROOT / "docs/index.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in targets(index)}
    missing = [name_of(page) for page in PAGES if page not in listed and page != index]
    assert not missing, f"list {', '.join(missing)} in docs/index.md"
    assert index in {(ROOT / target).resolve() for target in targets(ROOT / "README.md")}


def test_every_decision_stands_in_their_index_by_subject():
    page = ROOT / "docs/decisions.md"
    listed = [target.removeprefix("#") for target in targets(page) if target.startswith("#")]
    missing = anchors(page) - {"decisions", *listed}
    assert not missing, f"add {missing} to the index by subject at the top of docs/decisions.md"


def test_every_generated_page_is_one_that_make_docs_writes():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    written = makefile.partition("PAGES :=")[2].partition("COG :=")[0].split()
    for page in PAGES:
        if "[[[cog" in page.read_text("utf-8") and page.parent.name != "commands":
            assert name_of(page) in written, f"add {name_of(page)} to PAGES in the Makefile"
