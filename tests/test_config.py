import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.config import StudySettings, load
from dynamics.errors import ConfigError
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.study.settings import load_study

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
TRAININGS = [path for path in CONFIGS if isinstance(load_study(path), StudySettings)]
LEAST = "name: x\ntraining:\n  steps: 10\n"


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "study.yaml"
        path.write_text(text, "utf-8")
        return load(path, overrides)

    return read


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_is_read_and_scheduled(path):
    from dynamics.training.prepare import schedule

    loaded = load(path)
    whole, embeddings = schedule(loaded)
    assert {0, loaded.training.steps} <= set(whole)
    assert not set(whole) & set(embeddings)
    assert re.fullmatch(r"[\w.-]+", loaded.name)


def test_names_of_configurations_differ():
    names = [load_study(path).name for path in CONFIGS]
    assert len(set(names)) == len(names) > 0


def test_the_least_is_a_name_and_a_number_of_steps(read):
    loaded = read(LEAST)
    assert (loaded.name, loaded.training.steps, loaded.seed) == ("x", 10, 0)
    assert loaded.training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("written", "meant"), [("3e-4", 3e-4), ("3E-4", 3e-4), (".5", 0.5), ("1.", 1.0), ("+2", 2.0)]
)
def test_numbers_are_numbers_however_they_are_written(read, written, meant):
    assert read(f"{LEAST}  learning_rate: {written}\n").training.learning_rate == meant
    assert read(LEAST, f"training.learning_rate={written}").training.learning_rate == meant


def test_ten_is_ten(read):
    assert read(LEAST.replace("10", "010")).training.steps == 10


@pytest.mark.parametrize("word", ["no", "off", "yes", "n", "False1"])
def test_a_word_is_no_boolean(read, word):
    told = rf"study\.yaml: model\.tied: input should be a valid boolean \(got '{word}'\)"
    with pytest.raises(ConfigError, match=told):
        read(f"{LEAST}model:\n  tied: {word}\n")


@pytest.mark.parametrize(("written", "meant"), [("true", True), ("False", False)])
def test_a_boolean_is_one(read, written, meant):
    assert read(LEAST, f"model.tied={written}").model.tied is meant


@pytest.mark.parametrize("name", ["no", "null1", "2020-01-01", "0x1f", "on", "1e3x"])
def test_a_word_stays_a_word(read, name):
    assert read(LEAST.replace("name: x", f"name: {name}")).name == name


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.steps=4.5", r"training.steps: input should be a valid integer \(got 4.5\)"),
        ("training.steps=4e2", r"training.steps: input should be a valid integer \(got 400.0\)"),
        ("training.steps='4'", r"training.steps: input should be a valid integer \(got '4'\)"),
        ("training.steps=true", r"training.steps: input should be a valid integer \(got True\)"),
        ("training.steps=0", r"training.steps: input should be greater than 0 \(got 0\)"),
        ("training.steps=", r"training.steps: input should be a valid integer \(got None\)"),
        ("training.learning_rate=.inf", r"training.learning_rate: input should be a valid number"),
        ("training.learning_rate=1e999", "training.learning_rate: input should be a finite number"),
        ("training.optimizer=adam", r"training.optimizer: input should be 'adamw' or 'sgd' \(got"),
        ("training=5", r"training: input should be a valid dictionary .* \(got 5\)"),
        ("name=a/b", r"name: string should match pattern .* \(got 'a/b'\)"),
        ("name=..", r"name: string should match pattern .* \(got '\.\.'\)"),
        ("name=3", r"name: input should be a valid string \(got 3\)"),
        ("seed=-1", r"seed: input should be greater than or equal to 0 \(got -1\)"),
        ("training.warmup_steps=11", "training: warmup_steps 11 is more than the 10 steps"),
        ("model.num_heads=3", "model: hidden_size 128 is not a multiple of num_heads 3"),
        ("checkpoints.steps=log2", "checkpoints.steps: cannot read 'log2' in the steps 'log2'"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_was_given(read, override, told):
    with pytest.raises(ConfigError, match=told) as raised:
        read(LEAST, override)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.stepz=5", "unknown key 'training.stepz'; did you mean 'steps'?"),
        ("modle.tied=true", "unknown key 'modle'; did you mean 'model'?"),
        ("colour=red", "unknown key 'colour'; known are: checkpoints, corpus, model, name, seed, "),
        ("model.layers.n=1", "unknown key 'model.layers'; "),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known(read, override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        read(LEAST, override)


def test_all_mistakes_are_told_at_once(read):
    with pytest.raises(ConfigError, match="the key 'name' is missing; the key 'training' is missi"):
        read("seed: 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'a'.*; unknown key 'b'"):
        read(LEAST, "a=1", "b=2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nname: y\n", "the key 'name' is given twice"),
        ("training:\n  steps: 1\n  steps: 2\nname: x\n", "the key 'steps' is given twice"),
        ("", r"study\.yaml holds no settings; expected lines such as 'name: demo'"),
        ("- a\n- b\n", "holds no settings"),
        ("name: [x\n", "is not YAML: .* line 2"),
        ("name: x\n\ttraining: 1\n", "is not YAML: .*cannot start any token"),
        ("name: !!python/object:os.system x\n", "is not YAML: could not determine a constructor"),
        ("1: x\nname: y\n", "'1'|keys should be strings"),
        ("<<: {a: 1}\nname: x\n", "unknown key '<<'"),
    ],
)
def test_what_is_no_configuration_is_told(read, text, told):
    with pytest.raises(ConfigError, match=told) as raised:
        read(text)
    assert "\n" not in str(raised.value)
    assert "study.yaml" in str(raised.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such"):
        load(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.steps", "cannot read the setting 'training.steps'; expected key=value"),
        ("=5", "cannot read the setting '=5'; expected key=value"),
        ("name.first=a", "cannot set 'name.first': 'name' is a value, not a group of settings"),
        ("name=[a", r"the setting 'name=\[a' is not YAML"),
        ("training={steps: 1, steps: 2}", "the setting .*: the key 'steps' is given twice"),
    ],
)
def test_an_override_that_cannot_be_read_is_told(read, override, told):
    with pytest.raises(ConfigError, match=told):
        read(LEAST, override)


