"""Rates of false confirmation, against integrals over the distributions of mean and spread."""

import json

import numpy as np
import pytest
from scipy import integrate, stats

from dynamics.runs.compare import Quantity
from dynamics.statistics.seeds import seed_mean
from dynamics.verdicts.claims import UNIFORM, Claim, read_claims
from dynamics.verdicts.error_rates import (
    SimulatedClaim,
    as_simulated,
    seed_sd,
    simulate_error_rates,
)
from dynamics.verdicts.judge import judge
from scripts.claim_error_rates import RESULTS, simulate
from tests.verdicts.planted_arms import planted_arm

LOSS = Quantity("input_embedding_norm", "held_out_loss", "surgery_shuffled")
RHO = Quantity("input_embedding_norm", "log_frequency")
R = 20_000
ERROR = 4 * np.sqrt(0.025 / R)
"""Four standard errors of a rate of .025."""


def claim(quantity=LOSS, above=0.0, below=1.0, **settings):
    return Claim(
        name="planted", expected="-", quantity=quantity, above=above, below=below, **settings
    )


def simulated(*claims, **settings):
    return simulate_error_rates(claims, random=np.random.default_rng(0), repetitions=R, **settings)


def probability(low, high, truth, sd, n=5):
    """P(the t interval lies within [low, high]): an integral over the chi of the spread."""
    reach = stats.t.ppf(0.975, n - 1) / np.sqrt(n)

    def inside(spread):
        half = reach * sd * spread / np.sqrt(n - 1)
        mean = stats.norm(truth, sd / np.sqrt(n))
        share = mean.cdf(high - half) - mean.cdf(low + half)
        return max(share, 0.0) * stats.chi.pdf(spread, n - 1)

    return integrate.quad(inside, 0, 20, limit=200)[0]


@pytest.mark.parametrize("sd", [0.01, 0.2, 0.6])
def test_the_rates_are_those_of_an_integral(sd):
    rates = simulated(SimulatedClaim(claim(), sd))
    for rate, truth in (
        (rates.at_lower_end, 0.0),
        (rates.at_upper_end, 1.0),
        (rates.at_middle, 0.5),
    ):
        expected = probability(0.0, 1.0, truth, sd)
        assert rate[0] == pytest.approx(expected, abs=4 * np.sqrt(expected / R) + 1e-3)


def test_a_claim_that_is_just_false_is_confirmed_in_one_study_of_forty():
    rates = simulated(SimulatedClaim(claim(), 0.01))
    assert rates.at_lower_end[0] == pytest.approx(0.025, abs=ERROR)
    assert rates.of_one_claim == pytest.approx(0.025, abs=ERROR)
    assert rates.at_middle == (1.0,)


def test_correlations_are_simulated_on_the_scale_of_their_mean():
    rates = simulated(SimulatedClaim(claim(RHO, 0.3, 0.65), 0.15))
    low, high = np.arctanh([0.3, 0.65])
    for rate, truth in ((rates.at_lower_end, low), (rates.at_middle, (low + high) / 2)):
        expected = probability(low, high, truth, 0.15)
        assert rate[0] == pytest.approx(expected, abs=4 * np.sqrt(expected / R))


def test_more_seeds_decide_what_few_leave_open():
    few, many = (simulated(SimulatedClaim(claim(), 0.4, n)).at_middle[0] for n in (5, 20))
    assert few == pytest.approx(probability(0, 1, 0.5, 0.4), abs=0.02)
    assert many == pytest.approx(probability(0, 1, 0.5, 0.4, n=20), abs=0.02)
    assert many > few + 0.3


def test_a_list_of_independent_claims_confirms_one_as_often_as_their_product_says():
    claims = [SimulatedClaim(claim(), 0.01)] * 20
    alone, together = simulated(*claims), simulated(*claims, shared=1.0)
    assert alone.any_of_list == pytest.approx(1 - 0.975**20, abs=0.015)
    assert together.any_of_list == pytest.approx(0.025, abs=3 * ERROR)  # one claim, twenty times


def test_of_two_centrings_one_false_one_makes_the_claim_false():
    both = claim(Quantity(UNIFORM, "held_out_loss", "x"), centrings=True)
    assert simulated(SimulatedClaim(both, 0.01)).of_one_claim == pytest.approx(0.025, abs=ERROR)
    wide, power = SimulatedClaim(both, 0.3), probability(0, 1, 0.5, 0.3)
    assert simulated(wide).at_middle[0] == pytest.approx(power**2, abs=0.02)


def test_the_spread_over_seeds_is_read_back_from_the_interval():
    values = np.array([0.30, 0.41, 0.28, 0.36, 0.33, 0.39])
    assert seed_sd(claim(), seed_mean(values)) == pytest.approx(values.std(ddof=1))
    on_z = seed_sd(claim(RHO, below=0.99), seed_mean(values, fisher=True))
    assert on_z == pytest.approx(np.arctanh(values).std(ddof=1))


def test_only_verdicts_that_chance_could_turn_are_simulated():
    onset = Quantity("input_embedding_norm", "log_frequency", "spearman_onset")
    same = Quantity("norm", "occlusion", "within_input_agreement")
    values = np.array([0.30, 0.41, 0.28, 0.36, 0.33])
    arm = planted_arm("arm", {RHO: values, onset: 8 * values, same: 0 * values})
    few = planted_arm("few", {RHO: values[:3]}, model__tied=True)
    claims = [
        claim(quantity, below=0.99).model_copy(update={"name": str(quantity)})
        for quantity in (RHO, onset, same)
    ]
    (one,) = as_simulated(list(judge([arm, few], claims)))
    assert (one.claim.quantity, one.seeds) == (RHO, 5)
    assert one.seed_sd == pytest.approx(np.arctanh(values).std(ddof=1))


def test_the_committed_rates_are_those_of_the_current_claims():
    """The table in docs/claims.md: of the file with this digest, and what few repetitions say."""
    committed, quick = json.loads(RESULTS.read_text()), simulate(read_claims(), 4_000)
    assert (committed["file"], committed["sha256"]) == (quick["file"], quick["sha256"])
    for rate, found in zip(committed["claims"], quick["claims"], strict=True):
        assert (rate["name"], rate["seed_sd"]) == (found["name"], found["seed_sd"])
        for place in ("at_lower_end", "at_upper_end", "at_middle"):
            error = np.sqrt(max(rate[place] * (1 - rate[place]), 1e-4) / 4_000)
            assert found[place] == pytest.approx(rate[place], abs=5 * error)
    for shared, rate in committed["any_of_list"].items():
        assert quick["any_of_list"][shared] == pytest.approx(rate, abs=0.05)
    independent = 1 - np.prod([1 - claim["at_lower_end"] for claim in committed["claims"]])
    assert committed["any_of_list"]["0.0"] == pytest.approx(independent, abs=0.02)
