"""Slopes over steps: against direct computation, and from a training folder with planted twins."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dynamics.corpus.counts import Counts
from dynamics.errors import MismatchError
from dynamics.runs.findings import findings
from dynamics.runs.slope_trends import THIRDS, slope_rows, twin_pairs
from dynamics.runs.trends import TREND_COLUMNS, TrendInput
from dynamics.statistics.twin_curve import twin_curve
from dynamics.statistics.vocabulary import parse_rule
from scripts.error_rates import planted_twins
from tests.tracked import run_of
from tests.tracking.synthetic import INPUT, OUTPUT, directions, make_counts, write_training

TWINS, PLACEBO = 40, 6
STEPS = (0, 4)
CAUSAL = {INPUT: 0.11, OUTPUT: -0.1}


def twinned_counts():
    """Counts in which 40 tokens have handed an eighth of theirs to a twin, then placebo rows."""
    counts = make_counts()
    table = counts.table.astype({"count": np.int64})
    ordinary = table["kind"].isin(["word_start", "continuation"]) & (table["count"] >= 80)
    chosen = table["token_id"][ordinary].to_numpy()[:TWINS]
    handed = np.random.default_rng(0).binomial(table["count"].to_numpy()[chosen], 0.125)
    table.loc[chosen, "count"] -= handed
    table["twin_of"] = -1
    twins = table.loc[chosen].assign(kind="twin", twin_of=chosen, count=handed)
    placebo = table.iloc[:PLACEBO].assign(kind="padding", twin_of=-1, count=0, token="")
    table = pd.concat([table, twins, placebo], ignore_index=True)
    table["token_id"] = np.arange(len(table))
    return Counts(table, counts.info)


def planted(counts):
    """Norms f^slope, and beside it f^0.3 of the token's frequency, which twins share.

    Output norms, for all that causes them fall with frequency, so rise with it over tokens.
    """
    table, rng = counts.table, np.random.default_rng(1)
    own = table["count"].to_numpy()
    shared = own[np.where(table["twin_of"] >= 0, table["twin_of"], table["token_id"])]
    series = {}
    for step in STEPS:
        tensors = {"gpt_neox.final_layer_norm.weight": np.ones(16)}
        for key, slope in CAUSAL.items():
            log_norm = 0.02 * rng.standard_normal(len(table))
            if step:
                confounded = np.log(np.maximum(shared, 1)) * (0.3 if slope < 0 else -0.05)
                log_norm += slope * np.log(np.maximum(own, 1)) + confounded
            rows = directions(len(table) // 2, rng)
            rows = np.concatenate([rows, -rows])  # so that every mean is about 0
            tensors[key] = (rows * np.exp(log_norm)[:, None]).astype(np.float32)
        series[step] = tensors
    return series


@pytest.fixture(scope="module")
def twinned():
    return twinned_counts()


@pytest.fixture(scope="module")
def training(tmp_path_factory, twinned):
    folder = tmp_path_factory.mktemp("twinned") / "training"
    write_training(folder, twinned, planted(twinned))
    ids = np.random.default_rng(3).integers(0, len(twinned.table) - PLACEBO, (17, 12))
    (folder / "tokens.bin").write_bytes(ids.astype("<u2").tobytes())
    described = json.loads((folder / "tokens.json").read_text())
    twin_of = twinned.table["twin_of"]
    described["twins"] = {int(twin_of[i]): int(i) for i in np.flatnonzero(twin_of >= 0)}
    (folder / "tokens.json").write_text(json.dumps(described | {"twin_share": 0.125}))
    return folder


@pytest.fixture(scope="module")
def run(training):
    return run_of(training, training.parent / "run")


def last(run, measure, statistic, **given):
    return run.trend(measure, statistic=statistic, **given).iloc[-1]


def test_what_was_planted_is_found_within_twins_and_not_over_tokens(run):
    for key, measure in ((INPUT, "input_embedding_norm"), (OUTPUT, "output_embedding_norm")):
        causal = last(run, measure, "twin_log_slope")
        assert causal["low"] < CAUSAL[key] < causal["high"] and causal["n"] == TWINS
        assert causal["high"] - causal["low"] < 0.02
        row = last(run, measure, "log_slope")
        assert not row["low"] < CAUSAL[key] < row["high"]
    assert last(run, "output_embedding_norm", "log_slope")["low"] > 0


def test_twins_are_no_ordinary_tokens_and_no_placebo(run, twinned):
    tokens = run.tokens
    twins = tokens["twin_of"] >= 0
    assert tokens["twin_of"].tolist() == twinned.table["twin_of"].tolist()
    assert tokens["twin_of"].dtype == np.int64
    assert twins.sum() == TWINS and not (run.kept & twins).any() and not run.never_seen[twins].any()
    assert run.never_seen[-PLACEBO:].all()
    originals = tokens["twin_of"][twins].to_numpy()
    for column in ("characters", "word_start", "ascii_alphabetic"):
        assert tokens[column][twins].tolist() == tokens[column][originals].tolist()
    assert set(tokens["word_start"][twins]) == {True, False}


def test_rows_equal_a_direct_computation(run):
    table, kept = run.tokens, run.kept
    trends = run.trends[run.trends["statistic"].str.contains("slope")]
    originals = table["twin_of"][table["twin_of"] >= 0].to_numpy()
    twins = table.index[table["twin_of"] >= 0].to_numpy()
    gauges = {name for name in run.info["measures"] if "_norm" in name}
    assert set(trends["measure"]) == gauges and set(trends["given"]) == {""}
    main = (
        trends[trends["rule"] == "count>=10"]
        .set_index(["step", "measure", "against", "statistic"])
        .sort_index()
    )
    assert main.index.is_unique and len(main) == len(STEPS) * len(gauges) * 2 * 2
    for step in STEPS:
        measures = run.measures(step)
        for gauge in gauges:
            role = gauge.split("_norm")[0]
            use = "exposure_as_input" if role == "input_embedding" else "exposure_as_target"
            norm = np.log(measures[gauge].to_numpy(np.float64))
            for against, seen in (
                ("log_frequency", table["count"].to_numpy()),
                ("log_exposure", measures[use].to_numpy()),
            ):
                with np.errstate(divide="ignore"):
                    x = np.log(seen)
                rows = main.loc[step, gauge, against]
                entering = kept & (seen > 0)
                assert rows["n"]["log_slope"] == entering.sum()
                if entering.sum() > 3:
                    fit = stats.linregress(x[entering], norm[entering])
                    assert rows["value"]["log_slope"] == pytest.approx(fit.slope)
                pairs = (seen[originals] > 0) & (seen[twins] > 0)
                dx, dy = (each[originals[pairs]] - each[twins[pairs]] for each in (x, norm))
                assert rows["n"]["twin_log_slope"] == pairs.sum()
                if pairs.any():
                    slope = np.linalg.lstsq(dx[:, None], dy)[0][0]
                    assert rows["value"]["twin_log_slope"] == pytest.approx(slope)
                else:
                    assert np.isnan(rows["value"]["twin_log_slope"])


def small_input(tokens, exposures=None):
    norms = np.random.default_rng(0).random((2, len(tokens))) + 0.5
    measures = {"input_embedding_norm": norms, "input_embedding_cosine_to_first": norms}
    return TrendInput([0, 1], tokens, measures, exposures)


def test_columns_are_those_of_trends_and_without_twins_there_is_one_slope(twinned):
    tokens = twinned.table.drop(columns="twin_of")
    rows = list(slope_rows(small_input(tokens), parse_rule("count>=10")))
    assert all(set(row) == set(TREND_COLUMNS) for row in rows)
    assert {row["statistic"] for row in rows} == {"log_slope"}
    assert {row["measure"] for row in rows} == {"input_embedding_norm"}
    assert {row["against"] for row in rows} == {"log_frequency"}


def test_pairs_of_some_rows(twinned):
    """Of a part of the rows, a pair enters where both its rows are there."""
    twin = int(np.flatnonzero(twinned.table["twin_of"] >= 0)[0])
    token = int(twinned.table["twin_of"][twin])
    rows = sorted({*range(10), token, twin, twin + 1})
    originals, twins = twin_pairs(twinned.table.iloc[rows].reset_index(drop=True))
    expected = [
        (rows.index(t), at)
        for at, t in ((at, twinned.table["twin_of"][row]) for at, row in enumerate(rows))
        if t in rows
    ]
    assert list(zip(originals.tolist(), twins.tolist(), strict=True)) == expected
    assert expected
    assert [len(each) for each in twin_pairs(twinned.table.drop(columns="twin_of"))] == [0, 0]


def twins_by_hand(effect, share=0.125):
    """1,500 ordinary tokens, 96 tokens with a twin and the twins, at the only step."""
    count, norm, originals, twins, ordinary = planted_twins(effect, share, np.random.default_rng(2))
    twin_of = np.full(len(count), -1)
    twin_of[twins] = originals
    is_twin = twin_of >= 0
    tokens = pd.DataFrame(
        {
            "token_id": np.arange(len(count)),
            "count": count,
            "kind": np.where(is_twin, "twin", "word_start"),
            "twin_of": twin_of,
        }
    )
    curve = twin_curve(count, originals, twins, ordinary)
    return TrendInput([7], tokens, {"input_embedding_norm": norm[None]}, None), curve, norm


def test_twins_are_held_against_the_curve_overall_and_by_third():
    measured, curve, norm = twins_by_hand(0.1)
    rows = pd.DataFrame(slope_rows(measured, parse_rule("count>=10")))
    beyond = rows[rows["statistic"] == "twin_minus_curve"].set_index("given")
    assert beyond["value"][""] == pytest.approx(curve.slope(norm).statistic)
    assert beyond["low"][""] < 0.1 < beyond["high"][""]
    assert beyond["n"].tolist() == [96, 32, 32, 32]
    assert list(beyond.index) == ["", *THIRDS]
    rarest = np.argsort(curve.log_count[curve.originals], kind="stable")[:32]
    mask = np.isin(np.arange(96), rarest)
    assert beyond["value"]["rarest third"] == pytest.approx(curve.slope(norm, mask).statistic)
    pseudo = rows[rows["statistic"] == "twin_minus_curve_pseudo_pairs"].set_index("given")
    assert (pseudo["low"] < 0).all() and (pseudo["high"] > 0).all()
    assert pseudo["value"].abs().max() < 0.03
    assert set(rows["statistic"]) == {
        *("log_slope", "twin_log_slope", "twin_minus_curve", "twin_minus_curve_pseudo_pairs")
    }


def test_where_both_ids_are_equally_likely_the_mean_of_pairs_stands_for_the_slope():
    measured, curve, norm = twins_by_hand(0.3, share=0.5)
    rows = pd.DataFrame(slope_rows(measured, parse_rule("count>=10")))
    assert not rows["statistic"].str.startswith("twin_minus_curve").any()
    mean = rows[rows["statistic"] == "twin_mean_minus_curve"].iloc[0]
    assert mean["value"] == pytest.approx(curve.mean(norm).statistic)
    assert mean["low"] < 0 < mean["high"]


def two_twins_each(shares):
    """Each of 96 tokens has two twins; the first of every fifth token never occurs."""
    rng = np.random.default_rng(2)
    total = rng.integers(300, 3000, 96)
    ordinary = np.exp(rng.uniform(1, 8, 800)).astype(int) + 1
    split = rng.multinomial(total, [*shares, 1 - sum(shares)])
    split[::5, 0] = 0
    count = np.concatenate([ordinary, split[:, 2], split[:, :2].reshape(-1)])
    originals = 800 + np.arange(96)
    tokens = pd.DataFrame({"token_id": np.arange(len(count)), "count": count, "twin_of": -1})
    tokens["kind"] = np.where(tokens["token_id"] < 896, "word_start", "twin")
    tokens.loc[896:, "twin_of"] = np.repeat(originals, 2)
    tokens["occurrence_share"] = [1.0] * 800 + [1 - sum(shares)] * 96 + list(shares) * 96
    norms = np.exp(0.05 * rng.standard_normal(len(count)))[None]
    return TrendInput([7], tokens, {"input_embedding_norm": norms}, None)


@pytest.mark.parametrize(("shares", "equal"), [((0.25, 0.5), 1), ((1 / 3, 1 / 3), 2)])
def test_shares_tell_which_pairs_are_equally_likely(shares, equal):
    """Not the order among the twins of a token that occur."""
    rows = pd.DataFrame(slope_rows(two_twins_each(shares), parse_rule("count>=10")))
    about = rows[rows["given"] == ""].set_index("statistic")
    mean = about.loc["twin_mean_minus_curve"]
    assert mean["low"] < 0 < mean["high"]
    assert ("twin_minus_curve" in about.index) is (equal == 1)
    assert about.loc["twin_log_slope"]["n"] == 96
    if equal == 2:  # the pairs of a fifth of the tokens are one each
        assert mean["n"] == 96
    else:
        # shares of a half are the second twins', of a quarter the first ones' and the tokens'
        assert mean["n"] == 96 - 20
        assert about.loc["twin_minus_curve"]["n"] == 96


def test_findings_on_twins(run):
    """What ordinary tokens have beside the effect of frequency, -.05 and +.3, is what is left."""
    text = "\n".join(findings(run))
    assert "Slope of log norm on log frequency at step 4 where chance decides the frequency" in text
    for measure, beyond in (("input_embedding_norm", 0.05), ("output_embedding_norm", -0.3)):
        row = last(run, measure, "twin_minus_curve", given="")
        assert row["low"] < beyond < row["high"]
    within, row, pseudo = (
        last(run, "input_embedding_norm", name, given="")
        for name in ("twin_log_slope", "twin_minus_curve", "twin_minus_curve_pseudo_pairs")
    )
    assert (
        f"input embedding norms {within['value']:+.3f} [{within['low']:+.3f}, "
        f"{within['high']:+.3f}] within 40 tokens and twins; minus the curve {row['value']:+.3f} "
        f"[{row['low']:+.3f}, {row['high']:+.3f}], random frequency lengthens more than observed "
        "frequency; by third of frequency, rarest first, "
    ) in text
    assert f"pseudo-pairs {pseudo['value']:+.3f}\n" in text


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.01, 0.02), "no difference between random and observed frequency found"),
        ((0.01, 0.02), "random frequency lengthens more than observed frequency"),
        ((-0.02, -0.01), "random frequency lengthens less than observed frequency"),
    ],
)
def test_findings_say_what_twins_minus_curve_decide(run, monkeypatch, ends, verdict):
    trends = run.trends
    within = trends[trends["statistic"] == "twin_log_slope"]
    trends = trends[~trends["statistic"].str.startswith("twin_minus")]
    low, high = ends
    beyond = within.assign(statistic="twin_minus_curve", low=low, high=high, value=sum(ends) / 2)
    pseudo = within.assign(statistic="twin_minus_curve_pseudo_pairs", value=0.004)
    thirds = [beyond.assign(given=name, value=at / 10) for at, name in enumerate(THIRDS)]
    monkeypatch.setitem(vars(run), "trends", pd.concat([trends, beyond, pseudo, *thirds]))
    text = "\n".join(findings(run))
    assert (
        f"; minus the curve {sum(ends) / 2:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}; by third of "
        "frequency, rarest first, +0.000, +0.100, +0.200; pseudo-pairs +0.004" in text
    )


def test_findings_of_rows_without_a_pair(training, tmp_path):
    text = " ".join(findings(run_of(training, tmp_path / "run", rows="0:100")))
    assert "within" not in text and "At step 4" in text


def test_without_twins_no_word_of_them(trained):
    assert "Slope" not in " ".join(findings(trained[1]))


def test_counts_with_the_twins_of_another_seed_are_refused(training, tmp_path, twinned):
    """They have the same ids, of other tokens."""
    shutil.copytree(training, tmp_path / "training")
    table = twinned.table.copy()
    places = np.flatnonzero(table["twin_of"] >= 0)[:3]
    table.loc[places, "twin_of"] = table["twin_of"][places].to_numpy()[[1, 2, 0]]
    Counts(table, twinned.info).write(tmp_path / "training" / "counts.parquet")
    with pytest.raises(
        MismatchError,
        match=r"has 40 pairs of a token and its twin, .* has 37 of them and 3 others; give",
    ):
        run_of(tmp_path / "training", tmp_path / "run")


def test_counts_without_the_twins_of_a_training_are_refused(training, tmp_path, twinned):
    shutil.copytree(training, tmp_path / "training")
    plain = twinned.table.drop(columns="twin_of").iloc[:-PLACEBO]
    Counts(plain, twinned.info).write(tmp_path / "training" / "counts.parquet")
    with pytest.raises(
        MismatchError,
        match=r"training has 40 pairs of a token and its twin, .*counts.parquet has 0 of them and "
        "0 others; give .*counts.parquet, or count",
    ):
        run_of(tmp_path / "training", tmp_path / "run")
