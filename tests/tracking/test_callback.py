"""Norms measured during a training are those of its checkpoints; the training does not notice."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf

from dynamics import NormDynamicsCallback, Run, open_series, track
from dynamics.errors import ConfigError, CorpusError, OutputError, StepError
from dynamics.report.figures import plot
from dynamics.tracking.model_tensors import ModelTensors
from tests.tracking.synthetic import files_of
from tests.tracking.trainings import STEPS, StopAfter, Stopped, build, trainer

WHEN = "log2(4)+every(3)"
EXPECTED = [0, 1, 2, 3, 4, 6, 8]
SAVES = {"save_strategy": "steps", "save_steps": 4}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """A Trainer ends with a full collection of all that a session of tests holds."""
    monkeypatch.setattr(
        "accelerate.utils.memory.clear_device_cache", lambda garbage_collection=False: None
    )


def measured(folder, counts=None, *others, run="run", when=WHEN, resume=None, **settings):
    """Train with the callback; the trainer and the run."""
    callback = NormDynamicsCallback(folder / run, steps=when, counts=counts)
    made = trainer(folder / "training", callback, *others, **settings)
    made.train(resume_from_checkpoint=resume)
    return made, Run(folder / run)


@pytest.mark.parametrize(
    ("name", "tied"),
    [("gpt_neox", False), ("llama", True), ("gemma", True), ("bert", True)],
)
def test_a_run_is_that_of_the_checkpoints_of_the_same_training(tmp_path, counts, name, tied):
    model = build(name, tied)
    model.save_pretrained(tmp_path / "training/checkpoint-0")
    saves = {"save_strategy": "steps", "save_steps": 1, "include_num_input_tokens_seen": "all"}
    _, run = measured(tmp_path, counts, model=model, **saves)
    assert run.steps == EXPECTED
    series = open_series(tmp_path / "training")
    steps = ",".join(map(str, EXPECTED))
    expected = track(series, tmp_path / "tracked", counts=counts, steps=steps)
    assert run.info["measures"] == expected.info["measures"]
    for step in EXPECTED:
        pd.testing.assert_frame_equal(run.measures(step), expected.measures(step), check_exact=True)
    for part in ("trends", "profile", "tokens"):
        pd.testing.assert_frame_equal(getattr(run, part), getattr(expected, part), check_exact=True)
    for part in ("tied", "final_norm", "vocab_size", "steps"):
        assert run.info["series"][part] == expected.info["series"][part]
    for part in ("tensor_sha256", "tokens_seen", "step"):
        found, wanted = ([e[part] for e in each.info["checkpoints"]] for each in (run, expected))
        assert found == wanted
    assert run.info["counts"] == expected.info["counts"] and run.name == "run"


@pytest.mark.parametrize("name", ["gpt_neox", "bert"])
def test_a_training_has_the_same_bits_without_it(tmp_path, counts, name):
    ends = []
    for callbacks in ([], [NormDynamicsCallback(tmp_path / "run", steps=WHEN, counts=counts)]):
        made = trainer(tmp_path / "training", *callbacks, model=build(name))
        made.train()
        ends.append((made, torch.get_rng_state(), np.random.get_state()[1].tolist()))
    (plain, torch_plain, numpy_plain), (with_it, torch_with, numpy_with) = ends
    for key, weight in plain.model.state_dict().items():
        assert torch.equal(with_it.model.state_dict()[key], weight), key
    assert torch.equal(torch_plain, torch_with) and numpy_plain == numpy_with
    assert all(each.requires_grad for each in with_it.model.parameters())

    def untimed(history):
        return [{k: v for k, v in line.items() if "per_second" not in k and "runtime" not in k}
                for line in history]  # fmt: skip

    assert untimed(with_it.state.log_history) == untimed(plain.state.log_history)


class TestRestarts:
    def test_a_resumed_training_leaves_the_same_run(self, tmp_path):
        whole, _ = tmp_path / "whole", measured(tmp_path / "whole", **SAVES)
        with pytest.raises(Stopped):
            measured(tmp_path, None, StopAfter(6), **SAVES)
        with pytest.raises(OutputError, match="has not ended, or was cut off after step 6; resume"):
            Run(tmp_path / "run")
        steps = [path.stem for path in sorted((tmp_path / "run/measures").iterdir())]
        assert steps[-1] == "step-00000006"
        measured(tmp_path, resume=str(tmp_path / "training/checkpoint-4"), **SAVES)
        assert files_of(tmp_path / "run") == files_of(whole / "run")

    def test_steps_beyond_the_one_resumed_from_are_dropped(self, tmp_path):
        measured(tmp_path, **SAVES)
        with pytest.raises(Stopped):
            measured(
                tmp_path, None, StopAfter(5), resume=str(tmp_path / "training/checkpoint-4"),
                **SAVES,
            )  # fmt: skip
        info = json.loads((tmp_path / "run/run.json").read_text())
        assert [entry["step"] for entry in info["checkpoints"]] == [0, 1, 2, 3, 4]
        assert not (tmp_path / "run/trends.parquet").exists()
        assert len(list((tmp_path / "run/measures").iterdir())) == 5

    def test_the_same_training_from_the_beginning_starts_over(self, tmp_path):
        with pytest.raises(Stopped):
            measured(tmp_path, None, StopAfter(3))
        _, run = measured(tmp_path)
        assert run.steps == EXPECTED

    def test_a_finished_training_that_is_resumed_does_nothing(self, tmp_path):
        settings = {"save_strategy": "steps", "save_steps": STEPS}
        measured(tmp_path, **settings)
        before = files_of(tmp_path / "run")
        end = str(tmp_path / f"training/checkpoint-{STEPS}")
        measured(tmp_path, resume=end, **settings)
        assert files_of(tmp_path / "run") == before

    def test_a_training_that_goes_on_longer(self, tmp_path):
        settings = {"save_strategy": "steps", "save_steps": STEPS}
        measured(tmp_path, **settings)
        end = str(tmp_path / f"training/checkpoint-{STEPS}")
        _, run = measured(tmp_path, resume=end, max_steps=STEPS + 2)
        assert run.steps == [*EXPECTED, 9, 10]
        assert (run.array("input_embedding_distance_from_first")[-1] > 0).any()

    def test_a_run_that_begins_at_a_resumed_step(self, tmp_path):
        trainer(tmp_path / "training", **SAVES).train()
        _, run = measured(tmp_path, resume=str(tmp_path / "training/checkpoint-4"))
        assert run.steps == [4, 6, 8]
        assert (run.array("input_embedding_distance_from_first")[0] == 0).all()


class TestTheEnd:
    def test_a_training_that_stops_early_is_measured_where_it_stops(self, tmp_path):
        made, run = measured(tmp_path, None, StopAfter(5, crash=False))
        assert run.steps == [0, 1, 2, 3, 4, 5]
        last = made.model.get_input_embeddings().weight.detach().norm(dim=1)
        np.testing.assert_array_equal(run.array("input_embedding_norm")[-1], last)

    def test_a_best_model_that_was_loaded_is_not_the_last(self, tmp_path):
        class Rising(hf.Trainer):
            def evaluate(self, *args, **kwargs):
                metrics = super().evaluate(*args, **kwargs)
                return metrics | {"eval_loss": float(self.state.global_step)}

        best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
        best |= {"save_strategy": "steps", "save_steps": 1, "metric_for_best_model": "eval_loss"}
        stop = StopAfter(5, crash=False)
        made, run = measured(tmp_path, None, stop, trainer_class=Rising, **best)
        assert made.state.best_model_checkpoint.endswith("checkpoint-1")
        assert run.steps == [0, 1, 2, 3, 4]

    @pytest.mark.slow
    def test_figures_of_the_run(self, tmp_path, counts):
        _, run = measured(tmp_path, counts)
        assert plot([run], tmp_path / "figures")


class Reports(hf.TrainerCallback):
    """Stands for what reports to a tracker: given before the callback, as a Trainer's own are."""

    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        assert model is not None
        self.lines.append((state.global_step, dict(logs)))


