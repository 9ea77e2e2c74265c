"""Whatever keeps a training from being measured, the training goes on to the same bits."""

import json
import logging
import resource
import shutil
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf

from dynamics import NormDynamicsCallback, Run
from dynamics.errors import MismatchError, OutputError
from dynamics.runs.findings import findings, last_step_table
from dynamics.tracking.track import track
from tests.tracking.synthetic import VOCABULARY, files_of, make_counts
from tests.tracking.trainings import STEPS, At, StopAfter, Stopped, build, trainer

WHEN = "log2(4)+every(3)"
SAVES = {"save_strategy": "steps", "save_steps": 4}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """A Trainer ends with a full collection of all that a session of tests holds."""
    monkeypatch.setattr(
        "accelerate.utils.memory.clear_device_cache", lambda garbage_collection=False: None
    )


@pytest.fixture
def lines(caplog):
    """The warnings that the package logs."""
    caplog.set_level(logging.WARNING, "dynamics")

    class Lines(list):
        def __iter__(self):
            return (
                record.getMessage() for record in caplog.records if record.name[:8] == "dynamics"
            )

    return Lines()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes the rights to do so")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk, bytes_left=0):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - bytes_left))


def train(folder, *others, run=None, counts=None, when=WHEN, resume=None, rule="count>=10", **more):
    """Train to the end with the callback behind the others; the Trainer."""
    norms = NormDynamicsCallback(run or folder / "run", steps=when, counts=counts, rule=rule)
    made = trainer(folder / "training", *others, norms, **more)
    made.remove_callback(hf.PrinterCallback)  # which writes to a file that a test may limit
    made.train(resume_from_checkpoint=resume)
    assert made.state.global_step == STEPS
    return made


def only(lines):
    (line,) = lines
    assert "\n" not in line
    return line


def spoil(where, value=float("nan")):
    def act(model):
        with torch.no_grad():
            if where == "final norm":
                model.model.norm.weight[3] = value
            else:
                matrix = model.get_input_embeddings() if where == "input" else model.lm_head
                matrix.weight[7 if where == "input" else slice(None)] = value

    return act


class TestDivergence:
    @pytest.mark.parametrize(
        ("where", "value", "reason"),
        [
            ("input", np.nan, "the input embedding at step 6 has rows that hold NaN or infinity"),
            ("input", np.inf, "the input embedding at step 6 has rows that hold NaN or infinity"),
            ("output", np.nan, "NaN or infinity: 300 of 300"),
            ("final norm", np.nan, "the final norm weight at step 6 holds NaN or infinity"),
        ],
    )
    @pytest.mark.parametrize("with_counts", [True, False])
    def test_steps_before_it_are_a_run(
        self, tmp_path, lines, counts, where, value, reason, with_counts
    ):
        made = train(tmp_path, At(6, spoil(where, value)), counts=counts if with_counts else None)
        run = Run(tmp_path / "run")
        assert run.steps == [0, 1, 2, 3, 4]
        line = only(lines)
        assert line.startswith("norms are not measured from step 6 on, the training continues")
        assert reason in line and "--steps" not in line
        assert line.endswith(f"(dynamics.Run({str(tmp_path / 'run')!r}) opens the steps up to 4)")
        (stop,) = run.info["stops"]
        assert stop["step"] == 6 and stop["reason"] in line
        assert any(
            text.startswith("The training was not measured from step 6 on: the ")
            for text in findings(run)
        )
        if with_counts:
            assert len(run.trend("output_embedding_norm_centered")) == 5
        plain = trainer(tmp_path / "plain", At(6, spoil(where, value)))
        plain.train()
        for key, weight in plain.model.state_dict().items():
            torch.testing.assert_close(
                made.model.state_dict()[key], weight, rtol=0, atol=0, equal_nan=True
            )

    def test_random_numbers_are_those_of_a_training_without_it(self, tmp_path, lines):
        states = []
        for measure in (False, True):
            norms = [NormDynamicsCallback(tmp_path / "run", steps=WHEN)] * measure
            trainer(tmp_path / "training", At(5, spoil("input")), *norms, model=build()).train()
            states.append((torch.get_rng_state(), np.random.get_state()[1].tolist()))
        assert torch.equal(states[0][0], states[1][0]) and states[0][1] == states[1][1]
        assert only(lines)

    def test_a_model_that_is_broken_from_the_start_leaves_no_step(self, tmp_path, lines):
        model = build()
        spoil("output")(model)
        train(tmp_path, model=model)
        assert "not measured from step 0 on" in only(lines) and "(no step was measured)" in only(
            lines
        )
        with pytest.raises(OutputError, match=r"no step is measured \(the output embedding at st"):
            Run(tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]

    def test_a_resumed_training_that_is_whole_again_is_measured_again(self, tmp_path):
        train(tmp_path, At(5, spoil("input")), **SAVES)
        train(tmp_path, resume=str(tmp_path / "training/checkpoint-4"), **SAVES)
        run = Run(tmp_path / "run")
        assert run.steps == [0, 1, 2, 3, 4, 6, 8] and "stops" not in run.info

    def test_a_gap_is_remembered(self, tmp_path):
        """The embedding is mended after step 6 was due, and the training resumes from step 7."""

        def mend(model):
            spoil("input", 0.5)(model)

        every = {"save_strategy": "steps", "save_steps": 1}
        train(tmp_path, At(5, spoil("input")), At(7, mend), **every)
        train(tmp_path, resume=str(tmp_path / "training/checkpoint-7"), **every)
        run = Run(tmp_path / "run")
        assert run.steps == [0, 1, 2, 3, 4, 8] and [s["step"] for s in run.info["stops"]] == [6]


