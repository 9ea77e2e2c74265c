import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dynamics.attribution import display, html
from dynamics.attribution.html import fragment, page
from dynamics.attribution.result import REGRESSION_ORDER, Target
from tests.attribution.sample_attributions import make, with_scores

VILE = '<script>alert("1")</script>'
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.text, self.rows = [], [], "", []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def titles(self):
        return [attrs["title"] for _, attrs in self.elements if "title" in attrs]


def vile():
    """An attribution in which everything that can be text is markup."""
    target = Target(5, 1, VILE, 2, VILE)
    return make(
        text=VILE, tokens=[VILE] * 6, model=VILE, method=VILE, revision=VILE, norm_source=VILE,
        logit_form=VILE, protocol=VILE, notes=[VILE], checks={VILE: [1.0]}, targets=[target],
    )  # fmt: skip


@pytest.mark.parametrize(
    "shown",
    [[vile()], [replace(vile(), layer=each) for each in (0, 1)],
     [replace(vile(), revision=f"{VILE}{each}") for each in (0, 1)]],
    ids=["alone", "layers", "steps"],
)  # fmt: skip
def test_nothing_that_a_vocabulary_holds_becomes_markup(shown):
    parsed = Page(page(shown, VILE))
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "<script" not in page(shown, VILE)
    assert parsed.text.count(VILE) > 6
    known = {"title", "style", "class", "lang", "charset", "name", "content", "http-equiv", "open"}
    assert {name for _, attrs in parsed.elements for name in attrs} <= known


def test_a_page_stands_for_itself():
    whole = page([make(), *(make(layer=each) for each in (0, 1))], "Stories")
    assert not re.search(r"https?:|//|src=|href=|url\(|@import|<script|<link", whole)
    assert "default-src 'none'" in whole
    assert whole.startswith("<!doctype html>")
    assert "<title>Stories</title>" in whole


def test_every_token_has_its_numbers_in_its_title():
    one = make()
    titles = Page(fragment([one])).titles()
    assert len(titles) == 6
    assert titles[1] == (
        f"position 1, '␣Once', id 403: {one.scores[1, 0]:+.4g}, norm {one.norm[1]:.4g}, "
        f"logit {one.logit[1, 0]:+.4g}"
    )
    assert titles[5].startswith("position 5, 'me', id 71: ·")


def test_shades_go_by_sign_and_the_largest_score():
    styles = [
        attrs["style"]
        for tag, attrs in Page(fragment([with_scores([9, 4, -2, 0, 1, float("nan")])])).elements
        if tag == "span"
    ]
    more, less = (",".join(map(str, hue)) for hue in (display.POSITIVE, display.NEGATIVE))
    assert styles[1] == f"background:rgba({more},0.650)"
    assert styles[2] == f"background:rgba({less},0.325)"
    assert styles[5] == ""


def luminance(colour):
    parts = [each / 255 for each in colour]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("hue", [display.POSITIVE, display.NEGATIVE], ids=["positive", "negative"])
@pytest.mark.parametrize(("ground", "text"), [(255, 0), (18, 255)], ids=["light", "dark"])
def test_text_keeps_its_contrast_on_the_strongest_shade(hue, ground, text):
    shade = [html._OPACITY * each + (1 - html._OPACITY) * ground for each in hue]
    one, other = sorted([luminance(shade), luminance([text] * 3)])
    assert (other + 0.05) / (one + 0.05) >= 4.5


def test_many_targets_are_a_matrix_of_positions_and_targets():
    one = make(3)
    rows = Page(fragment([one])).rows
    at = rows.index(["", "␣t0", "␣t1", "␣t2"])
    for index, row in enumerate(rows[at + 1 : at + 7]):
        assert row == [display.cell(one.tokens[index]), *map(display.number, one.scores[index])]


def test_layers_are_rows():
    layers = [make(layer=each, checks={"kl_nats": [each / 8]}) for each in (0, 1, 5)]
    rows = Page(fragment(layers)).rows
    assert rows[0] == ["", *map(display.cell, make().tokens)]
    assert rows[3] == [
        "layer 5\nKL(final || lens), nats 0.625",
        *(display.number(score) for score in layers[2].scores[:, 0]),
    ]


def test_steps_are_columns_with_targets_where_these_differ():
    steps = [replace(make(layer=each), layer=None, revision=f"step {each}") for each in (1, 10)]
    rows = Page(fragment(steps)).rows
    assert rows[0] == ["", "step 1", "step 10"]
    assert rows[2] == ["␣Once", *(display.number(each.scores[1, 0]) for each in steps)]
    changed = replace(steps[1], targets=[Target(5, 9, " other")])
    rows = Page(fragment([steps[0], changed])).rows
    assert rows[0] == ["", "step 1\n' t0' at position 5", "step 10\n' other' at position 5"]


def test_the_numbers_have_ranks_in_every_direction_there_is():
    one = make(task="regression")
    parsed = Page(fragment([one]))
    head = parsed.rows[0]
    assert head[-2:] == ["rank (descending)", "rank (ascending)"]
    ranks = {int(row[0]): row[-2:] for row in parsed.rows[1:]}
    assert [ranks[at][0] for at in one.ranking()] == list("1234")
    assert [ranks[at][1] for at in one.ranking()] == list("4321")
    assert ranks[0] == ["", ""]
    assert all(meaning in parsed.text for meaning in REGRESSION_ORDER.values())


def test_a_matrix_that_no_browser_can_show_is_left_out(monkeypatch):
    monkeypatch.setattr(html, "_CELLS", 17)
    shown = Page(fragment([make(3)]))
    assert "6 x 3 scores are not drawn; JSON holds them." in shown.text


def test_a_notebook_shows_an_attribution():
    assert make()._repr_html_() == fragment([make()])
