"""Settings of the attribution methods, readable without torch."""

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from dynamics.settings_files import settings_model

if TYPE_CHECKING:
    import numpy as np

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
        protocol: `sound`, or `paper` for what the released code of NormXLogit does: gradient
            methods sum absolute values and embed twice (positions, norms and those of a first
            segment), integrated gradients take 50 steps from zero, and separators are ranked.
        baseline: Start of integrated gradients: `zero`, `pad`, `mask`, or `auto`.
        steps: Steps of integrated gradients to begin with; doubled until they have converged.
        occlude_with: Replacement of an occluded token: `mask`, `pad`, `unk`, `mean` (the mean row),
            `delete`, or `auto`.
        mixing: Blocks that methods of mixing between positions follow: `rolled_out` from the
            embeddings through all blocks up to the layer, or the `single` block of the layer.
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
    mixing: Literal["rolled_out", "single"] = "rolled_out"
    seed: int = 0
    counts: "np.ndarray | None" = None

    @property
    def follows_paper(self) -> bool:
        """True if the methods follow the released code of NormXLogit."""
        return self.protocol == "paper"


class AttributeSettings(settings_model(AttributionSettings, ("layer", "steps", "counts"))):
    """Settings of an attribution.

    Attributes:
        counts: counts.parquet of `dynamics count`, for inverse_log_frequency.
        column: Column of --dataset with the text.
        text_pair: A second segment after TEXT.
        batch_size: Inputs that run at once.
        dtype: Type of the weights.
        task: Task of the output head, if config.json does not tell it.
        trust_remote_code: Run Python code from the model's repository.
    """

    counts: str | None = None
    column: str = "text"
    text_pair: str | None = None
    batch_size: int = Field(default=16, ge=1)
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    task: Literal["causal", "masked", "seq2seq", "classification", "regression", "none"] | None = (
        None
    )
    trust_remote_code: bool = False

    def of_methods(self, counts: "np.ndarray | None") -> AttributionSettings:
        """Return the settings of the methods, with the counts of the model's tokens."""
        names = {field.name for field in fields(AttributionSettings)} - {"counts"}
        return AttributionSettings(**self.model_dump(include=names), counts=counts)
