"""The judgement of a study, and its record: by which claims runs are and were judged."""

import json

import numpy as np
import pytest

from dynamics.errors import OutputError
from dynamics.runs.compare import Quantity
from dynamics.verdicts.claims import read_claims
from dynamics.verdicts.judgement import judge_study, read_verdicts, write_verdicts
from tests.verdicts.planted_arms import planted_arm

CLAIMS = """
stated: {date}
source: A guess.
rule: count>=10
claims:
  - name: Norms grow.
    expected: "+.4"
    quantity: {{measure: input_embedding_norm, against: log_frequency}}
    above: {above}
    below: .8
"""
RHO = Quantity("input_embedding_norm", "log_frequency")
VALUES = np.array([0.50, 0.52, 0.49, 0.51, 0.53])


@pytest.fixture
def claims(tmp_path):
    def claims(above, date="2027-01-02"):
        path = tmp_path / "own.yaml"
        path.write_text(CLAIMS.format(above=above, date=date))
        return read_claims(path)

    return claims


@pytest.fixture
def arms():
    near = planted_arm("near", {RHO: VALUES + 0.001}, training__weight_decay=0.0)
    few = planted_arm("few", {RHO: VALUES[:2]}, model__tied=True)
    other = planted_arm("other", {RHO: VALUES}, rule="count>=100")
    return [planted_arm("arm", {RHO: VALUES}), near, few, other]


def test_what_is_judged_merged_and_left_out(arms, claims):
    judgement = judge_study(arms, claims(0.2))
    judged = [([arm.name for arm in found.arms], found.verdict) for found in judgement.verdicts]
    assert judged == [(["arm", "near"], "confirmed"), (["few"], "descriptive")]
    assert [[arm.name for arm in group.arms] for group in judgement.counted_once] == [
        ["arm", "near"]
    ]
    assert [arm.name for arm in judgement.other_rule] == ["other"]
    assert judgement.change is None


def test_the_record_holds_the_digest_and_every_verdict(arms, claims, tmp_path):
    file = claims(0.2)
    write_verdicts(tmp_path, judge_study(arms[2:], file))
    content = json.loads((tmp_path / "verdicts.json").read_text())
    assert content["claims"] == {"name": "own.yaml", "stated": "2027-01-02", "sha256": file.sha256}
    (found,) = content["verdicts"]
    assert (found["claim"], found["arms"]) == ("Norms grow.", ["few"])
    assert (found["verdict"], found["estimates"][0]["n"]) == ("descriptive", 2)
    alone = planted_arm("one", {RHO: VALUES[:1]})
    write_verdicts(tmp_path, judge_study([alone], file))
    (estimate,) = json.loads((tmp_path / "verdicts.json").read_text())["verdicts"][0]["estimates"]
    assert estimate == {"value": pytest.approx(0.5), "low": None, "high": None, "n": 1}


def test_claims_that_changed_after_a_judgement_are_told_every_time(arms, claims, tmp_path):
    first, digests = None, []
    for above in (0.2, 0.3, 0.3, 0.4):
        file = claims(above)
        judgement = judge_study(arms, file, previous=read_verdicts(tmp_path))
        write_verdicts(tmp_path, judgement)
        earlier = [sha256 for sha256 in dict.fromkeys(digests) if sha256 != file.sha256]
        digests.append(file.sha256)
        first = first or file
        if not earlier:
            assert judgement.change is None
            continue
        before = ", ".join(f"own.yaml, SHA-256 {sha256}" for sha256 in earlier)
        assert judgement.change == (
            f"The claims have changed since these runs were first judged: before {before}; now "
            f"own.yaml, SHA-256 {file.sha256}."
        )
    assert len(set(digests)) == 3
    back = judge_study(arms, claims(0.2), previous=read_verdicts(tmp_path))  # changed back
    assert [record.sha256 for record in back.earlier] == list(dict.fromkeys(digests))[1:]


def test_a_folder_without_a_record_has_none_and_a_damaged_one_is_told(tmp_path):
    assert read_verdicts(tmp_path) is None
    for content in ("", "{}", '{"claims": 3}'):
        (tmp_path / "verdicts.json").write_text(content)
        with pytest.raises(OutputError, match="is no record of verdicts") as raised:
            read_verdicts(tmp_path)
        assert "\n" not in str(raised.value)
