"""The command line as someone meets it who has never seen the code."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dynamics import __main__ as entry
from dynamics.cli.app import app
from dynamics.corpus.counts import read_counts
from tests.corpus.odd_tokenizers import bpe, fast, pre_tokenizers
from tests.tracking.synthetic import files_of, grow, make_counts, write_series, write_training

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A series with its counts, a training folder, and a run; nothing is written into it."""
    folder = tmp_path_factory.mktemp("cli")
    counts = make_counts()
    counts.write(folder / "counts.parquet")
    write_series(folder / "series", grow(counts))
    write_training(folder / "training", counts, grow(counts))
    with pytest.raises(SystemExit, match="0"):
        entry.main(["track", str(folder / "training"), "-o", str(folder / "run")])
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text and a tokenizer for it."""
    from dynamics.corpus.tokenizers.loading import train_tokenizer

    folder = tmp_path_factory.mktemp("text")
    (folder / "story.txt").write_text("the cat sat on the mat and the cat was glad\n" * 40)
    tokenizer = train_tokenizer([(folder / "story.txt").read_text()], 270)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_for_all_its_parameters(dynamics, command):
    status, out, _ = dynamics(command, "--help")
    assert status == 0
    usage, told = out.split("\n\n")[:2]
    assert usage.startswith(f"Usage: dynamics {command} ")
    assert len(told.strip()) > 20
    assert "--json" in out
    (registered,) = (c for c in app.registered_commands if c.callback.__name__ == command)
    for line in out.splitlines():
        if line.startswith("  -"):
            assert len(line.split("  ")) > 2 or len(line) > 26, line
    assert registered.callback.__doc__


def test_help_lists_every_command(dynamics):
    status, out, _ = dynamics("--help")
    assert status == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["--frobnicate"], "No such option: --frobnicate"),
        (["track", "x", "-o", "y", "--stepz", "3"], "No such option: --stepz"),
        (["track", "x"], "tracking needs a run folder; give it with -o"),
        (["track", "-o", "y"], "Missing argument 'series'"),
        (["plot", "-o", "y"], "Missing argument 'runs"),
        (["count", "x", "-o", "y", "--vocab-size", "many"], "--vocab-size"),
        (["track", "x", "-o"], "requires an argument"),
    ],
)
def test_bad_usage_is_told_in_short(dynamics, arguments, told):
    status, out, err = dynamics(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) <= 5
    assert "Traceback" not in err


def test_tracking_prints_the_table_of_the_last_step_and_where_the_run_is(
    dynamics, shared, tmp_path
):
    status, out, err = dynamics(
        "track", shared / "series", "-o", tmp_path / "run", "--counts", shared / "counts.parquet"
    )
    assert status == 0
    assert out.startswith("Spearman correlation with log frequency at step 32 [95 % interval]")
    assert out.endswith(f"\nrun: {tmp_path / 'run'}\n")
    assert "tracking 4 of 4" in err


def test_tracking_without_counts_says_so(dynamics, shared, tmp_path):
    for arguments in ([], ["--counts", "none"]):
        output = tmp_path / str(len(arguments))
        status, out, _ = dynamics("track", shared / "series", "-o", output, *arguments)
        assert (status, out) == (
            0,
            f"norms at 4 steps; without counts nothing is correlated\nrun: {output}\n",
        )


def test_tracking_takes_steps_and_a_rule(dynamics, shared, tmp_path):
    options = ["--steps", "0,last", "--rule", "top-100"]
    status, out, _ = dynamics("track", shared / "training", "-o", tmp_path / "run", *options)
    assert status == 0
    assert "\ntop-100: 100 tokens\n" in out
    made = json.loads((tmp_path / "run/run.json").read_text())
    assert [entry["step"] for entry in made["checkpoints"]] == [0, 32]


def test_json_is_all_that_is_printed_and_parses(dynamics, shared, text, tmp_path):
    status, out, _ = dynamics("track", shared / "training", "-o", tmp_path / "run", "--json")
    assert (status, json.loads(out)) == (0, {"run": str(tmp_path / "run")})
    arguments = ["-o", tmp_path, "--figures", "correlation", "--format", "png", "--json"]
    status, out, _ = dynamics("plot", tmp_path / "run", *arguments)
    assert (status, json.loads(out)) == (0, {"figures": [str(tmp_path / "correlation.png")]})
    arguments = ["-o", tmp_path / "c.parquet", "--tokenizer", text / "tokenizer", "--json"]
    status, out, _ = dynamics("count", text / "story.txt", *arguments)
    counted = json.loads(out)
    assert status == 0
    assert counted["counts"] == str(tmp_path / "c.parquet")
    assert counted["vocab_size"] == 270
    assert len(counted["tokenizer_sha256"]) == 64


def test_counting_a_text_prints_its_kinds_and_writes_the_table(dynamics, text, tmp_path):
    from dynamics.corpus.counts import read_counts

    output = tmp_path / "deep/counts.parquet"
    options = ["--tokenizer", text / "tokenizer"]
    status, out, _ = dynamics("count", text / "story.txt", "-o", output, *options)
    assert status == 0
    counts = read_counts(output)
    assert out.startswith(f"{counts.info.tokens_counted:,} tokens, 270 entries\n")
    assert out.endswith(f"counts: {output}\n")
    for kind in ("word_start", "continuation", "byte", "special"):
        assert f"\n{kind} " in out


def test_counting_a_cloned_data_set_counts_its_split_and_says_what_it_passes_over(
    dynamics, fails, text, tmp_path
):
    """The folder has the counts of its one file, in each format, and never those of the card."""
    import pandas as pd

    from dynamics.corpus.counts import read_counts

    options = ["--tokenizer", text / "tokenizer"]
    documents = (text / "story.txt").read_text().splitlines()
    data = tmp_path / "cloned" / "data"
    data.mkdir(parents=True)
    table = pd.DataFrame({"text": documents})
    table.to_parquet(data / "train-00000-of-00001.parquet")
    table[:7].to_parquet(data / "test-00000-of-00001.parquet")
    (tmp_path / "cloned" / "README.md").write_text("---\nlicense: mit\n---\nthe card\n")
    table.to_json(tmp_path / "a.json.gz", orient="records", lines=True)
    table.to_json(tmp_path / "list.json", orient="records", indent=2)
    table.to_csv(tmp_path / "a.tsv", sep="\t")

    def counted(source, *more):
        status, _, err = dynamics("count", source, "-o", tmp_path / "c.parquet", *options, *more)
        assert status == 0
        return read_counts(tmp_path / "c.parquet").table["count"].tolist(), err

    expected, err = counted(data / "train-00000-of-00001.parquet")
    assert err == ""
    for source in ("a.json.gz", "list.json", "a.tsv"):
        assert counted(tmp_path / source) == (expected, "")
    for more in ([], ["--split", "train"]):
        assert counted(tmp_path / "cloned", *more) == (
            expected,
            f"reading 1 .parquet file of split train in {tmp_path}/cloned; skipped: "
            "data/test-00000-of-00001.parquet (split test), README.md\n",
        )
    test, _ = counted(tmp_path / "cloned", "--split", "test")
    assert test == counted(data / "test-00000-of-00001.parquet")[0] != expected
    arguments = ["count", tmp_path / "cloned", "-o", tmp_path / "new", *options]
    assert "has no split 'nonsense'; the splits there are: test, train" in fails(
        *arguments, "--split", "nonsense"
    )
    assert not (tmp_path / "new").exists()


def test_counting_ids_in_the_wrong_type_names_the_right_one(dynamics, fails, text, tmp_path):
    from dynamics.corpus.counts import read_counts

    ids = np.random.default_rng(0).integers(0, 270, 4000)
    output, stream = tmp_path / "c.parquet", tmp_path / "train.bin"
    arguments = ["count", stream, "-o", output, "--tokenizer", text / "tokenizer"]
    for disk, dtype in (("<u4", "uint32"), (">u2", ">u2")):
        ids.astype(disk).tofile(stream)
        message = fails(*arguments, "--sequence-length", 15)
        assert "train.bin is not of type uint16: " in message
        assert f"give the type {dtype} (--dtype, stream.dtype or probe.dtype)" in message
        status, *_ = dynamics(*arguments, "--sequence-length", 15, "--dtype", dtype)
        assert status == 0
        expected = np.bincount(ids, minlength=270).tolist()
        assert read_counts(output).table["count"].tolist() == expected
    assert "train.bin is binary, not text; token ids are read with --sequence-length" in fails(
        *arguments
    )
    assert "is read as a token stream, but --split train is for text" in fails(
        *arguments, "--sequence-length", 15, "--split", "train"
    )


def test_counting_documents_between_separators(dynamics, fails, text, tmp_path):
    special = "<|endoftext|>"
    stories = tmp_path / "stories.txt"
    stories.write_text(f"the cat\n{special}\nthe mat\n{special}\nthe cat\n")
    command = ["count", stories, "--tokenizer", text / "tokenizer", "-o", tmp_path / "c.parquet"]
    status, out, err = dynamics(*command)
    assert status == 0 and f"'{special}', a special token, occurs as text 2 times" in err
    assert f"give --separator '{special}'" in err
    status, out, err = dynamics(*command, "--separator", special, "--json")
    assert (status, err) == (0, "")
    table = read_counts(tmp_path / "c.parquet").table
    assert table["document_count"].max() == 3 and not table["count"][table["token"] == "|"].any()
    assert json.loads(out)["lost_share"] == 0
    assert "'<eot>' does not occur in the text" in fails(*command, "--separator", "<eot>")
    assert "is read as a token stream" in fails(
        "count", stories, "--sequence-length", 2, *command[2:], "--separator", special
    )


def test_counting_what_a_tokenizer_drops(dynamics, fails, tmp_path):
    tokenizer = fast(bpe(["a", "b"]), pre_tokenizer=pre_tokenizers.Whitespace())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "c.txt").write_text("ab Über")
    command = ["count", tmp_path / "c.txt", "--tokenizer", tmp_path / "tokenizer"]
    line = fails(*command, "-o", tmp_path / "c.parquet")
    assert line.startswith("50 % of the characters") and "--allow-loss" in line
    assert not (tmp_path / "c.parquet").exists()
    status, _, err = dynamics(*command, "-o", tmp_path / "c.parquet", "--allow-loss")
    assert status == 0 and err.startswith("50 % of the characters that are not white space became")


def test_counting_a_training_folder_gives_its_own_counts(dynamics, text, tmp_path):
    from transformers import AutoTokenizer

    from dynamics.corpus.counts import count_stream, read_counts
    from dynamics.corpus.tokens import StreamSettings, write_stream

    tokenizer = AutoTokenizer.from_pretrained(text / "tokenizer")
    folder = tmp_path / "training"
    folder.mkdir()
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = StreamSettings(sequence_length=8, seed=1)
    stream = write_stream(folder, [(text / "story.txt").read_text()], tokenizer, shape)
    status, _, _ = dynamics("count", folder, "-o", tmp_path / "counts.parquet")
    assert status == 0
    counted = read_counts(tmp_path / "counts.parquet")
    assert counted.table.equals(count_stream(stream, tokenizer).table)
    assert counted.info.tokens_counted == stream.ids.size


def test_counting_information_gain(dynamics, text, tmp_path):
    from dynamics.corpus.counts import read_counts

    options = ["--tokenizer", text / "tokenizer", "--json", "--information-gain"]
    settings = {"window": 3, "pairs": 20, "shuffles": 2, "seed": 5}
    former = [word for name, value in settings.items() for word in (f"--{name}", value)]
    current = [f"information.{name}={value}" for name, value in settings.items()]
    written = []
    for name, more in (("a", [*current, "information.oyama=true"]), ("b", [*former, "--oyama"])):
        output = tmp_path / f"{name}.parquet"
        status, out, _ = dynamics("count", text / "story.txt", "-o", output, *options, *more)
        assert status == 0
        info = json.loads(out)
        found = [info[name] for name in ("window", "pairs", "shuffles", "information_seed")]
        assert found == [3, 20, 2, 5]
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert read_counts(output).table.columns[6:].tolist() == [
        "information_gain_right",
        "information_gain_right_all",
        "information_gain_right_half_1",
        "information_gain_right_half_2",
        "information_gain_left",
        "information_gain_left_all",
        "information_gain_left_half_1",
        "information_gain_left_half_2",
        "entropy_right",
        "self_information",
        "information_gain_symmetric",
        "information_gain_symmetric_shuffle_corrected",
        "information_gain_symmetric_percentile_corrected",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--information-gain", "information.window=0"],
            "window of information gain is 0; give 1 or more",
        ),
        (["information.oyama=true"], "information.oyama needs --information-gain; give both"),
    ],
)
def test_information_gain_that_cannot_be_counted(fails, text, tmp_path, options, message):
    options = ["--tokenizer", text / "tokenizer", *options]
    assert message in fails("count", text / "story.txt", "-o", tmp_path / "c.parquet", *options)
    assert not (tmp_path / "c.parquet").exists()


def test_a_sample_of_a_public_stream_has_no_information_gain(fails, tmp_path):
    options = ["-o", tmp_path / "c.parquet", "--information-gain"]
    assert fails("count", "pythia-160m", *options) == (
        "pythia-160m is counted from a sample that keeps counts and no text, so it has no "
        "information gain; give a file of its stream with --sequence-length, or text"
    )


def test_tracking_with_a_stream_of_others(dynamics, shared, tmp_path):
    from dynamics.runs.run import Run

    options = ["--counts", shared / "counts.parquet", "--steps", "0,8"]
    stream = [f"stream.file={shared / 'training/tokens.bin'}", "stream.sequence_length=11"]
    output = tmp_path / "run"
    status, _, _ = dynamics(
        "track", shared / "series", "-o", output, *options, *stream, "stream.batch_size=3"
    )
    assert status == 0
    assert Run(output).measures(8)["exposure_as_input"].sum() == 8 * 3 * 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["stream.batch_size=3"], "describe a token stream; give it with stream.file"),
        (["stream.file=x.bin"], "the batch size of x.bin is not known; give stream.batch_size"),
        (["stream.file=x.bin", "stream.batch_size=3"], "there is no token stream x.bin; check"),
    ],
)
def test_a_stream_that_is_not_described(fails, shared, tmp_path, options, message):
    assert message in fails("track", shared / "series", "-o", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_plotting_lists_its_files(dynamics, shared, tmp_path):
    options = ["--figures", "correlation", "--format", "png", "--format", "svg"]
    status, out, _ = dynamics("plot", shared / "run", shared / "run", "-o", tmp_path, *options)
    assert status == 0
    assert out.split() == [
        "figures:",
        *(str(tmp_path / f"correlation.{suffix}") for suffix in ("png", "svg")),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("track {}/gone -o {}/new", "{}/gone: does not exist; a folder of checkpoints or of a mod"),
        (
            "track {}/counts.parquet -o {}/new",
            "counts.parquet: neither safetensors nor written by torch.save",
        ),
        ("track {}/series -o {}/series", "series exists and holds no run; give another output"),
        ("track {}/series -o {}/new --counts {}/gone.parquet", "gone.parquet; make them with `dyn"),
        ("track {}/series -o {}/new --counts {}/training/tokens.bin", "is not UTF-8: byte"),
        ("track {}/series -o {}/new --steps 7", "step 7 does not exist; the nearest are 2 and 8"),
        ("track {}/series -o {}/new --steps soon", "cannot read 'soon' in the steps 'soon'; a st"),
        ("track {}/training -o {}/new --rule most", "cannot read the vocabulary rule 'most'; it"),
        ("track {}/training -o {}/run --rule count>=9", "holds another run (settings: rule is"),
        ("plot {}/gone -o {}/new", "{}/gone holds no run (no run.json); `dynamics track SERIES -o"),
        ("plot {}/run -o {}/new --figures corelation", "did you mean 'correlation'?"),
        ("plot {}/run -o {}/new --format jpg", "there is no format 'jpg'; "),
        ("train {}/gone.yaml", "cannot read the configuration {}/gone.yaml: No such file"),
        ("study {}/run/run.json", "{}/run/run.json: the key 'name' is missing"),
        ("count {}/gone.txt -o {}/new", "gone.txt needs a tokenizer; give a folder, a tokenizer.j"),
        ("count {}/training -o {}/new", "needs a tokenizer"),
        ("count {}/training -o {}/new --tokenizer ./gone", "there is no tokenizer gone; give a fo"),
    ],
)
def test_a_mistake_is_told_on_one_line_and_nothing_is_written(fails, shared, arguments, told):
    before = files_of(shared)
    message = fails(*(word.replace("{}", str(shared)) for word in arguments.split()))
    assert told.replace("{}", str(shared)) in message
    assert files_of(shared) == before
    assert not (shared / "new").exists()


def test_an_unknown_key_of_a_configuration_or_override_is_told(fails, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text("name: x\ntraining:\n  steps: 10\n  lerning_rate: 1\n")
    assert "unknown key 'training.lerning_rate'; did you mean 'learning_rate'?" in fails(
        "train", config
    )
    config.write_text("name: x\ntraining:\n  steps: 10\n")
    assert "unknown key 'model.tide'; did you mean 'tied'?" in fails(
        "study", config, "model.tide=true"
    )
    assert "cannot read the setting 'model.tied'; expected key=value" in fails(
        "study", config, "model.tied"
    )


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_shows_the_traceback_wherever_it_stands(shared, tmp_path, place):
    from dynamics.errors import CheckpointError

    arguments = ["track", str(tmp_path / "gone"), "-o", str(tmp_path / "new")]
    with pytest.raises(CheckpointError):
        entry.main([*arguments[:place], "--debug", *arguments[place:]])


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(dynamics, shared, tmp_path, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dynamics.tracking.measuring.measure", interrupted)
        status, out, err = dynamics("track", shared / "series", "-o", tmp_path / "run")
        assert (status, out) == (130, "")
        assert err.endswith("dynamics: interrupted; run the same command again to resume\n")
        assert "Traceback" not in err
        assert (
            "KeyboardInterrupt"
            in dynamics("track", "--debug", shared / "series", "-o", tmp_path / "run")[2]
        )
    assert dynamics("track", shared / "series", "-o", tmp_path / "run")[0] == 0


def test_a_full_disk_is_told_on_one_line_and_the_run_goes_on_afterwards(
    fails, dynamics, shared, tmp_path, monkeypatch
):
    import pyarrow.parquet as pq

    write_table = pq.write_table

    def full(table, where, **settings):
        if "step-00000008" in str(where):
            raise OSError(28, "No space left on device", str(where))
        write_table(table, where, **settings)

    arguments = ["track", shared / "series", "-o", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        status, _, err = dynamics(*arguments)
        assert status == 2
        assert err.splitlines()[-1].endswith(".parquet.partial: No space left on device")
        assert "Traceback" not in err
    assert not [name for name in files_of(tmp_path) if name.endswith(".partial")]
    assert dynamics(*arguments)[0] == 0


@pytest.mark.parametrize("output", ["run/run.json", "counts.parquet/deeper"])
def test_an_output_that_cannot_be_is_named(fails, shared, output):
    message = fails("plot", shared / "run", "-o", shared / output, "--format", "png")
    assert message.startswith(str(shared / output.removesuffix("/deeper")))


def test_counts_do_not_replace_a_folder(fails, text, tmp_path):
    options = ["--tokenizer", text / "tokenizer"]
    message = fails("count", text / "story.txt", "-o", tmp_path, *options)
    assert message == f"{tmp_path}: Is a directory"


def test_a_second_process_prints_nothing(dynamics, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert dynamics("track", shared / "series", "-o", tmp_path / "run") == (0, "", "")


def test_the_program_runs_as_a_module(tmp_path):
    arguments = [sys.executable, "-m", "dynamics"]
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    result = subprocess.run(
        [*arguments, "track", "nowhere", "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("dynamics: ")
    assert result.stderr.count("\n") == 1
