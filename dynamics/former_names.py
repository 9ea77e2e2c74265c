"""Names that 0.1 had before the code was put in order; they go with 0.2.

A name that scripts import stays importable, and says once what it is called now.
"""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def warn_of(former: str, current: str) -> None:
    """Warn that a name is called otherwise now, at the line that used it."""
    message = f"{former} is called {current} now; the former name goes with 0.2"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def renamed_argument(
    former: str, current: str
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take an argument under its former name as well."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)  # the signature keeps the current name only
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            if former in kwargs:
                warn_of(f"the argument {former!r} of {function.__name__}", repr(current))
                kwargs[current] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate
