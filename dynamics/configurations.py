"""Configurations that come with the program, and the file that a name or path on a command means.

`dynamics/configs` is a link to `configs/`: a checkout has the files once, and a wheel has them too.
"""

from pathlib import Path

from dynamics.errors import ConfigError

FOLDER = Path(__file__).parent / "configs"


def shipped_configurations() -> dict[str, Path]:
    """Return the files that come with the program, by their names without suffix, in order."""
    return {path.stem: path for path in sorted(FOLDER.rglob("*.yaml"), key=lambda path: path.stem)}


def configuration_file(name: str | Path) -> Path:
    """Return the file of a configuration.

    Args:
        name: Path of a file, or the bare name of a configuration that comes with the program; a
            file of that name in the working folder takes precedence.

    Raises:
        ConfigError: There is neither; the message lists the names.
    """
    path = Path(name)
    shipped = shipped_configurations()
    if str(name) in shipped and not path.is_file():
        return shipped[str(name)]
    if path.exists():
        return path
    names = ", ".join(shipped)
    if "=" in str(name):
        raise ConfigError(
            f"{name} is a setting, but no configuration precedes it; give a YAML file first, "
            f"or the name of one that comes with the program: {names}"
        )
    raise ConfigError(
        f"cannot read the configuration {name}: No such file or directory, nor the name of one "
        f"that comes with the program ({names})"
    )
