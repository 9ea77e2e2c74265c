"""Name and version under which a package index lists this program, and the names of its extras.

The package is imported as `dynamics` and the command is `dynamics`; on the index that name belongs
to another program.
"""

DISTRIBUTION = "pretraining-dynamics"

VERSION = "0.1.0"  # pyproject.toml reads it from here, so that a checkout need not be installed


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    Example:
        >>> install_command("cluster")
        "pip install 'pretraining-dynamics[cluster]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def versions(*packages: str) -> dict[str, str]:
    """Return the version of this program, under the key `dynamics`, and of installed packages."""
    from importlib.metadata import version  # takes longer than importing the whole package does

    return {"dynamics": VERSION, **{name: version(name) for name in packages}}
