"""From a text to findings and figures, end to end, and again."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from dynamics.config import TrackingSettings, load
from dynamics.errors import ConfigError
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.runs.run import Run
from dynamics.study.single import run_study
from tests.tracking import independent
from tests.tracking.synthetic import files_of

WORDS = "the of and to cat dog tree house river mountain sings runs sleeps under over blue green"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A text in which words are as frequent as Zipf has it, and a model of two small layers."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(3)
    words = np.array(WORDS.split())
    share = 1 / np.arange(1, len(words) + 1)
    lines = (" ".join(rng.choice(words, 40, p=share / share.sum())) for _ in range(300))
    (folder / "text.txt").write_text(".\n".join(lines))
    (folder / "study.yaml").write_text(
        f"""
name: tiny
corpus: {{source: {folder / "text.txt"}, placebo_rows: 8}}
tokenizer: {{vocab_size: 290}}
model: {{hidden_size: 32, num_layers: 2, num_heads: 2}}
training: {{steps: 24, batch_size: 4, sequence_length: 32, learning_rate: 1e-2, max_passes: 3,
           device: cpu, threads: 1}}
checkpoints: {{steps: "log2(4)"}}
tracking: {{measures: all, every_row: true, importance: [surprisal, occlusion],
           live_steps: "0,last", contexts: 3,
           probe_tokens_per_stratum: 1, device: cpu}}
"""
    )
    return load(folder / "study.yaml")


@pytest.fixture(scope="module")
def study(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "study"
    lines, measured = [], []
    result = run_study(
        settings,
        folder,
        command="dynamics study",
        on_step=lines.append,
        on_checkpoint=lambda *at: measured.append(at),
    )
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert measured[-1] == (5, 5)
    return folder, result


def test_a_study_trains_measures_correlates_and_draws(study):
    folder, result = study
    run = Run(folder)
    assert run.steps == [0, 1, 2, 4, 24]
    assert run.name == "tiny"
    assert run.info["settings"]["measures"] == list(MEASURE_GROUPS)
    assert run.info["settings"]["every_row"] is True
    assert result["run"] == str(folder / "run")
    assert len(result["figures"]) == 16
    assert all(str(folder / "figures") in file for file in result["figures"])
    assert {path.name for path in folder.iterdir()} == {"training", "run", "figures"}
    json.dumps(result)


def test_its_correlations_are_those_of_the_checkpoints_it_wrote(study):
    from safetensors.numpy import load_file

    folder, _ = study
    run = Run(folder)
    count, kind = (run.tokens[name].to_numpy() for name in ("count", "kind"))
    kept = independent.kept("count>=10", count, kind)
    trend = run.trend("input_embedding_norm").set_index("step")["value"]
    for step in run.steps:
        tensors = load_file(folder / f"training/checkpoints/step-{step:08d}/model.safetensors")
        embedding = tensors["gpt_neox.embed_in.weight"].astype(np.float64)
        norms = independent.norm(embedding)
        np.testing.assert_allclose(run.measures(step)["input_embedding_norm"], norms, rtol=1e-6)
        expected = spearmanr(norms[kept], count[kept]).statistic
        # Of some thirty tokens, two whose norms differ by rounding alone may change places.
        assert trend[step] == pytest.approx(expected, abs=1e-6)


def test_its_models_are_asked_what_the_settings_say(study):
    folder, _ = study
    run = Run(folder)
    assert run.live_steps == [0, 24]
    assert run.importances == ["occlusion", "surprisal"]
    assert run.importance(24)["contexts"].max() == 3
    described = json.loads((folder / "training" / "train.json").read_text())
    assert "tracking" not in described["settings"], "no part of what makes a training"


@pytest.mark.parametrize(
    ("tracking", "told"),
    [
        ({"importance": ["oclusion"]}, "no importance 'oclusion'; did you mean 'occlusion'"),
        ({"surgery": True}, "need rows that are not trained on; set corpus.held_out_rows"),
    ],
)
def test_what_cannot_be_asked_is_told_before_the_training(settings, tmp_path, tracking, told):
    wrong = settings.model_copy(update={"tracking": TrackingSettings(**tracking)})
    with pytest.raises(ConfigError, match=told):
        run_study(wrong, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_its_exposure_is_that_of_the_stream_it_trained_on(study):
    folder, _ = study
    run = Run(folder)
    for step in (0, 1, 24):
        expected = independent.exposure(folder / "training", step, len(run.tokens))
        assert list(run.measures(step)["exposure_as_target"]) == list(expected["output_embedding"])


def test_rows_that_never_occur_only_decay(study):
    _, result = study
    (sentence,) = (each for each in result["findings"] if "never occur" in each)
    assert float(sentence.split("relative error ")[1].rstrip(").")) < 1e-5


def test_the_same_study_again_does_nothing_and_changes_nothing(study, settings):
    folder, result = study
    before = files_of(folder)
    lines = []
    again = run_study(settings, folder, command="dynamics study", on_step=lines.append)
    assert again == result
    assert lines == []
    assert files_of(folder) == before
