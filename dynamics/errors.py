"""The exception tree: every mistake of a user raises one of these.

DynamicsError                printed by the command line on one line, with exit status 2
├── ConfigError              a setting is unknown, of the wrong type or contradicts another
├── StepError                a step expression is malformed or names steps that do not exist
├── CorpusError              text cannot be read, is empty, or is too small for the settings
│   └── NoTokenizerError     a place holds no tokenizer
├── CheckpointError          a checkpoint file is missing, damaged, unsafe or of unknown layout
│   └── UnreachableError     a hub cannot be reached or refuses; the files may be sound
├── MismatchError            two things that must belong together do not (tokenizer, run, series)
├── MeasureError             a tensor holds values no statistic can use (NaN, infinity)
├── OutputError              an output folder cannot be used for the command
│   └── NothingToDrawError   a run holds nothing of what a figure shows
└── StudyError               some runs of a study failed; the others are finished
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class DynamicsError(Exception):
    """Base of all errors that a user can cause; the message says what to do."""


class ConfigError(DynamicsError):
    """A setting is unknown, of the wrong type or contradicts another."""


class StepError(DynamicsError):
    """A step expression is malformed or names steps that do not exist."""


class CorpusError(DynamicsError):
    """Text cannot be read, is empty, or is too small for the settings."""


class NoTokenizerError(CorpusError):
    """A place holds no tokenizer."""


class CheckpointError(DynamicsError):
    """A checkpoint file is missing, damaged, unsafe, of unknown layout or out of reach."""


class UnreachableError(CheckpointError):
    """A hub cannot be reached, or refuses to answer; its files may be sound."""


class MismatchError(DynamicsError):
    """Two things that must belong together do not."""


class MeasureError(DynamicsError):
    """A tensor holds values that no statistic can use."""


class OutputError(DynamicsError):
    """An output folder cannot be used for the command."""


class NothingToDrawError(OutputError):
    """A run holds nothing of what a figure shows."""


class StudyError(DynamicsError):
    """Some runs of a study failed; the others are finished."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the end of a message: the closest option, or all options when none is close.

    Example:
        >>> did_you_mean("learning_rat", ["learning_rate", "steps"])
        "did you mean 'learning_rate'?"
        >>> did_you_mean("colour", ["steps", "seed"])
        'known are: seed, steps'
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(options)}"


def first_of(names: Sequence[object], most: int) -> str:
    """List the first names for a message, with an ellipsis where there are more.

    Example:
        >>> first_of(["a", "b", "c"], 2)
        'a, b, ...'
    """
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def message_of(error: BaseException, longest: int = 300) -> str:
    r"""Return the message of a third-party error on one line, or its type if it has none.

    Args:
        error: The error.
        longest: Most characters; a longer message is cut.

    Example:
        >>> message_of(ValueError("no\nsuch  row"))
        'no such row'
        >>> message_of(KeyError())
        'KeyError'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}..."


def first_problem(error: Any) -> str:
    """Return the first problem of a pydantic error: the field and its message.

    Args:
        error: A `ValidationError`.
    """
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def one_line(error: BaseException) -> str:
    """Return an error on one line; with its type unless it is a `DynamicsError`.

    Example:
        >>> one_line(ConfigError("steps must be at least 1"))
        'steps must be at least 1'
        >>> one_line(ZeroDivisionError("division by zero"))
        'ZeroDivisionError: division by zero'
    """
    text = " ".join(str(error).split())
    if isinstance(error, DynamicsError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def refuse_unknown(options: Mapping[str, object], known: type, function: str) -> None:
    """Refuse keywords of a function that its TypedDict of options does not have.

    Raises:
        TypeError: As Python raises it for arguments that are written out.
    """
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
