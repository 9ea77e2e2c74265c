"""What cog generates: help texts of the commands, tables of methods and of corpus formats."""

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


def show_methods() -> None:
    """Write a table of the methods of attribution into the page."""
    from dynamics.attribution.methods import METHODS

    cog.outl("| `--method` | is | covers |\n|---|---|---|")
    for name, method in METHODS.items():
        said = (method.function.__doc__ or "").splitlines()[0].rstrip(".")
        cog.outl(f"| `{name}` | {said} | {method.covers} |")


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
