"""What a training computes, against computations that share no code with it."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from dynamics.checkpoints.series import open_series
from dynamics.corpus.tokens import open_held_out, open_stream
from dynamics.errors import MismatchError
from dynamics.training.data import MaskedRows
from dynamics.training.preview import preview
from dynamics.training.rates import unused_row_factor
from dynamics.training.train import train
from tests.training.small import (
    ARCHITECTURES,
    POSITIONS,
    ROWS,
    STEPS,
    assert_same,
    kept_steps,
    log_lines,
    small,
    stream_rows,
    untimed_log,
    weights,
)

PEAK = 1e-2
# With the usual 1e-8, AdamW turns the rounding of gradients that are truly zero, those of the key
# biases of attention, into steps as long as any other.
EPSILON = 1e-4


def rows_of_step(folder, step):
    rows = stream_rows(folder)
    return torch.from_numpy(rows[np.arange((step - 1) * ROWS, step * ROWS) % len(rows)])


def load(folder, step, kind=AutoModelForCausalLM):
    return kind.from_pretrained(folder / "checkpoints" / f"step-{step:08d}")


def next_token_loss(model, rows):
    """Mean over positions of -log p(row[t + 1] | row[..t]), in nats."""
    log_probabilities = model(input_ids=rows[:, :-1]).logits.log_softmax(-1)
    return -log_probabilities.gather(2, rows[:, 1:, None]).mean()


def rate(update, schedule="cosine", warmup=3, final=0.1):
    """The learning rate of an update counted from 0, written out again."""
    if update < warmup:
        return PEAK * (update + 1) / warmup
    share = (update - warmup) / (STEPS - warmup)
    shape = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1}
    return PEAK * (final + (1 - final) * shape[schedule] if schedule != "constant" else 1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt-neox", "gpt2", "llama"])
def test_the_first_loss_is_that_of_the_first_checkpoint_on_the_first_rows(
    corpus, tmp_path, architecture, tied
):
    model = {"architecture": architecture, "tied": tied}
    train(small(corpus, model=model, training={"steps": 3}), tmp_path / "t")
    with torch.no_grad():
        loss = next_token_loss(load(tmp_path / "t", 0), rows_of_step(tmp_path / "t", 1)).item()
    assert log_lines(tmp_path / "t")[0]["loss_nats"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_masked_loss_is_that_of_the_first_checkpoint_on_the_masked_rows(
    corpus, tmp_path, tied
):
    settings = small(corpus, model={"architecture": "bert", "tied": tied}, training={"steps": 3})
    train(settings, tmp_path / "t")
    rows = stream_rows(tmp_path / "t")
    mask_id = json.loads((tmp_path / "t/tokenizer/tokenizer.json").read_text())["added_tokens"][1]
    assert mask_id["content"] == "<|mask|>"
    masked = MaskedRows(
        open_stream(tmp_path / "t"),
        STEPS * ROWS,
        mask_id=mask_id["id"],
        random_ids=np.setdiff1d(np.unique(rows), [0, 1]),
        share=0.15,
        seed=0,
    ).__getitems__(range(ROWS))
    chosen = masked["labels"] >= 0
    assert chosen.sum() == ROWS * 2  # 15 % of 16 positions
    assert torch.equal(masked["labels"][chosen], rows_of_step(tmp_path / "t", 1)[:, :-1][chosen])
    with torch.no_grad():
        logits = load(tmp_path / "t", 0, AutoModelForMaskedLM)(input_ids=masked["input_ids"]).logits
    loss = torch.nn.functional.cross_entropy(logits[chosen], masked["labels"][chosen]).item()
    assert log_lines(tmp_path / "t")[0]["loss_nats"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_adamw_written_out_by_hand_reaches_the_same_weights(corpus, tmp_path, schedule):
    settings = small(corpus, training={"schedule": schedule, "epsilon": EPSILON})
    train(settings, tmp_path / "t")
    model = load(tmp_path / "t", 0)
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    losses = []
    for update in range(STEPS):
        model.zero_grad()
        loss = next_token_loss(model, rows_of_step(tmp_path / "t", update + 1))
        loss.backward()
        losses.append(loss.item())
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in moments))
        lr = rate(update, schedule)
        for parameter, (first, second) in moments.items():
            gradient = parameter.grad * min(1, 1 / norm)
            first.lerp_(gradient, 1 - 0.9)
            second.lerp_(gradient.square(), 1 - 0.95)
            step = (first / (1 - 0.9 ** (update + 1))) / (
                (second / (1 - 0.95 ** (update + 1))).sqrt() + EPSILON
            )
            decay = 0.1 if parameter.ndim == 2 else 0
            parameter.data.mul_(1 - lr * decay).sub_(lr * step)
    assert [line["loss_nats"] for line in log_lines(tmp_path / "t")] == pytest.approx(losses, 1e-6)
    for key, value in load(tmp_path / "t", STEPS).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rates_in_the_log_are_those_of_the_formula(corpus, tmp_path, schedule):
    train(small(corpus, training={"schedule": schedule}), tmp_path / "t")
    logged = [line["learning_rate"] for line in log_lines(tmp_path / "t")]
    assert logged == pytest.approx([rate(update, schedule) for update in range(STEPS)])


def test_learning_rates_in_the_log_are_those_of_the_updates(corpus, tmp_path):
    plain = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "gradient_clip": 0}
    train(small(corpus, training=plain, checkpoints={"steps": "all"}), tmp_path / "t")
    for line in log_lines(tmp_path / "t"):
        before, after = (load(tmp_path / "t", line["step"] - back) for back in (1, 0))
        next_token_loss(before, rows_of_step(tmp_path / "t", line["step"])).backward()
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            expected = old.detach() - line["learning_rate"] * old.grad
            torch.testing.assert_close(new.detach(), expected, atol=3e-7, rtol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt-neox", "llama"])
def test_input_rows_that_never_occur_decay_by_the_product_of_the_updates(
    corpus, tmp_path, architecture
):
    settings = small(
        corpus,
        corpus={"placebo_rows": 8},
        model={"architecture": architecture},
        training={"weight_decay": 0.5},
        checkpoints={"steps": "all"},
    )
    train(settings, tmp_path / "t")
    rates = [line["learning_rate"] for line in log_lines(tmp_path / "t")]
    never = np.setdiff1d(np.arange(308), np.unique(stream_rows(tmp_path / "t")))
    assert set(range(300, 308)) <= set(never.tolist())
    series = open_series(tmp_path / "t")
    norms = [each.tensor("input_embedding").double().norm(dim=1)[never] for each in series]
    for step, norm in enumerate(norms):
        product = math.prod(1 - lr * 0.5 for lr in rates[:step])
        torch.testing.assert_close(norm, norms[0] * product, rtol=1e-5, atol=0)
        assert unused_row_factor(settings.training, step) == pytest.approx(product)
    assert math.prod(1 - lr * 0.5 for lr in rates) < 0.98
    output = [each.tensor("output_embedding").double().norm(dim=1)[never] for each in series]
    assert ((output[-1] / output[0] - product).abs() > 1e-3).any()  # these have gradients


def test_sgd_without_decay_leaves_rows_that_never_occur_as_they_were(corpus, tmp_path):
    settings = small(corpus, training={"optimizer": "sgd", "weight_decay": 0.0})
    train(settings, tmp_path / "t")
    first, last = (weights(tmp_path / "t", step) for step in (0, STEPS))
    key = "gpt_neox.embed_in.weight"
    assert torch.equal(first[key][300:], last[key][300:])
    assert not torch.equal(first[key][:300], last[key][:300])


@pytest.mark.parametrize("architecture", ["gpt-neox", "bert"])
@pytest.mark.parametrize("device_batch_size", [1, 2])
def test_micro_batches_give_the_weights_of_the_whole_batch(
    corpus, tmp_path, architecture, device_batch_size
):
    for name, rows in [("whole", None), ("parts", device_batch_size)]:
        training = {"device_batch_size": rows, "epsilon": EPSILON}
        settings = small(corpus, model={"architecture": architecture}, training=training)
        train(settings, tmp_path / name)
    expected = weights(tmp_path / "whole", STEPS)
    for key, value in weights(tmp_path / "parts", STEPS).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)
    parts, whole = (
        [line["loss_nats"] for line in log_lines(tmp_path / name)] for name in ("parts", "whole")
    )
    assert parts == pytest.approx(whole, rel=1e-6)


def test_passes_over_the_corpus_repeat_its_order(corpus, tmp_path):
    settings = small(corpus, corpus={"max_tokens": 17 * 10}, training={"max_passes": 5})
    train(settings, tmp_path / "t")
    rows = stream_rows(tmp_path / "t")
    assert len(rows) == 10
    with torch.no_grad():
        loss = next_token_loss(load(tmp_path / "t", 4), rows_of_step(tmp_path / "t", 5)).item()
    assert log_lines(tmp_path / "t")[4]["loss_nats"] == pytest.approx(loss, rel=1e-5)


def test_the_log_has_a_line_for_each_step_and_the_callback_sees_the_same(corpus, tmp_path):
    seen = []
    train(small(corpus), tmp_path / "t", on_step=seen.append)
    lines = log_lines(tmp_path / "t")
    assert lines == seen
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["tokens_seen"] for line in lines] == [
        step * ROWS * POSITIONS for step in range(1, STEPS + 1)
    ]
    assert all(line["tokens_per_second"] > 0 for line in lines)


def test_checkpoints_hold_the_model_alone_at_the_steps_asked_for_the_first_and_the_last(
    corpus, tmp_path
):
    settings = small(corpus, checkpoints={"steps": "5,log2(2)", "embeddings": "every(4)+5"})
    returned = train(settings, tmp_path / "t")
    assert returned == tmp_path / "t" / "checkpoints"
    files = {
        int(folder.name[5:]): {file.name for file in folder.iterdir()}
        for folder in returned.iterdir()
    }
    whole = {"config.json", "generation_config.json", "model.safetensors"}
    alone = {"embeddings.safetensors"}
    assert files == {0: whole, 1: whole, 2: whole, 4: alone, 5: whole, 8: alone, 12: whole}
    assert [path.name for path in (tmp_path / "t/state").iterdir()] == ["step-00000012"]
    assert open_series(tmp_path / "t").checkpoints[3].tokens_seen == 4 * ROWS * POSITIONS


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_alone_are_what_the_whole_checkpoint_of_that_step_holds(
    corpus, tmp_path, architecture, tied
):
    model = {"architecture": architecture, "tied": tied}
    settings = small(
        corpus,
        model=model,
        training={"steps": 4},
        checkpoints={"steps": "0", "embeddings": "2"},
    )
    whole = small(corpus, model=model, training={"steps": 4}, checkpoints={"steps": "all"})
    [snapshot] = open_series(train(settings, tmp_path / "alone")).select("2")
    [full] = open_series(train(whole, tmp_path / "whole")).select("2")
    alone = weights(tmp_path / "alone", 2, "embeddings.safetensors")
    everything = weights(tmp_path / "whole", 2)
    assert_same(alone, {key: everything[key] for key in alone})
    assert snapshot.tied is full.tied is tied
    assert snapshot.final_norm == full.final_norm is not None
    for role in ("input_embedding", "output_embedding", "final_norm_weight"):
        assert torch.equal(snapshot.tensor(role), full.tensor(role))
    for role in ("output_bias", "final_norm_bias"):
        assert snapshot.has(role) is full.has(role)
        if full.has(role):
            assert torch.equal(snapshot.tensor(role), full.tensor(role))
    assert full.has("output_bias") is (architecture == "bert")
    assert torch.equal(snapshot.final_norm_gain(), full.final_norm_gain())
    assert_same(weights(tmp_path / "alone", 4), weights(tmp_path / "whole", 4))


def test_equal_settings_give_equal_files_and_another_seed_other_rows_and_weights(corpus, tmp_path):
    for name, seed in [("one", 1), ("again", 1), ("other", 2)]:
        train(small(corpus, seed=seed, model={"dropout": 0.1}), tmp_path / name)
    one, again, other = (weights(tmp_path / name, STEPS) for name in ("one", "again", "other"))
    assert_same(again, one)
    assert untimed_log(tmp_path / "again") == untimed_log(tmp_path / "one")
    assert not torch.equal(other["embed_out.weight"], one["embed_out.weight"])
    assert not np.array_equal(stream_rows(tmp_path / "other"), stream_rows(tmp_path / "one"))


def test_a_finished_training_is_not_done_again_even_without_its_state(corpus, tmp_path):
    settings = small(corpus)
    train(settings, tmp_path / "t")
    log = (tmp_path / "t/train.jsonl").read_text()
    shutil.rmtree(tmp_path / "t/state")
    train(settings, tmp_path / "t", on_step=lambda line: pytest.fail("trained again"))
    assert (tmp_path / "t/train.jsonl").read_text() == log


def test_train_json_records_settings_versions_threads_and_processes(corpus, tmp_path):
    settings = small(corpus)
    train(settings, tmp_path / "t")
    described = json.loads((tmp_path / "t/train.json").read_text())
    assert described["settings"] == settings.model_dump(mode="json")
    assert (described["threads"], described["processes"]) == (1, 1)
    assert described["vocab_size"] == 304
    assert described["versions"].keys() >= {"dynamics", "torch", "transformers"}
    assert described["tokens_per_step"] == ROWS * POSITIONS


def test_a_preview_writes_nothing_and_tells_what_the_training_then_does(corpus, tmp_path):
    checkpoints = {"steps": "every(4)", "embeddings": "2"}
    settings = small(
        corpus,
        corpus={"held_out_rows": 3},
        training={"device_batch_size": 2},
        checkpoints=checkpoints,
    )
    expected = preview(settings, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
    train(settings, tmp_path / "t")
    rows = stream_rows(tmp_path / "t")
    assert expected.steps == len(log_lines(tmp_path / "t")) == STEPS
    assert expected.tokens == log_lines(tmp_path / "t")[-1]["tokens_seen"]
    assert expected.stream_tokens == rows.size
    assert expected.passes == pytest.approx(STEPS * ROWS / len(rows))
    assert sorted([*expected.checkpoints, *expected.embeddings]) == kept_steps(tmp_path / "t")
    assert expected.embeddings == [2]
    assert expected.parameters == sum(p.numel() for p in weights(tmp_path / "t", 0).values())
    folders = [tmp_path / "t/checkpoints", tmp_path / "t/state"]
    tensors = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.*"))
    # the small model's headers and configurations weigh as much as a tenth of it
    assert expected.disk_bytes == pytest.approx(tensors + rows.size * 2, rel=0.35)
    assert expected.seconds > 0
    assert replace(preview(settings, tmp_path / "t"), seconds=0) == replace(expected, seconds=0)
    assert f"{STEPS} steps of a model of {expected.parameters:,} parameters" in expected.describe()


def test_rows_held_out_are_never_trained_on(corpus, undisturbed, tmp_path):
    settings, lines = small(corpus, corpus={"held_out_rows": 7}), []
    train(settings, tmp_path / "t", report=lines.append)
    all_rows = stream_rows(undisturbed)
    assert np.array_equal(stream_rows(tmp_path / "t"), all_rows[:-7])
    assert np.array_equal(open_held_out(tmp_path / "t").ids, all_rows[-7:])
    counts = pd.read_parquet(tmp_path / "t/counts.parquet")["count"]
    assert counts.sum() == all_rows[:-7].size
    assert f"in {len(all_rows) - 7} rows, 7 more held out; training passes" in " ".join(lines)


def test_a_training_of_before_a_setting_existed_goes_on(corpus, tmp_path):
    settings = small(corpus)
    train(settings, tmp_path / "t")
    path = tmp_path / "t/train.json"
    described = json.loads(path.read_text())
    del described["settings"]["corpus"]["held_out_rows"]
    path.write_text(json.dumps(described))
    train(settings, tmp_path / "t")
    with pytest.raises(MismatchError, match=r"corpus.held_out_rows is 0 in the folder, 2 in"):
        train(small(corpus, corpus={"held_out_rows": 2}), tmp_path / "t")