def test_a_group_that_is_off_is_turned_on_and_off(read):
    assert read(LEAST).corpus.twins is None
    twins = read(LEAST, "corpus.twins.tokens=8").corpus.twins
    assert (twins.tokens, twins.share) == (8, 0.125)
    on = f"{LEAST}corpus:\n  twins: {{tokens: 8, share: 0.5}}\n"
    assert read(on).corpus.twins.share == 0.5
    assert read(on, "corpus.twins=null").corpus.twins is None
    with pytest.raises(ConfigError, match=r"unknown key 'corpus.twins.shar'; did you mean 'share'"):
        read(LEAST, "corpus.twins.shar=0.5")


@pytest.mark.parametrize(
    "share", ["1", "0", "-0.1", "half", "null", "[]", "[0.5, 0.5]", "[0.5, 0]", "[0.5, [0.1]]"]
)
def test_shares_of_twins_leave_a_rest(read, share):
    with pytest.raises(
        ConfigError, match=r"corpus.twins.share: .* less than 1 \(got .*\)$"
    ) as told:
        read(LEAST, f"corpus.twins.share={share}")
    assert "\n" not in str(told.value)


def test_a_share_for_each_twin(read):
    assert read(LEAST, "corpus.twins.share=0.5").corpus.twins.shares == (0.5,)
    four = read(LEAST, "corpus.twins.share=[0.5, 0.25, 0.125, 0.03125]").corpus.twins
    assert four.shares == (0.5, 0.25, 0.125, 0.03125) and four.drawn == "per_seed"


def test_an_override_replaces_and_the_last_one_holds(read):
    loaded = read(LEAST, "training.steps=20", "model.tied=true", "training.steps=30", "name=a")
    assert (loaded.training.steps, loaded.model.tied, loaded.name) == (30, True, "a")


def test_an_override_may_hold_an_equals_sign_and_a_group(read):
    assert read(LEAST, "corpus.source=a=b").corpus.source == "a=b"
    assert read(LEAST, "model={tied: true, num_layers: 2}").model.num_layers == 2


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 10**6), st.floats(1e-6, 1), st.booleans(), st.integers(0, 2**31))
def test_what_is_written_is_read_back(tmp_path_factory, steps, rate, tied, seed):
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(
        f"name: x\nseed: {seed}\nmodel:\n  tied: {str(tied).lower()}\n"
        f"training:\n  steps: {steps}\n  learning_rate: {rate!r}\n"
    )
    loaded = load(path)
    assert (loaded.training.steps, loaded.training.learning_rate) == (steps, rate)
    assert (loaded.model.tied, loaded.seed) == (tied, seed)
    assert StudySettings.model_validate(loaded.model_dump(mode="json")) == loaded


def test_groups_of_measures_are_a_list_or_words_and_norms_are_always_among_them(read):
    assert read(LEAST).tracking.measures == ["norms", "distances"]
    for written, groups in [
        ("ranks", ["norms", "ranks"]),
        ("'spectrum, distances'", ["norms", "distances", "spectrum"]),
        ("[readouts, norms]", ["norms", "readouts"]),
        ("all", list(MEASURE_GROUPS)),
    ]:
        assert read(LEAST + f"tracking: {{measures: {written}}}\n").tracking.measures == groups
    with pytest.raises(
        ConfigError, match=r"measures: there is no group of .* 'rank'; did you mean"
    ):
        read(LEAST + "tracking: {measures: [rank]}\n")
    with pytest.raises(
        ConfigError, match=r"tracking.measures: groups of measures are names .*got 3"
    ):
        read(LEAST + "tracking: {measures: 3}\n")
    with pytest.warns(DeprecationWarning, match="setting 'all' is called 'measures: all' with 'ev"):
        former = read(LEAST + "tracking: {all: true}\n").tracking
    assert (former.measures, former.every_row) == (list(MEASURE_GROUPS), True)
    with pytest.warns(DeprecationWarning, match="setting 'all'"):
        assert read(LEAST + "tracking: {all: false}\n") == read(LEAST)


def test_importances_are_a_list_or_a_word_and_steps_are_read(read):
    asked = read(LEAST + "tracking: {importance: all, live_steps: 64}\n").tracking
    assert (asked.importance, asked.live_steps) == (["all"], "64")
    assert read(LEAST).tracking.importance == []
    assert read(LEAST + "tracking: {importance: [a, b]}\n").tracking.importance == ["a", "b"]
    with pytest.raises(ConfigError, match=r"tracking.live_steps: .*evry"):
        read(LEAST + "tracking: {live_steps: evry(3)}\n")
    with pytest.raises(ConfigError, match=r"unknown key .tracking.surgry.; did you mean .surgery."):
        read(LEAST + "tracking: {surgry: true}\n")


def test_settings_do_not_change_once_they_are_read(read):
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="frozen"):
        read(LEAST).name = "y"


@pytest.mark.parametrize("key", ["steps", "embeddings"])
def test_a_single_step_may_be_a_number(key):
    settings = load("configs/demo.yaml", [f"checkpoints.{key}=64"])
    assert getattr(settings.checkpoints, key) == "64"
