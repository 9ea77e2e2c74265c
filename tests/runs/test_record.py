"""`run.json` is read, checked and written in one place; what is no such file is one line."""

import json
import shutil
from pathlib import Path

import pytest

from dynamics import Run
from dynamics.__main__ import main
from dynamics.errors import OutputError
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.runs.findings import findings, last_step_table
from dynamics.runs.record import CALLBACK, FORMAT, RunRecord, read_record
from tests.tracking.synthetic import STEPS

OLD = Path(__file__).parents[1] / "golden" / "run_format_0"
START = "run.json is damaged, or not what `dynamics track` writes ("
CONTENTS = {
    "{": START + "Expecting property name",
    "": START + "Expecting value",
    "[]": START + "Input should be a valid dictionary",
    '{"finished": true}': START + "command: Field required)",
    '{"name": "left-pad", "version": "1.3.0"}': START + "finished: Field required)",
    '{"format": 99}': "has format 99, and this version reads up to 1; update dynamics",
}


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run.path, tmp_path / "run"))


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_run_is_one_line(copy, content):
    (copy / "run.json").write_text(content)
    with pytest.raises(OutputError) as refused:
        Run(copy)
    assert CONTENTS[content] in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("series",), None, "series: Input should be"),
        (("series", "steps"), ["a"], "series.steps.0: Input should be a valid integer"),
        (("series", "colour"), "red", "series.colour: Extra inputs are not permitted"),
        (("checkpoints", 0, "table_sha256"), 5, "checkpoints.0.table_sha256: Input should be a"),
        (("measures",), "norm", "measures: Input should be a valid list"),
    ],
)
def test_fields_of_wrong_types_are_named(copy, place, value, message):
    content = json.loads((copy / "run.json").read_text())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (copy / "run.json").write_text(json.dumps(content))
    with pytest.raises(OutputError, match="is damaged, or not what") as refused:
        read_record(copy)
    assert message in str(refused.value)


@pytest.mark.parametrize("command", ["plot", "tokens"])
def test_commands_print_one_line(copy, command, capsys):
    (copy / "run.json").write_text('{"finished": true}')
    arguments = {
        "plot": ["-o", str(copy.parent / "figures")],
        "tokens": ["--gained", "norm", "--between", "0", "8"],
    }[command]
    with pytest.raises(SystemExit, match="2"):
        main([command, str(copy), *arguments])
    printed = capsys.readouterr().err
    assert printed.startswith("dynamics: ") and printed.count("\n") == 1
    assert "remove the folder" in printed


def test_bytes_are_those_that_were_read(run, copy):
    before = (copy / "run.json").read_bytes()
    read_record(copy).write(copy)
    assert (copy / "run.json").read_bytes() == before
    assert json.loads(before)["format"] == FORMAT


@pytest.mark.parametrize(
    ("former", "command", "groups", "every_row"),
    [
        ({"all": False}, "dynamics track", ["norms", "distances", "ranks", "readouts"], False),
        ({"all": True}, "dynamics track", list(MEASURE_GROUPS), True),
        ({}, CALLBACK, ["norms", "distances", "ranks", "readouts"], False),
        ({}, "dynamics track", [], False),  # from before matrices were measured
    ],
)
def test_former_settings_are_the_groups_that_were_measured(run, former, command, groups, every_row):
    settings = {"steps": "all", "rule": "count>=10", **former}
    record = RunRecord.model_validate(run.info | {"settings": settings, "command": command})
    assert record.settings.measures == groups
    assert record.settings.every_row is every_row
    assert "all" not in record.plain()["settings"]


def test_stages_have_their_settings_and_digests(run):
    (stage,) = run.record.stages
    assert stage.name == "weights"
    assert (
        stage.settings
        == run.info["settings"]
        == {"steps": "all", "rule": "count>=10", "measures": ["norms", "distances"]}
    )
    assert stage.digests["tokenizer"] == run.info["counts"]["tokenizer_sha256"]


def test_a_field_that_is_forgotten_is_not_written(run):
    record = RunRecord.model_validate(run.info | {"without_trends": "no memory"})
    assert record.plain()["without_trends"] == "no memory"
    record.unset("without_trends")
    assert "without_trends" not in record.plain() and record.without_trends is None


def test_a_folder_of_the_first_format_is_read():
    old = Run(OLD)
    assert old.record.format == 0 and old.record.stages == []
    assert old.steps == list(STEPS)
    assert len(old.trends) and len(old.profile) and len(old.tokens) == old.record.series.vocab_size
    assert findings(old) and "input embedding norms" in last_step_table(old)
