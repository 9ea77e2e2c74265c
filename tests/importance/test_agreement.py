"""Agreement over rows of ids is that of texts with these ids, and of scores made by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, t

from dynamics.attribution.attribute import attribute
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError, MismatchError
from dynamics.importance.agreement import AGREEMENT_METHODS, agreement_rows
from tests.models.tiny import POSITIONS, WORDS, V, live

COUNTS = np.random.default_rng(0).integers(0, 500, V)
TEXTS = [" ".join(np.random.default_rng(seed).choice(WORDS, 9)) for seed in range(6)]


def ids_of(model, texts=TEXTS):
    return np.array([model.tokenizer(text)["input_ids"] for text in texts])


def run(model, rows=None, counts=COUNTS, **settings):
    rows = ids_of(model) if rows is None else rows
    found = agreement_rows(model, rows, counts, np.random.default_rng(0), **settings)
    return {row["measure"]: row for row in found}


def mean_and_interval(each):
    reach = t.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) / np.sqrt(len(each))
    return np.mean(each), np.mean(each) - reach, np.mean(each) + reach


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_as_the_attributions_of_the_same_texts(name):
    model, found = live(name), {}
    for method in (*AGREEMENT_METHODS, "occlusion"):
        form = "log_probability" if method == "occlusion" else "raw"
        settings = AttributionSettings(logit_form=form, counts=COUNTS)
        each = attribute(model, TEXTS, method=method, settings=settings, exclude_readout=True)
        found[method] = [
            np.where(one.special, np.nan, one.scores[:, 0])[int(one.special[0]) : -1]
            for one in each
        ]
    rows = run(model, batch_size=4)
    assert tuple(rows) == AGREEMENT_METHODS
    for method, row in rows.items():
        pairs = zip(found[method], found["occlusion"], strict=True)
        expected = mean_and_interval([spearmanr(*pair).statistic for pair in pairs])
        assert (row["value"], row["low"], row["high"]) == pytest.approx(expected, abs=1e-6)
        assert row["against"] == "occlusion" and row["given"] == ""
        assert row["statistic"] == "within_input_agreement" and row["n"] == len(TEXTS)


def test_norm_against_occlusion_by_hand():
    """One forward pass of the whole model for each token, whose row becomes the mean row."""
    model = live("gpt2")
    network, ids = model.network, torch.from_numpy(ids_of(model))
    table = network.transformer.wte.weight.detach()
    each = []
    with torch.no_grad():
        for row in ids:
            rows = table[row]
            logs = network(inputs_embeds=rows[None]).logits[0, -1].log_softmax(-1)
            target = logs.argmax()
            losses = []
            for position in range(len(row) - 1):
                without = rows.clone()
                without[position] = table.mean(0)
                now = network(inputs_embeds=without[None]).logits[0, -1].log_softmax(-1)
                losses.append(float(logs[target] - now[target]))
            places = network.transformer.wpe.weight[: len(row)]
            norms = (rows + places).norm(dim=1)[:-1]
            each.append(spearmanr(norms, losses).statistic)
    row = run(model, methods=["norm"])["norm"]
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        mean_and_interval(each), abs=1e-6
    )


def test_masked_rows_rank_what_is_not_masked_and_not_special():
    model = live("bert")
    plain = ids_of(model)[:, 1:-1]
    row = run(model, plain, methods=["recency"])["recency"]
    ended = np.concatenate([plain[:, :3], np.full((len(plain), 1), 2), plain[:, 3:]], axis=1)
    assert run(model, ended, methods=["recency"])["recency"]["n"] == len(TEXTS) == row["n"]
    # Three positions, of which one is [SEP] and one is masked, rank nothing.
    short = np.concatenate([plain[:, :2], np.full((len(plain), 1), 2), plain[:, :1]], axis=1)
    assert run(model, short, methods=["recency"])["recency"]["n"] == 0


def test_occlusion_agrees_with_itself():
    row = run(live("gpt2"), methods=["occlusion"])["occlusion"]
    assert (row["value"], row["low"], row["high"]) == pytest.approx((1, 1, 1))


def test_methods_that_draw_are_seeded_by_the_generator():
    model, rows = live("gpt2"), ids_of(live("gpt2"))
    values = [
        next(agreement_rows(model, rows, COUNTS, np.random.default_rng(seed), methods=["random"]))
        for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": ["norms"]}, ConfigError, "no method 'norms'; did you mean 'norm'"),
        ({"counts": COUNTS[:20]}, MismatchError, "the counts have 20 tokens"),
        ({"rows": np.ones((2, POSITIONS + 1), int)}, ConfigError, "do not fit the window"),
    ],
    ids=["method", "counts", "window"],
)
def test_what_cannot_be_compared(changes, error, message):
    with pytest.raises(error, match=message):
        run(live("gpt2"), **changes)
