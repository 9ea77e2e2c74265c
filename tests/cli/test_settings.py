"""Settings of the commands: the page that lists them, and options that became settings."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dynamics.cli.app import app
from dynamics.cli.settings import FORMER_OPTIONS, FORMER_WORDS, SETTINGS
from dynamics.config import TrackingSettings
from dynamics.settings_files import read_settings

COMMANDS = {
    name: command for name, command in get_command(app).commands.items() if name != "series"
}
PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        groups = [kind for kind in kinds if hasattr(kind, "model_fields")]
        yield from keys_of(groups[0], f"{prefix}{name}.") if groups else [prefix + name]


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_of_a_command_is_on_the_page(command):
    sections = PAGE.read_text("utf-8").split("\n## ")[1:]
    for model in SETTINGS[command]:
        title = model.__doc__.splitlines()[0].rstrip(".")
        (section,) = (text for text in sections if text.startswith(f"{title}\n"))
        assert f"`dynamics {command}`" in section
        assert [key for key in keys_of(model) if f"| `{key}` |" not in section] == []


def options_of(command):
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_18_options_at_most(command):
    assert len(options_of(COMMANDS[command])) <= 18


def test_help_prints_the_options_of_each_panel_under_its_title(dynamics):
    _, out, _ = dynamics("track", "--help")
    sections = [part.partition(":\n") for part in out.split("\n\n")]
    options = {title: text for title, _, text in sections}
    assert "--rule" in options["What is measured"]
    assert "--surgery" in options["Running the models"]
    assert "--settings FILE.yaml" in options["Options"]
    assert "KEY=VALUE" in options["Arguments"]


@pytest.fixture
def read(monkeypatch):
    """The settings that `dynamics track` reads from arguments, and what it prints on its error."""
    monkeypatch.setattr("dynamics.checkpoints.opening.open_any", lambda place: place)
    monkeypatch.setattr("dynamics.tracking.plan.check_importances", lambda settings: None)
    for name in ("track_cost", "live_cost"):
        cost = SimpleNamespace(describe=lambda: "")
        monkeypatch.setattr(f"dynamics.tracking.cost.{name}", lambda *of, cost=cost, **named: cost)

    def read(*arguments):
        settings = []

        def keep(*content):
            settings.append(read_settings(*content))
            return settings[0]

        monkeypatch.setattr("dynamics.cli.track.read_settings", keep)
        result = CliRunner().invoke(app, ["track", "series", "--dry-run", *arguments])
        assert result.exit_code == 0, result.output
        return settings[0], result.stderr.splitlines()

    return read


@pytest.mark.parametrize(
    ("former", "current"),
    [
        (["--live-steps", "0,last"], ["live_steps=0,last"]),
        (["--contexts=8"], ["contexts=8"]),
        (["--allow-flagged", "--exposure", "exact"], ["allow_flagged=true", "exposure=exact"]),
        (["--probe-tokens", "5,17"], ["probe.tokens=[5,17]"]),
        (["--probe", "x", "--separator", "***"], ["--probe", "x", 'probe.separator="***"']),
        (["--probe", "x", "--split", "010"], ["probe.text=x", 'probe.split="010"']),
        (
            ["--stream", "a b.bin", "--batch-size", "3"],
            ["stream.file=a b.bin", "stream.batch_size=3"],
        ),
        (["--dask", "tcp://host:8786"], ["dask=tcp://host:8786"]),
        (["--all"], ["measures=all", "every_row=true"]),
        (["all=true"], ["measures=all", "every_row=true"]),
        (["--contexts=8", "--all"], ["measures=all", "every_row=true", "contexts=8"]),
    ],
)
def test_options_that_became_settings_give_the_same_and_name_the_new_spelling(
    read, former, current
):
    expected, silence = read("--surgery", *current)
    settings, (line,) = read("--surgery", *former)
    assert settings == expected != TrackingSettings(surgery=True)
    assert silence == []
    typed = shlex.join(word for word in current if "=" in word and "probe.text" not in word)
    assert line.startswith("dynamics: instead of ")
    assert line.endswith(f" type {typed}")


@pytest.mark.parametrize("command", FORMER_OPTIONS)
def test_former_options_are_options_no_more_and_their_settings_exist(command):
    names = {name for option in options_of(COMMANDS[command]) for name in option.opts}
    assert not names & {*FORMER_OPTIONS[command]}
    keys = {key for model in SETTINGS[command] for key in keys_of(model)}
    assert {*FORMER_OPTIONS[command].values()} <= keys
    words = FORMER_WORDS.get(command, {})
    assert not names & {*words}
    assert {setting.split("=")[0] for settings in words.values() for setting in settings} <= keys


def test_a_former_option_without_its_value_is_told(dynamics):
    status, _, err = dynamics("track", "series", "--live-steps")
    assert status == 2
    assert "--live-steps requires an argument" in err


def test_a_file_gives_way_to_arguments_and_these_to_options(read, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("contexts: 8\nlive_steps: 5\ndevice: cpu\nimportance: occlusion\n", "utf-8")
    settings, _ = read("--settings", str(file), "live_steps=6", "device=cuda", "--device", "auto")
    assert (settings.contexts, settings.live_steps, settings.device) == (8, "6", "auto")
    assert settings.importance == ["occlusion"]


def test_importances_given_several_times_are_all_kept(read):
    settings, _ = read("--importance", "a, b", "--importance", "c", "--importance", "a")
    assert settings.importance == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("live_step=5", "settings: unknown key 'live_step'; did you mean 'live_steps'?"),
        ("probe.txt=x", "settings: unknown key 'probe.txt'; did you mean 'text'?"),
        ("contexts=many", "settings: contexts: input should be a valid integer (got 'many')"),
        ("contexts", "cannot read the setting 'contexts'; expected key=value"),
    ],
)
def test_a_slip_in_a_setting_is_told(fails, argument, message):
    assert fails("track", "nowhere", argument) == message
