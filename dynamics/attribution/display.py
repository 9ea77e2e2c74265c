"""What the pictures of attributions have in common: readable tokens, shades, groups."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from dynamics.attribution.result import REGRESSION_ORDER, Attribution, Target

POSITIVE, NEGATIVE = (230, 97, 1), (50, 136, 209)  # orange and blue: told apart by every eye


def visible(token: str) -> str:
    r"""A token that can be printed anywhere: what is not printable is written as an escape.

    Example:
        >>> visible("a\n\x1b[0m")
        'a\\n\\x1b[0m'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in token
    )


def cell(token: str) -> str:
    """A token that stands alone: a space at its beginning is shown."""
    return f"␣{visible(token[1:])}" if token.startswith(" ") else visible(token)


def running(attribution: Attribution) -> list[str]:
    """The tokens as running text: words whose tokens hold no space get one."""
    pieces, before = [], None
    for index, (token, word) in enumerate(zip(attribution.tokens, attribution.words, strict=True)):
        apart = index > 0 and (word is None or word != before) and not token[:1].isspace()
        pieces.append(" " * apart + visible(token))
        before = word
    return pieces


def shades(attribution: Attribution) -> Float[np.ndarray, "P T"]:
    """Scores from -1 to 1, divided for each target by the largest absolute one; NaN for none.

    The largest of what is ranked: special tokens may go beyond, and are cut, so that they dim
    nothing.
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
    """Consecutive attributions that differ in their layer or revision only."""
    made: list[list[Attribution]] = []
    for each in attributions:
        if made and _same(made[-1][0]) == _same(each) and label(each) not in map(label, made[-1]):
            made[-1].append(each)
        else:
            made.append([each])
    return made


def _same(attribution: Attribution) -> tuple[object, ...]:
    one = attribution
    settings = (one.method, one.norm_source, one.logit_form, one.protocol, one.side)
    return (
        one.text,
        one.model,
        tuple(one.token_ids),
        len(one.targets),
        tuple(one.checks),
        *settings,
    )


def layer_name(attribution: Attribution) -> str:
    """Which layer the head reads."""
    return "last layer" if attribution.layer is None else f"layer {attribution.layer}"


def label(attribution: Attribution) -> str:
    """Layer and revision."""
    layer = layer_name(attribution)
    return layer if attribution.revision is None else f"{attribution.revision}, {layer}"


def labels(group: Sequence[Attribution]) -> list[str]:
    """What tells the members of a group apart."""
    if len({each.layer for each in group}) == 1:
        return [str(each.revision) for each in group]
    if len({each.revision for each in group}) > 1:
        return [label(each) for each in group]
    return [layer_name(each) for each in group]


def is_series(group: Sequence[Attribution]) -> bool:
    """Whether a group is one layer of several revisions."""
    return len(group) > 1 and len({each.layer for each in group}) == 1


def heading(attribution: Attribution, *, alone: bool = True) -> str:
    """Model, method and settings on one line.

    Args:
        attribution: One.
        alone: Whether it is not one of a group, whose layer and revision are told elsewhere.
    """
    one = attribution
    parts = [one.model, *([label(one)] if alone else []), one.method]
    parts += [f"norm {one.norm_source}"] if one.norm is not None else []
    parts += [f"logit {one.logit_form}"] if one.logit is not None else []
    parts += [f"{one.protocol} protocol", *(["target side"] if one.side == "target" else [])]
    return visible(" · ".join(parts))


def named(target: Target) -> str:
    """A target in words."""
    if target.token_id < 0:
        return "no prediction: the same for every target"
    place = f" at position {target.position}" if target.position >= 0 else ""
    foil = "" if target.foil is None else f" rather than '{visible(target.foil)}'"
    return f"'{visible(target.token)}'{foil}{place}"


def orders(attribution: Attribution) -> dict[str, str]:
    """The orders that a ranking has, with what each says."""
    if attribution.task == "regression":
        return REGRESSION_ORDER
    return {"descending": "most important first"}


def checks(attribution: Attribution, target: int) -> list[str]:
    """The checks of one target in words."""
    return [
        f"{check_name(name)} {values[target]:.4g}" for name, values in attribution.checks.items()
    ]


def check_name(name: str) -> str:
    """What a check is called where it is printed."""
    return {"kl_nats": "KL(final || lens), nats"}.get(name, name.replace("_", " "))


def number(value: float, sign: str = "+") -> str:
    """Four digits, with a sign unless `sign` is empty; a dot where there is no number."""
    return "·" if np.isnan(value) else f"{value:{sign}.4g}"
