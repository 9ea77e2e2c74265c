"""Settings of the attribution methods, readable without torch."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

NORM_SOURCES = ("row", "row_centered", "module_output", "layer N")


def _has_norms(source: str) -> str:
    """Return the name of a norm source, or raise ValueError if no model has it."""
    if source not in NORM_SOURCES[:3] and not re.fullmatch(r"layer[ _-]?\d+", source):
        raise ValueError(
            f"norm source {source!r} is unknown; it is one of {', '.join(NORM_SOURCES)}"
        )
    return source


@dataclass(frozen=True, eq=False)
class AttributionSettings:
    """Settings of the attribution methods.

    Attributes:
        norm_source: Vectors whose norm is taken: `row` of the embedding, `row_centered` (the mean
            row subtracted), `module_output` (the input of the first block), or `layer N`.
        logit_form: Form of the logit: `raw`, `centered` (mean over all logits subtracted) or
            `log_probability` (nats; of each label alone where labels do not compete).
        layer: Layer whose representations the head reads, 0 for the embeddings; None for the last.
        side: Side whose tokens are scored, in an encoder-decoder: `source` or `target`.
        protocol: `sound`, or `paper` for the released code of NormXLogit. There gradient methods
            take the absolute value of each feature's share before they sum, so that signed methods
            are compared with unsigned ones; they get the output of the embedding module as if it
            were the embedding's row, so that positions, segments and norms are applied twice and
            segments are those of a first segment; integrated gradients take 50 steps from zero,
            converged or not; and special tokens other than the first are ranked with the others.
        baseline: Start of integrated gradients: `zero`, `pad`, `mask`, or `auto`.
        steps: Steps of integrated gradients to begin with; doubled until they have converged.
        occlude_with: Replacement of an occluded token: `mask`, `pad`, `unk`, `mean` (the mean row),
            `delete`, or `auto`.
        seed: Seed of the random scores.
        counts: Occurrences of each token id, for the baseline that ranks by frequency.
    """

    norm_source: Annotated[str, AfterValidator(_has_norms)] = "module_output"
    logit_form: Literal["raw", "centered", "log_probability"] = "raw"
    layer: int | None = None
    side: Literal["source", "target"] = "source"
    protocol: Literal["sound", "paper"] = "sound"
    baseline: Literal["auto", "zero", "pad", "mask"] = "auto"
    steps: int = 50
    occlude_with: Literal["auto", "mask", "pad", "unk", "mean", "delete"] = "auto"
    seed: int = 0
    counts: np.ndarray | None = None

    @property
    def follows_paper(self) -> bool:
        """True if the methods follow the released code of NormXLogit."""
        return self.protocol == "paper"
