import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import dynamics
from dynamics.attribution.job import AttributionJob
from dynamics.attribution.methods import METHODS, find_method
from dynamics.attribution.mixing import rolled_out, rows_of_sum_one
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError
from dynamics.models.block_layouts import LAYOUTS
from tests.attribution.batches import attribution_batch
from tests.models import tiny
from tests.models.test_block_parts import fresh

MIXING = ("attention_rollout", "value_zeroing")
OF_BLOCKS = [name for name, method in METHODS.items() if method.excludes]


def test_rows_without_contributions_are_those_of_the_identity():
    shares, empty = rows_of_sum_one(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert empty == 1
    torch.testing.assert_close(shares, torch.tensor([[0.25, 0.75], [0.0, 1.0]]))


def test_no_matrices_multiply_to_the_identity_and_the_last_comes_leftmost():
    torch.testing.assert_close(rolled_out(torch.empty(0, 2, 2)), torch.eye(2))
    first, last = torch.rand(2, 3, 3)
    torch.testing.assert_close(rolled_out(torch.stack([first, last])), last @ first)


@pytest.mark.parametrize("method", MIXING)
def test_layers_are_products_and_single_blocks(method):
    settings = {mixing: AttributionSettings(mixing=mixing) for mixing in ("rolled_out", "single")}
    found = {}
    for mixing, each in settings.items():
        made = dynamics.attribute(
            fresh("bert"), ["the cat [MASK]"], method=method, layers="all", settings=each
        )
        found[mixing] = [np.nan_to_num(attribution.scores[:, 0]) for attribution in made]
    readout = np.eye(5)[3]  # [CLS] the cat [MASK] [SEP]
    for scores in found.values():
        np.testing.assert_array_equal(scores[0], readout)
    np.testing.assert_allclose(found["rolled_out"][1], found["single"][1])
    assert np.abs(found["rolled_out"][2] - found["single"][2]).max() > 1e-3
    for scores in (*found["rolled_out"], *found["single"]):
        assert scores.sum() == pytest.approx(1)


@pytest.mark.parametrize("method", MIXING)
def test_layers_of_a_batch_share_one_pass(method, monkeypatch):
    batch, passes = attribution_batch(fresh("gpt2")), []
    read = type(batch.model).read
    monkeypatch.setattr(
        type(batch.model), "read", lambda *args, **more: passes.append(1) or read(*args, **more)
    )
    for layer in (0, 1, 2):
        METHODS[method].function(replace(batch, settings=AttributionSettings(layer=layer)))
    assert len(passes) == len(batch.inputs)
    METHODS[method].function(batch.with_ids(batch.scored_ids + 1))
    assert len(passes) == 2 * len(batch.inputs), "other ids are other results"


@pytest.mark.parametrize("method", OF_BLOCKS)
def test_positions_whose_own_passes_are_counted(method):
    """A method states how often the blocks run over an input of five positions."""
    model = fresh(
        "bert" if LAYOUTS["bert"] and not METHODS[method].excludes(LAYOUTS["bert"]) else "gpt2"
    )
    batch = attribution_batch(model).select(torch.tensor([0]))
    _, _ = model.head, model.stack()
    rows = []
    with (
        model.stack()
        .blocks[0]
        .register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
            with_kwargs=True,
        )
    ):
        METHODS[method].function(batch)
    assert sum(rows) == METHODS[method].passes(5)


class TestRefusals:
    @pytest.mark.parametrize("method", OF_BLOCKS)
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("opt", "no record describes the blocks of model type opt; there is one for BERT, Ro"),
            ("modernbert", "no record describes the blocks of model type modernbert"),
            ("mamba", "no record describes the blocks of model type mamba"),
            ("t5", "its positions are mixed across two sides"),
        ],
    )
    def test_architectures_without_a_record(self, method, name, reason):
        with pytest.raises(ConfigError, match=f"^{method} does not cover .*: {reason}"):
            find_method(method, tiny.live(name))

    @pytest.mark.parametrize("method", OF_BLOCKS)
    def test_layouts_for_which_it_is_not_defined(self, method):
        for name, layout in LAYOUTS.items():
            if reason := METHODS[method].excludes(layout):
                model = tiny.live(name, "masked" if "BERT" in layout.name else "causal")
                with pytest.raises(ConfigError, match=f"^{method} does not cover") as refused:
                    find_method(method, model)
                assert reason in str(refused.value)
                assert layout.name in reason
                assert "\n" not in str(refused.value)


def test_files_of_earlier_versions_can_be_resumed(tmp_path):
    """The setting that came later is written only where it is not the default."""
    model = tiny.live("gpt2")
    for mixing, written in (("rolled_out", None), ("single", "single")):
        path = tmp_path / f"{mixing}.jsonl"
        job = AttributionJob(
            model=model,
            methods=["attention_rollout"],
            settings=AttributionSettings(mixing=mixing),
        )
        job.write([{"text": "the cat sat"}], path)
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["asked"].get("mixing") == written
        assert job.write([{"text": "the cat sat"}], path) == 1
