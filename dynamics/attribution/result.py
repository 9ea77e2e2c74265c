"""The attribution of one input, as plain arrays.

P positions that are scored, T targets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

REGRESSION_ORDER = {
    "descending": "tokens whose representation differs most from the read-out come first, by the "
    "formula",
    "ascending": "tokens whose representation resembles the read-out most come first, by the "
    "stated intuition",
}


_SHOWN = 3  # targets that a repr names
_TEXT = 60  # characters of the input in it


@dataclass(frozen=True)
class Target:
    """A prediction that is explained.

    Attributes:
        position: Position of the predicted token, one past the end for the token that follows the
            text; position of the read-out for a label (-1 for the mean of all positions).
        token_id: Token id or label predicted.
        token: Surface string of the token, or name of the label.
        foil_id: Token id or label that the target is contrasted with.
        foil: Surface string or name of the foil.
    """

    position: int
    token_id: int
    token: str
    foil_id: int | None = None
    foil: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution:
    """Scores of every position of one input for each target; JSON has the entries in this order.

    Attributes:
        text: The input.
        tokens: Surface string of each position.
        token_ids: Token id of each position.
        targets: Predictions that are explained.
        scores: Positions x targets; NaN where a position cannot have a part in a prediction.
        norm: Norm of each position's input embedding, where the score has that factor.
        logit: Logit of each target at each position, where the score has that factor.
        special: Flags of the positions with special tokens.
        words: Index of the whitespace-separated word of each position, None for special tokens.
        word_texts: Text of each word as it stands in the input, with the white space before it;
            empty where it is not known.
        method: Name in `METHODS`.
        layer: Layer whose representations the head reads, None for the last.
        norm_source: As in `AttributionSettings`.
        logit_form: As in `AttributionSettings`.
        protocol: `sound` or `paper`.
        model: Name or folder of the model.
        revision: Its branch, tag, commit or step.
        side: Side whose tokens are scored, in an encoder-decoder.
        task: Task of the model: `causal`, `masked`, `seq2seq`, `classification`, `regression`, or
            `none`; None when it is not known.
        asked: The other settings of the command that made it, by option name.
        checks: Numbers that say whether scores can be trusted, one for each target.
        notes: Remarks for the reader: truncation, a failed check, how to read causal scores.
    """

    text: str
    tokens: Sequence[str]
    token_ids: Sequence[int]
    targets: Sequence[Target]
    scores: Float[np.ndarray, "P T"]
    norm: Float[np.ndarray, " P"] | None = None
    logit: Float[np.ndarray, "P T"] | None = None
    special: Sequence[bool]
    words: Sequence[int | None]
    word_texts: Sequence[str] = ()
    method: str
    layer: int | None = None
    norm_source: str = "module_output"
    logit_form: str = "raw"
    protocol: str = "sound"
    model: str
    revision: str | None = None
    side: str = "source"
    task: str | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        targets = ", ".join(repr(target.token) for target in self.targets[:_SHOWN])
        more = ", ..." if len(self.targets) > _SHOWN else ""
        text = self.text if len(self.text) <= _TEXT else f"{self.text[:_TEXT]}..."
        return (
            f"<Attribution {self.method} of {text!r}: {len(self.tokens)} positions, "
            f"targets {targets}{more}>"
        )

    def ranking(self, target: int = 0, order: str = "descending") -> list[int]:
        """Rank positions from the most important to the least, by signed score; ties in text order.

        Special tokens and positions without a score are left out; the paper's protocol leaves out
        the first position and positions without a score only.

        Args:
            target: Index of the target.
            order: `descending`; `ascending` for regression, where the formula's direction and its
                stated intuition differ.
        """
        scores = self.scores[:, target]
        paper = self.protocol == "paper"
        left_out = [index == 0 for index in range(len(scores))] if paper else self.special
        ranked = [i for i in range(len(scores)) if not left_out[i] and not np.isnan(scores[i])]
        return sorted(ranked, key=lambda i: -scores[i] if order == "descending" else scores[i])

    def to_word_level(self) -> "Attribution":
        """Sum the scores of the tokens of each whitespace-separated word.

        Special tokens stay alone. The factors become None: a product of sums is not the sum of the
        products. Tokens without a score do not count; a word without any score is NaN. Positions of
        targets become those of words.
        """
        groups: list[list[int]] = []
        for index, word in enumerate(self.words):
            if groups and word is not None and self.words[groups[-1][0]] == word:
                groups[-1].append(index)
            else:
                groups.append([index])
        first = [group[0] for group in groups]
        places = {index: place for place, group in enumerate(groups) for index in group}
        places[len(self.tokens)] = len(groups)
        scores = np.stack([_sum(self.scores[group]) for group in groups])
        return replace(
            self,
            tokens=[self._text(group) for group in groups],
            token_ids=[self.token_ids[i] for i in first],
            special=[self.special[i] for i in first],
            words=[self.words[i] for i in first],
            targets=[
                replace(target, position=places.get(target.position, -1)) for target in self.targets
            ],
            scores=scores,
            norm=None,
            logit=None,
        )

    def _text(self, group: Sequence[int]) -> str:
        """Return the text of a word as it stands in the input, or its tokens joined."""
        word = self.words[group[0]]
        text = "" if word is None or word >= len(self.word_texts) else self.word_texts[word]
        return text or "".join(self.tokens[index] for index in group)

    def to_dict(self) -> dict[str, Any]:
        """Return the attribution as JSON can hold it; NaN becomes None."""
        content = {name: _plain(value) for name, value in vars(self).items()}
        for factor in ("norm", "logit"):
            if content[factor] is None:
                del content[factor]
        return content

    def to_json(self) -> str:
        """Return the attribution as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def to_inseq(self) -> str:
        """Return a JSON file that Inseq loads; `dynamics.attribution.inseq` takes several."""
        from dynamics.attribution.inseq import to_inseq

        return to_inseq([self])

    def show(self, top: int = 10) -> None:
        """Print the attribution to the terminal, in colour if the terminal has colours.

        Args:
            top: Tokens in the table of each target; 0 for all, in text order.
        """
        from dynamics.attribution.terminal import show

        show([self], top=top)

    def _repr_html_(self) -> str:
        from dynamics.attribution.html import fragment

        return fragment([self])

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Attribution":
        """Rebuild an attribution from the result of `to_dict`."""
        arrays = {
            name: np.array(content[name], dtype=float) if name in content else None
            for name in ("scores", "norm", "logit")
        }
        shape = (len(content["tokens"]), len(content["targets"]))
        assert arrays["scores"] is not None
        arrays["scores"] = arrays["scores"].reshape(shape)
        return cls(
            **{**content, **arrays, "targets": [Target(**entry) for entry in content["targets"]]}
        )


def _sum(scores: Float[np.ndarray, "tokens T"]) -> Float[np.ndarray, " T"]:
    """Return the sum for each target without NaN; NaN where every token is."""
    return np.where(np.isnan(scores).all(0), np.nan, np.nansum(scores, 0))


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN is None, fields that a target lacks are left out."""
    if isinstance(value, np.ndarray):
        plain = value.astype(object)
        plain[np.isnan(value)] = None
        return plain.tolist()
    if isinstance(value, Target):
        return {name: entry for name, entry in vars(value).items() if entry is not None}
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value
