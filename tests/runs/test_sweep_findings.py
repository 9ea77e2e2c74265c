"""Findings say with numbers under which vocabulary rule they turn, and what intervals cover."""

import re

import numpy as np
import pytest

from dynamics.runs.findings import findings, last_step_table
from dynamics.runs.sweep_findings import band_scale, rows_by_rule, rules_of, turn
from dynamics.statistics.null import null_band
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import INPUT as INPUT_KEY
from tests.tracking.synthetic import directions, grow, log_count, make_counts, tracked

INPUT = "input_embedding_norm"
WITH_FREQUENCY = {"against": "log_frequency", "statistic": "spearman"}


def many_counts():
    """Counts of 900 tokens, of which 55 occur a thousand times."""
    counts = make_counts(vocabulary=900)
    zipf = 200_000 / np.arange(1, 901) ** 1.3
    counts.table["count"] = np.random.default_rng(2).permutation(zipf).astype(int) + 2
    counts.table.loc[20:31, "count"] = 0
    return counts


def hump(folder, top):
    """Input norms that rise with frequency up to a count, and fall (or not) beyond it."""
    counts = many_counts()
    frequency, knee = log_count(counts), np.log(1000)
    series = grow(counts, steps=(0, 8, 32), slope=0)
    norm = np.minimum(frequency, knee) + top * np.maximum(frequency - knee, 0)
    rows = directions(900, np.random.default_rng(4)) * (5 + norm)[:, None]
    series[32][INPUT_KEY] = rows.astype(np.float32)
    return tracked(folder, counts=counts, series=series)


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    return hump(tmp_path_factory.mktemp("turning"), -2)


@pytest.fixture(scope="module")
def levelling(tmp_path_factory):
    return hump(tmp_path_factory.mktemp("levelling"), 0)


def value(run, rule, step=32):
    return run.trend(INPUT, rule=rule).set_index("step").loc[step]


def test_a_sign_that_turns_is_said_with_its_numbers(turning):
    text = " ".join(findings(turning))
    turned = [rule for rule in rules_of(turning)[1:] if value(turning, rule)["value"] < 0]
    assert turned
    parts = [
        f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] under {rule} "
        f"({row['n']:,} tokens)"
        for rule in (turning.rule, *turned)
        for row in [value(turning, rule)]
    ]
    expected = ", ".join(parts)
    assert f"The vocabulary rule changes the sign of input embedding norms: {expected}" in text


def test_a_sign_that_is_lost_is_said_too(levelling):
    text = " ".join(findings(levelling))
    number = r"([+-]\d\.\d+) \[([+-]\d\.\d+), ([+-]\d\.\d+)\]"
    found = re.search(
        rf"decides whether there is a sign of input embedding norms: {number} under count>=10 "
        rf"\(\d+ tokens\), {number} under (count>=\d+) \((\d+) tokens\)",
        text,
    )
    assert found, text
    rule = next(rule for rule in rules_of(levelling) if str(rule) == found[7])
    row = value(levelling, rule)
    assert (f"{row['value']:+.3f}", str(row["n"])) == (found[4], found[8])
    assert float(found[5]) < 0 < float(found[6])


def test_a_sign_is_not_lost_with_tokens_alone(tmp_path):
    """Few tokens cannot decide a weak correlation; that they do not is no turn."""
    counts = make_counts()
    series = grow(counts, steps=(0, 32), slope=0)
    rng = np.random.default_rng(1)
    norm = np.exp(0.1 * (0.4 * log_count(counts) + rng.standard_normal(300)))
    series[32][INPUT_KEY] = (directions(300, rng) * norm[:, None]).astype(np.float32)
    run = tracked(tmp_path, counts=counts, series=series)
    table = rows_by_rule(run, 32, **WITH_FREQUENCY)
    smallest = min((row[INPUT] for row in table.values()), key=lambda row: row.row["n"])
    assert smallest.sign == 0 < next(iter(table.values()))[INPUT].sign
    assert turn(table, INPUT) == ("", False)


