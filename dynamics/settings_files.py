"""Settings as strict typed models, read from YAML files and `key=value` arguments.

A file is read with YAML 1.2's core schema, so that `3e-4` is a number, `010` is ten and `no` is a
word; `key=value` arguments are read the same way. An unknown or duplicate key, or a value of the
wrong type, is an error that names the key.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from dynamics import steps
from dynamics.errors import ConfigError, StepError, did_you_mean

Validated = TypeVar("Validated", bound=BaseModel)


class Settings(BaseModel):
    """Base of settings: unknown keys are errors, values are not converted, models are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def settings_model(record: type, without: Collection[str] = ()) -> type[Settings]:
    """Return the settings with the fields, defaults and documentation of a dataclass.

    Args:
        record: A dataclass whose fields have defaults.
        without: Names of fields that are left out.
    """
    fields: dict[str, Any] = {
        field.name: (field.type, field.default)
        for field in dataclasses.fields(record)
        if field.name not in without
    }
    return create_model(record.__name__, __base__=Settings, __doc__=record.__doc__, **fields)


def _parsed(expression: str) -> str:
    """Return a step expression if it can be parsed, else raise ValueError."""
    try:
        steps.parse(expression)
    except StepError as error:
        raise ValueError(str(error)) from error
    return expression


StepExpression = Annotated[
    str, Field(strict=False, coerce_numbers_to_str=True), AfterValidator(_parsed)
]
"""Steps in the step language; a single step is a number in YAML."""


class _Loader(yaml.SafeLoader):
    """A loader with YAML 1.2's core schema, for which a duplicate key is an error."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's protocol)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise ConfigError(f"the key {doubled[0]!r} is given twice")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in [
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false|True|False", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
]:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, not validated.

    Raises:
        ConfigError: The file cannot be read, holds no mapping, or a key is doubled.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {_reason(error)}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings; expected lines such as 'name: demo'")
    return content


def parse_override(override: str) -> tuple[str, Any]:
    """Split `key=value` into the key and the parsed value.

    Raises:
        ConfigError: The override is not of that form, or the value is not YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"cannot read the setting {override!r}; expected key=value")
    return key, parse_yaml(value, f"the setting {override!r}")


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set `group.name` in nested mappings, creating missing groups.

    Raises:
        ConfigError: A group in the key is a value.
    """
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"cannot set {key!r}: {parent!r} is a value, not a group of settings")
    content[last] = value


def read_settings(
    model: type[Validated],
    file: Path | None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Validated:
    """Return settings from a file, then `key=value` overrides, then values of options by key.

    Args:
        model: Model of the settings.
        file: YAML file of settings; None for the defaults.
        overrides: Settings of the form `key=value` that replace those of the file.
        options: Values by key that replace both; None and False are no values.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown, doubled or of the wrong type.
    """
    content = {} if file is None else read_yaml(file)
    for key, value in map(parse_override, overrides):
        set_key(content, key, value)
    for key, value in (options or {}).items():
        if value is not None and value is not False:
            set_key(content, key, value)
    return validate(model, content, "settings" if file is None else str(file))


def validate(model: type[Validated], content: Any, where: str) -> Validated:
    """Return the settings model of a mapping.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type; the message begins with `where`
            and lists all such keys.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(_explain(error, model))}") from error


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; an error begins with `where`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _explain(error: ValidationError, model: type[BaseModel]) -> Iterable[str]:
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            known_keys = group_of(model, path[:-1]).model_fields
            yield f"unknown key {key!r}; {did_you_mean(path[-1], known_keys)}"
        elif problem["type"] == "missing":
            yield f"the key {key!r} is missing"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            actual = "" if isinstance(value, dict) else f" (got {value!r})"
            yield f"{key}{': ' if key else ''}{message[:1].lower()}{message[1:]}{actual}"


def group_of(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """Return the model of a group of settings, by the names that lead to it."""
    for part in path:
        annotation = model.model_fields[part].annotation
        types = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type)]
        model = next(t for t in types if issubclass(t, BaseModel))
    return model


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
