"""Settings of the commands: `key=value` arguments, a YAML file, and options that became settings.

A command that takes settings is registered with `cls=SettingsCommand`, declares `KeyValues` and
`SettingsFile`, and reads both with `dynamics.settings_files.read_settings`. Its model stands in
`SETTINGS`; options that it had before they became settings stand in `FORMER_OPTIONS`.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from dynamics.attribution.settings import AttributeSettings
from dynamics.config import StudySettings, TrackingSettings
from dynamics.corpus.information.settings import CountSettings, InformationGainSettings
from dynamics.errors import ConfigError
from dynamics.settings_files import Settings, group_of, parse_yaml
from dynamics.study.settings import ArmsStudy, SeriesStudy

KeyValues = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, listed in docs/settings.md."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE.yaml",
        help="File of settings; KEY=VALUE and options take precedence.",
    ),
]

SETTINGS: dict[str, tuple[type[Settings], ...]] = {
    "attribute": (AttributeSettings,),
    "count": (CountSettings,),
    "study": (StudySettings, ArmsStudy, SeriesStudy),
    "track": (TrackingSettings,),
    "train": (StudySettings,),
}
"""Models of the settings that a command takes."""

FORMER_OPTIONS: dict[str, dict[str, str]] = {
    "attribute": {f"--{name.replace('_', '-')}": name for name in AttributeSettings.model_fields},
    "count": {f"--{name}": f"information.{name}" for name in InformationGainSettings.model_fields},
    "track": {
        "--allow-flagged": "allow_flagged",
        "--batch-size": "stream.batch_size",
        "--context-length": "context_length",
        "--contexts": "contexts",
        "--dask": "dask",
        "--exposure": "exposure",
        "--format": "probe.format",
        "--live-steps": "live_steps",
        "--probe-dtype": "probe.dtype",
        "--probe-size": "probe_tokens_per_stratum",
        "--probe-tokens": "probe.tokens",
        "--separator": "probe.separator",
        "--sequence-length": "stream.sequence_length",
        "--split": "probe.split",
        "--stream": "stream.file",
        "--stream-dtype": "stream.dtype",
        "--text-column": "probe.text_column",
    },
}
"""Options that became settings: by command, the key of the setting for each option."""

FORMER_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "track": dict.fromkeys(("--all", "all=true"), ("measures=all", "every_row=true")),
}
"""Whole arguments that several settings took the place of: by command, these settings."""

_NOTE = "dynamics.former_options"


class SettingsCommand(TyperCommand):
    """A command with options in panels in its help, and with the options of `FORMER_OPTIONS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after options that became settings were replaced by `key=value`."""
        arguments, ctx.meta[_NOTE] = _as_settings(str(self.name), args)
        return super().parse_args(ctx, arguments)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; print at its end what to type instead of options that became settings.

        An error stays on one line: it names the settings itself.
        """
        result = super().invoke(ctx)
        if note := ctx.meta[_NOTE]:
            print(note, file=sys.stderr)
        return result

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each panel under its title."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            title = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if (record := parameter.get_help_record(ctx)) is not None:
                title = getattr(parameter, "rich_help_panel", None) or title
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _as_settings(command: str, arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Return arguments with former options as `key=value` at the end, and a note of them."""
    former_options = FORMER_OPTIONS.get(command, {})
    former_words = FORMER_WORDS.get(command, {})
    remaining: list[str] = []
    replaced: dict[str, tuple[str, ...]] = {}
    texts: dict[str, list[str]] = {}
    words = iter(arguments)
    for word in words:
        option, equals, text = word.partition("=")
        if word == "--":
            remaining += [word, *words]
        elif word in former_words:
            replaced[word] = former_words[word]
        elif (key := former_options.get(option)) is None:
            remaining.append(word)
        else:
            if not equals:
                text = "true" if bool in _types_of(command, key) else next(words, None)
            if text is None:
                raise typer.BadParameter(f"{option} requires an argument")
            texts.setdefault(key, []).append(text)
    settings = list(dict.fromkeys(chain(*replaced.values())))
    settings += [f"{key}={_yaml_of(_types_of(command, key), texts[key])}" for key in texts]
    if not settings:
        return remaining, None
    former = [*replaced, *(option for option, key in former_options.items() if key in texts)]
    options = " and ".join(former)
    note = f"dynamics: instead of {options} type {shlex.join(settings)}"
    return [*remaining, *settings], note


def _types_of(command: str, key: str) -> list[Any]:
    """Return the types that a setting can have, from the first model of the command."""
    *groups, name = key.split(".")
    annotation = group_of(SETTINGS[command][0], groups).model_fields[name].annotation
    return [annotation, *get_args(annotation)]


def _yaml_of(types: Sequence[Any], texts: Sequence[str]) -> str:
    """Return the values that followed a former option as YAML, the last unless it is a list."""
    if any(get_origin(kind) is list for kind in types):
        return f"[{', '.join(texts)}]"
    text = texts[-1]
    try:
        is_plain = str not in types or parse_yaml(text, "") == text
    except ConfigError:
        is_plain = False
    return text if is_plain else json.dumps(text)