class TestReports:
    def test_norms_and_their_correlations_reach_the_trackers(self, tmp_path, counts):
        reports = Reports()
        callback = NormDynamicsCallback(tmp_path / "run", steps=WHEN, counts=counts)
        trainer(tmp_path / "training", reports, callback).train()
        run = Run(tmp_path / "run")
        lines = {step: each for step, each in reports.lines if "input_embedding_norm_mean" in each}
        assert list(lines) == EXPECTED
        norms = run.array("output_embedding_norm_centered")[:, run.kept].astype(float)
        trend = run.trend("output_embedding_norm_centered").set_index("step")["value"]
        for at, step in enumerate(EXPECTED):
            line = lines[step]
            mean = line["output_embedding_norm_centered_mean"]
            assert mean == pytest.approx(norms[at].mean(), rel=1e-6)
            rho = line["output_embedding_norm_centered_spearman_log_frequency"]
            assert rho == pytest.approx(trend[step], abs=1e-12)
            assert all(type(number) is float for number in line.values())
            assert all("_norm" in name for name in line)

    def test_the_reports_of_the_trainer_are_made_all_the_same(self, tmp_path):
        """At step 3 a norm and a loss are due."""
        reports = Reports()
        callback = NormDynamicsCallback(tmp_path / "run", steps="3")
        trainer(tmp_path / "training", reports, callback).train()
        assert [step for step, line in reports.lines if "loss" in line] == [3, 6]
        assert [step for step, line in reports.lines if "input_embedding_norm_mean" in line] == [
            0, 3, STEPS,
        ]  # fmt: skip

    def test_they_stand_in_the_trainers_own_tensorboard_file(self, tmp_path):
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        callback = NormDynamicsCallback(tmp_path / "run", steps="1")
        trainer(tmp_path / "training", callback, report_to="tensorboard").train()
        (file,) = (tmp_path / "training").rglob("events.out.tfevents.*")
        events = EventAccumulator(str(file)).Reload()
        points = events.Scalars("train/input_embedding_norm_mean")
        assert [point.step for point in points] == [0, 1, STEPS]
        assert events.Scalars("train/loss")

    def test_without_counts_there_are_means_alone(self, tmp_path):
        reports = Reports()
        callback = NormDynamicsCallback(tmp_path / "run", steps="1")
        trainer(tmp_path / "training", reports, callback).train()
        names = {name for _, line in reports.lines for name in line if "_norm_" in name}
        assert names and all(name.endswith("_mean") for name in names - {"grad_norm"})
        run = Run(tmp_path / "run")
        line = next(line for step, line in reports.lines if step == 1)
        expected = run.array("input_embedding_norm")[1].astype(float).mean()
        assert line["input_embedding_norm_mean"] == pytest.approx(expected, rel=1e-6)

    def test_called_by_something_else_it_reports_to_nobody(self, tmp_path):
        callback = NormDynamicsCallback(tmp_path / "run", steps="1")
        args = SimpleNamespace(load_best_model_at_end=False)
        for step, event in ((0, "on_train_begin"), (1, "on_step_end"), (1, "on_train_end")):
            state = hf.TrainerState(global_step=step, max_steps=1)
            getattr(callback, event)(args, state, hf.TrainerControl(), model=build())
        assert Run(tmp_path / "run").steps == [0, 1]


