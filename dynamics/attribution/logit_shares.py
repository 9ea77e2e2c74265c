"""What methods have in common that share a logit out as a sum of parts.

C labels or tokens of the vocabulary, T targets.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.frozen_maps import tolerance

SUMS = 10  # roundings of a block that the sum over all of them may have


def check_is_sum(batch: AttributionBatch, method: str) -> None:
    """Refuse log-probabilities, which are no sum of shares; that of a contrast is one.

    Raises:
        ConfigError: The logit form is a log-probability.
    """
    form = batch.settings.logit_form
    has_no_foil = bool((batch.target_mask & (batch.foils < 0)).any())
    if batch.form == "log_sigmoid" or (form == "log_probability" and has_no_foil):
        raise ConfigError(
            f"{method} shares a logit out, and a log-probability is no sum of shares; use the "
            "logit form raw"
            + ("" if batch.form == "log_sigmoid" else " or centered, or give foils")
        )


def check_shares(batch: AttributionBatch, method: str) -> None:
    """Refuse predictions that are no sum of parts at one read-out position.

    Raises:
        ConfigError: The logit form is a log-probability, the mean of all positions is read, or a
            single block is asked for.
    """
    check_is_sum(batch, method)
    model = batch.model
    if model.head.readout == "mean":
        raise ConfigError(
            f"{method} shares out the logit of one read-out position, and {model.name} reads the "
            "mean of all; use cp_lrp, or a method that needs predictions only"
        )
    if batch.settings.mixing == "single":
        raise ConfigError(f"{method} sums over blocks, and mixing is single; use mixing=rolled_out")


def of_targets(
    batch: AttributionBatch, index: int, targets: Sequence[int], columns: Float[Tensor, "C ..."]
) -> Float[Tensor, "T ..."]:
    """Return what is explained of numbers for each column: one, a contrast, or centred.

    Args:
        batch: The batch.
        index: Index of the input.
        targets: Indices of its targets.
        columns: Numbers of each label or token of the vocabulary.
    """
    numbers = columns[batch.targets[index, targets]]
    for row, foil in enumerate(batch.foils[index, targets].tolist()):
        if foil >= 0:
            numbers[row] = numbers[row] - columns[foil]
        elif batch.form == "centered":
            numbers[row] = numbers[row] - columns.mean(0)
    return numbers


def conservation(
    batch: AttributionBatch, method: str, parts: Float[Tensor, " N"], logit: Tensor
) -> Tensor:
    """Return the distance of a sum from its logit, relative to the largest of the parts.

    Raises:
        MeasureError: It is more than rounding.
    """
    largest = parts.abs().max().maximum(logit.abs()).clamp_min(torch.finfo(parts.dtype).tiny)
    error = (parts.sum() - logit).abs() / largest
    if not error <= SUMS * tolerance(batch.model.network.dtype):
        raise MeasureError(
            f"{batch.model.name} ({type(batch.model.network).__name__}): the parts of {method} "
            f"miss the logit by {error:.2g} of the largest of them; its blocks or its head have an "
            "operation that no record describes; use a method that needs predictions only"
        )
    return error
