"""Settings of the commands: the page that lists them, and options that became settings."""

from pathlib import Path
from typing import get_args

import pytest

from dynamics.cli.settings import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        groups = [kind for kind in kinds if hasattr(kind, "model_fields")]
        yield from keys_of(groups[0], f"{prefix}{name}.") if groups else [prefix + name]


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_of_a_command_is_on_the_page(command):
    sections = PAGE.read_text("utf-8").split("\n## ")[1:]
    for model in SETTINGS[command]:
        title = model.__doc__.splitlines()[0].rstrip(".")
        (section,) = (text for text in sections if text.startswith(f"{title}\n"))
        assert f"`dynamics {command}`" in section
        assert [key for key in keys_of(model) if f"| `{key}` |" not in section] == []
