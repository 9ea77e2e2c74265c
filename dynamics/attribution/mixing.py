"""Scores from how much the blocks of a network mix each position into each other.

A method gives one matrix for each block: how much of every position is in the new state of every
position. The scores of a prediction are the row of its read-out position, in the matrix of one
block or in the product over the blocks up to a layer. They are the same for every target that is
read at a position.

B inputs, P positions, T targets, L blocks.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.errors import ConfigError
from dynamics.models.attention_calls import precise
from dynamics.models.block_layouts import BlockLayout, layout_of, layout_refusal
from dynamics.models.block_parts import BlockParts
from dynamics.models.live_model import LiveModel
from dynamics.models.recorded_blocks import record_blocks

Mixing = Float[Tensor, "P P"]
LayoutRefusal = Callable[[BlockLayout], str | None]
"""Returns the reason why a method is not defined on a layout of blocks, None where it is."""


def every_layout(layout: BlockLayout) -> str | None:
    """Refuse no layout."""
    return None


def layouts_that_norm_the_residual(layout: BlockLayout) -> str | None:
    """Refuse blocks whose residual stream is not normed itself."""
    if layout.norms_residual:
        return None
    return (
        f"it follows the norms of the residual stream, which blocks of {layout.name} leave as it is"
    )


def layouts_that_add_to_the_residual(layout: BlockLayout) -> str | None:
    """Refuse blocks that norm the residual stream itself."""
    if not layout.norms_residual:
        return None
    return f"it sums what blocks add to the residual stream, which {layout.name} norms in each"


def block_refusal(excludes: LayoutRefusal, model: LiveModel) -> str | None:
    """Return the reason why a method does not fit the blocks of a model, None when it does.

    Args:
        excludes: Layouts for which the method is not defined.
        model: The model.
    """
    if model.is_encoder_decoder:
        return "its positions are mixed across two sides, which no record describes"
    return layout_refusal(model.network) or excludes(layout_of(model.network))


def rows_of_sum_one(mixing: Mixing) -> tuple[Mixing, int]:
    """Divide each row by its sum; return the number of rows without any contribution as well.

    A row of zeros has no shares: it becomes that of the identity, so that nothing is mixed in.
    """
    totals = mixing.sum(-1, keepdim=True)
    is_empty = totals == 0
    identity = torch.eye(len(mixing), dtype=mixing.dtype, device=mixing.device)
    shares = torch.where(is_empty, identity, mixing / totals.where(~is_empty, 1))
    return shares, int(is_empty.sum())


def rolled_out(matrices: Float[Tensor, "L P P"]) -> Mixing:
    """Return the product of the matrices of blocks, the last block leftmost; identity for none."""
    # Abnar & Zuidema 2020 (arXiv 2005.00928): R_l = A_l R_(l-1)
    product = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for matrix in matrices:
        product = matrix @ product
    return product


@torch.no_grad()
def mixing_scores(
    batch: AttributionBatch, name: str, matrix: Callable[[BlockParts], tuple[Mixing, int]]
) -> Scores:
    """Score the positions of each input by the read-out's row of a method's matrices.

    Args:
        batch: The batch.
        name: Name of the method.
        matrix: Matrix of a block, and the number of its rows that no position contributes to.

    Returns:
        Scores, and as check `empty_rows`: rows, over the blocks of the scores, in which nothing
        contributes.

    Raises:
        ConfigError: The prediction is read from the mean of all positions.
    """
    if batch.model.head.readout == "mean":
        raise ConfigError(
            f"{name} is the row of one read-out position, and {batch.model.name} reads the mean of "
            "all; use a method that needs predictions only, such as occlusion"
        )
    model, layer = batch.model, batch.settings.layer
    values = precise(torch.zeros(batch.visible.shape, device=model.device))
    empty = torch.full(batch.target_mask.shape, torch.nan, device=model.device)
    for index in range(len(batch.inputs)):
        compute = partial(_matrices, batch, index, matrix)
        matrices, empty_rows = batch.shared_result(f"{name} {index}", compute)
        end = len(matrices) if layer is None else layer
        start = max(end - 1, 0) if batch.settings.mixing == "single" else 0
        product = rolled_out(matrices[start:end])
        for target in batch.target_mask[index].nonzero().flatten().tolist():
            values[index, : len(product), target] = product[batch.readouts[index, target]]
            empty[index, target] = sum(empty_rows[start:end])
    return Scores(values, checks={"empty_rows": empty})


def _matrices(
    batch: AttributionBatch, index: int, matrix: Callable[[BlockParts], tuple[Mixing, int]]
) -> tuple[Float[Tensor, "L P P"], list[int]]:
    """Return the matrix of each block for one input, and the number of empty rows in each."""
    blocks = record_blocks(batch.model, batch.alone(index))
    matrices, empty_rows = zip(*map(matrix, blocks), strict=True)
    return torch.stack(matrices), list(empty_rows)
