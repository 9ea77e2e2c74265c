"""Attributions on a terminal: text in colour, if the terminal has colours, and tables of scores."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dynamics.attribution import display
from dynamics.attribution.result import Attribution

_FAINT = 0.05  # scores below this part of the largest are not coloured
_LISTED = 4  # tokens in the table row of one layer or revision


def show(
    attributions: Iterable[Attribution], *, top: int = 10, console: Console | None = None
) -> None:
    """Print attributions, and then their notes without repetition.

    Attributions that differ in layer or revision only become one table.

    Args:
        attributions: Attributions to print.
        top: Tokens in the table of each target; 0 for all, in text order.
        console: Console to print to; standard output when None.
    """
    console = console or Console(highlight=False)
    notes: dict[str, None] = {}
    for group in display.groups(attributions):
        console.print(render(group, top=top), Text())
        notes |= dict.fromkeys(note for attribution in group for note in attribution.notes)
    for note in notes:
        console.print(Text(f"note: {display.printable(note)}", style="italic"))


def render(group: Sequence[Attribution], *, top: int = 10) -> RenderableType:
    """Render one attribution, or several that differ in layer or revision only."""
    first, is_single = group[0], len(group) == 1
    heading = display.heading(first, with_label=is_single)
    parts: list[RenderableType] = [Text(heading, style="bold")]
    for target in range(len(first.targets)):
        parts += _single(first, target, top) if is_single else _comparison(group, target)
    return Group(*parts)


def _single(attribution: Attribution, target: int, top: int) -> Iterator[RenderableType]:
    """Yield the text in colour and the tables of one target."""
    yield Text(f"target {display.named(attribution.targets[target])}")
    yield _indented(_text(attribution, target))
    if not attribution.ranking(target):
        yield _indented(Text("nothing is ranked: the target is predicted from special tokens only"))
        return
    for order, meaning in display.orders(attribution).items():
        if attribution.task == "regression":
            yield Text(f"{order}: {meaning}")
        yield _indented(_table(attribution, target, order, top))
    if checks := display.checks(attribution, target):
        yield Text(f"checks: {', '.join(checks)}")


def _text(attribution: Attribution, target: int) -> Text:
    """Return the input with each token on the colour of its score."""
    shades = display.shades(attribution)[:, target]
    pieces = zip(display.running(attribution), shades, strict=True)
    return Text.assemble(*((piece, _style(shade)) for piece, shade in pieces))


def _table(attribution: Attribution, target: int, order: str, top: int) -> Table:
    """Return a table of `top` tokens in an order, or of all in text order when it is 0."""
    ranked = attribution.ranking(target, order)
    shades = display.shades(attribution)[:, target]
    norm, logit = attribution.norm, attribution.logit
    factors = {} if norm is None else {"norm": ("", norm)}
    factors |= {} if logit is None else {"logit": ("+", logit[:, target])}
    table = _new_table("rank", "position", "token", "score", *factors)
    for index in ranked[:top] if top else range(len(attribution.tokens)):
        table.add_row(
            str(ranked.index(index) + 1) if index in ranked else "-",
            str(index),
            Text(display.cell(attribution.tokens[index]), style=_style(shades[index])),
            display.number(attribution.scores[index, target]),
            *(display.number(values[index], sign) for sign, values in factors.values()),
        )
    return table


def _comparison(group: Sequence[Attribution], target: int) -> Iterator[RenderableType]:
    """Yield a table with a row for each layer or revision."""
    targets = [display.named(attribution.targets[target]) for attribution in group]
    names = list(group[0].checks)
    differ = len(set(targets)) > 1
    table = _new_table(
        "",
        *(["target"] if differ else []),
        *(display.check_name(name) for name in names),
        "highest scores",
    )
    for label, named, attribution in zip(display.labels(group), targets, group, strict=True):
        table.add_row(
            Text(display.printable(label)),
            *([Text(named)] if differ else []),
            *(display.number(attribution.checks[name][target], sign="") for name in names),
            _highest(attribution, target),
        )
    if not differ:
        yield Text(f"target {targets[0]}")
    yield _indented(Text("".join(display.running(group[0]))))
    yield _indented(table)


def _highest(attribution: Attribution, target: int) -> Text:
    """Return the tokens with the highest scores, on one line."""
    shades = display.shades(attribution)[:, target]
    pieces = [
        Text.assemble(
            (display.cell(attribution.tokens[index]), _style(shades[index])),
            f" {display.number(attribution.scores[index, target])}",
        )
        for index in attribution.ranking(target)[:_LISTED]
    ]
    return Text(", ").join(pieces)


def _new_table(*columns: str) -> Table:
    """Return a table without rows; text is left-justified, numbers right."""
    table = Table(box=None, pad_edge=False, header_style="underline")
    for name in columns:
        is_text = name in ("", "token", "target", "highest scores")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    return table


def _indented(part: RenderableType) -> Padding:
    """Return a part two columns further to the right."""
    return Padding(part, (0, 0, 0, 2), expand=False)


def _style(shade: float) -> Style:
    """Return black on orange (positive) or blue for a shade of -1 to 1; plain for NaN."""
    if np.isnan(shade) or abs(shade) < _FAINT:
        return Style()
    hue = display.POSITIVE if shade > 0 else display.NEGATIVE
    red, green, blue = (round(255 + (channel - 255) * abs(shade)) for channel in hue)
    return Style(color="#000000", bgcolor=f"#{red:02x}{green:02x}{blue:02x}")
