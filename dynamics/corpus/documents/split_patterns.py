r"""Split patterns of tokenizers, analysed for the characters that a match can hold side by side.

A pattern is read as atoms that match one character each (`\p{L}`, `[^\s]`, `a`) and as the pairs of
atoms that can follow each other (Glushkov 1961, "The abstract theory of automata"): in
`\s+|x?[a-z]*` an `[a-z]` can follow `x` and `[a-z]`, `\s` can follow `\s`, and no match holds a
letter before white space. The characters that an atom matches are found with the engine that runs
the pattern. A pattern that is not understood is assumed to join everything.
"""

import re
from functools import cache
from itertools import product
from typing import NamedTuple

_LEXER = re.compile(
    r"""
    (?P<anchor> \(\?i\) | [\^$] | \\[bBAzZG] )
    | (?P<look> \(\?<?[=!] )
    | (?P<open> \((?:\?i?:)?(?!\?) )
    | (?P<close> \) )
    | (?P<bar> \| )
    | (?P<repeat> (?:[?*+]|\{\d*,?\d*\})[?+]? )
    | (?P<atom> \[\^?(?:\\.|\[(?:\\.|[^\[\]\\])+\]|[^\[\]\\])+\]
        | \\[pP]\{\^?\w+\} | \\x\{[0-9a-fA-F]+\} | \\x[0-9a-fA-F]{2} | \\u[0-9a-fA-F]{4}
        | \\[dDsSwWhHtnrfv] | \\[^A-Za-z0-9] | [^\\\[\](){}|*+?^$] )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPTIONAL = ("?", "??")


class _Span(NamedTuple):
    """Atoms that a part of a pattern can begin and end with, and whether it can be empty."""

    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    can_be_empty: bool = True


class _UnknownSyntaxError(Exception):
    """A pattern has syntax that is not supported."""


class _Reader:
    """Parses a pattern; `followers` are pairs of atoms of which the second can follow the first."""

    def __init__(self, pattern: str) -> None:
        self.followers: set[tuple[str, str]] = set()
        self._tokens: list[tuple[str, str]] = []
        end = 0
        while end < len(pattern):
            if (match := _LEXER.match(pattern, end)) is None or match.lastgroup is None:
                raise _UnknownSyntaxError(pattern)
            self._tokens.append((match.lastgroup, match[0]))
            end = match.end()
        self._tokens.reverse()
        self._alternatives()
        if self._tokens:
            raise _UnknownSyntaxError(pattern)

    def _next_is(self, *kinds: str) -> bool:
        """Return whether the next token is of one of these kinds."""
        return bool(self._tokens) and self._tokens[-1][0] in kinds

    def _alternatives(self) -> _Span:
        """Parse sequences between bars, up to the end or a closing parenthesis."""
        spans = [self._sequence()]
        while self._next_is("bar"):
            self._tokens.pop()
            spans.append(self._sequence())
        first, last, can_be_empty = zip(*spans, strict=True)
        return _Span(frozenset().union(*first), frozenset().union(*last), any(can_be_empty))

    def _sequence(self) -> _Span:
        """Parse items that follow each other, up to a bar, the end or a closing parenthesis."""
        span = _Span()
        while self._tokens and not self._next_is("bar", "close"):
            item = self._item()
            self.followers.update(product(span.last, item.first))
            span = _Span(
                span.first | item.first if span.can_be_empty else span.first,
                span.last | item.last if item.can_be_empty else item.last,
                span.can_be_empty and item.can_be_empty,
            )
        return span

    def _item(self) -> _Span:
        """Parse an atom, a group, a look around or an anchor, with its repetitions.

        Raises:
            _UnknownSyntaxError: It is none of these, is not closed, or looks around without bounds.
        """
        kind, source = self._tokens.pop()
        span = _Span()
        if kind == "atom":
            span = _Span(frozenset({source}), frozenset({source}), can_be_empty=False)
        elif kind in ("open", "look"):
            unread = self._tokens.copy()
            inner = self._alternatives()
            if not self._next_is("close"):
                raise _UnknownSyntaxError(source)
            inside = unread[len(self._tokens) :]
            if kind == "open":
                span = inner
            elif any(kind == "repeat" and times not in _OPTIONAL for kind, times in inside):
                raise _UnknownSyntaxError("a look around without bounds")
            self._tokens.pop()
        elif kind != "anchor":
            raise _UnknownSyntaxError(source)
        while self._next_is("repeat"):
            _, times = self._tokens.pop()
            if times not in _OPTIONAL:
                self.followers.update(product(span.last, span.first))
            span = span._replace(can_be_empty=span.can_be_empty or times[0] in "?*{")
        return span


def can_join(pattern: str, left: str, right: str) -> bool:
    r"""Return whether a match can hold one character directly before another.

    Args:
        pattern: Pattern in the syntax of `tokenizers` (Oniguruma's).
        left: Characters, any of which may be the first of the two.
        right: Characters, any of which may be the second.

    Returns:
        False only if no match can; True as well for a pattern that is not understood, or that looks
        around without bounds.

    >>> can_join(r" ?\p{L}+|\s+", "a", " "), can_join(r"[^\d]+", "a", " ")
    (False, True)
    """
    try:
        followers = _Reader(pattern).followers
    except _UnknownSyntaxError:
        return True
    return any(_matches(first, left) and _matches(second, right) for first, second in followers)


@cache
def _matches(atom: str, characters: str) -> bool:
    """Return whether an atom matches any of the characters."""
    from tokenizers import Regex, pre_tokenizers

    try:
        removing = pre_tokenizers.Split(Regex(atom), "removed")
    except Exception:  # the Rust side raises bare `Exception` for unknown syntax
        return True
    left = removing.pre_tokenize_str(characters)
    return sum(len(text) for text, _ in left) < len(characters)
