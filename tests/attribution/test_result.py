import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.attribution.result import Attribution, Target
from tests.attribution.sample_attributions import make, with_scores

NAN = math.nan


def test_a_ranking_is_by_signed_score_without_special_tokens_and_gaps():
    one = with_scores([9, 1, -3, 2, NAN, 1])
    assert one.ranking() == [3, 1, 5, 2]
    assert one.ranking(order="ascending") == [2, 1, 5, 3]


def test_the_paper_leaves_out_the_first_position_only():
    one = with_scores([9, 1, -3, 2, NAN, 1], special=[True, False, True, False, False, True])
    assert one.ranking() == [3, 1]
    assert replace(one, protocol="paper").ranking() == [3, 1, 5, 2]


def test_words_have_the_sum_of_what_their_tokens_have():
    words = with_scores([9, 1, -3, NAN, 2, NAN]).to_word_level()
    assert words.tokens == ["<s>", " Once", " upon", " a", " time"]
    np.testing.assert_array_equal(words.scores[:, 0], [9, 1, -3, NAN, 2])
    assert words.words == [None, 0, 1, 2, 3]
    assert words.special == [True, False, False, False, False]
    assert words.norm is None
    assert words.logit is None


@pytest.mark.parametrize(("position", "word"), [(0, 0), (3, 3), (4, 4), (5, 4), (6, 5), (-1, -1)])
def test_the_position_of_a_target_becomes_that_of_its_word(position, word):
    one = with_scores([9, 1, -3, 2, 2, 5])
    moved = replace(one, targets=[Target(position, 7, "x")]).to_word_level()
    assert moved.targets == [Target(word, 7, "x")]


def test_the_same_word_twice_is_two_words():
    one = with_scores([1, 2, 4, 8, 16, 32], words=[None, 0, None, 0, 1, 1])
    assert one.to_word_level().scores[:, 0].tolist() == [1, 2, 4, 8, 48]


numbers = st.floats(allow_nan=True, allow_infinity=False, width=32)
names = st.text(max_size=8)


@st.composite
def attributions(draw):
    size, targets = draw(st.integers(1, 5)), draw(st.integers(0, 3))

    def matrix(*shape):
        count = math.prod(shape)
        values = draw(st.lists(numbers, min_size=count, max_size=count))
        return np.array(values, dtype=float).reshape(shape)

    def many(each):
        return draw(st.lists(each, min_size=size, max_size=size))

    named = st.builds(
        Target, st.integers(-1, 9), st.integers(0, 9), names, st.none() | st.integers(0, 9),
        st.none() | names,
    )  # fmt: skip
    return Attribution(
        text=draw(names),
        tokens=many(names),
        token_ids=many(st.integers(0, 9)),
        special=many(st.booleans()),
        words=many(st.none() | st.integers(0, 9)),
        targets=draw(st.lists(named, min_size=targets, max_size=targets)),
        scores=matrix(size, targets),
        method=draw(names),
        model=draw(names),
        norm=draw(st.none() | st.just(True)) and matrix(size),
        logit=draw(st.none() | st.just(True)) and matrix(size, targets),
        layer=draw(st.none() | st.integers(0, 9)),
        revision=draw(st.none() | names),
        task=draw(st.none() | st.just("regression")),
        asked=draw(st.dictionaries(names, st.booleans(), max_size=2)),
        checks={"delta": draw(st.lists(st.floats(0, 1), min_size=targets, max_size=targets))},
        notes=draw(st.lists(names, max_size=2)),
    )


@given(attributions())
def test_what_is_written_as_json_is_read_back(one):
    line = one.to_json()
    assert "\n" not in line
    back = Attribution.from_dict(json.loads(line))
    assert back.to_dict() == one.to_dict()
    for name in ("scores", "norm", "logit"):
        before, after = getattr(one, name), getattr(back, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after, before)


def test_a_score_that_is_none_is_null_in_json():
    content = json.loads(make().to_json())
    assert content["scores"][5] == [None]
    assert "NaN" not in make().to_json()
    assert "norm" not in with_scores([1] * 6).to_dict()