class TestFullDisk:
    def run_of(self, folder):
        train(folder)
        return Run(folder / "run")

    def same(self, run, expected, steps):
        assert run.steps == steps
        for step in steps:
            for name, column in expected.measures(step).items():
                np.testing.assert_array_equal(run.measures(step)[name], column)

    @pytest.mark.parametrize(
        ("bytes_left", "step", "steps"),
        [(0, 3, [0, 1, 2]), (20_480, 3, [0, 1, 2]), (40_960, 3, [0, 1, 2])],
    )
    def test_what_was_measured_opens_when_there_is_room_again(
        self, tmp_path, small_disk, lines, bytes_left, step, steps
    ):
        train(tmp_path, At(step, lambda _: fill(small_disk, bytes_left)), run=small_disk / "run")
        assert all("No space left on device" in line and "\n" not in line for line in lines)
        assert "not measured from step" in next(iter(lines))
        assert not list(small_disk.rglob("*.partial"))
        (small_disk / "filler").unlink()
        if not json.loads((small_disk / "run/run.json").read_text())["finished"]:
            with pytest.raises(OutputError, match=r"cut off after step \d; resume .*\.finish\(\)"):
                Run(small_disk / "run")
            NormDynamicsCallback(small_disk / "run", steps=WHEN).finish()
        run = Run(small_disk / "run")
        assert run.steps[: len(steps)] == steps
        self.same(run, self.run_of(tmp_path / "expected"), run.steps)

    def test_it_is_finished_at_the_end_when_there_is_room_by_then(
        self, tmp_path, small_disk, lines
    ):
        empty = At(7, lambda _: (small_disk / "filler").unlink())
        train(tmp_path, At(3, lambda _: fill(small_disk)), empty, run=small_disk / "run")
        assert "is not finished: OSError: [Errno 28]" in only(lines)
        self.same(Run(small_disk / "run"), self.run_of(tmp_path / "expected"), [0, 1, 2])
        assert Run(small_disk / "run").info["stops"][0]["step"] == 3

    def test_full_before_the_first_step(self, tmp_path, small_disk, lines):
        fill(small_disk)
        train(tmp_path, run=small_disk / "run")
        assert "not measured from step 0 on" in only(lines) and "No space left" in only(lines)
        (small_disk / "filler").unlink()
        train(tmp_path, run=small_disk / "run")
        assert Run(small_disk / "run").steps == [0, 1, 2, 3, 4, 6, 8]

    def test_full_when_the_trends_are_written(self, tmp_path, small_disk, lines):
        train(tmp_path, At("end", lambda _: fill(small_disk)), run=small_disk / "run")
        assert only(lines).startswith(f"{small_disk / 'run'} is not finished: OSError: [Errno 28]")
        (small_disk / "filler").unlink()
        NormDynamicsCallback(small_disk / "run", steps=WHEN).finish()
        train(tmp_path / "expected")
        expected = files_of(tmp_path / "expected/run")
        assert files_of(small_disk / "run") == expected

    def test_a_full_disk_on_resuming_leaves_the_run_as_it_was(self, tmp_path, small_disk, lines):
        train(tmp_path, run=small_disk / "run", **SAVES)
        before = files_of(small_disk / "run")
        fill(small_disk)
        checkpoint = str(tmp_path / "training/checkpoint-4")
        train(tmp_path, run=small_disk / "run", resume=checkpoint, **SAVES)
        assert files_of(small_disk / "run") == before
        assert "not measured from step 4 on" in only(lines)

    @pytest.mark.parametrize("limit", [100, 3_000, 10_000, 30_000])
    def test_files_that_may_not_grow(self, tmp_path, lines, limit):
        @contextmanager
        def small_files():
            unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

        with small_files():
            train(tmp_path)
        assert "File too large" in next(iter(lines))
        if (tmp_path / "run/run.json").exists():
            with pytest.raises(OutputError, match=r"no step is measured|was cut off"):
                Run(tmp_path / "run")
        train(tmp_path)
        assert Run(tmp_path / "run").steps == [0, 1, 2, 3, 4, 6, 8]


