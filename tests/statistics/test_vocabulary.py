import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.errors import ConfigError
from dynamics.statistics.vocabulary import SWEEP, VocabularyRule, parse_rule, placebo_mask

KINDS = np.array(
    [
        *("word_start", "padding", "continuation", "special", "word_start", "added", "byte"),
        *("fragment", "unreachable", "continuation", "word_start"),
    ]
)
COUNTS = np.array([10, 999, 9, 999, 5000, 999, 999, 999, 999, 10, 0])


def kept(rule):
    return np.flatnonzero(rule.mask(COUNTS, KINDS)).tolist()


def test_the_default_keeps_whole_text_tokens_seen_ten_times():
    assert kept(VocabularyRule()) == [0, 4, 9]


def test_count_zero_keeps_every_kind_that_can_enter():
    assert kept(VocabularyRule(0)) == [0, 2, 4, 9, 10]


def test_top_keeps_the_most_frequent_and_of_equals_the_lower_ids():
    assert kept(VocabularyRule(top=1)) == [4]
    assert kept(VocabularyRule(top=2)) == [0, 4]
    assert kept(VocabularyRule(top=3)) == [0, 4, 9]
    assert kept(VocabularyRule(top=100)) == [0, 2, 4, 9]


def test_the_sweep_is_printed_as_declared():
    expected = "count>=1 count>=10 count>=100 count>=1000 top-1000 top-5000"
    assert " ".join(map(str, SWEEP)) == expected
    assert str(VocabularyRule()) == "count>=10"


rules = st.builds(VocabularyRule, st.integers(0, 10**12)) | st.builds(
    VocabularyRule, top=st.integers(1, 10**12)
)


@settings(deadline=None, derandomize=True)
@given(rules)
def test_reading_what_was_printed_gives_the_rule(rule):
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize("text", ["", "10", "count>10", "top1000", "top--1", "count>=1e3", "top-٣"])
def test_what_is_no_rule_is_quoted_with_what_is_one(text):
    with pytest.raises(ConfigError, match=r"cannot read .* it is 'count>=N' or 'top-N'") as error:
        parse_rule(text)
    assert repr(text) in str(error.value)


def test_contradictory_rules_are_errors():
    with pytest.raises(ConfigError, match="either a smallest count or a top of at least 1"):
        VocabularyRule(min_count=5, top=100)
    with pytest.raises(ConfigError, match="a top of at least 1"):
        parse_rule("top-0")
    with pytest.raises(ConfigError, match="cannot be negative: -1"):
        VocabularyRule(-1)
    with pytest.raises(ValueError, match=r"\(11,\) counts but \(2,\) kinds"):
        VocabularyRule().mask(COUNTS, KINDS[:2])


def test_kinds_come_as_any_array_of_strings():
    expected = VocabularyRule().mask(COUNTS, KINDS)
    for kinds in (KINDS.astype(object), KINDS.astype(np.dtypes.StringDType()), KINDS.tolist()):
        np.testing.assert_array_equal(VocabularyRule().mask(COUNTS, kinds), expected)


def test_an_empty_vocabulary_keeps_nothing():
    nothing = np.array([], dtype=np.int64)
    for rule in (VocabularyRule(), VocabularyRule(top=3)):
        assert rule.mask(nothing, np.array([], dtype=str)).tolist() == []


def test_placebo_tokens_never_occurred_and_are_not_special():
    kinds = ["padding", "word_start", "special", "byte"]
    assert placebo_mask(np.array([0, 1, 0, 0]), kinds).tolist() == [True, False, False, True]
