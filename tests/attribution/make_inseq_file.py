"""Makes `inseq_file.json` with Inseq 0.7.1 itself: python tests/attribution/make_inseq_file.py."""

from pathlib import Path

import torch
from inseq.data.attribution import (
    CoarseFeatureAttributionSequenceOutput,
    FeatureAttributionOutput,
)
from inseq.utils.typing import TokenWithId

NAN = float("nan")


def tokens(*names):
    return [TokenWithId(name, len(name)) for name in names]


FeatureAttributionOutput(
    [
        CoarseFeatureAttributionSequenceOutput(
            source=tokens("once", "upon"),
            target=tokens("once", "upon", "a", "time"),
            target_attributions=torch.tensor([[1.0, 3], [2, 4], [NAN, -5], [NAN, NAN]]),
            step_scores={"probability": torch.tensor([0.25, 0.5])},
            attr_pos_start=2,
        ),
        CoarseFeatureAttributionSequenceOutput(
            source=tokens("un", "chat"),
            target=tokens("<pad>", "a", "cat"),
            source_attributions=torch.tensor([[1.0, 2], [3, 4]]),
            target_attributions=torch.tensor([[5.0, 6], [NAN, 7], [NAN, NAN]]),
            attr_pos_start=1,
        ),
    ],
    info={
        "attribution_method": "occlusion",
        "model_name": "some/model",
        "input_texts": ["once upon", "un chat"],
        "generated_texts": ["once upon a time", "a cat"],
    },
).save(Path(__file__).with_name("inseq_file.json"), overwrite=True)