class TestFolders:
    def test_one_that_is_removed(self, tmp_path, lines):
        train(tmp_path, At(3, lambda _: shutil.rmtree(tmp_path / "run")))
        assert "run was removed or renamed during the training (no step was" in only(lines)
        assert not (tmp_path / "run").exists()

    def test_one_that_loses_a_step(self, tmp_path, lines):
        lost = tmp_path / "run/measures/step-00000002.parquet"
        train(tmp_path, At(3, lambda _: lost.unlink()), At(5, spoil("input")))
        assert Run(tmp_path / "run").steps == [0, 1, 3, 4]
        assert "opens the steps up to 4" in only(lines)

    def test_one_that_loses_a_step_of_a_sound_training(self, tmp_path, lines, counts):
        lost = tmp_path / "run/measures/step-00000002.parquet"
        train(tmp_path, At(3, lambda _: lost.unlink()), counts=counts)
        assert Run(tmp_path / "run").steps == [0, 1, 3, 4, 6, 8]
        assert only(lines) == f"{lost} is damaged or missing; its step is left out of the run"
        assert "left_initialisation_input" in Run(tmp_path / "run").tokens

    def test_one_that_loses_its_first_matrices(self, tmp_path, lines):
        train(tmp_path, At(3, lambda _: shutil.rmtree(tmp_path / "run/first")))
        assert Run(tmp_path / "run").steps == [0, 1, 2] and only(lines)

    def test_one_that_cannot_be_made(self, tmp_path, lines):
        (tmp_path / "file").write_text("mine")
        train(tmp_path, run=tmp_path / "file/run")
        assert "not measured from step 0 on" in only(lines) and "NotADirectory" in only(lines)
        assert (tmp_path / "file").read_text() == "mine"

    def test_one_of_something_else_is_left_alone(self, tmp_path, lines):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/thesis.tex").write_text("mine")
        train(tmp_path)
        assert "exists and holds no run; give another output folder" in only(lines)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]

    def test_a_run_file_that_is_none(self, tmp_path, lines):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/run.json").write_text('{"finished": true}')
        train(tmp_path)
        assert "not measured from step 0 on" in only(lines)
        assert (tmp_path / "run/run.json").read_text() == '{"finished": true}'

    def test_the_run_of_another_training_is_kept(self, tmp_path, lines, counts):
        train(tmp_path)
        before = files_of(tmp_path / "run")
        other = build()
        other.model.embed_tokens.weight.data[3] *= 2
        train(tmp_path, model=other)
        train(tmp_path, when="every(2)")
        train(tmp_path, model=build(tied=True))
        train(tmp_path, counts=counts)
        assert files_of(tmp_path / "run") == before
        expected = [
            "the input embedding is another one at step 0",
            "steps is log2(4)+every(3) in the folder, every(2) now",
            "tied is False in the folder, True now",
            "rule is None in the folder, count>=10 now",
        ]
        for line, part in zip(lines, expected, strict=True):
            assert "holds the run of another training" in line and part in line
            assert "give another output folder, or remove that one (no step was measured)" in line

    def test_a_run_that_began_later_is_not_that_of_the_whole_training(self, tmp_path, lines):
        trainer(tmp_path / "training", **SAVES).train()
        train(tmp_path, resume=str(tmp_path / "training/checkpoint-4"))
        train(tmp_path)
        assert "another training (it begins at step 4)" in only(lines)

    def test_a_trainer_that_leaves_out_a_matrix_when_it_resumes_is_found_out(self, tmp_path, lines):
        """The stock Trainer does with an untied GPT-NeoX: `embed_out` on disk, `lm_head` here."""
        train(tmp_path, model=build("gpt_neox"), **SAVES)
        end = str(tmp_path / "training/checkpoint-4")
        train(tmp_path, model=build("gpt_neox"), resume=end)
        assert "the output embedding is another one at step 4" in only(lines)

    @pytest.mark.parametrize("damaged", ["measures/step-00000002.parquet", "first"])
    def test_damage_cannot_be_repaired(self, tmp_path, lines, damaged):
        train(tmp_path, **SAVES)
        path = tmp_path / "run" / damaged
        if path.is_dir():
            path = path / "embeddings.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        else:
            path.unlink()
        train(tmp_path, resume=str(tmp_path / "training/checkpoint-4"))
        assert f"{damaged} is damaged or missing, and a step that the training has passed" in only(
            lines
        )


