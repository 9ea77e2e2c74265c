"""Settings of studies of several runs."""

import re

import pytest

from dynamics.config import StudySettings
from dynamics.errors import ConfigError
from dynamics.study.settings import ArmsStudy, SeriesStudy, load_study
from dynamics.verdicts.claims import CURRENT, read_claims, shipped_claims

ARMS = """
name: s
seeds: [0, 3]
base: {training: {steps: 10}, model: {num_layers: 2}}
arms:
  plain: {}
  changed: {model.tied: true, training.learning_rate: 0.5}
"""
SERIES = 'name: s\nseries: ["a-{1..3}", b]\n'


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "study.yaml"
        path.write_text(text, "utf-8")
        return load_study(path, overrides)

    return read


def test_what_a_file_holds_is_told_by_its_keys(read):
    assert isinstance(read(ARMS), ArmsStudy)
    assert isinstance(read(SERIES), SeriesStudy)
    assert isinstance(read("name: x\ntraining: {steps: 1}\n"), StudySettings)


def test_an_arm_is_the_base_with_its_changes_under_its_name_and_seed(read):
    study = read(ARMS)
    plain, changed = study.settings("plain", 0), study.settings("changed", 3)
    assert (plain.name, plain.seed, plain.model.num_layers, plain.model.tied) == (
        *("plain", 0, 2),
        False,
    )
    assert (changed.name, changed.seed, changed.model.tied) == ("changed", 3, True)
    assert changed.training.learning_rate == 0.5
    assert plain == study.settings("plain", 0)  # one arm does not change what others get


def test_overrides_change_the_base_and_what_an_arm_sets_stands_over_it(read):
    study = read(ARMS, "training.learning_rate=0.1", "corpus.source=x.txt", "seeds=[7]", "name=t")
    assert (study.name, study.seeds) == ("t", [7])
    assert study.settings("plain", 7).training.learning_rate == 0.1
    assert study.settings("changed", 7).training.learning_rate == 0.5
    assert study.settings("changed", 7).corpus.source == "x.txt"


def test_a_base_may_stand_in_a_file_of_its_own(read, tmp_path):
    (tmp_path / "base.yaml").write_text("name: x\nseed: 5\ntraining: {steps: 10, batch_size: 3}\n")
    study = read("name: s\nseeds: [1]\nbase: base.yaml\narms: {plain: {}}\n", "training.steps=20")
    settings = study.settings("plain", 1)
    assert (settings.training.steps, settings.training.batch_size) == (20, 3)
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml"):
        read("name: s\nseeds: [1]\nbase: gone.yaml\narms: {plain: {}}\n")


def test_claims_of_ones_own_lie_beside_the_study_or_where_an_override_says(read, tmp_path):
    own = shipped_claims()[CURRENT].read_text().replace("above: -0.01", "above: -0.02")
    (tmp_path / "own.yaml").write_text(own)
    for study in (
        read(ARMS + "claims: own.yaml\n"),
        read(ARMS, f"claims={tmp_path / 'own.yaml'}"),
    ):
        assert read_claims(study.claims).contents.claims[0].above == -0.02
    named = read(ARMS + f"claims: {CURRENT}\n")
    assert named.claims == CURRENT
    assert read(ARMS).claims is None
    (tmp_path / "own.yaml").write_text(own.replace("below: 0.01\n", "\n", 1))
    with pytest.raises(ConfigError, match=r"own\.yaml, claim 1 \(.*: a claim needs both ends"):
        read(ARMS + "claims: own.yaml\n")


def test_numbered_series_are_written_out(read):
    assert read(SERIES).series == ["a-1", "a-2", "a-3", "b"]
    assert read(SERIES, "steps=512").steps == "512"


def test_series_can_be_set_to_be_seeds_of_an_arm(read):
    study = read(SERIES + 'arms: {a: ["a-{1..2}"], other: [b]}\n')
    assert study.series == ["a-1", "a-2", "a-3", "b"]
    assert study.arms == {"a": ["a-1", "a-2"], "other": ["b"]}
    assert read(SERIES).arms == {}


@pytest.mark.parametrize(
    ("text", "override", "told"),
    [
        (ARMS, "training.stepz=1", "arm plain: unknown key 'training.stepz'; did you mean 'steps'"),
        (ARMS.replace("model.tied", "model.tide"), None, "arm changed: unknown key 'model.tide'"),
        (ARMS, "seeds=[]", "seeds: list should have at least 1 item"),
        (ARMS, "seeds=[1, 1]", "seeds: a seed is given twice"),
        (ARMS, "seeds=[-1]", "seeds.0: input should be greater than or equal to 0 (got -1)"),
        (ARMS, "seed=3", "base: 'seed' is not shared: arms give the names, 'seeds' the seeds"),
        (ARMS, "arms={}", "arms: dictionary should have at least 1 item"),
        (ARMS.replace("plain", "p/q"), None, "string should match pattern"),
        (ARMS.replace("plain", ".."), None, "string should match pattern"),
        (ARMS + "colour: red\n", None, "unknown key 'colour'; known are: arms, base, claims, "),
        (ARMS, "counts_with={plian: changed}", "there is no arm 'plian'; did you mean 'plain'?"),
        (ARMS, "counts_with={plain: other}", "there is no arm 'other'; known are: changed, plain"),
        (ARMS, "counts_with={plain: plain}", "'plain' counts with 'plain' itself; name that one"),
        (ARMS, "claims=2026-11-26-pilots", "2026-11-26-pilots is kept as history"),
        (ARMS, "claims=gone.yaml", "cannot read the claims gone.yaml: neither a file nor a list"),
        (ARMS, "claims=[1]", "claims: input should be a valid string (got [1])"),
        (ARMS.replace("seeds: [0, 3]\n", ""), None, "the key 'seeds' is missing"),
        (ARMS, "base=[1]", "base: input should be a valid dictionary"),
        (SERIES, "series=[]", "series: list should have at least 1 item"),
        (SERIES, "series=[b, b]", "series: the series 'b' is given twice"),
        (
            SERIES,
            "series=[b, ..]",
            "series: the series '..' gives the folder of its run no name",
        ),
        (SERIES, "series=[./]", "series: the series './' gives the folder of its run no name"),
        (SERIES, "arms={one: [c]}", "arms: 'one' names the series 'c', which is not one of the"),
        (SERIES, "arms={one: [b], two: [b]}", "arms: the series 'b' is given twice"),
        (SERIES, "steps=log2", "steps: cannot read 'log2'"),
        (SERIES, "stepz=1", "unknown key 'stepz'; did you mean 'steps'?"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(read, text, override, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as raised:
        read(text, *([] if override is None else [override]))
    assert "\n" not in str(raised.value)
