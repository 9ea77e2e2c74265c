"""What cog generates: help texts of the commands, and tables made from records of the package."""

import os
import subprocess
import sys

import cog


def show_help(*command: str) -> None:
    """Write what `dynamics COMMAND --help` prints into the page, as a code block."""
    shown = subprocess.run(
        [sys.executable, "-m", "dynamics", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"},
    )
    cog.outl(f"```console\n$ {' '.join(['dynamics', *command])} --help")
    cog.outl(shown.stdout.replace("python -m dynamics", "dynamics").strip())
    cog.outl("```")


def show_step_names() -> None:
    """Write a table of names of checkpoints into the page: the step and tokens each tells."""
    from dynamics.checkpoints.step_names import described_names

    cog.outl("| name | step | tokens | written by |\n|---|---|---|---|")
    for name, said, writer in described_names():
        unit = "" if said.unit == "step" else f" (a step is one {said.unit})"
        tokens = "" if said.tokens_seen is None else f"{said.tokens_seen:,}"
        cog.outl(f"| `{name}` | {said.step:,}{unit} | {tokens} | {writer} |")


def show_methods() -> None:
    """Write a table of the methods of attribution into the page."""
    from dynamics.attribution.methods import METHODS

    cog.outl("| `--method` | is | covers |\n|---|---|---|")
    for name, method in METHODS.items():
        said = (method.function.__doc__ or "").splitlines()[0].rstrip(".")
        cog.outl(f"| `{name}` | {said} | {method.covers} |")


def show_checkpoint_formats() -> None:
    """Write tables of the checkpoint formats that are read, and that are only named."""
    from dynamics.checkpoints.formats import NAMED_FORMATS, READ_FORMATS

    cog.outl("| read | told by | |\n|---|---|---|")
    for read in READ_FORMATS:
        cog.outl(f"| {read.name} | {read.files} | {read.remark} |")
    cog.outl("\n| named, not read | told by | what to do |\n|---|---|---|")
    for named in NAMED_FORMATS:
        files = ", ".join(f"`{pattern}`" for pattern in named.files)
        cog.outl(f"| {named.name} | {files} | {named.remedy} |")


def show_corpus_formats() -> None:
    """Write a table of the formats that text is read from into the page."""
    from dynamics.corpus.compression import COMPRESSIONS
    from dynamics.corpus.file_formats import FORMATS

    compressions = ", ".join(f"`{each.suffixes[0]}`" for each in COMPRESSIONS)
    cog.outl("| `--format` | suffixes | one document is | compressed |\n|---|---|---|---|")
    for name, file_format in FORMATS.items():
        suffixes = ", ".join(f"`{suffix}`" for suffix in file_format.suffixes)
        compressed = compressions if file_format.compressible else "within itself"
        cog.outl(f"| `{name}` | {suffixes} | {file_format.document} | {compressed} |")
