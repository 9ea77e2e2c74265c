"""Jumps of simulated trainings: none in clean ones, and planted payloads are found."""

import numpy as np
import pytest

from dynamics.statistics.jumps import FEWEST_STEPS, best_fit, find_jumps
from tests.tracking.trajectories import FINE, SCHEDULES, distinct, simulate


def drawn(seed, count):
    rng = np.random.default_rng(seed)
    for at in range(count):
        name = list(SCHEDULES)[at % len(SCHEDULES)]
        yield rng, name, SCHEDULES[name], simulate(rng, SCHEDULES[name], size=512)


def from_elsewhere(rng, point):
    """Not byte for byte, so that it is no repetition."""
    return point * (1 + 1e-3 * rng.normal(size=len(point)))


def flagged(steps, points):
    return {step for jump in find_jumps(*distinct(steps, points)) for step in jump.steps}


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_clean_trainings_give_no_alarm(count):
    alarms = 0
    for _, _, steps, points in drawn(20260718, count):
        alarms += bool(find_jumps(*distinct(steps, points)))
    assert alarms <= 0.01 * count


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_payloads_from_elsewhere_are_found_where_steps_are_near_each_other(rounds):
    for rng, name, steps, points in drawn(20260719, rounds * len(SCHEDULES)):
        if name not in FINE:
            continue
        early = int(rng.integers(1, len(steps) // 3))
        late = int(rng.integers(2 * len(steps) // 3, len(steps) - 1))
        for place, source in ((early, -1), (late, 3)):
            planted = points.copy()
            planted[place] = from_elsewhere(rng, points[source])
            assert flagged(steps, planted) == {steps[place]}, (name, steps[place])


@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
def test_ends_from_elsewhere(at):
    rng = np.random.default_rng(0)
    steps, points = SCHEDULES["pythia"], simulate(rng, SCHEDULES["pythia"], size=512)
    points[at] = from_elsewhere(rng, points[70 if at == 0 else 3])
    assert flagged(steps, points) == {steps[at]}


def test_a_break_whose_wrong_side_is_not_known():
    rng = np.random.default_rng(0)
    steps, points = SCHEDULES["dense"], simulate(rng, SCHEDULES["dense"], size=512)
    points[60:] += rng.normal(0, 10 * np.abs(points[-1]).mean(), points.shape[1]).astype("float16")
    (jump,) = find_jumps(*distinct(steps, points))
    assert (jump.at, jump.steps, jump.kind) == (60_000, (), "break")


def test_two_neighbours_from_elsewhere():
    rng = np.random.default_rng(0)
    steps, points = SCHEDULES["pythia"], simulate(rng, SCHEDULES["pythia"], size=512)
    points[20:22] = [from_elsewhere(rng, points[at]) for at in (-1, -2)]
    assert flagged(steps, points) == set(steps[20:22])


def test_a_rescaled_step():
    rng = np.random.default_rng(0)
    steps, points = SCHEDULES["dense"], simulate(rng, SCHEDULES["dense"], size=512)
    points[90] *= 1.5
    assert flagged(steps, points) == {steps[90]}


def test_few_steps_say_nothing():
    points = np.random.default_rng(0).normal(size=(FEWEST_STEPS - 1, 5))
    assert find_jumps(range(len(points)), points) == []


def test_best_fit():
    steps = list(range(8))
    points = np.array([[step, 0.0] for step in steps])
    points[6] = points[2]
    assert best_fit(steps, points, [2, 6]) == 2
    points[3] = points[2]
    assert best_fit(steps, points, [2, 3]) is None
