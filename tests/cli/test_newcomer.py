"""Jobs of someone who comes with checkpoints and tables of their own, as they would type them."""

import csv
import hashlib
import shutil
from collections import Counter

import pytest
import yaml

import dynamics as package

TEXT = "the cat sat on the mat and the dog ran over a hill with the bird while it rained on us all"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Output folders of transformers' Trainer with two seeds, and counts of their tokens as CSV."""
    import torch
    import transformers as hf

    from dynamics.corpus.tokenizers.loading import train_tokenizer

    folder = tmp_path_factory.mktemp("hf")
    words = TEXT.split()
    texts = [" ".join(words[at:] + words[:at]) for at in range(len(words))] * 4
    tokenizer = train_tokenizer(texts, 310)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    rows = [{"input_ids": torch.tensor(row[:12]), "labels": torch.tensor(row[:12])} for row in ids]
    for seed in (0, 1):
        hf.set_seed(seed)
        config = hf.GPT2Config(
            vocab_size=310,
            n_positions=12,
            n_embd=8,
            n_layer=1,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        arguments = hf.TrainingArguments(
            str(folder / f"hf-seed{seed}"), max_steps=6, save_steps=2, report_to=[], use_cpu=True,
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        hf.Trainer(hf.GPT2LMHeadModel(config), arguments, train_dataset=rows).train()
    counts = Counter(token_id for row in ids for token_id in row)
    spelled = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    for name, key in (("by_id", int), ("by_token", spelled.__getitem__)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["token_id" if key is int else "token", "frequency"])
            writer.writerows((key(token_id), count) for token_id, count in counts.items())
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def test_checkpoints_of_a_trainer_and_a_csv_are_compared_in_two_commands(
    dynamics, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.chdir(checkpoints)
    study = {"name": "hf", "series": ["hf-seed{0..1}"], "counts": "by_id.csv", "rule": "count>=1"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    status, _, err = dynamics("study", tmp_path / "study.yaml", "-o", tmp_path / "out")
    assert status == 0, err
    assert "rows match a token; they cover" in err
    assert "arm hf: seeds 0, 1" in err
    runs = [tmp_path / "out" / f"hf-seed{seed}" for seed in (0, 1)]
    status, _, err = dynamics("plot", *runs, "-o", tmp_path / "figures", "--figures", "correlation")
    assert status == 0, err
    assert (tmp_path / "figures" / "correlation.png").stat().st_size > 10_000


def test_a_table_of_spellings_needs_the_tokenizer_and_gives_the_same(
    dynamics, fails, checkpoints, tmp_path
):
    series, table = checkpoints / "hf-seed0", checkpoints / "by_token.csv"
    options = ("--rule", "count>=1")
    message = fails("track", series, "-o", tmp_path / "run", "--counts", table, *options)
    assert message.endswith(
        f"{table} names tokens by token, and the tokenizer of hf-seed0 is not known; put its "
        "tokenizer.json beside the checkpoints, or give a column token_id"
    )
    dynamics(
        "track", series, "-o", tmp_path / "ids", "--counts", checkpoints / "by_id.csv", *options
    )
    for file in (checkpoints / "tokenizer").iterdir():
        shutil.copy(file, series)
    status, _, err = dynamics("track", series, "-o", tmp_path / "run", "--counts", table, *options)
    assert status == 0, err
    by_id, by_token = package.Run(tmp_path / "ids"), package.Run(tmp_path / "run")
    assert not {"characters", "word_start"} & {*by_id.tokens}
    assert {"characters", "word_start"} <= {*by_token.tokens}
    assert (by_id.tokens["count"] == by_token.tokens["count"]).all()
    assert "unknown" in set(by_id.tokens["kind"])
    assert "word_start" in set(by_token.tokens["kind"])
    (weights,) = by_token.record.stages
    assert weights.digests["corpus"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert set(weights.digests) == {"corpus", "tokenizer"}
    assert set(by_id.record.stages[0].digests) == {"corpus"}


def test_several_series_are_a_run_each(dynamics, fails, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoints)
    options = ("--counts", "by_id.csv", "--rule", "count>=1")
    status, out, err = dynamics("track", "hf-seed0", "hf-seed1", *options, "-o", tmp_path / "runs")
    assert status == 0, err
    assert out.count("run: ") == 2
    alone = tmp_path / "alone"
    dynamics("track", "hf-seed1", *options, "-o", alone)
    for table in ("tokens", "trends", "profile"):
        contents = [
            (run / f"{table}.parquet").read_bytes() for run in (alone, tmp_path / "runs/hf-seed1")
        ]
        assert contents[0] == contents[1]
    assert fails("track", "hf-seed0", "hf-seed1", "-o", alone).endswith(
        f"{alone} is a run, and 2 series need a folder that holds one run for each; give another "
        "with -o"
    )
    assert "the series hf-seed0 is given twice" in fails(
        "track", "hf-seed0", "hf-seed0", "-o", tmp_path / "x"
    )
    same = fails("track", "hf-seed0", checkpoints / "hf-seed0", "-o", tmp_path / "x")
    assert f"would both be tracked into {tmp_path / 'x' / 'hf-seed0'}; track each by itself" in same
    # Nothing is tracked where one of them is not there.
    assert "hf-seed7" in fails("track", "hf-seed0", "hf-seed7", "-o", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_series_that_fails_leaves_the_others_tracked(
    dynamics, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.chdir(checkpoints)
    shutil.copytree("hf-seed1", tmp_path / "broken")
    for weights in (tmp_path / "broken").rglob("model.safetensors"):
        weights.write_bytes(b"")
    status, out, message = dynamics(
        "track", tmp_path / "broken", "hf-seed0", "-o", tmp_path / "runs"
    )
    assert status == 2
    assert out.endswith(f"run: {tmp_path / 'runs' / 'hf-seed0'}\n")
    message = message.strip().splitlines()[-1]
    assert message.startswith(f"dynamics: 1 of 2 series: {tmp_path / 'broken'}: ")
    assert package.Run(tmp_path / "runs" / "hf-seed0").steps == [2, 4, 6]


def test_a_tokenizer_is_given_to_a_series_without_one(dynamics, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoints)
    (tmp_path / "text.txt").write_text(" ".join([TEXT] * 60))
    arguments = ("track", "hf-seed1", "--rule", "count>=1", "--probe", tmp_path / "text.txt",
                 "--importance", "surprisal", "context_length=8", "contexts=2")  # fmt: skip
    given = ("--tokenizer", "tokenizer")
    _, _, err = dynamics(*arguments, "--counts", "by_id.csv", "-o", tmp_path / "none")
    assert err.endswith("is to be tokenised with it; give it with --tokenizer\n")
    for table in ("by_id.csv", "by_token.csv"):
        run = tmp_path / table
        status, _, err = dynamics(*arguments, *given, "--counts", table, "-o", run)
        assert status == 0, err
        assert len(package.Run(run).record.live_checkpoints) == 3
    unread = ("--tokenizer", "hf-seed1/checkpoint-2", "--counts", "by_id.csv", "-o", tmp_path / "x")
    _, _, err = dynamics(*arguments, *unread)
    assert "dynamics: hf-seed1/checkpoint-2 holds no tokenizer (tokenizer.json, " in err
