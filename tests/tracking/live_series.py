"""Trainings written by hand whose models run: random ones that move from step to step."""

import json
from dataclasses import asdict
from functools import cache

import numpy as np
import torch
from safetensors.torch import save_file

from dynamics.checkpoints.series import open_series
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.corpus.tokens import HELD_OUT, StreamInfo
from dynamics.files import sha256_file
from tests.models import tiny
from tests.tracking.synthetic import make_counts

STEPS, EMBEDDINGS_ONLY = (0, 2, 8), 4
ROWS, LENGTH = 50, 20


@cache
def counts_of(name="gpt_neox"):
    return make_counts(tiny.V, tokenizer=tokenizer_sha256(tiny.tokenizer(name)))


def stream_of(counts):
    """Rows of ids as frequent as the counts have them."""
    count = counts.table["count"].to_numpy()
    rng = np.random.default_rng(4)
    return rng.choice(len(count), (ROWS, LENGTH + 1), p=count / count.sum()).astype("<u2")


def write_live_training(
    folder,
    name="gpt_neox",
    tokenizer=None,
    held_out=0,
    corpus="c" * 64,
    steps=(*STEPS, EMBEDDINGS_ONLY),
    **changes,
):
    """Checkpoints with a tokenizer and a stream beside them; step 4 has embeddings only.

    held_out: how many of the first rows stand in `held_out.bin` as well.
    """
    counts = counts_of(name)
    folder.mkdir(parents=True)
    stream_of(counts).tofile(folder / "tokens.bin")
    digest = tokenizer or counts.info.tokenizer_sha256
    kept = {}
    if held_out:
        stream_of(counts)[:held_out].tofile(folder / HELD_OUT)
        kept = {"held_out_rows": held_out, "held_out_sha256": sha256_file(folder / HELD_OUT)}
    info = StreamInfo(
        "<u2",
        ROWS,
        LENGTH,
        corpus_digest=corpus,
        tokenizer_sha256=digest,
        vocab_size=tiny.V,
        **kept,
    )
    (folder / "tokens.json").write_text(json.dumps(asdict(info)))
    described = {
        "settings": {"name": "live", "training": {"batch_size": 4}},
        "tokenizer_sha256": counts.info.tokenizer_sha256,
        "tokens_per_step": 4 * LENGTH,
    }
    (folder / "train.json").write_text(json.dumps(described))
    counts.write(folder / "counts.parquet")
    tiny.tokenizer(name).save_pretrained(folder / "tokenizer")
    network = tiny.build(name, **changes)
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        with torch.no_grad():
            rng = torch.Generator().manual_seed(step)
            for weight in network.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=rng)
        network.save_pretrained(checkpoint)
        if step == EMBEDDINGS_ONLY:
            (checkpoint / "model.safetensors").unlink()
            kept = {
                "gpt_neox.embed_in.weight": network.get_input_embeddings().weight,
                "embed_out.weight": network.get_output_embeddings().weight,
                "gpt_neox.final_layer_norm.weight": network.gpt_neox.final_layer_norm.weight,
                "gpt_neox.final_layer_norm.bias": network.gpt_neox.final_layer_norm.bias,
            }
            save_file(
                {key: value.detach().contiguous() for key, value in kept.items()},
                checkpoint / "embeddings.safetensors",
            )
    return open_series(folder)
