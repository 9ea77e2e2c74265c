"""Readable tokens, shades, groups and labels for attributions on a terminal or a page."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from dynamics.attribution.result import REGRESSION_ORDER, Attribution, Target

POSITIVE, NEGATIVE = (230, 97, 1), (50, 136, 209)  # orange and blue, also for the colour-blind


def printable(token: str) -> str:
    r"""Escape the characters of a token that are not printable.

    Example:
        >>> printable("a\n\x1b[0m")
        'a\\n\\x1b[0m'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in token
    )


def cell(token: str) -> str:
    """Return a token for a table cell: printable, a space at its beginning shown as ␣."""
    return f"␣{printable(token[1:])}" if token.startswith(" ") else printable(token)


def running(attribution: Attribution) -> list[str]:
    """Return the tokens as running text: a space goes before words whose tokens hold none."""
    pieces, previous_word = [], None
    for index, (token, word) in enumerate(zip(attribution.tokens, attribution.words, strict=True)):
        begins_word = word is None or word != previous_word
        needs_space = index > 0 and begins_word and not token[:1].isspace()
        pieces.append(" " * needs_space + printable(token))
        previous_word = word
    return pieces


def shades(attribution: Attribution) -> Float[np.ndarray, "P T"]:
    """Return the scores divided for each target by the largest absolute one, clipped to [-1, 1].

    NaN where there is no score. The largest score is that of the ranked tokens, so that large
    scores of special tokens do not dim the others.
    """
    scores = attribution.scores
    shaded = np.zeros_like(scores)
    for target in range(scores.shape[1]):
        ranked = attribution.ranking(target) or range(len(scores))
        largest = np.nan_to_num(np.abs(scores[list(ranked), target])).max(initial=0)
        if largest:
            shaded[:, target] = np.clip(scores[:, target] / largest, -1, 1)
    return np.where(np.isnan(scores), np.nan, shaded)


def groups(attributions: Iterable[Attribution]) -> list[list[Attribution]]:
    """Group consecutive attributions that differ in their layer or revision only."""
    grouped: list[list[Attribution]] = []
    for attribution in attributions:
        key = _group_key(attribution)
        group = grouped[-1] if grouped and _group_key(grouped[-1][0]) == key else None
        if group is not None and label(attribution) not in map(label, group):
            group.append(attribution)
        else:
            grouped.append([attribution])
    return grouped


def _group_key(attribution: Attribution) -> tuple[object, ...]:
    """Return all that attributions shown in one table have in common."""
    return (
        attribution.text,
        attribution.model,
        tuple(attribution.token_ids),
        len(attribution.targets),
        tuple(attribution.checks),
        attribution.method,
        attribution.norm_source,
        attribution.logit_form,
        attribution.protocol,
        attribution.side,
    )


def layer_name(attribution: Attribution) -> str:
    """Return the name of the layer that the head reads."""
    return "last layer" if attribution.layer is None else f"layer {attribution.layer}"


def label(attribution: Attribution) -> str:
    """Return the revision, if there is one, and the layer."""
    layer = layer_name(attribution)
    return layer if attribution.revision is None else f"{attribution.revision}, {layer}"


def labels(group: Sequence[Attribution]) -> list[str]:
    """Return a label for each member of a group: its revision, its layer, or both."""
    if len({attribution.layer for attribution in group}) == 1:
        return [str(attribution.revision) for attribution in group]
    if len({attribution.revision for attribution in group}) > 1:
        return [label(attribution) for attribution in group]
    return [layer_name(attribution) for attribution in group]


def is_series(group: Sequence[Attribution]) -> bool:
    """Return whether a group is one layer of several revisions."""
    return len(group) > 1 and len({attribution.layer for attribution in group}) == 1


def heading(attribution: Attribution, *, with_label: bool = True) -> str:
    """Return model, method and settings on one line.

    Args:
        attribution: The attribution.
        with_label: Add layer and revision; a group has them in its table.
    """
    parts = [attribution.model, *([label(attribution)] if with_label else []), attribution.method]
    parts += [f"norm {attribution.norm_source}"] if attribution.norm is not None else []
    parts += [f"logit {attribution.logit_form}"] if attribution.logit is not None else []
    parts.append(f"{attribution.protocol} protocol")
    parts += ["target side"] if attribution.side == "target" else []
    return printable(" · ".join(parts))


def named(target: Target) -> str:
    """Return a target in words."""
    if target.token_id < 0:
        return "no prediction: the same for every target"
    place = f" at position {target.position}" if target.position >= 0 else ""
    foil = "" if target.foil is None else f" rather than '{printable(target.foil)}'"
    return f"'{printable(target.token)}'{foil}{place}"


def orders(attribution: Attribution) -> dict[str, str]:
    """Return the orders of a ranking, each with its meaning."""
    if attribution.task == "regression":
        return REGRESSION_ORDER
    return {"descending": "most important first"}


def checks(attribution: Attribution, target: int) -> list[str]:
    """Return the checks of one target in words."""
    return [
        f"{check_name(name)} {values[target]:.4g}" for name, values in attribution.checks.items()
    ]


def check_name(name: str) -> str:
    """Return the printed name of a check."""
    return {"kl_nats": "KL(final || lens), nats"}.get(name, name.replace("_", " "))


def number(value: float, sign: str = "+") -> str:
    """Format with four significant digits, and a plus unless `sign` is empty; NaN is a dot."""
    return "·" if np.isnan(value) else f"{value:{sign}.4g}"
