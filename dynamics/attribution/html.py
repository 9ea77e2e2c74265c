"""Attributions as self-contained HTML: a fragment for a notebook, or a page.

Everything that comes from a text, a vocabulary or a model's name is escaped. Shades are translucent
over the background of the notebook or browser, so that text keeps its contrast in light and dark.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from dynamics.attribution import display
from dynamics.attribution.result import Attribution

_CELLS = 20_000  # a larger matrix is left out: no browser shows it in reasonable time
_OPACITY = 0.65  # of the strongest shade; text on it keeps a contrast of 4.5 in light and dark

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
    """Return attributions as a complete HTML page.

    Args:
        attributions: The attributions; those that differ in layer or revision only share a section.
        title: Title of the page.
    """
    return _PAGE.format(title=escape(display.printable(title)), body=fragment(attributions))


def fragment(attributions: Iterable[Attribution]) -> str:
    """Return attributions as a part of an HTML page, such as the output of a notebook cell."""
    sections = [_section(group) for group in display.groups(attributions)]
    return f"<style>{_STYLE}</style>\n{_legend()}\n" + "\n".join(sections)


def _legend() -> str:
    """Return the scale of the shades."""
    steps = "".join(f'<i style="{_shade(shade)}"></i>' for shade in np.linspace(-1, 1, 9))
    return (
        f'<div class="da scale">negative {steps} positive <p>Full colour is the largest absolute '
        "score of the tokens that are ranked; special tokens may go beyond.</p></div>"
    )


def _section(group: Sequence[Attribution]) -> str:
    """Return the section of attributions that differ in layer or revision only, one or more."""
    first, is_single = group[0], len(group) == 1
    parts = [f"<h2>{escape(display.heading(first, with_label=is_single))}</h2>"]
    parts += _single(first) if is_single else _comparison(group)
    notes = dict.fromkeys(note for attribution in group for note in attribution.notes)
    parts += [f'<p class="note">{escape(display.printable(note))}</p>' for note in notes]
    return f'<div class="da">{"".join(parts)}</div>'


def _single(attribution: Attribution) -> Iterator[str]:
    """Yield the parts of one attribution: the text for each target, a matrix, and numbers."""
    shades, targets = display.shades(attribution), attribution.targets
    for index, target in enumerate(targets):
        yield f"<h3>target {escape(display.named(target))}</h3>"
        yield _text(attribution, shades[:, index], index)
        if checks := display.checks(attribution, index):
            yield f"<p>checks: {escape(', '.join(checks))}</p>"
    if len(targets) > 1:
        yield "<h3>every position and target</h3>"
        yield _matrix(
            [display.cell(token) for token in attribution.tokens],
            [display.cell(target.token) for target in targets],
            [[attribution] * len(targets)] * len(attribution.tokens),
            lambda row, column: (row, column),
        )
    tables = (_numbers(attribution, index) for index in range(len(targets)))
    state = " open" if len(targets) == 1 else ""
    yield f"<details{state}><summary>numbers</summary>{''.join(tables)}</details>"


def _comparison(group: Sequence[Attribution]) -> Iterator[str]:
    """Yield for each target a matrix: layers x positions, or positions x steps."""
    tokens = [display.cell(token) for token in group[0].tokens]
    for target in range(len(group[0].targets)):
        targets = [display.named(attribution.targets[target]) for attribution in group]
        is_same = len(set(targets)) == 1
        yield f"<h3>target {escape(targets[0] if is_same else 'of each')}</h3>"
        yield _text(group[-1], display.shades(group[-1])[:, target], target)
        checks = [", ".join(display.checks(attribution, target)) for attribution in group]
        columns = [display.labels(group), *([] if is_same else [targets]), checks]
        names = ["\n".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
        if display.is_series(group):
            yield _matrix(tokens, names, [group] * len(tokens), lambda row, _, t=target: (row, t))
        else:
            rows = [[attribution] * len(tokens) for attribution in group]
            yield _matrix(names, tokens, rows, lambda _, column, t=target: (column, t))


def _text(attribution: Attribution, shades: Float[np.ndarray, " P"], target: int) -> str:
    """Return the input with each token on the shade of its score."""
    pieces = [
        f'<span class="t"{_cell_look(attribution, index, target, shades[index])}>{escape(piece)}'
        "</span>"
        for index, piece in enumerate(display.running(attribution))
    ]
    return f'<p class="text">{"".join(pieces)}</p>'


def _matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    sources: Sequence[Sequence[Attribution]],
    position_and_target: Callable[[int, int], tuple[int, int]],
) -> str:
    """Return a table of scores.

    Args:
        rows: Names of the rows.
        columns: Names of the columns.
        sources: Attribution that each cell shows.
        position_and_target: Function from a row and a column to the indices of the score.
    """
    if len(rows) * len(columns) > _CELLS:
        return f"<p>{len(rows):,} x {len(columns):,} scores are not drawn; JSON holds them.</p>"
    shades = {id(source): display.shades(source) for line in sources for source in line}
    lines = [_row("th", ["", *columns])]
    for row, (name, line) in enumerate(zip(rows, sources, strict=True)):
        cells = ""
        for column, source in enumerate(line):
            index = position_and_target(row, column)
            look = _cell_look(source, *index, shades[id(source)][index])
            cells += f"<td{look}>{display.number(source.scores[index])}</td>"
        lines.append(f'<tr><th class="word">{escape(name)}</th>{cells}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _numbers(attribution: Attribution, target: int) -> str:
    """Return a table of all positions with their rank in each order."""
    orders = display.orders(attribution)
    rankings = [attribution.ranking(target, name) for name in orders]
    ranks = [{position: rank for rank, position in enumerate(order, 1)} for order in rankings]
    head = ["position", "token", "id", "score", "norm", "logit"]
    rows = [_row("th", [*head, *(f"rank ({name})" for name in orders)])]
    tokens = zip(attribution.tokens, attribution.token_ids, strict=True)
    for index, (token, token_id) in enumerate(tokens):
        numbers = _formatted(attribution, index, target)
        cells = [str(index), display.cell(token), str(token_id), *numbers]
        rows.append(_row("td", [*cells, *(str(rank.get(index, "")) for rank in ranks)]))
    legend = "; ".join(f"{name}: {meaning}" for name, meaning in orders.items())
    return (
        f"<p>target {escape(display.named(attribution.targets[target]))}; {escape(legend)}</p>"
        f'<div class="wide"><table>{"".join(rows)}</table></div>'
    )


def _formatted(attribution: Attribution, index: int, target: int) -> list[str]:
    """Return score, norm and logit of a position as text, empty where there is none."""
    norms, logits = attribution.norm, attribution.logit
    norm = "" if norms is None else display.number(norms[index], sign="")
    logit = "" if logits is None else display.number(logits[index, target])
    return [display.number(attribution.scores[index, target]), norm, logit]


def _row(kind: str, cells: Sequence[str]) -> str:
    """Return a table row of `th` or `td` cells, escaped."""
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _cell_look(attribution: Attribution, index: int, target: int, shade: float) -> str:
    """Return the HTML attributes of a score: its tooltip and its shade, -1 to 1 or NaN."""
    score, norm, logit = _formatted(attribution, index, target)
    token, token_id = display.cell(attribution.tokens[index]), attribution.token_ids[index]
    tooltip = f"position {index}, {token!r}, id {token_id}: {score}"
    tooltip += f", norm {norm}" * bool(norm) + f", logit {logit}" * bool(logit)
    return f' title="{escape(tooltip)}" style="{_shade(shade)}"'


def _shade(shade: float) -> str:
    """Return the CSS of a shade of -1 to 1; empty for NaN."""
    if np.isnan(shade):
        return ""
    red, green, blue = display.POSITIVE if shade > 0 else display.NEGATIVE
    return f"background:rgba({red},{green},{blue},{abs(shade) * _OPACITY:.3f})"
