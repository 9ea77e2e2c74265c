"""What tracking does when it is killed, repeated, given what does not belong, or damaged."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import open_series
from dynamics.config import TrackingSettings
from dynamics.corpus.counts import Counts
from dynamics.corpus.tokenizers.loading import tokenizer_sha256, train_tokenizer
from dynamics.errors import (
    ConfigError,
    CorpusError,
    MismatchError,
    OutputError,
    StepError,
)
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.runs.run import Run
from dynamics.tracking import walk as walking
from dynamics.tracking.track import track
from dynamics.tracking.training_data import find_counts
from tests.tracked import run_of
from tests.tracking.synthetic import (
    INPUT,
    OUTPUT,
    STEPS,
    files_of,
    grow,
    make_counts,
    tracked,
    write_series,
    write_training,
)


class Killed(BaseException):
    """What no handler of tracking knows, like a kill."""


def killed_at(moment):
    """An `on_checkpoint` that dies when so many checkpoints are done."""

    def on_checkpoint(done, total):
        if done == moment:
            raise Killed

    return on_checkpoint


def planted(counts, changes):
    """A series in which some values were changed: {(step, key): function of the matrix}."""
    series = grow(counts)
    for (step, key), change in changes.items():
        series[step][key] = change(series[step][key])
    return series


def test_two_runs_give_the_same_bytes(series, counts, tmp_path):
    for name in "ab":
        track(series, tmp_path / name, counts=counts, command="dynamics track")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert set(files_of(tmp_path / "a")) == {
        *("run.json", "tokens.parquet", "trends.parquet", "profile.parquet"),
        *(f"{name}/step-{step:08d}.parquet" for name in ("measures", "matrices") for step in STEPS),
    }


def test_the_run_says_what_made_it_and_neither_when_nor_where(series, counts, tmp_path):
    info = track(series, tmp_path / "run", counts=counts, command="dynamics track x").info
    assert info["command"] == "dynamics track x"
    assert info["counts"]["tokenizer_sha256"] == "a" * 64
    assert set(info["versions"]) == {"dynamics", "torch", "numpy", "scipy", "pyarrow"}
    assert info["settings"] == {
        "steps": "all",
        "rule": "count>=10",
        "measures": ["norms", "distances"],
    }
    for entry, checkpoint in zip(info["checkpoints"], series, strict=True):
        assert entry["step"] == checkpoint.step
        assert entry["tensor_sha256"] == {
            role: checkpoint.digest(role) for role in ("input_embedding", "output_embedding")
        }
    assert str(tmp_path) not in (tmp_path / "run/run.json").read_text()


@pytest.mark.parametrize(
    ("moment", "with_counts"), [(0, False), (1, True), (3, False), (len(STEPS), True)]
)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(series, tmp_path, moment, with_counts):
    counts = make_counts() if with_counts else None
    track(series, tmp_path / "whole", counts=counts)
    with pytest.raises(Killed):
        track(series, tmp_path / "cut", counts=counts, on_checkpoint=killed_at(moment))
    with pytest.raises(OutputError, match="is not finished; the same `dynamics track`"):
        Run(tmp_path / "cut")
    track(series, tmp_path / "cut", counts=counts)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_a_kill_inside_a_write_leaves_nothing_that_counts(series, tmp_path, monkeypatch):
    track(series, tmp_path / "whole")

    def half_written(table, partial, **settings):
        Path(partial).write_bytes(b"PAR1 and then the power went")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("dynamics.runs.run.pq.write_table", half_written)
        with pytest.raises(Killed):
            track(series, tmp_path / "cut")
    assert not [name for name in files_of(tmp_path / "cut") if name.endswith(".parquet")]
    track(series, tmp_path / "cut")
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_what_is_done_is_not_measured_again(series, counts, tmp_path, monkeypatch):
    before = files_of(track(series, tmp_path / "run", counts=counts).path)
    monkeypatch.setattr(walking, "measure_tensors", None)  # would fail if it were called
    seen = []
    track(series, tmp_path / "run", counts=counts, on_checkpoint=lambda *at: seen.append(at))
    assert seen == [(done, len(STEPS)) for done in range(len(STEPS) + 1)]
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize("damage", ["bytes", "missing"])
def test_a_damaged_table_is_told_and_redone(series, counts, tmp_path, damage):
    before = files_of(track(series, tmp_path / "run", counts=counts).path)
    for name in (
        *("measures/step-00000008.parquet", "matrices/step-00000002.parquet"),
        *("trends.parquet", "tokens.parquet"),
    ):
        path = tmp_path / "run" / name
        if damage == "bytes":
            path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])
        else:
            path.unlink()
    run = Run(tmp_path / "run")
    told = "is missing" if damage == "missing" else "is damaged"
    for read in (lambda: run.measures(8), lambda: run.trends, lambda: run.tokens):
        with pytest.raises(OutputError, match=f"{told}; run the same `dynamics track` command"):
            read()
    track(series, tmp_path / "run", counts=counts)
    assert files_of(tmp_path / "run") == before


def test_a_folder_from_before_caps_of_logits_were_recorded_goes_on(series, counts, tmp_path):
    path = track(series, tmp_path / "run", counts=counts).path / "run.json"
    whole = path.read_text()
    info = json.loads(whole)
    assert info["series"].pop("logit_softcap") == 0  # GPT-NeoX
    path.write_text(json.dumps(info))
    track(series, tmp_path / "run", counts=counts)
    assert path.read_text() == whole


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"epoch": 3}', '"finished"'])
def test_a_damaged_run_json_is_told(series, tmp_path, content):
    path = track(series, tmp_path / "run").path / "run.json"
    path.write_text(content)
    for use in (lambda: Run(path.parent), lambda: track(series, path.parent)):
        with pytest.raises(OutputError, match=r"run\.json is damaged, or not what"):
            use()


def test_the_folder_of_another_run_is_refused_and_stays_as_it_is(series, counts, tmp_path):
    output = track(series, tmp_path / "run", counts=counts).path
    before = files_of(output)
    other_counts = Counts(counts.table, make_counts(padding=1).info)
    other_series = write_series(tmp_path / "other", grow(counts, steps=(0, 1)))
    older = json.loads((output / "run.json").read_text())
    assert older["counts"].pop("contiguous") is None
    (output / "run.json").write_text(json.dumps(older))
    assert files_of(track(series, output, counts=counts).path) == before, "a key was added since"
    for told, given, settings in [
        (
            "settings: rule is count>=10 in the folder, count>=100 now",
            series,
            {"rule": "count>=100"},
        ),
        ("settings: rule is count>=10 in the folder, None now", series, {"counts": None}),
        ("counts: vocab_size is 300 in the folder, 301 now", series, {"counts": other_counts}),
        ("series: name is series in the folder, other now", other_series, {}),
        ("settings: steps is all in the folder, 0,8 now", series, {"steps": "0,8"}),
        (
            "settings: every_row is None in the folder, True now",
            series,
            {"settings": TrackingSettings(every_row=True)},
        ),
    ]:
        with pytest.raises(MismatchError, match=rf"holds another run \({told}\)"):
            track(given, output, **{"counts": counts} | settings)
    assert files_of(output) == before


def test_other_groups_of_measures_are_refused_with_what_to_type(series, counts, tmp_path):
    output = tmp_path / "run"
    groups = TrackingSettings(measures="distances,ranks")
    before = files_of(track(series, output, counts=counts, settings=groups).path)
    for measures, names in [("norms", "norms"), ("all", ",".join(MEASURE_GROUPS))]:
        with pytest.raises(
            MismatchError,
            match=f"holds the groups of measures norms,distances,ranks, not {names}; resume it "
            "with --measures norms,distances,ranks ",
        ):
            track(series, output, counts=counts, settings=TrackingSettings(measures=measures))
    track(series, output, counts=counts, settings=groups)
    assert files_of(output) == before


def test_a_run_of_former_settings_is_resumed_with_the_groups_that_it_measured(
    series, counts, tmp_path
):
    groups = TrackingSettings(measures="distances,ranks,readouts")
    output = track(series, tmp_path / "run", counts=counts, settings=groups).path
    before = files_of(output)
    info = json.loads((output / "run.json").read_text())
    info["settings"] = {"steps": "all", "rule": "count>=10", "all": False}
    (output / "run.json").write_text(json.dumps(info))
    with pytest.raises(MismatchError, match="--measures norms,distances,ranks,readouts "):
        track(series, output, counts=counts)
    track(series, output, counts=counts, settings=groups)
    assert files_of(output) == before


def test_everything_of_former_scripts_is_every_group_of_every_row(series, counts, tmp_path):
    everything = TrackingSettings(measures="all", every_row=True)
    current = track(series, tmp_path / "a", counts=counts, steps="last", settings=everything)
    with pytest.warns(DeprecationWarning, match="'everything' of track is called settings with"):
        former = track(series, tmp_path / "b", counts=counts, steps="last", everything=True)
    assert files_of(former.path) == files_of(current.path)


def test_a_device_that_is_not_there_is_refused_in_one_line(series, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a cuda device")
    with pytest.raises(ConfigError, match=r"^device 'cuda' cannot be used: .*; cpu always can$"):
        track(series, tmp_path / "run", settings=TrackingSettings(device="cuda"))
    assert not (tmp_path / "run").exists()


def test_the_device_of_a_step_is_recorded_unless_it_is_the_processor(series, tmp_path, monkeypatch):
    run = track(series, tmp_path / "run", settings=TrackingSettings(device="cpu"))
    assert not any("device" in entry for entry in run.info["checkpoints"])
    monkeypatch.setattr("dynamics.tracking.plan.usable_device", lambda name: "cpu:0")
    run = track(series, tmp_path / "other", settings=TrackingSettings(device="auto"))
    assert {entry["device"] for entry in run.info["checkpoints"]} == {"cpu:0"}


def test_a_series_of_the_same_name_and_steps_but_other_weights_is_refused(tmp_path, counts):
    series = write_series(tmp_path / "a/series", grow(counts))
    track(series, tmp_path / "run")
    for name, changed in [("b", grow(counts, seed=1)), ("c", grow(counts, slope=0.2))]:
        other = write_series(tmp_path / name / "series", changed)
        with pytest.raises(MismatchError, match=r"on other weights than .* has now"):
            track(other, tmp_path / "run")


def test_a_folder_in_use_for_something_else_is_refused(series, counts, tmp_path):
    with pytest.raises(OutputError, match="exists and holds no run; give another output folder"):
        track(series, tmp_path / "series", counts=counts)


def test_counts_of_another_tokenizer_are_refused_by_name(tmp_path, counts):
    story = "the cat sat on the mat and the cat was glad " * 30
    tokenizer = train_tokenizer([story], 260)
    series = write_series(tmp_path / "series", grow(counts))
    tokenizer.save_pretrained(tmp_path / "series/step-0")
    theirs = tokenizer_sha256(tokenizer)[:12]
    with pytest.raises(
        MismatchError, match=f"the counts was counted with tokenizer {'a' * 12}, but .*series has"
    ) as raised:
        track(series, tmp_path / "run", counts=counts)
    assert theirs in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_counts_of_another_tokenizer_than_the_trainings_are_refused(tmp_path, counts):
    series = write_training(tmp_path / "training", counts, grow(counts))
    make_counts(tokenizer="b" * 64).write(tmp_path / "other.parquet")
    given = find_counts(series, str(tmp_path / "other.parquet"))
    told = f"other.parquet was counted with tokenizer {'b' * 12}, but .*training has .*{'a' * 12}"
    with pytest.raises(MismatchError, match=told):
        track(series, tmp_path / "run", counts=given)


def test_more_counts_than_rows_are_refused(series, tmp_path):
    told = "the counts has 301 tokens but the embedding of series has 300 rows"
    with pytest.raises(MismatchError, match=told):
        track(series, tmp_path / "run", counts=make_counts(padding=1))


@pytest.mark.parametrize(
    ("dtype", "factor", "name"), [(np.float32, 1e25, "float32"), (np.float64, 1e200, "float64")]
)
def test_finite_values_whose_squares_overflow_are_called_so(tmp_path, counts, dtype, factor, name):
    tensors = grow(counts, steps=(0, 8), dtype=dtype)
    tensors[8][INPUT] *= dtype(factor)
    series = write_series(tmp_path / "series", tensors)
    largest = np.abs(tensors[8][INPUT]).max()
    told = (
        rf"the input embedding at step 8 holds values up to {largest:.3g}, and sums of their "
        rf"squares overflow {name}".replace("+", r"\+")
    )
    lines = []
    run = track(series, tmp_path / "run", counts=counts, report=lines.append)
    assert 8 not in run.steps and any(re.search(told, line) for line in lines)


def test_norms_of_a_matrix_in_codes_are_those_of_its_numbers(tmp_path, counts):
    """int8 with a scale per row: reported once, recorded at every step, and measured as numbers."""
    opened = write_series(tmp_path / "series", grow(counts))
    for checkpoint in opened:
        tensors = load_file(checkpoint.path / "model.safetensors")
        scale = np.abs(tensors[INPUT]).max(axis=1, keepdims=True) / 127
        tensors[INPUT.replace("weight", "weight_scale")] = scale
        tensors[INPUT] = np.round(tensors[INPUT] / scale).astype(np.int8)
        save_file(tensors, checkpoint.path / "model.safetensors")
    lines = []
    run = track(open_series(tmp_path / "series"), tmp_path / "run", report=lines.append)
    (line,) = lines
    assert line.startswith(f"step 0: the input embedding {INPUT!r} is stored as int8 codes with")
    assert [entry["notes"] for entry in run.info["checkpoints"]] == [
        [line.removeprefix("step 0: ")] for _ in opened
    ]
    for step in run.steps:
        stored = load_file(tmp_path / "series" / f"step-{step}" / "model.safetensors")
        matrix = stored[INPUT] * stored[INPUT.replace("weight", "weight_scale")]
        norms = run.measures(step)["input_embedding_norm"]
        np.testing.assert_allclose(norms, np.linalg.norm(matrix, axis=1), rtol=1e-6)
        whole = grow(counts)[step][INPUT]
        np.testing.assert_allclose(norms, np.linalg.norm(whole, axis=1), rtol=0.01)


def test_zero_rows_are_followed_like_others(tmp_path, counts):
    """Some models begin with an output embedding of zeros."""
    zero = planted(counts, {(0, OUTPUT): np.zeros_like})
    run = tracked(tmp_path, series=zero)
    assert (run.measures(0)["output_embedding_norm"] == 0).all()
    assert (run.measures(32)["output_embedding_cosine_to_first"] == 0).all()
    trend = run.trend("output_embedding_norm").set_index("step")["value"]
    assert np.isnan(trend[0])
    assert trend[32] > trend[2] > 0


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("0,4", "step 4 does not exist; the nearest are 2 and 8"),
        ("99", "step 99 does not exist; the nearest are 32"),
        ("2,2", "step 2 is given twice"),
        ("every(0)", r"cannot read 'every\(0\)' in the steps"),
        ("log2(512)+first", "cannot read 'first'"),
    ],
)
def test_steps_that_cannot_be_had_are_an_error(series, counts, tmp_path, steps, told):
    with pytest.raises(StepError, match=told):
        track(series, tmp_path / "run", counts=counts, steps=steps)
    assert not (tmp_path / "run").exists()


def test_chosen_steps_alone_are_measured(series, tmp_path):
    run = track(series, tmp_path / "run", steps="log2(2)+last")
    assert run.steps == [0, 2, 32]
    assert run.array("input_embedding_norm").shape == (3, 300)


@pytest.mark.parametrize("rule", ["", "count>10", "top-0", "most"])
def test_a_rule_that_cannot_be_read_is_an_error_before_anything_is_read(series, tmp_path, rule):
    with pytest.raises(ConfigError, match="vocabulary rule"):
        track(series, tmp_path / "run", counts=make_counts(), rule=rule)
    assert not (tmp_path / "run").exists()


def test_a_rule_that_keeps_too_few_tokens_is_an_error(series, counts, tmp_path):
    told = "rule count>=1000000 keeps 0 of the 300 tokens of the counts, and a correlation needs 10"
    with pytest.raises(ConfigError, match=told):
        track(series, tmp_path / "run", counts=counts, rule="count>=1000000")
    assert not (tmp_path / "run").exists()


def test_counts_auto_are_the_trainings_own(tmp_path, counts):
    series = write_training(tmp_path / "training", counts, grow(counts))
    found = find_counts(series, "auto")
    assert found.name == str(tmp_path / "training/counts.parquet")
    assert found.info == counts.info


def test_counts_auto_are_none_for_a_foreign_folder_and_none_are_none(series, tmp_path, counts):
    assert find_counts(series, "auto") is None
    assert find_counts(write_training(tmp_path / "x", counts, grow(counts)), "none") is None
    with pytest.raises(CorpusError, match=r"there are no counts .*auto\.parquet; make them with"):
        find_counts(series, "auto.parquet")


def test_without_counts_norms_are_followed_and_nothing_is_correlated(run_without_counts):
    run = run_without_counts
    assert run.rule is None
    assert list(run.tokens["token_id"]) == list(range(300))
    assert set(run.trends["against"]) == {""}  # what needs no counts: the matrices as a whole
    assert set(run.trends["measure"]) == {"input_embedding", "output_embedding"}
    assert run.profile.empty
    assert "input_embedding_norm_centered_frequency" not in run.info["measures"]
    assert run.array("output_embedding_norm_folded").shape == (4, 300)
    with pytest.raises(OutputError, match="was tracked without counts: no vocabulary rule applies"):
        _ = run.kept
    with pytest.raises(OutputError, match="has no trend with measure 'input_embedding_norm'"):
        run.trend("input_embedding_norm")


def test_a_single_model_has_a_profile_and_correlations_and_no_trend(tmp_path, counts):
    write_series(tmp_path / "series", grow(counts))
    single = open_series(tmp_path / "series/step-32")
    run = track(single, tmp_path / "run", counts=counts)
    assert run.steps == [32]
    assert run.trend("input_embedding_norm")["value"].item() > 0.95
    assert set(run.profile["step"]) == {32}
    changes = run.trends[run.trends["statistic"] == "spearman_minus_first"]
    assert (changes["value"] == 0).all()


def test_a_single_model_without_a_step_in_its_name_is_step_0(tmp_path, counts):
    write_series(tmp_path / "series", {0: grow(counts)[32]})
    (tmp_path / "series/step-0").rename(tmp_path / "model")
    assert track(open_series(tmp_path / "model"), tmp_path / "run").steps == [0]


def test_a_tied_model_has_one_matrix_under_both_names(tmp_path):
    run = tracked(tmp_path, tied=True)
    table = run.measures(32)
    for suffix in ("norm", "norm_centered", "distance_from_first"):
        assert table[f"input_embedding_{suffix}"].equals(table[f"output_embedding_{suffix}"])
    assert "input_embedding_norm_folded" not in table


def test_a_base_model_without_head_has_input_measures_only(tmp_path, counts):
    series = grow(counts)
    for tensors in series.values():
        del tensors[OUTPUT]
    for checkpoint in write_series(tmp_path / "series", series):
        (checkpoint.path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    run = track(open_series(tmp_path / "series"), tmp_path / "run", counts=counts)
    assert all(name.startswith("input_embedding") for name in run.info["measures"])


@pytest.mark.parametrize("mark", ["##", ""], ids=["wordpiece", "other"])
def test_the_mark_of_a_continuation_is_no_spelling(tmp_path, series, mark):
    counts = make_counts()
    continues = counts.table["kind"] == "continuation"
    counts.table.loc[continues, "token"] = mark + counts.table.loc[continues, "token"]
    at = np.flatnonzero(continues)[0] if mark == "" else np.flatnonzero(~continues)[30]
    counts.table.loc[at, "token"] = "##"  # the text itself
    table = track(series, tmp_path / "run", counts=counts).tokens
    spelled = make_counts().table["token"].str.strip()
    spelled[at] = "##"
    assert list(table["characters"]) == list(spelled.str.len())
    assert list(table["ascii_alphabetic"]) == [t.isascii() and t.isalpha() for t in spelled]
    assert list(table["token"]) == list(counts.table["token"])


def test_marks_that_the_counts_record_are_no_spelling(tmp_path, series):
    counts = make_counts()
    marked = np.where(counts.table["kind"] == "continuation", "@@", "") + counts.table["token"]
    counts.table["token"] = marked.str.strip() + np.where(counts.table.index % 3, "", "</w>")
    info = replace(counts.info, continuation_prefix="@@", word_end_suffix="</w>")
    run = track(series, tmp_path / "run", counts=Counts(counts.table, info))
    spelled = make_counts().table["token"].str.strip()
    assert list(run.tokens["characters"]) == list(spelled.str.len())


def test_special_entries_at_the_end_that_have_no_row_are_left_out_and_said(series, tmp_path):
    counts, said = make_counts(padding=1), []
    counts.table.loc[300, ["kind", "token"]] = "special", "<pad>"
    run = track(series, tmp_path / "run", counts=counts, report=said.append)
    assert said[0] == (
        "the counts has 301 tokens but the embedding of series has 300 rows; the last 1 ('<pad>'), "
        "special or added, never occur and are left out"
    )
    without = Counts(counts.table[:300], counts.info)
    expected = track(series, tmp_path / "expected", counts=without)
    pd.testing.assert_frame_equal(run.tokens, expected.tokens)
    counts.table.loc[300, "count"] = 1
    with pytest.raises(MismatchError, match=r"300 rows, and of those beyond 1 \('<pad>'\) occur"):
        track(series, tmp_path / "refused", counts=counts)


def test_the_run_names_its_training_and_counts_tokens_seen(tmp_path, counts):
    write_training(tmp_path / "training", counts, grow(counts), name="small study")
    run = run_of(tmp_path / "training", tmp_path / "run")
    assert run.name == "small study"
    assert [entry["tokens_seen"] for entry in run.info["checkpoints"]] == [
        33 * step for step in STEPS
    ]


def test_one_tensor_at_a_time_is_read(series, tmp_path, monkeypatch):
    """Roles and rows are read by name; the model's other tensors are not."""
    read = []
    tensor = Checkpoint.tensor

    def noted(self, role, rows=None):
        read.append(role)
        return tensor(self, role, rows)

    monkeypatch.setattr(Checkpoint, "tensor", noted)
    track(series, tmp_path / "run")
    assert set(read) == {"input_embedding", "output_embedding", "final_norm_weight"}


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run: run.measures(3), r"has no step 3; it has \[0, 2, 8, 32\]"),
        (lambda run: run.array("norm"), "has no measure 'norm'; it has input_embedding_norm, "),
        (lambda run: run.trend("norm"), "has no trend with measure 'norm'"),
        (lambda run: Run(run.path / "measures"), "holds no run .*; `dynamics track SERIES -o"),
    ],
)
def test_what_a_run_does_not_have_is_told_with_what_it_has(run, ask, told):
    with pytest.raises(OutputError, match=told):
        ask(run)


def test_a_study_folder_stands_for_its_run(run, tmp_path):
    (tmp_path / "run").symlink_to(run.path)
    assert Run(tmp_path).trends.equals(run.trends)


def test_a_run_reads_as_frames_and_as_a_plain_array(run):
    norms = run.array("input_embedding_norm")
    assert norms.dtype == np.float32
    assert norms.shape == (len(STEPS), 300)
    assert (norms[2] == run.measures(8)["input_embedding_norm"]).all()
    assert run.kept.sum() == run.trend("input_embedding_norm")["n"].unique().item()
    assert (run.tokens["count"][run.never_seen] == 0).all()


def test_information_gain_stands_in_the_tokens_of_a_run(tmp_path):
    counts, gain = make_counts(), np.linspace(0, 1, 300)
    gain[7] = np.nan
    counts = Counts(counts.table.assign(information_gain_right=gain), counts.info)
    padded = write_series(tmp_path / "padded", grow(make_counts(padding=4)))
    found = track(padded, tmp_path / "run", counts=counts).tokens["information_gain_right"]
    np.testing.assert_array_equal(found, [*gain, *[np.nan] * 4])
