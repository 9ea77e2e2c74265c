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
