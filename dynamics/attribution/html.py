"""Attributions as HTML that loads nothing: for a notebook, or one page.

Everything that comes from a text, a vocabulary or a model's name is escaped. Shades are laid over
the background of whoever shows it, so that text keeps its contrast in light and dark.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from dynamics.attribution import view
from dynamics.attribution.result import Attribution

_CELLS = 20_000  # a larger matrix is left out: no browser shows it in reasonable time
_OPAQUE = 0.65  # of the strongest shade; text on it keeps a contrast of 4.5 in light and dark

_STYLE = """
.da{font:14px/1.5 system-ui,sans-serif;color:inherit;margin:0 0 2.5em;max-width:100%}
.da h2{font-size:1em;margin:0 0 .6em}
.da h3{font-size:1em;font-weight:600;margin:1.2em 0 .3em}
.da p{margin:.3em 0}
.da .text{line-height:2;overflow-wrap:anywhere;white-space:pre-wrap}
.da .t{border-radius:3px;padding:.15em 0}
.da .note{font-style:italic}
.da .wide{overflow-x:auto}
.da table{border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums}
.da th,.da td{padding:.15em .6em;text-align:right;white-space:pre;border:1px solid #8884}
.da th{font-weight:600}
.da .word{text-align:left}
.da.scale i{display:inline-block;width:1.6em;height:1em;vertical-align:-.15em}
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root{{color-scheme:light dark}}
body{{background:Canvas;color:CanvasText;margin:2em auto;max-width:75em;padding:0 1em}}
h1{{font:600 1.3em/1.4 system-ui,sans-serif}}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(attributions: Iterable[Attribution], title: str) -> str:
    """One page that stands for itself.

    Args:
        attributions: What it shows; those that differ in layer or revision only are shown together.
        title: Its title.
    """
    return _PAGE.format(title=escape(view.visible(title)), body=fragment(attributions))


def fragment(attributions: Iterable[Attribution]) -> str:
    """A part of a page, or what a notebook shows."""
    shown = [_group(group) for group in view.groups(attributions)]
    return f"<style>{_STYLE}</style>\n{_legend()}\n" + "\n".join(shown)


def _legend() -> str:
    steps = "".join(f'<i style="{_shade(each)}"></i>' for each in np.linspace(-1, 1, 9))
    return (
        f'<div class="da scale">negative {steps} positive <p>Full colour is the largest absolute '
        "score of the tokens that are ranked; special tokens may go beyond.</p></div>"
    )


def _group(group: Sequence[Attribution]) -> str:
    one = group[0]
    parts = [f"<h2>{escape(view.heading(one, alone=len(group) == 1))}</h2>"]
    parts += [*_alone(one)] if len(group) == 1 else [*_compared(group)]
    notes = dict.fromkeys(note for each in group for note in each.notes)
    parts += [f'<p class="note">{escape(view.visible(note))}</p>' for note in notes]
    return f'<div class="da">{"".join(parts)}</div>'


def _alone(one: Attribution) -> Iterator[str]:
    shades = view.shades(one)
    for target, explained in enumerate(one.targets):
        yield f"<h3>target {escape(view.named(explained))}</h3>"
        yield _text(one, shades[:, target], target)
        if checks := view.checks(one, target):
            yield f"<p>checks: {escape(', '.join(checks))}</p>"
    if len(one.targets) > 1:
        yield "<h3>every position and target</h3>"
        yield _matrix(
            [view.cell(token) for token in one.tokens],
            [view.cell(each.token) for each in one.targets],
            [[one] * len(one.targets)] * len(one.tokens),
            lambda row, column: (row, column),
        )
    tables = (_numbers(one, target) for target in range(len(one.targets)))
    opened = " open" if len(one.targets) == 1 else ""
    yield f"<details{opened}><summary>numbers</summary>{''.join(tables)}</details>"


def _compared(group: Sequence[Attribution]) -> Iterator[str]:
    """For each target a matrix: layers x positions, or positions x steps."""
    one = group[0]
    tokens = [view.cell(token) for token in one.tokens]
    for target, explained in enumerate(one.targets):
        targets = [view.named(each.targets[target]) for each in group]
        same = len(set(targets)) == 1
        yield f"<h3>target {escape(view.named(explained) if same else 'of each')}</h3>"
        yield _text(group[-1], view.shades(group[-1])[:, target], target)
        names = view.labels(group)
        told = [*([] if same else [targets]), [", ".join(view.checks(e, target)) for e in group]]
        names = ["\n".join(filter(None, parts)) for parts in zip(names, *told, strict=True)]
        if view.is_series(group):
            yield _matrix(tokens, names, [group] * len(tokens), lambda row, _, at=target: (row, at))
        else:
            rows = [[each] * len(tokens) for each in group]
            yield _matrix(names, tokens, rows, lambda _, column, at=target: (column, at))


def _text(one: Attribution, shades: Float[np.ndarray, " P"], target: int) -> str:
    pieces = [
        f'<span class="t"{_look(one, index, target, shades[index])}>{escape(piece)}</span>'
        for index, piece in enumerate(view.running(one))
    ]
    return f'<p class="text">{"".join(pieces)}</p>'


def _matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    sources: Sequence[Sequence[Attribution]],
    place: Callable[[int, int], tuple[int, int]],
) -> str:
    """A table of scores.

    Args:
        rows: Their names.
        columns: Their names.
        sources: What each cell is of.
        place: Position and target of a row and a column.
    """
    if len(rows) * len(columns) > _CELLS:
        return f"<p>{len(rows):,} x {len(columns):,} scores are not drawn; JSON holds them.</p>"
    shades = {id(each): view.shades(each) for line in sources for each in line}
    lines = [_row("th", ["", *columns])]
    for row, (name, line) in enumerate(zip(rows, sources, strict=True)):
        cells = ""
        for column, each in enumerate(line):
            at = place(row, column)
            look = _look(each, *at, shades[id(each)][at])
            cells += f"<td{look}>{view.number(each.scores[at])}</td>"
        lines.append(f'<tr><th class="word">{escape(name)}</th>{cells}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _numbers(one: Attribution, target: int) -> str:
    """All positions with their ranks; two ranks where a ranking has two directions."""
    orders = view.orders(one)
    ranks = [{at: i for i, at in enumerate(one.ranking(target, name), 1)} for name in orders]
    head = ["position", "token", "id", "score", "norm", "logit"]
    rows = [_row("th", [*head, *(f"rank ({name})" for name in orders)])]
    for index, (token, token_id) in enumerate(zip(one.tokens, one.token_ids, strict=True)):
        ranked = (str(each.get(index, "")) for each in ranks)
        numbers = [str(index), view.cell(token), str(token_id), *_of(one, index, target)]
        rows.append(_row("td", [*numbers, *ranked]))
    meant = "; ".join(f"{name}: {meaning}" for name, meaning in orders.items())
    return (
        f"<p>target {escape(view.named(one.targets[target]))}; {escape(meant)}</p>"
        f'<div class="wide"><table>{"".join(rows)}</table></div>'
    )


def _of(one: Attribution, index: int, target: int) -> list[str]:
    norm = "" if one.norm is None else view.number(one.norm[index], sign="")
    logit = "" if one.logit is None else view.number(one.logit[index, target])
    return [view.number(one.scores[index, target]), norm, logit]


def _row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _look(one: Attribution, index: int, target: int, shade: float) -> str:
    """Shade and title of a score."""
    score, norm, logit = _of(one, index, target)
    told = f"position {index}, {view.cell(one.tokens[index])!r}, id {one.token_ids[index]}: {score}"
    told += f", norm {norm}" * bool(norm) + f", logit {logit}" * bool(logit)
    return f' title="{escape(told)}" style="{_shade(shade)}"'


def _shade(shade: float) -> str:
    if np.isnan(shade):
        return ""
    red, green, blue = view.POSITIVE if shade > 0 else view.NEGATIVE
    return f"background:rgba({red},{green},{blue},{abs(shade) * _OPAQUE:.3f})"