class TestModels:
    def test_other_processes_write_nothing(self, tmp_path):
        callback = NormDynamicsCallback(tmp_path / "run", steps="1")
        args = SimpleNamespace(load_best_model_at_end=False)
        for step, event in ((0, "on_train_begin"), (1, "on_step_end"), (1, "on_train_end")):
            state = hf.TrainerState(global_step=step, max_steps=1, is_world_process_zero=False)
            getattr(callback, event)(args, state, hf.TrainerControl(), model=build())
        assert not (tmp_path / "run").exists()

    def test_wrappers_that_hold_the_whole_model_are_looked_through(self):
        model = build()
        plain, wrapped = ModelTensors(model, 1), ModelTensors(torch.nn.DataParallel(model), 1)
        assert torch.equal(plain.tensor("input_embedding"), wrapped.tensor("input_embedding"))
        assert wrapped.final_norm == plain.final_norm == "rms"
        assert torch.equal(plain.final_norm_gain(), wrapped.final_norm_gain())

    @pytest.mark.parametrize("how", ["flat", "empty", "distributed"])
    def test_parts_of_a_model_are_refused(self, how):
        model = build()
        module = model.get_output_embeddings()
        if how == "distributed":
            module.weight.full_tensor = lambda: None
        else:
            shape = (40,) if how == "flat" else (0, 16)
            module.weight = torch.nn.Parameter(torch.ones(shape))
        with pytest.raises(ConfigError, match="LlamaForCausalLM is sharded: no process holds"):
            ModelTensors(model, 0)

    def test_what_is_no_model_of_transformers(self):
        with pytest.raises(ConfigError, match="Linear has no get_input_embeddings"):
            ModelTensors(torch.nn.Linear(2, 2), 0)

    def test_a_family_that_is_not_known_is_measured_without_its_final_norm(self):
        class Odd(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(5, 3)

            def get_input_embeddings(self):
                return self.words

            def get_output_embeddings(self):
                return None

        odd = ModelTensors(Odd(), 0)
        assert odd.final_norm is None and odd.final_norm_gain() is None
        assert odd.has("input_embedding") and not odd.has("output_embedding") and not odd.tied


class TestBadInput:
    def test_settings(self, tmp_path):
        with pytest.raises(StepError, match="cannot read 'log3"):
            NormDynamicsCallback(tmp_path / "run", steps="log3(8)")
        with pytest.raises(ConfigError, match="rule"):
            NormDynamicsCallback(tmp_path / "run", rule="often")
        with pytest.raises(CorpusError, match=r"counts\.parquet"):
            NormDynamicsCallback(tmp_path / "run", counts=tmp_path / "counts.parquet")
