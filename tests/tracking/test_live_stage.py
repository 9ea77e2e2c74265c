"""The stage that runs the models: what it writes, when it is killed, added, repeated or misled."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dynamics.checkpoints.series import open_series
from dynamics.config import ProbeSettings, TrackingSettings
from dynamics.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    MismatchError,
    OutputError,
    StepError,
)
from dynamics.importance.agreement import agreement_rows
from dynamics.importance.importances import measure_importances
from dynamics.importance.probes import sample_probes
from dynamics.importance.surgery import surgery_rows
from dynamics.models.load import load_model
from dynamics.runs.findings import findings
from dynamics.runs.run import Run
from dynamics.runs.surgeries import SURGERIES
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking import live_stage as module
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.probe_text import open_probe_text
from dynamics.tracking.track import track
from dynamics.tracking.training_data import series_tokenizer
from tests.models import tiny
from tests.probe_settings import probe_settings
from tests.tracking.live_series import (
    EMBEDDINGS_ONLY,
    LENGTH,
    ROWS,
    STEPS,
    counts_of,
    stream_of,
    write_live_training,
)
from tests.tracking.synthetic import files_of

NAMES = ("occlusion", "surprisal")


class Killed(BaseException):
    """What no handler of tracking knows, like a kill."""


def asked(**changes):
    sizes = {"strata": 3, "tokens_per_stratum": 3, "contexts": 4, "length": 12}
    return probe_settings(**{"importance": NAMES, **sizes} | changes)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "training"
    write_live_training(folder)
    return folder


@pytest.fixture
def follow(training, tmp_path):
    def follow(name="run", live=None, series=None, **settings):
        return track(
            series or open_series(training),
            tmp_path / name,
            **{"counts": counts_of(), "settings": live or TrackingSettings()} | settings,
        )

    return follow


@pytest.fixture(scope="module")
def run(training, tmp_path_factory):
    """On one thread as every test is: the number of threads decides the last bits of a sum."""
    folder, before = tmp_path_factory.mktemp("run"), torch.get_num_threads()
    torch.set_num_threads(1)
    made = track(open_series(training), folder / "run", counts=counts_of(), settings=asked())
    torch.set_num_threads(before)
    return made


def test_each_whole_model_is_asked_the_same_contexts(run, training):
    counts = counts_of().table
    kept = run.rule.mask(counts["count"].to_numpy(), counts["kind"].to_numpy())
    probes = sample_probes(stream_of(counts_of()), counts["count"].to_numpy(), kept, asked())
    assert run.live_steps == list(STEPS)
    assert run.importances == list(NAMES)
    for step in STEPS:
        checkpoint = training / "checkpoints" / f"step-{step:08d}"
        entries = counts["kind"].to_numpy() != "padding"
        model = load_model(checkpoint)
        expected = measure_importances(model, probes, NAMES, entries=entries)
        found = run.importance(step)
        assert list(found) == list(expected)
        for name, column in expected.items():
            np.testing.assert_array_equal(found[name], column)
    assert not run.importance(0)["occlusion"].equals(run.importance(8)["occlusion"])


def test_the_run_says_what_was_asked(run, training, tmp_path):
    described = run.info["live"]
    assert described["settings"]["importance"] == list(NAMES)
    assert described["embeddings_only"] == [EMBEDDINGS_ONLY]
    assert len(described["probes"]["sha256"]) == 64
    assert described["probes"]["length"] == 12
    assert described["probes"]["probed_contexts"] == run.importance(0)["contexts"].sum()
    assert str(training) not in (run.path / "run.json").read_text()
    assert run.steps == [0, 2, 4, 8], "the weights of every step are measured"


def test_importance_as_an_array_has_nan_where_nothing_was_probed(run):
    array = run.importance_array("occlusion")
    assert array.shape == (3, tiny.V)
    table = run.importance(2)
    np.testing.assert_array_equal(array[1, table["token_id"]], table["occlusion"])
    assert np.isnan(array).sum() == 3 * (tiny.V - len(table))
    half = run.importance_array("surprisal_half_2")
    np.testing.assert_array_equal(half[2, table["token_id"]], run.importance(8)["surprisal_half_2"])


def test_what_is_not_there_is_told(run, follow):
    with pytest.raises(OutputError, match=r"no importance at step 4; its model was run at \[0, 2"):
        run.importance(4)
    with pytest.raises(OutputError, match="has no importance 'x'; it has occlusion, surprisal"):
        run.importance_array("x")
    bare = follow(steps="0")
    assert (bare.live_steps, bare.importances) == ([], [])
    with pytest.raises(OutputError, match=r"was run at no step \(dynamics track --importance\)"):
        bare.importance(0)


def test_the_stage_can_be_added_and_gives_the_bytes_of_both_at_once(run, follow):
    before = files_of(follow().path)
    added = follow(live=asked())
    assert files_of(added.path) == files_of(run.path)
    measures = {name for name in before if name.startswith("measures")}
    assert all(files_of(added.path)[name] == before[name] for name in measures)
    again = follow()
    assert files_of(again.path) == files_of(run.path), "what was asked stays"


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_a_killed_stage_goes_on_to_the_same_bytes(run, follow, moment):
    def die(done, total):
        assert total == len(STEPS)
        if done == moment:
            raise Killed

    with pytest.raises(Killed):
        follow(live=asked(), on_live=die)
    follow(live=asked())
    assert files_of(follow(live=asked()).path) == files_of(run.path)


def test_what_is_done_is_not_asked_again_and_a_damaged_table_is(
    run, tmp_path, training, monkeypatch
):
    copied = tmp_path / "run"
    shutil.copytree(run.path, copied)
    loaded = []
    monkeypatch.setattr(
        module, "load_model", lambda place, **how: loaded.append(place.step) or load_model(place)
    )
    series = open_series(training)
    track(series, copied, counts=counts_of(), settings=asked())
    assert loaded == []
    table = copied / "importance/step-00000002.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(OutputError, match="is damaged; run the same `dynamics track`"):
        Run(copied).importance(2)
    track(series, copied, counts=counts_of(), settings=asked())
    assert loaded == [2]
    assert files_of(copied) == files_of(run.path)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"importance": ("surprisal",)}, "importance is"),
        ({"live_steps": "0,2"}, "steps is all in the folder, 0,2 now"),
        ({"contexts": 5}, "contexts is 4"),
        ({"seed": 1}, "seed is 0 in the folder, 1 now"),
    ],
)
def test_something_else_is_not_asked_in_the_same_folder(run, follow, tmp_path, changes, difference):
    shutil.copytree(run.path, tmp_path / "run")
    with pytest.raises(MismatchError, match=f"already holds results of .*{difference}"):
        follow(live=asked(**changes))
    assert files_of(tmp_path / "run") == files_of(run.path)


def test_surgery_and_agreement_are_asked_of_held_out_rows_and_are_trends(tmp_path):
    folder = tmp_path / "training"
    series = write_live_training(folder, held_out=7)
    live = asked(importance=(), surgery=True, agreement=True)
    run = track(series, tmp_path / "run", counts=counts_of(), steps="0,8", settings=live)
    held_out = stream_of(counts_of())[:7].astype(np.int64)
    count = run.tokens["count"].to_numpy()
    assert (run.live_steps, run.importances) == ([0, 8], [])
    assert len(run.info["live"]["held_out_sha256"]) == 64
    for step in (0, 8):
        model = load_model(folder / "checkpoints" / f"step-{step:08d}")
        entries = run.tokens["kind"].to_numpy() != "padding"
        rngs = [np.random.default_rng(live.probe.seed) for _ in range(2)]
        expected = [
            *surgery_rows(model, held_out, count, tuple(SURGERIES), rngs[0], entries=entries),
            *agreement_rows(model, held_out[:, : live.context_length], count, rngs[1]),
        ]
        for row in expected:
            about = {name: row[name] for name in ("against", "statistic", "given")}
            (found,) = (
                run.trend(row["measure"], **about).query(f"step == {step}").to_dict("records")
            )
            row |= {"rule": str(run.rule)}
            assert {name: found[name] for name in row} == pytest.approx(row, nan_ok=True)
            bands = [found[name] for name in ("band_low", "band_high", "null_low", "null_high")]
            assert np.isnan(bands).all()
        statistics = [row["statistic"] for row in expected]
        assert statistics.count("held_out_loss") == 1
        assert statistics.count("surgery_shuffled") == 2
    told = "\n".join(findings(run))
    shuffled = run.trend(
        "input_embedding_norm", against="held_out_loss", statistic="surgery_shuffled"
    ).iloc[-1]
    assert "Held-out loss at step 8, in nats per target" in told
    assert f"  input embedding norms {shuffled['value']:+.4f} [{shuffled['low']:+.4f}, " in told
    assert run.info["live"]["architecture"] == {
        "embedding_norm": "none",
        "first_block_norm": "layer",
        "final_norm": "layer",
        "tied": False,
        "logit_softcap": 0.0,
    }
    doubled = run.trend(
        "input_embedding_norm", against="held_out_loss", statistic="surgery_doubled"
    ).iloc[-1]
    assert (
        "Before a LayerNorm through which the first block reads them, doubling every input row "
        f"changes the loss by {doubled['value']:+.4f} [{doubled['low']:+.4f}, "
    ) in told
    norm = run.trend("norm", against="occlusion", statistic="within_input_agreement").iloc[-1]
    assert f"Agreement with occlusion inside {norm['n']} inputs at step 8" in told
    assert f"  norm {norm['value']:+.2f} [{norm['low']:+.2f}, " in told


def test_only_what_the_series_was_not_trained_on_is_held_out(training, tmp_path):
    same, own, other, whole = (tmp_path / name for name in ("same", "own", "other", "whole"))
    write_live_training(same, held_out=7)
    write_live_training(own, held_out=5)
    write_live_training(other, held_out=3, corpus="d" * 64)
    write_live_training(whole, corpus="d" * 64)
    checkpoint = open_series(training).checkpoints[0]
    for place, trained, rows in (
        (training, training, None),
        (training / "tokens.bin", training, None),
        (same, training, None),
        (same / "tokens.bin", own, None),
        (training, own, None),
        (own, own, 5),
        (own / "tokens.bin", own, 5),
        (own / ".." / "own", own, 5),
        (other, own, 3),
        (whole, own, ROWS),
        (training, None, ROWS),
        (same, None, 7),
    ):
        text = open_probe_text(ProbeSettings(text=str(place)), checkpoint, trained, counts_of(), 12)
        assert (None if text.held_out is None else len(text.held_out)) == rows
        assert text.rows.shape == (ROWS, LENGTH + 1)
    assert open_probe_text(ProbeSettings(), checkpoint, training, counts_of(), 12).held_out is None


def test_surgery_on_rows_that_were_trained_on_is_refused(training, follow, tmp_path):
    write_live_training(tmp_path / "other seed", held_out=7)
    for place in (training, tmp_path / "other seed"):
        with pytest.raises(ConfigError, match=r"surgery needs rows that were not trained on, and"):
            follow(live=asked(surgery=True, text=str(place)))


def test_many_held_out_rows_are_sampled(training, tmp_path):
    write_live_training(tmp_path / "other", corpus="d" * 64)
    live = module.prepare_live(
        asked(surgery=True, text=str(tmp_path / "other")), open_series(training), counts_of(),
        MeasureSettings(dict(counts_of().table), None, parse_rule("count>=10"), False),
    )  # fmt: skip
    assert len(live.held_out) == min(ROWS, module.HELD_OUT_ROWS)
    rows = np.arange(400).reshape(200, 2)
    some = module._some_rows(rows, np.random.default_rng(0))
    assert len({*some[:, 0].tolist()}) == module.HELD_OUT_ROWS
    assert (np.diff(some[:, 0]) > 0).all()


def test_contexts_can_come_from_text_a_stream_and_ids_of_others(training, follow, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and a dog ran. " * 30)
    (tmp_path / "others.bin").write_bytes((training / "tokens.bin").read_bytes())
    np.save(tmp_path / "others.npy", stream_of(counts_of()).ravel())
    digests = {}
    for name in (text, training, training / "tokens.bin", "others.bin", "others.npy"):
        place = str(tmp_path / name)
        run = follow(Path(name).name + "-run", live=asked(text=place, live_steps="0"))
        digests[Path(name).name] = run.info["live"]["probes"]["sha256"]
    assert digests["training"] == digests["tokens.bin"] != digests["text.txt"]
    assert digests["others.bin"] == digests["others.npy"]


def test_contexts_come_from_the_column_and_split_that_are_named(training, tmp_path):
    series = open_series(training)
    checkpoint, known = series.checkpoints[0], {"tokenizer": series_tokenizer(series)}
    texts = [f"the cat sat on the mat and a dog ran {number} times. " * 9 for number in range(9)]
    (tmp_path / "text.txt").write_text(texts[0])
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = pd.DataFrame({"body": texts})
    rows[:1].to_json(folder / "test.jsonl", orient="records", lines=True)
    rows[1:].to_json(folder / "train.jsonl", orient="records", lines=True)
    file = ProbeSettings(text=str(tmp_path / "text.txt"))
    plain = open_probe_text(file, checkpoint, training, counts_of(), 12, **known)
    notes = []
    table = ProbeSettings(text=str(folder), text_column="body", split="test")
    read = open_probe_text(table, checkpoint, training, counts_of(), 12, notes.append, **known)
    assert read.rows.tolist() == plain.rows.tolist()
    (note,) = [note for note in notes if note.startswith("reading ")]
    assert "skipped: train.jsonl (split train)" in note
    unknown = ProbeSettings(text=str(folder), text_column="body", split="nonsense")
    with pytest.raises(CorpusError, match=r"'nonsense'; .*; give probe\.split=train"):
        open_probe_text(unknown, checkpoint, training, counts_of(), 12, **known)
    with pytest.raises(
        ConfigError, match=r"the tokenizer of .* is not known, .*; give it with --to"
    ):
        open_probe_text(file, checkpoint, None, counts_of(), 12)


def test_ids_to_probe_are_read_in_the_type_that_is_named(training, tmp_path):
    checkpoint = open_series(training).checkpoints[0]
    place = tmp_path / "others.bin"
    ids = np.tile(stream_of(counts_of()).ravel(), 3)
    ids.astype("<u4").tofile(place)
    with pytest.raises(
        CorpusError, match=r"every second id is 0; give the type uint32 .*probe.dty"
    ):
        open_probe_text(ProbeSettings(text=str(place)), checkpoint, training, counts_of(), 12)
    typed = ProbeSettings(text=str(place), dtype="uint32")
    text = open_probe_text(typed, checkpoint, training, counts_of(), 12)
    assert text.rows.ravel().tolist() == ids[: text.rows.size].tolist()
    with pytest.raises(
        ConfigError, match=r"probe.split does not apply to .*, which is a file of token ids"
    ):
        split = ProbeSettings(text=str(place), split="test")
        open_probe_text(split, checkpoint, training, counts_of(), 12)
    with pytest.raises(
        ConfigError, match=r"probe.dtype does not apply to .* a token stream that dynamics wrote"
    ):
        stream = ProbeSettings(text=str(training), dtype="uint32")
        open_probe_text(stream, checkpoint, training, counts_of(), 12)


@pytest.mark.parametrize(
    ("live", "settings", "error", "message"),
    [
        ({}, {"counts": None}, ConfigError, "sampled by frequency, which needs token counts; g"),
        ({}, {"rows": "0:30"}, ConfigError, "runs with all rows of its embedding; leave --rows"),
        ({}, {"steps": "4"}, CheckpointError, "no step of training among 'all' holds a whole"),
        ({"live_steps": "3"}, {}, StepError, "3"),
        ({"text": "./nowhere.txt"}, {}, CorpusError, "there is no file or folder"),
        ({"surgery": True}, {}, ConfigError, "surgery needs rows that were not trained on, and"),
        ({"importance": ("occlusion_later", "attribution_cp_lrp")}, {"steps": "0"}, None, ""),
        (
            {"tokens": (25,)}, {}, ConfigError,
            "token 25 does not occur in .*tokens.bin",
        ),
    ],
    ids=["counts", "rows", "whole", "step", "text", "held out", "fits", "absent"],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_before_anything_is_measured(
    follow, tmp_path, live, settings, error, message
):
    if error is None:
        follow(live=asked(**live), **settings)
        return
    with pytest.raises(error, match=message):
        follow(live=asked(**live), **settings)
    assert not (tmp_path / "run").exists()


def test_an_importance_that_does_not_exist_is_told_before_anything_else(follow):
    with pytest.raises(ConfigError, match="there is no importance 'oclusion'; did you mean"):
        follow(live=asked(importance=("oclusion",)), rule="malformed")


def test_a_series_of_others_needs_a_text(training, follow, tmp_path):
    shutil.copytree(training / "checkpoints" / "step-00000000", tmp_path / "model")
    tiny.tokenizer("gpt_neox").save_pretrained(tmp_path / "model")
    series = open_series(tmp_path / "model")
    with pytest.raises(ConfigError, match="trained on is not known; give a text or a token stream"):
        follow(live=asked(), series=series)
    assert follow(live=asked(text=str(training)), series=series).live_steps == [0]


def test_a_stream_or_a_model_of_another_tokenizer_is_refused(training, follow, tmp_path):
    other = tmp_path / "other"
    write_live_training(other, tokenizer="b" * 64)
    with pytest.raises(
        MismatchError, match=r"was made with tokenizer bbbbbbbbbbbb, but the counts"
    ):
        follow(live=asked(text=str(other)))
    changed = tmp_path / "changed"
    shutil.copytree(training, changed)
    shutil.rmtree(changed / "tokenizer")
    tiny.tokenizer("llama").save_pretrained(changed / "tokenizer")
    with pytest.raises(MismatchError, match="was counted with tokenizer"):
        follow(live=asked(), series=open_series(changed))


def test_contexts_longer_than_the_window_are_told(follow, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 50)
    live = asked(text=str(text), strata=1, length=64)
    with pytest.raises(ConfigError, match=r"contexts of 64 ids do not fit the window of .* 40 tok"):
        follow(live=live)
    assert not (tmp_path / "run").exists()
    live = asked(importance=(), surgery=True, text=str(text), length=64)
    with pytest.raises(ConfigError, match=r"rows of 64 positions do not fit the window of .* 40 t"):
        follow(live=live)
    assert not (tmp_path / "run").exists()


def test_an_importance_that_does_not_fit_is_told_and_another_can_be_asked(tmp_path):
    series = write_live_training(tmp_path / "training", "bert", steps=STEPS)
    bare = track(series, tmp_path / "run", counts=counts_of("bert"))
    before = files_of(bare.path)

    def ask(*names):
        live = asked(importance=names)
        return track(series, bare.path, counts=counts_of("bert"), settings=live)

    with pytest.raises(ConfigError, match=r"occlusion_later does not fit .* causal language mode"):
        ask("occlusion_later")
    assert files_of(bare.path) == before
    run = ask("occlusion")
    assert run.importances == ["occlusion"]


def test_what_no_model_was_asked_yet_can_be_changed(run, follow):
    def die(done, total):
        raise Killed

    with pytest.raises(Killed):
        follow(live=asked(importance=("occlusion_loss",)), on_live=die)
    assert files_of(follow(live=asked()).path) == files_of(run.path)


def test_what_was_asked_can_not_be_added_to(run, follow, tmp_path):
    write_live_training(tmp_path / "other", held_out=7, corpus="d" * 64)
    shutil.copytree(run.path, tmp_path / "run")
    told = r"parts is .*surgery.* now\), and a run folder holds one set of them; give another"
    with pytest.raises(MismatchError, match=told):
        follow(live=asked(surgery=True, text=str(tmp_path / "other")))


def test_contexts_are_no_longer_than_what_was_trained_on(follow):
    run = follow(
        live=asked(strata=1, tokens_per_stratum=40, length=64, live_steps="0"),
        steps="0",
    )
    assert run.info["live"]["probes"]["length"] == LENGTH
    assert json.loads((run.path / "run.json").read_text())["live"] == run.info["live"]


def test_a_model_that_cannot_be_loaded_is_left_out_and_added_later(training, follow, run, tmp_path):
    folder = tmp_path / "copy" / "training"
    shutil.copytree(training, folder)
    config = folder / "checkpoints" / f"step-{STEPS[0]:08d}" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"num_hidden_layers": 99}))
    lines = []
    made = follow(live=asked(), series=open_series(folder), report=lines.append)
    assert made.live_steps == list(STEPS[1:])
    assert list(made.info["live"]["left_out"]) == [str(STEPS[0])]
    assert any(line.startswith(f"the model of step {STEPS[0]} is left out: ") for line in lines)
    with pytest.raises(CheckpointError, match="lacks weights"):
        numbers = ",".join(map(str, STEPS))
        follow("named", live=asked(live_steps=numbers), series=open_series(folder))
    config.write_text(json.dumps(content))
    again = follow(live=asked(), series=open_series(folder))
    assert again.live_steps == list(STEPS)
    assert again.info["live"] == run.info["live"]
