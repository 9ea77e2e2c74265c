import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from dynamics.attribution import display
from dynamics.attribution.result import REGRESSION_ORDER, Target
from dynamics.attribution.terminal import show
from tests.attribution.sample_attributions import make, with_scores


def printed(*attributions, width=100, colour=False, **options):
    out = StringIO()
    color = {"force_terminal": True, "color_system": "truecolor"} if colour else {}
    show(attributions, console=Console(file=out, width=width, highlight=False, **color), **options)
    return out.getvalue()


def rows(text):
    """Cells of the lines that begin with a rank."""
    lines = [line.split() for line in text.splitlines()]
    return [line for line in lines if line and (line[0].isdigit() or line[0] == "-")]


def test_numbers_stand_beside_the_tokens_in_order_of_rank():
    one = make()
    first, *others = rows(printed(one))
    best = one.ranking()[0]
    expected = [one.scores[best, 0], one.norm[best], one.logit[best, 0]]
    assert first[:3] == ["1", str(best), f"␣{one.tokens[best].strip()}"]
    assert [float(each) for each in first[3:]] == pytest.approx(expected, rel=1e-3)
    assert [int(row[1]) for row in others] == one.ranking()[1:]


def test_top_limits_the_table_and_zero_lists_everything_in_text_order():
    assert len(rows(printed(make(), top=2))) == 2
    everything = rows(printed(make(), top=0))
    assert [int(row[1]) for row in everything] == list(range(6))
    assert everything[0][0] == everything[5][0] == "-"
    assert everything[5][3] == "·"


def test_a_target_behind_special_tokens_only_says_why_nothing_is_ranked():
    text = printed(with_scores([5, *[math.nan] * 5]))
    assert "nothing is ranked: the target is predicted from special tokens only" in text
    assert not rows(text)


def test_every_target_has_a_block_with_its_foil_and_place():
    assert printed(make(2)).count("target ' t") == 2
    told = [Target(5, 1, " was", 2, " is"), Target(-1, 3, "positive")]
    text = printed(replace(make(2), targets=told))
    assert "target ' was' rather than ' is' at position 5\n" in text
    assert "target 'positive'\n" in text


def test_colour_shades_by_sign_and_leaves_the_words_as_they_are():
    one = with_scores([99, 4, -4, 0, 1, math.nan])
    coloured, plain = printed(one, colour=True), printed(one)
    red, green, blue = display.POSITIVE
    assert f"48;2;{red};{green};{blue}m Once\x1b" in coloured
    red, green, blue = display.NEGATIVE
    assert f"48;2;{red};{green};{blue}m upon\x1b" in coloured
    assert "\x1b" not in plain
    assert "<s> Once upon a time" in plain


def test_no_color_gives_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2;" not in printed(make(), colour=True)


def test_control_characters_of_a_vocabulary_do_not_reach_the_terminal():
    tokens = ["<s>", "\x1b[2J", "[red]", "\n", "\u202e", "\ud800"]
    text = printed(make(tokens=tokens, text="x", notes=["\x1b[2J"]), top=0)
    assert "\x1b" not in text
    for shown in ("\\x1b[2J", "[red]", "\\n", "\\u202e", "\\ud800"):
        assert shown in text


def test_a_wide_text_wraps():
    size = 80
    one = make(
        tokens=[f" word{each}" for each in range(size)], token_ids=[0] * size,
        special=[False] * size, words=list(range(size)), norm=None, logit=None,
        scores=make().scores[[1] * size],
    )  # fmt: skip
    text = printed(one, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert all(f"word{each}" in text for each in range(size))


def test_words_whose_tokens_hold_no_space_are_apart():
    one = make(tokens=["[CLS]", "once", "up", "##on", "a", "[SEP]"], words=[None, 0, 1, 1, 2, None])
    assert "".join(display.running(one)) == "[CLS] once up##on a [SEP]"


def test_layers_are_rows_with_the_divergence_of_their_lens():
    layers = [make(layer=each, checks={"kl_nats": [each / 7]}) for each in (0, 3, 12)]
    text = printed(*layers)
    assert "KL(final || lens), nats" in text
    for each in layers:
        line = next(line for line in text.splitlines() if f"layer {each.layer} " in line)
        best = each.ranking()[0]
        assert line.split()[2] == f"{each.layer / 7:.4g}"
        assert f"{display.cell(each.tokens[best])} {each.scores[best, 0]:+.4g}" in line


def test_steps_are_rows_with_their_targets_where_these_differ():
    steps = [replace(make(layer=each), layer=None, revision=f"step {each}") for each in (1, 10)]
    assert "target ' t0' at position 5\n" in printed(*steps)
    changed = replace(steps[1], targets=[Target(5, 9, " other")])
    text = printed(steps[0], changed)
    assert "' t0' at position 5" in next(x for x in text.splitlines() if "step 1 " in x)
    assert "' other' at position 5" in next(x for x in text.splitlines() if "step 10 " in x)


def test_texts_and_methods_are_not_mixed():
    group = [make(layer=0), make(layer=1), make(layer=0), make(layer=1, method="logit")]
    assert [len(each) for each in display.groups(group)] == [2, 1, 1]


def test_a_regression_has_both_directions_by_name():
    one = make(task="regression")
    text = " ".join(printed(one).split())
    assert all(f"{name}: {meaning}" in text for name, meaning in REGRESSION_ORDER.items())
    ranks = [int(row[1]) for row in rows(printed(one))]
    assert ranks == [*one.ranking(), *one.ranking(order="ascending")]


def test_notes_are_printed_once_and_checks_with_their_target():
    one = make(
        2, notes=["the first 3 tokens were cut off"], checks={"completeness_delta": [0.5, 2]}
    )
    text = printed(one, make(method="logit", notes=one.notes))
    assert text.count("note: the first 3 tokens were cut off") == 1
    assert "checks: completeness delta 0.5\n" in text
    assert "checks: completeness delta 2\n" in text


def test_special_tokens_do_not_dim_the_others():
    shades = display.shades(with_scores([-900, 4, -2, 0, 1, math.nan]))[:, 0]
    assert shades[:5].tolist() == [-1, 1, -0.5, 0, 0.25]
    assert math.isnan(shades[5])


def test_scores_of_zero_have_no_shade():
    assert display.shades(with_scores([0.0] * 6)).tolist() == [[0.0]] * 6


def test_an_attribution_shows_itself(capsys):
    make().show(top=1)
    assert "tiny · last layer · normxlogit · norm module_output" in capsys.readouterr().out