class TestModelsAndCounts:
    def test_an_embedding_that_is_resized(self, tmp_path, lines, counts):
        def grow(model):
            model.zero_grad()  # gradients and moments of the old shape would end torch itself
            model.resize_token_embeddings(VOCABULARY + 8, mean_resizing=False)

        train(tmp_path, At(4, grow), counts=counts, optim="sgd")
        assert Run(tmp_path / "run").steps == [0, 1, 2, 3]
        assert "has shape (308, 16) at step 4 and (300, 16) at step 0" in only(lines)

    def test_embeddings_that_are_tied_on_the_way(self, tmp_path, lines):
        def tie(model):
            model.lm_head.weight = model.get_input_embeddings().weight

        train(tmp_path, At(4, tie))
        assert Run(tmp_path / "run").steps == [0, 1, 2, 3]
        assert "are one matrix at step 4 and two at step 0" in only(lines)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: torch.nn.Linear(2, 2), "Linear has no get_input_embeddings"),
            (lambda: build().to("meta"), "meta"),
            (lambda: _flat(build()), "LlamaForCausalLM is sharded: no process holds"),
        ],
    )
    def test_a_model_that_cannot_be_read(self, tmp_path, lines, make, reason):
        callback, model = NormDynamicsCallback(tmp_path / "run", steps="1"), make()
        args = SimpleNamespace(load_best_model_at_end=False)
        for step, event in ((0, "on_train_begin"), (1, "on_step_end"), (1, "on_train_end")):
            state = hf.TrainerState(global_step=step, max_steps=1)
            getattr(callback, event)(args, state, hf.TrainerControl(), model=model)
        assert reason in only(lines)

    def test_steps_beyond_the_training(self, tmp_path, lines):
        train(tmp_path, when="512")
        assert "step 512 lies beyond the last step of this training, 8" in only(lines)

    def test_counts_of_another_vocabulary(self, tmp_path, lines):
        train(tmp_path, counts=make_counts(VOCABULARY + 1))
        assert "301 tokens but the embedding of run has 300 rows" in only(lines)

    def test_counts_of_another_tokenizer(self, tmp_path, lines, counts):
        from tests.models.tiny import tokenizer

        callback = NormDynamicsCallback(tmp_path / "run", counts=counts)
        made = trainer(tmp_path / "training", callback)
        made.processing_class = tokenizer("gpt2")
        made.callback_handler.processing_class = tokenizer("gpt2")
        made.train()
        assert "counted with tokenizer aaaaaaaaaaaa, but the Trainer has" in only(lines)
        assert not (tmp_path / "run").exists()

    def test_a_rule_that_keeps_too_few(self, tmp_path, lines, counts):
        train(tmp_path, counts=counts, rule="count>=1000000")
        assert "keeps 0 of the 300 tokens" in only(lines)
        assert not (tmp_path / "run").exists()

    def test_what_is_wrong_in_one_training_does_not_touch_the_run_of_another(self, tmp_path, lines):
        callback = NormDynamicsCallback(tmp_path / "run", steps=WHEN)
        trainer(tmp_path / "training", callback).train()
        before = files_of(tmp_path / "run")
        model = build()
        model.get_input_embeddings = None
        trainer(tmp_path / "training", callback, model=model).train()
        assert files_of(tmp_path / "run") == before and only(lines)


