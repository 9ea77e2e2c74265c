import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.errors import StepError
from dynamics.steps import parse

DETERMINED = settings(deadline=None, derandomize=True)
existing_steps = st.sets(st.integers(0, 3000), min_size=1)
patterns = st.tuples(st.sampled_from(["log2", "every"]), st.integers(1, 2000))


def by_hand(pattern, step):
    name, argument = pattern
    if name == "every":
        return step % argument == 0
    return step <= argument and (step == 0 or 2 ** (step.bit_length() - 1) == step)


@DETERMINED
@given(existing_steps)
def test_all_is_everything_and_last_is_the_last(existing):
    assert parse("all").select(existing) == sorted(existing)
    assert parse("last").select(existing) == [max(existing)]


@DETERMINED
@given(existing_steps, st.data())
def test_numbers_select_themselves_in_any_order(existing, data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(existing)), min_size=1, unique=True))
    assert parse(",".join(map(str, chosen))).select(existing) == sorted(chosen)


@DETERMINED
@given(existing_steps, st.lists(patterns, min_size=1, max_size=3), st.sampled_from("+,"))
def test_a_union_selects_what_any_of_its_patterns_means_and_what_exists(existing, chosen, joint):
    expression = joint.join(f"{name}({argument})" for name, argument in chosen)
    expected = [step for step in sorted(existing) if any(by_hand(p, step) for p in chosen)]
    if expected:
        assert parse(expression).select(existing) == expected
    else:
        with pytest.raises(StepError, match="selects none of the"):
            parse(expression).select(existing)


@DETERMINED
@given(st.lists(patterns, max_size=3), st.integers(1, 3000))
def test_a_schedule_is_ascending_and_has_both_ends(chosen, last):
    expression = "+".join(["last", *(f"{name}({argument})" for name, argument in chosen)])
    schedule = parse(expression).schedule(last)
    expected = {0, last} | {s for s in range(last + 1) if any(by_hand(p, s) for p in chosen)}
    assert schedule == sorted(expected)


@DETERMINED
@given(existing_steps, st.integers(0, 3000))
def test_a_step_that_does_not_exist_names_its_neighbours(existing, wanted):
    if wanted in existing:
        return
    with pytest.raises(StepError) as raised:
        parse(str(wanted)).select(existing)
    below = [str(step) for step in sorted(existing) if step < wanted][-1:]
    above = [str(step) for step in sorted(existing) if step > wanted][:1]
    near = " and ".join(below + above)
    assert str(raised.value) == f"step {wanted} does not exist; the nearest are {near}"


@DETERMINED
@given(st.text(alphabet="0123456789log2everyalst()+,- .", max_size=12))
def test_any_expression_is_read_or_refused_with_its_reason(expression):
    try:
        steps = parse(expression)
    except StepError as error:
        assert repr(expression) in str(error)
    else:
        assert steps.numbers or steps.patterns or steps.last or steps.all


@pytest.mark.parametrize(
    "expression", ["", "1,", "+", "-1", "1.5", "log2()", "log2(0)", "every(0)", "LAST", "²", "٣"]
)
def test_what_is_malformed_is_quoted_with_what_is_understood(expression):
    with pytest.raises(StepError, match=r"a step is a number, 'all', 'last', 'log2\(N\)' or"):
        parse(expression)


def test_a_number_given_twice_is_an_error():
    with pytest.raises(StepError, match="step 4 is given twice in '4,8,4'"):
        parse("4,8,4")


def test_white_space_is_not_meant():
    assert parse(" log2( 8 ) + every(3) , 5 ").select(range(12)) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_nothing_exists_is_said():
    with pytest.raises(StepError, match="step 3 does not exist; there are no steps"):
        parse("3").select([])
    with pytest.raises(StepError, match="selects none of the 0 steps"):
        parse("all").select([])


def test_a_schedule_does_not_reach_beyond_its_end():
    with pytest.raises(StepError, match="step 30 lies beyond the last step of this training, 20"):
        parse("30").schedule(20)