def test_the_start_is_repeated_under_every_rule(turning, tmp_path):
    assert "So it is under the other vocabulary rules tried." in findings(turning)[0]
    counts = many_counts()
    frequency, rng = log_count(counts), np.random.default_rng(0)
    norm = np.where(frequency >= np.log(1000), 1 + frequency / 1000, rng.uniform(0.8, 1.2, 900))
    series = grow(counts, steps=(0, 32), slope=0)
    series[0][INPUT_KEY] = (directions(900, rng) * norm[:, None]).astype(np.float32)
    text = findings(tracked(tmp_path, counts=counts, series=series))[0]
    assert "At step 0 none of 9 gauges of norm correlates with frequency" in text
    assert re.search(
        r"Other vocabulary rules say otherwise: under count>=1000 [12] of 9 gauges of norm "
        r"correlate with frequency \(largest rho \+1\.000, null band ±0\.\d+, 55 tokens\)\.",
        text,
    ), text


def test_the_order_is_repeated_under_every_rule(levelling):
    (order,) = [text for text in findings(levelling) if text.startswith("Frequency shows")]
    assert "input embedding norms from step 32 on, not yet at step 8 (under count>=" in order
    assert "not by the end" in order


def test_rules_that_keep_the_same_tokens_count_once(turning):
    rules = rules_of(turning)
    masks = [
        rule.mask(turning.tokens["count"].to_numpy(), turning.tokens["kind"].to_numpy())
        for rule in rules
    ]
    assert len({mask.tobytes() for mask in masks}) == len(rules) >= 3
    assert min(mask.sum() for mask in masks) >= 10


def test_a_scaled_null_band_is_that_of_fewer_tokens():
    """The same norms over all tokens and over the first hundred."""
    rng = np.random.default_rng(0)
    norms, frequency = rng.standard_normal((12, 600)), rng.standard_normal(600)
    norms[1:] += 2 * norms[0]
    bands = [
        null_band(((row[:n], frequency[:n]) for row in norms), 0.95, np.random.default_rng(0))
        for n in (600, 100)
    ]
    scaled = bands[0].simultaneous * band_scale(600, 100)
    assert scaled == pytest.approx(bands[1].simultaneous, rel=0.02)


def test_importance_is_repeated_under_every_rule(tmp_path):
    """Frequent tokens have the longer rows where they matter less."""
    counts = make_counts(vocabulary=900)
    counts.table["count"] = np.exp(np.random.default_rng(2).uniform(2, 9, 900)).astype(int)
    counts.table.loc[20:31, "count"] = 0
    rng = np.random.default_rng(3)
    worth = rng.standard_normal(900)
    side = np.where(counts.table["count"] >= 1000, -1, 1)
    series = grow(counts, steps=(0, 32), slope=0)
    norm = np.exp(0.1 * (side * worth + 0.2 * rng.standard_normal(900)))
    series[32][INPUT_KEY] = (directions(900, rng) * norm[:, None]).astype(np.float32)
    run = tracked(tmp_path, counts=counts, series=series)

    def columns(step):
        about = {"token_id": np.arange(900), "contexts": np.full(900, 8), "occlusion": worth}
        noise = 0.1 * rng.standard_normal((2, 900))
        return about | {f"occlusion_half_{half + 1}": worth + noise[half] for half in (0, 1)}

    run = write_importances(run, columns, (0, 32))
    rows = run.trends[(run.trends["against"] == "occlusion") & (run.trends["measure"] == INPUT)]
    swept = rows[rows["rule"] != "count>=10"]
    assert set(swept["step"]) == {32}
    assert set(swept["statistic"]) == {"spearman", "partial_spearman"}
    (sentence,) = [text for text in findings(run) if text.startswith("Occlusion at step 32")]
    by_rule = swept[swept["statistic"] == "partial_spearman"].set_index("rule")
    turned = by_rule.loc["count>=1000"]
    assert "the vocabulary rule changes or takes away the sign of input embedding norms" in sentence
    assert f"{turned['value']:+.3f} [" in sentence
    assert f"under count>=1000 ({turned['n']:,} tokens)" in sentence


def test_intervals_say_what_they_cover(turning):
    assert last_step_table(turning).splitlines()[-1] == (
        "  (intervals are over the tokens of this one training, not over seeds)"
    )
    assert "rho with log frequency [simultaneous band over tokens]" in " ".join(findings(turning))
