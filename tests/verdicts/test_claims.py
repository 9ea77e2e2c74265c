"""Claims have two ends, live in dated files with a digest, and say what they are about."""

import hashlib
import re

import pytest

from dynamics.errors import ConfigError
from dynamics.runs.compare import Quantity
from dynamics.runs.importance_trends import COVARIATES
from dynamics.runs.measures import split_name
from dynamics.settings_files import read_yaml
from dynamics.verdicts.claims import (
    CURRENT,
    INPUT,
    UNIFORM,
    UNIGRAM,
    Claim,
    read_claims,
    shipped_claims,
)

OWN = """
stated: 2027-01-02
source: A guess.
rule: count>=100
seen_seeds: [3]
claims:
  - name: Norms grow.
    expected: "+.4"
    arms: {model.tied: false}
    quantity: {measure: input_embedding_norm, against: log_frequency}
    above: .2
    below: .6
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "own.yaml"
        path.write_text(text, "utf-8")
        return read_claims(path)

    return read


def test_a_file_of_ones_own_is_read_with_its_date_and_digest(read):
    file = read(OWN)
    assert file.name == "own.yaml"
    assert file.sha256 == hashlib.sha256(OWN.encode()).hexdigest()
    assert str(file.contents.stated) == "2027-01-02"
    (claim,) = file.contents.claims
    assert claim.quantity == Quantity(INPUT, "log_frequency", "spearman", None, "last")
    assert (claim.above, claim.below) == (0.2, 0.6)
    assert read(OWN + " ").sha256 != file.sha256


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    below: .6\n", "", "claim 1 ('Norms grow.'): a claim needs both ends, 'above' and"),
        ("above: .2", "above: -.inf", "above: input should be a valid number (got '-.inf')"),
        ("above: .2", "above: .7", "'above' 0.7 is not less than 'below' 0.6"),
        ("below: .6", "below: 1", "a correlation lies between -1 and 1, and an end there or"),
        ("above: .2", "above: much", "above: input should be a valid number (got 'much')"),
        ("measure:", "mesure:", "quantity: unknown key 'mesure'; did you mean 'measure'?"),
        ("against: log_frequency", "at: middle", "quantity: at: Input should be 'first' or 'last'"),
        ("{measure: input_embedding_norm, against: log_frequency}", "norm", "instance of Quantity"),
        ("model.tied", "model.tide", "there is no setting 'model.tide'; did you mean 'model.tied'"),
        ("expected:", "expectd:", "unknown key 'expectd'; did you mean 'expected'?"),
        ("    above", "    minus_times: 2\n    above", "a factor of 'minus', which is missing"),
        ("    above", "    free: [seed]\n    above", "'free' names settings of the arm"),
        ("    above", "    centrings: true\n    above", "'centrings' is for claims about output"),
        ("2027-01-02", "soon", "stated: input should be a valid date"),
        ("count>=100", "often", "rule: "),
        ("claims:", "clams:", "unknown key 'clams'; did you mean 'claims'?"),
        ("source: A guess.\n", "", "the key 'source' is missing"),
        ("  - name", "  - x\n  - name", "claim 1: input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(read, old, new, told):
    assert old in OWN
    with pytest.raises(ConfigError, match=re.escape(told)) as raised:
        read(OWN.replace(old, new, 1))
    assert "\n" not in str(raised.value)
    assert "own.yaml" in str(raised.value)


def test_a_claim_given_twice_and_a_file_that_is_none_are_told(read, tmp_path):
    with pytest.raises(ConfigError, match=r"own\.yaml: the claim 'Norms grow\.' is given twice"):
        read(OWN + OWN.partition("claims:\n")[2])
    with pytest.raises(ConfigError, match=r"cannot read the claims .*nowhere\.yaml: neither"):
        read_claims(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="is not YAML"):
        read("claims: [")


def test_two_centrings_are_two_quantities():
    about = Quantity(UNIFORM, "log_frequency")
    claim = Claim(name="n", expected="e", quantity=about, above=0, below=0.9, centrings=True)
    assert [quantity.measure for quantity, _ in claim.quantities] == [UNIFORM, UNIGRAM]


def test_what_was_stated_about_twins_and_distance_stands_in_the_current_list():
    """CORRECTIONS A and B, stated before the data of seeds 10 to 14."""
    contents = read_claims().contents
    stated = {
        (claim.quantity.measure, claim.quantity.statistic, claim.minus is None): claim
        for claim in contents.claims[:5]
    }
    twins = stated[INPUT, "twin_minus_curve", True]
    assert (twins.above, twins.below, twins.centrings) == (-0.01, 0.01, False)
    outputs = stated[UNIFORM, "twin_minus_curve", True]
    assert (outputs.above, outputs.below, outputs.centrings) == (-0.06, 0.06, True)
    distance = stated["input_embedding_distance_from_first", "partial_spearman", True]
    assert distance.above == 0.30
    left = stated[INPUT, "partial_spearman", True]
    assert (left.above, left.below) == (-0.05, 0.20)
    half = stated[INPUT, "partial_spearman", False]
    assert half.quantity == left.quantity and half.below == 0 and half.minus_times == 0.5
    controls = "+".join((*COVARIATES, "initial_norm"))
    assert (half.minus.given, half.quantity.given) == (controls, f"{controls}+distance")
    assert not set(contents.seen_seeds) & {10, 11, 12, 13, 14}
    assert contents.rule == "count>=10"


def test_current_claims_are_about_measures_that_there_are():
    for claim in read_claims().contents.claims:
        for quantity in filter(None, (claim.quantity, claim.minus)):
            if "_embedding_" in quantity.measure:
                split_name(quantity.measure)  # raises where there is no such measure


def test_what_the_pilots_claimed_stays_readable_and_is_judged_by_no_more():
    history = read_yaml(shipped_claims()["2026-11-26-pilots"])
    current = {claim.name for claim in read_claims().contents.claims}
    assert history["superseded_by"] == CURRENT
    assert len(history["claims"]) == 28
    for claim in history["claims"]:
        assert claim["now"] in ("kept", "restated", "withdrawn") and claim["reason"]
        assert set(claim.get("restated_as", ())) <= current
        assert "restated_as" in claim or claim["now"] == "withdrawn"
    assert [claim["now"] for claim in history["claims"][13:17]] == ["withdrawn"] * 4  # twins
    with pytest.raises(ConfigError, match=f"kept as history.*judge by '{CURRENT}'"):
        read_claims("2026-11-26-pilots")


def test_no_restated_range_would_be_confirmed_by_the_pilot_and_the_study_where_they_differ():
    """The tied rows of the pilot (-.93) and the study (-.39), and the reversal (+.10, +.69)."""
    ends = {claim.name: (claim.above, claim.below) for claim in read_claims().contents.claims}
    raw = ends["Raw rows of frequent tokens are shorter in tied models."]
    centred = ends[
        "Without the uniform mean rows of frequent tokens are longer in tied models, a reversal."
    ]
    assert raw[0] < -0.389 < raw[1] and not raw[0] < -0.93
    assert centred[0] < 0.687 < centred[1] and not centred[0] < 0.10
