"""Vocabulary rules: the tokens that enter a correlation, declared, printed and swept."""

import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import ArrayLike

from dynamics.errors import ConfigError

KINDS = ("word_start", "continuation", "unknown")
"""Kinds of token that can enter; not twin, padding, uncounted, special, added, byte, fragment or
unreachable. Without a tokenizer every counted token is of kind `unknown`."""

_DEFAULT_COUNT = 10


@dataclass(frozen=True)
class VocabularyRule:
    """Tokens by how often they occur: `count>=10`, or the most frequent, `top-1000`.

    Attributes:
        min_count: Fewest occurrences; unused when `top` is given.
        top: Number of most frequent tokens, of those that occur at all.
        rows: Rows that the tables hold, as text; the whole vocabulary when None. The masks are
            of tables of these rows.

    Raises:
        ConfigError: `min_count` is negative, `top` is below 1, or both are given.

    Example:
        >>> str(VocabularyRule(min_count=100))
        'count>=100'
    """

    min_count: int = _DEFAULT_COUNT
    top: int | None = None
    rows: str | None = None

    def __post_init__(self):
        if self.top is not None and (self.top < 1 or self.min_count != _DEFAULT_COUNT):
            raise ConfigError(
                f"a vocabulary rule takes either a smallest count or a top of at least 1, not "
                f"min_count={self.min_count} with top={self.top}"
            )
        if self.min_count < 0:
            raise ConfigError(f"the smallest count cannot be negative: {self.min_count}")

    def __str__(self) -> str:
        text = f"count>={self.min_count}" if self.top is None else f"top-{self.top}"
        return text if self.rows is None else f"{text} of rows {self.rows}"

    def mask(self, counts: Integer[np.ndarray, " V"], kinds: ArrayLike) -> Bool[np.ndarray, " V"]:
        """Mask of the tokens of the vocabulary that enter.

        Args:
            counts: Occurrences of each token.
            kinds: Kind of each token, as in `counts.parquet`; only `KINDS` enter.

        Returns:
            The mask. `top` keeps fewer when fewer occur; of equally frequent tokens at its border
            the lower ids enter.

        Raises:
            ValueError: counts and kinds differ in length.
        """
        counts, kinds = np.asarray(counts), np.asarray(kinds)
        if counts.shape != kinds.shape:
            raise ValueError(f"{counts.shape} counts but {kinds.shape} kinds of token")
        eligible = np.isin(kinds, KINDS)
        if self.top is None:
            return eligible & (counts >= self.min_count)
        ids = np.flatnonzero(eligible & (counts > 0))
        mask = np.zeros(len(counts), dtype=bool)
        mask[ids[np.argsort(-counts[ids], kind="stable")[: self.top]]] = True
        return mask


SWEEP = (
    VocabularyRule(1),
    VocabularyRule(10),
    VocabularyRule(100),
    VocabularyRule(1000),
    VocabularyRule(top=1000),
    VocabularyRule(top=5000),
)
"""Rules under which every correlation is repeated, to see how it depends on the rule."""


def swept(rule: VocabularyRule) -> list[VocabularyRule]:
    """A rule, followed by the other rules of the sweep, of the same rows."""
    sweep = (replace(swept_rule, rows=rule.rows) for swept_rule in SWEEP)
    return [rule, *(swept_rule for swept_rule in sweep if swept_rule != rule)]


def parse_rule(text: str, rows: str | None = None) -> VocabularyRule:
    """Parse the rule that prints as `text`, over the whole vocabulary or some rows of it.

    Raises:
        ConfigError: `text` is no rule.

    Example:
        >>> parse_rule("top-1000")
        VocabularyRule(min_count=10, top=1000, rows=None)
    """
    match = re.fullmatch(r"(?:count>=([0-9]+)|top-([0-9]+))", text.replace(" ", ""))
    if not match:
        raise ConfigError(
            f"cannot read the vocabulary rule {text!r}; it is 'count>=N' or 'top-N', such as "
            "'count>=10' or 'top-1000'"
        )
    count, top = match.groups()
    if top is None:
        return VocabularyRule(int(count), rows=rows)
    return VocabularyRule(top=int(top), rows=rows)


def placebo_mask(counts: Integer[np.ndarray, " V"], kinds: ArrayLike) -> Bool[np.ndarray, " V"]:
    """Mask of tokens that never occurred, so that their rows moved without any data.

    Special tokens are not among them: a mask or an end of text is fed without standing in the text.
    Nor are those whose count is not known.
    """
    return (np.asarray(counts) == 0) & ~np.isin(kinds, ("special", "uncounted"))
