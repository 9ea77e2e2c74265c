"""Studies of several runs, from settings to a page, and again."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from dynamics.__main__ import main
from dynamics.config import StudySettings
from dynamics.errors import StudyError
from dynamics.report import study_page
from dynamics.runs.run import Run
from dynamics.study.settings import load_study
from dynamics.study.several import TrainedRun, run_arms
from tests.tracking.synthetic import files_of
from tests.training.small import write_corpus

STUDY = """
name: small
seeds: [0, 1]
base:
  corpus: {{source: {text}, placebo_rows: 4}}
  tokenizer: {{vocab_size: 300}}
  model: {{hidden_size: 16, num_layers: 1, num_heads: 2, initializer_range: 0.1}}
  training: {{steps: 6, batch_size: 4, sequence_length: 16, learning_rate: 1e-2, device: cpu,
             threads: 1}}
  checkpoints: {{steps: 3}}
arms:
  untied: {{}}
  sgd: {{training.optimizer: sgd, training.weight_decay: 0.0}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path = folder / "small.yaml"
    path.write_text(STUDY.format(text=write_corpus(folder / "text")))
    return path


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    """A study that has done everything, and what it said."""
    folder = tmp_path_factory.mktemp("out") / "small"
    lines = []
    result = run_arms(load_study(config), folder, command="dynamics study", report=lines.append)
    return folder, result, lines


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without figures, where these are not what is looked at."""
    monkeypatch.setattr(study_page, "plot", lambda runs, folder, **settings: [])


def test_every_arm_and_seed_is_a_study_folder_of_its_own(study):
    folder, result, lines = study
    places = [f"{arm}/seed-{seed}" for seed in (0, 1) for arm in ("untied", "sgd")]
    assert result["runs"] == [str(folder / place / "run") for place in places]
    for place in places:
        run = Run(folder / place)
        arm, seed = place.split("/seed-")
        settings = StudySettings.model_validate(run.info["series"]["training"])
        assert (run.name, settings.seed, run.steps) == (arm, int(seed), [0, 3, 6])
        assert settings.training.optimizer == ("sgd" if arm == "sgd" else "adamw")
        assert (folder / place / "training/checkpoints").is_dir()
    assert lines[0] == "4 of 4 runs to do, 1 at once"
    assert any(line.startswith("sgd seed 1: step 6 of 6, loss ") for line in lines)
    assert any(line.startswith("untied seed 0: done in ") for line in lines)


def test_the_page_tells_of_all_runs_and_shows_their_figures(study):
    folder, result, _ = study
    page = (folder / "report.md").read_text()
    assert result["page"] == str(folder / "report.md")
    assert page.startswith("# Study: small\n")
    assert "Made by `dynamics study` from the tables of its runs." in page
    assert "| untied | 2 (0, 1) | 6 | 384 | " in page
    assert "descriptive: untied, sgd." in page
    assert "![Do norms come to correlate with frequency?](report/correlation.png)" in page
    assert sorted(map(str, (folder / "report").glob("*.png"))) == sorted(result["figures"])


def test_the_same_study_again_does_nothing_but_the_page(study, config):
    folder, result, _ = study
    before = files_of(folder)
    lines = []
    again = run_arms(load_study(config), folder, command="dynamics study", report=lines.append)
    assert again == result
    assert lines[0] == "0 of 4 runs to do, 0 at once"
    assert files_of(folder) == before


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_is_done_and_nothing_else(study, config, tmp_path):
    folder, _, _ = study
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = files_of(copy)
    shutil.rmtree(copy / "sgd/seed-1/run")
    lines = []
    run_arms(load_study(config), copy, command="dynamics study", report=lines.append)
    assert lines[0] == "1 of 4 runs to do, 1 at once"
    assert {name: content for name, content in files_of(copy).items() if name in before} == (
        before | {"report.md": (copy / "report.md").read_bytes()}
    )


@pytest.mark.usefixtures("undrawn")
def test_other_settings_of_tracking_are_no_finished_run(study, config, tmp_path):
    folder, _, _ = study
    copy, lines = tmp_path / "copy", []
    shutil.copytree(folder, copy)

    def again(**tracking):
        wanted = load_study(config, ["seeds=[0]"])
        wanted.base["tracking"] = tracking
        lines.clear()
        run_arms(wanted, copy, report=lines.append)
        return Run(copy / "untied/seed-0")

    asked = {"importance": ["surprisal"], "probe_tokens_per_stratum": 1, "contexts": 2}
    before = (copy / "untied/seed-0/training/train.jsonl").read_bytes()
    run = again(**asked)
    assert lines[0] == "2 of 2 runs to do, 1 at once"
    assert (run.importances, run.live_steps) == (["surprisal"], [0, 3, 6])
    assert (copy / "untied/seed-0/training/train.jsonl").read_bytes() == before
    for same in (asked, asked | {"context_length": 40, "device": "cpu"}, {}):
        assert again(**same).importances == ["surprisal"]
        assert lines[0] == "0 of 2 runs to do, 0 at once"
    with pytest.raises(StudyError, match=r"2 of 2 runs .*already holds results .*contexts is 2 "):
        again(**asked | {"contexts": 3})
    with pytest.raises(
        StudyError,
        match=r"2 of 2 runs .*holds the groups of measures norms,distances, not norms,distances,"
        r"ranks; resume it with --measures norms,distances \(tracking.measures in a study\)",
    ):
        again(measures="distances,ranks")
    assert again(measures="norms").importances == ["surprisal"]
    assert lines[0] == "0 of 2 runs to do, 0 at once"


def test_a_run_can_be_sent_to_another_process(config):
    study = load_study(config)
    job = TrainedRun(study.settings("sgd", 1), Path("x"), "dynamics study")
    assert pickle.loads(pickle.dumps(job)) == job  # noqa: S301


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_fails_is_told_and_the_page_is_about_the_others(study, config, tmp_path, capsys):
    folder, _, _ = study
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    described = copy / "sgd/seed-1/training/train.json"
    content = json.loads(described.read_text())
    content["settings"]["training"]["steps"] = 7
    described.write_text(json.dumps(content))
    told = r"1 of 4 runs failed \(sgd seed 1: .* holds a training with other settings .*training"
    with pytest.raises(StudyError, match=told):
        run_arms(load_study(config), copy, page=tmp_path / "page.md")
    assert "| sgd | 1 (0) |" in (tmp_path / "page.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["study", str(config), "-o", str(copy), "--report", str(tmp_path / "page.md")])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("dynamics: 1 of 4 runs failed (sgd seed 1: ")


CLAIMS = """
stated: 2027-01-02
source: A guess.
claims:
  - name: Nothing before training.
    expected: nothing
    quantity: {measure: input_embedding_norm, against: log_frequency, at: first}
    above: -0.2
    below: 0.2
"""


@pytest.mark.usefixtures("undrawn")
def test_claims_changed_after_a_judgement_are_told_on_the_page_and_in_a_line(
    study, config, tmp_path, capsys
):
    folder, _, _ = study
    copy, claims, page = tmp_path / "copy", tmp_path / "own.yaml", tmp_path / "page.md"
    shutil.copytree(folder, copy)
    (copy / "verdicts.json").unlink()

    def judge(content):
        claims.write_text(content)
        command = ["study", str(config), "-o", str(copy), "--report", str(page)]
        with pytest.raises(SystemExit, match="0"):
            main([*command, f"claims={claims}"])
        record = json.loads((copy / "verdicts.json").read_text())
        assert f"own.yaml (SHA-256 {record['claims']['sha256']})" in page.read_text()
        return record["claims"]["sha256"], capsys.readouterr().err

    before, told = judge(CLAIMS)
    assert "claims have changed" not in told + page.read_text()
    now, told = judge(CLAIMS.replace("0.2", "0.3"))
    (line,) = (line for line in told.splitlines() if "claims have changed" in line)
    assert before in line.partition("; now")[0] and now in line.partition("; now")[2]
    assert line.strip() in page.read_text()
    claims.write_text("stated: [")
    with pytest.raises(SystemExit, match="2"):
        main(["study", str(config), "-o", str(copy), f"claims={claims}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "own.yaml is not YAML" in line


@pytest.mark.usefixtures("undrawn")
def test_the_command_says_where_the_page_is(study, config, tmp_path, capsys):
    folder, result, _ = study
    page = tmp_path / "page.md"
    with pytest.raises(SystemExit, match="0"):
        main(["study", str(config), "-o", str(folder), "--report", str(page), "--json"])
    told = {"page": str(page), "figures": [], "runs": result["runs"]}
    assert json.loads(capsys.readouterr().out) == told


def test_a_dry_run_tells_the_plan_and_does_nothing(config, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["study", str(config), "-o", str(tmp_path / "none"), "--dry-run", "seeds=[0, 1, 2]"])
    out = capsys.readouterr().out
    assert out.startswith("small: 2 arms of 3 seeds (0, 1, 2), 6 trainings\n  untied\n  sgd ")
    assert "training.optimizer=sgd, training.weight_decay=0.0\n" in out
    assert "36 steps, 2,304 tokens, 18 checkpoints" in out
    assert not (tmp_path / "none").exists()


def test_one_training_has_no_workers(config, tmp_path, capsys):
    alone = tmp_path / "alone.yaml"
    alone.write_text("name: x\ntraining: {steps: 1}\n")
    for option in (["--workers", "2"], ["--report", "page.md"]):
        with pytest.raises(SystemExit, match="2"):
            main(["study", str(alone), *option])
        assert "are for studies of several runs" in capsys.readouterr().err
