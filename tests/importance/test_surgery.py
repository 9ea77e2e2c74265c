"""Surgery against models whose weights are edited by hand."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from dynamics.errors import ConfigError, MeasureError, MismatchError
from dynamics.importance import held_out, surgery
from dynamics.importance.held_out import HeldOut
from dynamics.importance.surgery import operated_embeddings, surgery_rows
from dynamics.models.patching import weight_replaced
from dynamics.runs import surgeries
from dynamics.runs.surgeries import SURGERIES, Surgery
from dynamics.scores.norms import embedding_norm
from dynamics.statistics.bins import equal_count_bins
from tests.models.tiny import V, live

NAMES = ("gpt2", "gpt_neox", "llama", "gemma2", "bert", "electra")
INPUT, OUTPUT = "input_embedding_norm", "output_embedding_norm_centered"


def counts_of(seed=0):
    counts = np.random.default_rng(seed).permutation(1000 // np.arange(1, V + 1))
    counts[[3, 50]] = 0
    return counts


def rows_of(count=5, length=9, seed=1):
    return np.random.default_rng(seed).integers(5, V, (count, length))


def run(model, kinds=tuple(SURGERIES), *, rows=None, counts=None, seed=0, **settings):
    rows = rows_of() if rows is None else rows
    counts = counts_of() if counts is None else counts
    found = surgery_rows(model, rows, counts, kinds, np.random.default_rng(seed), **settings)
    return {(row["measure"], row["statistic"]): row for row in found}


def masks(model, rows):
    """The positions that are masked, by the rule written again."""
    chosen = []
    for number, row in enumerate(rows[:, :-1]):
        plain = [at for at, token in enumerate(row) if token not in model.tokenizer.all_special_ids]
        wanted = max(1, round(0.15 * len(row)))
        order = np.random.default_rng(number).permutation(np.array(plain))
        chosen.append(sorted(order[:wanted].tolist()))
    return chosen


def losses_by_hand(network, model, rows):
    """Mean loss of each row, from the logits of the whole model."""
    found = []
    where = masks(model, rows) if model.task == "masked" else [None] * len(rows)
    for row, masked in zip(torch.from_numpy(rows), where, strict=True):
        if model.task == "causal":
            ids, labels, positions = row[:-1], row[1:], range(len(row) - 1)
        else:
            ids, labels, positions = row[:-1].clone(), row[:-1], masked
            ids[positions] = model.tokenizer.mask_token_id
        with torch.no_grad():
            logs = network(ids[None]).logits[0].log_softmax(-1)
        found.append(-np.mean([float(logs[at, labels[at]]) for at in positions]))
    return np.array(found)


def edited(model, role, new_norms):
    """A copy of the model, the sides apart, whose rows have these norms where they are given."""
    network = deepcopy(model.network)
    read, write = network.get_input_embeddings(), network.get_output_embeddings()
    write.weight = torch.nn.Parameter(write.weight.detach().clone())
    weight = (read if role == INPUT else write).weight.detach()
    mean = weight.double().mean(0) if role == OUTPUT else torch.zeros(weight.shape[1]).double()
    for token, wanted in new_norms.items():
        centred = weight[token].double() - mean
        weight[token] = (mean + centred / centred.norm() * wanted).to(weight.dtype)
    return network


def norms_by_hand(model, role):
    network = model.network
    if role == INPUT:
        return network.get_input_embeddings().weight.detach().double().norm(dim=1).numpy()
    weight = network.get_output_embeddings().weight.detach().double()
    return (weight - weight.mean(0)).norm(dim=1).numpy()


def change_by_hand(model, role, new_norms, rows):
    before = losses_by_hand(deepcopy(model.network), model, rows)
    return losses_by_hand(edited(model, role, new_norms), model, rows) - before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", [INPUT, OUTPUT])
def test_equalized_and_fitted_norms_against_a_copy_edited_by_hand(name, role):
    model, counts = live(name), counts_of()
    found = run(model, ("equalized", "fitted"))
    occurs = np.flatnonzero(counts)
    norms = norms_by_hand(model, role)
    slope, level = np.polyfit(np.log(counts[occurs]), np.log(norms[occurs]), 1)
    line = np.exp(level + slope * np.log(counts[occurs]))
    wanted = {
        "equalized": dict.fromkeys(occurs.tolist(), norms[occurs].mean()),
        "fitted": dict(zip(occurs.tolist(), line, strict=True)),
    }
    for kind, new in wanted.items():
        expected = change_by_hand(model, role, new, rows_of())
        row = found[role, f"surgery_{kind}"]
        assert row["value"] == pytest.approx(expected.mean(), abs=2e-6)
        interval = ttest_1samp(expected, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=5e-6)
        assert (row["against"], row["given"], row["n"]) == ("held_out_loss", "", 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", [INPUT, OUTPUT])
@pytest.mark.parametrize(("kind", "factor"), [("doubled", 2), ("halved", 0.5)])
def test_the_scaling_control_changes_every_row(name, role, kind, factor):
    """Rows of tokens that never occur too, against a copy edited by hand."""
    model = live(name)
    new = dict(enumerate(factor * norms_by_hand(model, role)))
    expected = change_by_hand(model, role, new, rows_of())
    row = run(model, (kind,))[role, f"surgery_{kind}"]
    assert row["value"] == pytest.approx(expected.mean(), abs=5e-6)


def test_scale_is_nothing_behind_a_layer_norm_of_the_embedding():
    """BLOOM normalises looked-up rows and adds no positions: exact without an epsilon."""
    model = live("bloom", layer_norm_epsilon=0.0)
    found = run(model, ("doubled", "halved", "shuffled"))
    for kind in ("doubled", "halved"):
        row = found[INPUT, f"surgery_{kind}"]
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)
        assert abs(found[OUTPUT, f"surgery_{kind}"]["value"]) > 0.01
    assert found[INPUT, "surgery_shuffled"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("kind", "factor"), [("doubled", 2), ("halved", 0.5)])
def test_scale_is_a_temperature_where_no_norm_follows(kind, factor):
    """Blocks that add nothing and no final norm: logits are linear in both embeddings."""
    model = live("gpt_neox")
    for layer in model.network.gpt_neox.layers:
        for part in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            part.weight.data.zero_()
            part.bias.data.zero_()
    model.network.gpt_neox.final_layer_norm = torch.nn.Identity()
    read, write = model.network.gpt_neox.embed_in.weight, model.network.lm_head.weight
    rows = torch.from_numpy(rows_of())
    logits = (read @ write.T).double()[rows[:, :-1]]

    def loss(scale):
        return torch.nn.functional.cross_entropy((scale * logits).mT, rows[:, 1:]).item()

    found = run(model, (kind,))
    for role in (INPUT, OUTPUT):
        value = found[role, f"surgery_{kind}"]["value"]
        assert value == pytest.approx(loss(factor) - loss(1), abs=2e-6)
        assert abs(value) > 0.002


@pytest.mark.parametrize("role", [INPUT, OUTPUT])
@pytest.mark.parametrize("kind", [name for name in SURGERIES if SURGERIES[name].is_random])
def test_shuffles_are_averaged_over_draws(monkeypatch, role, kind):
    """The draws are recorded, then put into copies by hand."""
    drawn = []

    def recorded(norms, counts, rng):
        drawn.append((norms, SURGERIES[kind].new_norms(norms, counts, rng)))
        return drawn[-1][1]

    # Bins of fewer tokens: there are 94.
    monkeypatch.setattr(surgeries, "equal_count_bins", lambda *args: equal_count_bins(*args, 10))
    monkeypatch.setitem(SURGERIES, "recorded", Surgery(recorded, "", "", is_random=True))
    monkeypatch.setattr(surgery, "DRAWS", 4)
    model = live("gpt2")
    row = run(model, ("recorded",))[role, "surgery_recorded"]
    norms, occurs = norms_by_hand(model, role), np.flatnonzero(counts_of())
    mine = [new for old, new in drawn if np.allclose(old, norms[occurs], rtol=1e-5)]
    assert len(mine) == 4 and not np.array_equal(mine[0], mine[1])
    each = [
        change_by_hand(model, role, dict(zip(occurs.tolist(), new, strict=True)), rows_of())
        for new in mine
    ]
    assert row["value"] == pytest.approx(np.mean(each), abs=2e-6)
    interval = ttest_1samp(np.mean(each, axis=0), 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_unchanged_norms_change_nothing_at_all(monkeypatch, name):
    unchanged = Surgery(lambda norms, counts, rng: norms.copy(), "", "", every_row=True)
    monkeypatch.setitem(SURGERIES, "unchanged", unchanged)
    found = run(live(name), ("unchanged",))
    for role in (INPUT, OUTPUT):
        row = found[role, "surgery_unchanged"]
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_loss_is_that_of_the_model(name):
    model = live(name)
    row = run(model, ())["model", "held_out_loss"]
    expected = losses_by_hand(model.network, model, rows_of())
    assert row["value"] == pytest.approx(expected.mean(), abs=1e-5)
    interval = ttest_1samp(expected, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=1e-4)
    assert (row["against"], row["n"]) == ("", 5)


def test_loss_of_transformers_itself():
    model, rows = live("gpt_neox"), torch.from_numpy(rows_of())
    with torch.no_grad():
        expected = model.network(rows, labels=rows).loss  # shifts inside
    assert run(model, ())["model", "held_out_loss"]["value"] == pytest.approx(expected.item())


class TestTheModelIsLeftAsItWas:
    @pytest.mark.parametrize("name", NAMES)
    def test_afterwards(self, name):
        model = live(name)
        before = {key: each.clone() for key, each in model.network.state_dict().items()}
        held = dict(model.network.named_parameters(remove_duplicate=False))
        run(model)
        after = model.network.state_dict()
        assert all(torch.equal(after[key], each) for key, each in before.items())
        now = dict(model.network.named_parameters(remove_duplicate=False))
        assert now.keys() == held.keys() and all(now[key] is held[key] for key in held)
        assert all(each.requires_grad for each in model.network.parameters())

    def test_after_an_error_in_the_middle(self, monkeypatch):
        model = live("gpt2")
        tied = model.network.transformer.wte.weight
        calls = []

        def fails(some, states):
            calls.append(len(states))
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return original(some, states)

        original = held_out.HeldOutBatch.losses
        monkeypatch.setattr(held_out.HeldOutBatch, "losses", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(model)
        assert model.network.transformer.wte.weight is tied
        assert model.network.lm_head.weight is tied

    def test_when_nobody_reads_to_the_end(self):
        model = live("gpt2")
        tied = model.network.lm_head.weight
        found = surgery_rows(model, rows_of(), counts_of(), ["shuffled"], np.random.default_rng(0))
        next(found)
        found.close()
        assert model.network.transformer.wte.weight is tied is model.network.lm_head.weight

    def test_a_tied_matrix_is_untied_inside_only(self):
        network = live("gpt2").network
        read, write = network.get_input_embeddings(), network.get_output_embeddings()
        with weight_replaced(read, read.weight.detach() * 2):
            assert torch.equal(read.weight, write.weight * 2)
        assert read.weight is write.weight


class TestNewNorms:
    @pytest.fixture
    def sides(self):
        return operated_embeddings(live("gpt_neox"), counts_of())

    @pytest.mark.parametrize("kind", SURGERIES)
    @pytest.mark.parametrize("at", [0, 1])
    def test_directions_are_kept_and_norms_are_those_wanted(self, sides, kind, at):
        side, operation = sides[at], SURGERIES[kind]
        part = np.ones(V, bool) if operation.every_row else counts_of() > 0
        wanted = operation.new_norms(side.norms[part], counts_of()[part], np.random.default_rng(0))
        new = side.new_norms(operation, np.random.default_rng(0))
        assert len(new) == (surgeries.DRAWS if operation.is_random else 1)
        np.testing.assert_array_equal(new[0][part], wanted)
        before = side.matrix.double() - side.shift
        after = side.with_norms(new[0]).double() - side.shift
        cosines = torch.cosine_similarity(before, after)
        np.testing.assert_allclose(cosines, 1, atol=1e-9)
        np.testing.assert_allclose(after.norm(dim=1)[part], wanted, rtol=1e-5)
        assert torch.equal(side.with_norms(new[0])[~part], side.matrix[~part])

    def test_tokens_that_occur_take_part(self, sides):
        for side in sides:
            assert np.array_equal(side.part(SURGERIES["shuffled"]), counts_of() > 0)
            assert side.part(SURGERIES["doubled"]).all()

    def test_a_zero_row_has_no_direction(self):
        model = live("gpt_neox")
        model.network.gpt_neox.embed_in.weight.data[7] = 0
        read, write = operated_embeddings(model, counts_of())
        for kind in ("shuffled", "doubled"):
            assert not read.part(SURGERIES[kind])[7] and write.part(SURGERIES[kind])[7]
        changed = read.with_norms(read.new_norms(SURGERIES["doubled"], None)[0])
        assert torch.equal(changed, 2 * read.matrix)
        assert np.isfinite([row["value"] for row in run(model).values()]).all()

    def test_padding_has_no_part_in_the_mean(self):
        model = live("gpt_neox")
        weight = model.network.lm_head.weight
        weight.data[-6:] = 100
        entries = np.arange(V) < V - 6
        _, write = operated_embeddings(model, counts_of()[: V - 6], entries)
        expected = weight.detach()[: V - 6].double()
        np.testing.assert_allclose(write.shift, expected.mean(0), rtol=1e-6)
        expected = embedding_norm(weight.detach(), shift=expected.mean(0))
        np.testing.assert_allclose(write.norms, expected.detach(), rtol=1e-6)
        assert not write.part(SURGERIES["shuffled"])[-6:].any()


def test_the_share_of_the_top_bin_is_a_row():
    counts = np.append(np.zeros(6, int), np.arange(1, 91))  # one bin of at least 50 tokens
    row = run(live("gpt2"), (), counts=counts)["log_frequency", "top_bin_share"]
    assert (row["value"], row["n"], row["against"]) == (1, 90, "")


def test_the_share_of_the_top_bin_by_sorting(monkeypatch):
    monkeypatch.setattr(surgeries, "equal_count_bins", lambda *args: equal_count_bins(*args, 5))
    counts = np.append(np.arange(1, V - 3), [0, 0, 0, 0])  # 92 tokens, 20 bins of 4 or 5
    row = run(live("gpt2"), (), counts=counts)["log_frequency", "top_bin_share"]
    top = np.sort(counts)[-row["n"] :]
    assert 5 <= row["n"] <= 9
    assert row["value"] == pytest.approx(top.sum() / counts.sum())


def test_passes_are_those_of_each_repetition(monkeypatch):
    model, calls = live("gpt_neox"), []
    original = held_out.HeldOutBatch.states

    def counted(batch):
        calls.append(batch)
        return original(batch)

    monkeypatch.setattr(held_out.HeldOutBatch, "states", counted)
    run(model)
    assert len(calls) == surgeries.model_passes() == 20


def test_numbers_do_not_depend_on_batches(monkeypatch):
    model = live("bert")
    expected = run(model, batch_size=16)
    monkeypatch.setattr(held_out, "LOGITS", V)  # one target at a time
    for key, row in run(model, batch_size=2).items():
        assert row["value"] == pytest.approx(expected[key]["value"], abs=1e-5)


def test_a_generator_of_the_same_seed_gives_the_same():
    model = live("gpt2")
    assert run(model, seed=3) == run(model, seed=3)
    changed = [key for key, row in run(model, seed=3).items() if row != run(model, seed=4)[key]]
    drawn = {f"surgery_{name}" for name in SURGERIES if SURGERIES[name].is_random}
    # 94 tokens are one bin, so that there are no others.
    assert {kind for _, kind in changed} == drawn - {"surgery_shuffled_within_other_bins"}


def test_one_row_has_no_interval():
    row = run(live("gpt2"), ("equalized",), rows=rows_of(1))[INPUT, "surgery_equalized"]
    assert np.isnan([row["low"], row["high"]]).all() and row["n"] == 1


def test_a_row_of_special_tokens_is_masked_all_the_same():
    model = live("bert")
    held = HeldOut(model, np.full((1, 9), model.tokenizer.sep_token_id), 1)
    (batch,) = held.batches()
    assert batch.target_mask.sum() == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kinds": ["equalised"]}, ConfigError, "no surgery 'equalised'; did you mean 'equalized'"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1; got 0"),
        ({"rows": rows_of(0)}, ConfigError, r"rows of shape \(0, 9\) have no token to predict"),
        ({"rows": rows_of(2, 1)}, ConfigError, r"shape \(2, 1\) .* 2 tokens or more"),
        ({"rows": rows_of(1, 50)}, ConfigError, "rows of 49 positions do not fit the window"),
        ({"rows": rows_of() + V}, ConfigError, "the embedding of tiny gpt2 has 96 rows"),
        ({"counts": np.zeros(V, int)}, ConfigError, "none of the tokens of tiny gpt2 occurs"),
        ({"counts": np.ones(V + 1, int)}, MismatchError, "97 tokens and the embedding .* 96 rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done(changes, error, message):
    with pytest.raises(error, match=message):
        run(live("gpt2"), **changes)


def test_models_that_predict_no_token_of_a_row():
    with pytest.raises(ConfigError, match=r"tiny t5 is no causal .* no held-out loss"):
        run(live("t5"))


def test_a_loss_that_is_not_finite():
    model = live("gpt2")
    _ = model.head
    model.network.transformer.ln_f.weight.data.fill_(torch.nan)
    with pytest.raises(MeasureError, match="the held-out loss of tiny gpt2 is not finite"):
        run(model)
