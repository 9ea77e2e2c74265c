"""Batches of tiny models whose weights are so large that they are far from linear."""

from dataclasses import replace
from functools import cache

import torch

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.settings import AttributionSettings
from dynamics.models.live_model import Batch
from tests.models import tiny

MASKED = tiny.MASKED[:-1]
CAUSAL = (*(name for name in tiny.CAUSAL if name != "mamba"), "gpt_neox_sequential")
ATTENTION = (
    *((name, "masked", "source") for name in MASKED),
    *((name, "causal", "source") for name in CAUSAL),
    *((name, "classification", "source") for name in (*MASKED, *CAUSAL, "modernbert_mean", "bart")),
    *(
        (name, "seq2seq", side)
        for name in ("t5", "t5_gated", "bart")
        for side in ("source", "target")
    ),
    ("t5", "classification", "target"),
)
BATCHED = (
    *((name, "causal", "source") for name in ("gpt2", "gpt_neox", "gemma2", "bloom")),
    *((name, "masked", "source") for name in ("bert", "deberta")),
    *((name, "classification", "source") for name in ("bert", "modernbert_mean", "opt", "bart")),
    ("t5", "seq2seq", "source"),
    ("t5", "seq2seq", "target"),
)


def named(cases):
    return {"argvalues": cases, "ids": ["-".join(each) for each in cases]}


@cache
def live_model(name, task="causal", dtype=torch.float64):
    """Not to be changed: `fresh_model` is."""
    return fresh_model(name, task, dtype)


def fresh_model(name, task="causal", dtype=torch.float64):
    return tiny.live(name, task, dtype=dtype, large_weights=True)


def attribution_batch(model, side="source", **settings):
    """Two inputs, the second padded, with two targets and one; a contrast among them."""
    ids = torch.tensor([[5, 6, 1, 8, 9], [14, 15, 7, 0, 0]])
    on = (ids != 0).long()
    inputs = {}
    if model.is_encoder_decoder:
        decoder = ids if model.task == "classification" else torch.tensor([[0, 21, 22], [0, 23, 0]])
        counts = torch.tensor([[5], [3]] if model.task == "classification" else [[3], [2]])
        inputs = {
            "decoder_input_ids": decoder,
            "decoder_attention_mask": (torch.arange(decoder.shape[1]) < counts).long(),
        }
    if model.name == "tiny bert":
        inputs = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])}
    readouts = torch.tensor([[2, 1], [1, -1]])
    targets, foils = torch.tensor([[11, 12], [13, 0]]), torch.tensor([[-1, 17], [-1, -1]])
    if model.task == "classification":
        if model.head.readout == "end_of_sentence":
            ids[ids == model.network.config.eos_token_id] = 10
            ids[0, 4] = ids[1, 2] = model.network.config.eos_token_id
        first = model.head.readout in ("first", "mean")
        readouts = torch.tensor([[0, 0], [0, -1]] if first else [[4, 4], [2, -1]])
        targets, foils = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[-1, 0], [-1, -1]])
    return AttributionBatch(
        model,
        Batch(ids, on, **inputs),
        readouts,
        targets,
        foils,
        AttributionSettings(side=side, **settings),
    )


def alone(batch, index):
    """One input of a batch without its padding."""
    inputs = batch.inputs
    length = int(inputs.attention_mask[index].sum())
    ids = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
    if inputs.token_type_ids is not None:
        ids["token_type_ids"] = inputs.token_type_ids
    short = {name: each[index : index + 1, :length] for name, each in ids.items()}
    if inputs.decoder_input_ids is not None:
        kept = int(inputs.decoder_attention_mask[index].sum())
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            short[name] = getattr(inputs, name)[index : index + 1, :kept]
    own = {
        name: getattr(batch, name)[index : index + 1] for name in ("readouts", "targets", "foils")
    }
    return replace(batch, inputs=Batch(**short), **own)