def _flat(model):
    model.lm_head.weight = torch.nn.Parameter(torch.ones(40))
    return model


class TestTheEnd:
    def test_trends_that_cannot_be_computed_leave_a_run_without_them(
        self, tmp_path, lines, counts, monkeypatch
    ):
        def fail(*_):
            raise MemoryError("no room for the slopes")

        monkeypatch.setattr("dynamics.runs.finish.slope_rows", fail)
        train(tmp_path, counts=counts)
        run = Run(tmp_path / "run")
        assert run.steps == [0, 1, 2, 3, 4, 6, 8]
        assert run.array("input_embedding_norm").shape == (7, VOCABULARY)
        assert (
            run.kept.any() and run.info["without_trends"] == "MemoryError: no room for the slopes"
        )
        assert "no trends over the steps of" in only(lines) and "MemoryError" in only(lines)
        expected = (
            "norms at 7 steps; no trends could be computed: MemoryError: no room for the slopes"
        )
        assert findings(run) == [expected] and last_step_table(run) == expected
        with pytest.raises(OutputError, match="has no trend"):
            run.trend("input_embedding_norm")
        monkeypatch.undo()
        NormDynamicsCallback(tmp_path / "run", steps=WHEN, counts=counts).finish()
        assert len(Run(tmp_path / "run").trend("input_embedding_norm")) == 7

    def test_a_training_that_was_cut_off_is_finished_by_hand(self, tmp_path, counts):
        with pytest.raises(Stopped):
            train(tmp_path, StopAfter(4), counts=counts)
        with pytest.raises(
            MismatchError, match=r"other arguments \(settings: rule is count>=10 in"
        ):
            NormDynamicsCallback(tmp_path / "run", steps=WHEN).finish()
        NormDynamicsCallback(tmp_path / "run", steps=WHEN, counts=counts).finish()
        run = Run(tmp_path / "run")
        assert run.steps == [0, 1, 2, 3] and len(run.trend("input_embedding_norm")) == 4

    def test_folders_that_cannot_be_finished(self, tmp_path, series):
        with pytest.raises(OutputError, match=r"holds no run \(no run.json\)"):
            NormDynamicsCallback(tmp_path / "run").finish()
        track(series, tmp_path / "run")
        with pytest.raises(OutputError, match="was not written by NormDynamicsCallback"):
            NormDynamicsCallback(tmp_path / "run").finish()


class Tracker(hf.TrainerCallback):
    """Stands for what reports to a tracker, and fails at the norms of some steps."""

    def __init__(self, *steps, error=ConnectionError):
        self.steps, self.error, self.reported = steps, error, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "input_embedding_norm_mean" not in logs:
            return
        if state.global_step in self.steps:
            raise self.error("no\nanswer")
        self.reported.append(state.global_step)


class TestTrackers:
    def test_one_that_fails_ends_neither_training_nor_measuring(self, tmp_path, lines):
        tracker = Tracker(1, 3)
        train(tmp_path, tracker)
        assert Run(tmp_path / "run").steps == [0, 1, 2, 3, 4, 6, 8]
        assert tracker.reported == [0, 2, 4, 6, 8]
        assert "step 1 did not reach every tracker: ConnectionError: no answer; they" in only(lines)

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_interruptions_pass(self, tmp_path, lines, interruption):
        with pytest.raises(interruption):
            train(tmp_path, Tracker(2, error=interruption))
        assert not list(lines)

    def test_interruptions_of_a_measurement_pass(self, tmp_path, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("dynamics.tracking.training_run.measure_tensors", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
