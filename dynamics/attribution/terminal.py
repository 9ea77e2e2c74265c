"""Attributions on a terminal: in colour where there is some, with numbers everywhere."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dynamics.attribution import view
from dynamics.attribution.result import Attribution

_FAINT = 0.05  # shares of the largest score below this are not coloured
_LISTED = 4  # tokens that a row of a group names


def show(
    attributions: Iterable[Attribution], *, top: int = 10, console: Console | None = None
) -> None:
    """Print attributions, and then their notes, each once.

    Those that differ in layer or revision only become one table.

    Args:
        attributions: What to print.
        top: Tokens in the table of each target; 0 for all, in text order.
        console: Where to; standard output when None.
    """
    console = console or Console(highlight=False)
    notes: dict[str, None] = {}
    for group in view.groups(attributions):
        console.print(render(group, top=top), Text())
        notes |= dict.fromkeys(note for each in group for note in each.notes)
    for note in notes:
        console.print(Text(f"note: {view.visible(note)}", style="italic"))


def render(group: Sequence[Attribution], *, top: int = 10) -> RenderableType:
    """One attribution, or several that differ in layer or revision only."""
    one = group[0]
    parts: list[RenderableType] = [Text(view.heading(one, alone=len(group) == 1), style="bold")]
    for target in range(len(one.targets)):
        parts += _alone(one, target, top) if len(group) == 1 else _compared(group, target)
    return Group(*parts)


def _alone(one: Attribution, target: int, top: int) -> Iterator[RenderableType]:
    yield Text(f"target {view.named(one.targets[target])}")
    yield _indented(_text(one, target))
    if not one.ranking(target):
        yield _indented(Text("nothing is ranked: the target is predicted from special tokens only"))
        return
    for order, meaning in view.orders(one).items():
        if one.task == "regression":
            yield Text(f"{order}: {meaning}")
        yield _indented(_table(one, target, order, top))
    if checks := view.checks(one, target):
        yield Text(f"checks: {', '.join(checks)}")


def _text(one: Attribution, target: int) -> Text:
    pieces = zip(view.running(one), view.shades(one)[:, target], strict=True)
    return Text.assemble(*((piece, _style(shade)) for piece, shade in pieces))


def _table(one: Attribution, target: int, order: str, top: int) -> Table:
    ranked = one.ranking(target, order)
    shades = view.shades(one)[:, target]
    given = {} if one.norm is None else {"norm": ("", one.norm)}
    given |= {} if one.logit is None else {"logit": ("+", one.logit[:, target])}
    table = _new_table("rank", "position", "token", "score", *given)
    for index in ranked[:top] if top else range(len(one.tokens)):
        table.add_row(
            str(ranked.index(index) + 1) if index in ranked else "-",
            str(index),
            Text(view.cell(one.tokens[index]), style=_style(shades[index])),
            view.number(one.scores[index, target]),
            *(view.number(values[index], sign) for sign, values in given.values()),
        )
    return table


def _compared(group: Sequence[Attribution], target: int) -> Iterator[RenderableType]:
    """One row for each layer or revision."""
    targets = [view.named(each.targets[target]) for each in group]
    names = list(group[0].checks)
    differ = len(set(targets)) > 1
    table = _new_table(
        "",
        *(["target"] if differ else []),
        *(view.check_name(name) for name in names),
        "highest scores",
    )
    for label, named, each in zip(view.labels(group), targets, group, strict=True):
        table.add_row(
            Text(view.visible(label)),
            *([Text(named)] if differ else []),
            *(view.number(each.checks[name][target], sign="") for name in names),
            _listed(each, target),
        )
    if not differ:
        yield Text(f"target {targets[0]}")
    yield _indented(Text("".join(view.running(group[0]))))
    yield _indented(table)


def _listed(one: Attribution, target: int) -> Text:
    shades = view.shades(one)[:, target]
    listed = [
        Text.assemble(
            (view.cell(one.tokens[index]), _style(shades[index])),
            f" {view.number(one.scores[index, target])}",
        )
        for index in one.ranking(target)[:_LISTED]
    ]
    return Text(", ").join(listed)


def _new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="underline")
    for name in columns:
        words = name in ("", "token", "target", "highest scores")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    return table


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _style(shade: float) -> Style:
    if np.isnan(shade) or abs(shade) < _FAINT:
        return Style()
    hue = view.POSITIVE if shade > 0 else view.NEGATIVE
    red, green, blue = (round(255 + (each - 255) * abs(shade)) for each in hue)
    return Style(color="#000000", bgcolor=f"#{red:02x}{green:02x}{blue:02x}")
