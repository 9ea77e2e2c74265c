"""Gradients of a prediction with respect to the row that the embedding looks up for each token.

The rows replace the output of the embedding lookup; positions, segments and norms are added to them
once, by the model. The paper's released code feeds the output of the embedding module there, and
takes absolute values: the protocol `paper` does the same (NormXLogit, arXiv 2411.16252).

B inputs, P positions, T targets, E size of an embedding.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.distribution import install_command
from dynamics.errors import ConfigError

Rows = Float[Tensor, "B P E"]
CONVERGED = 0.05  # largest error, relative to the change of the prediction from baseline to input
FIXED_STEPS, MOST_STEPS = 50, 800
ROUNDING = 1e-5  # smallest change of a prediction that is not rounding, relative to the prediction
POSITIONS_AT_ONCE = 2048  # positions of all steps and inputs that integrated gradients run together
ON_ACCELERATORS = 8192  # the same on accelerators, which have more units to keep busy


def gradient_norm(batch: AttributionBatch) -> Scores:
    """Norm of each token's gradient: L2 over features, L1 in the paper's protocol; unsigned."""
    order = 1 if batch.settings.follows_paper else 2
    return _scores(batch, lambda slope, rows: slope.norm(p=order, dim=-1))


def gradient_x_input(batch: AttributionBatch) -> Scores:
    """Dot product of each token's gradient and row; the L1 norm of their product in the paper's."""
    # Shrikumar et al. 2016, arXiv 1605.01713: sum over features of x_i df/dx_i
    return _scores(batch, lambda slope, rows: _sum_features(batch, slope * rows))


def integrated_gradients(batch: AttributionBatch) -> Scores:
    """Gradients averaged from a baseline to the input, times their difference (arXiv 1703.01365).

    Computed by captum. The number of Gauss-Legendre steps is doubled, for each input and target
    separately, until the scores sum to the change of the prediction within 5 % of it, or 800 are
    reached. The baseline has the mask token, the padding token or zeros in place of each token, the
    first of these that exists, unless the settings name one; special tokens keep their rows, and
    score 0. The paper's protocol takes 50 steps from zeros, for special tokens too, and sums
    absolute values over features.

    Returns:
        Scores, and as checks `completeness_delta`, the distance of the signed sum from the change
        of the prediction, relative to the change, and `steps`. NaN for targets that do not exist.

    Raises:
        ConfigError: captum or the baseline's token is missing, or there are no steps.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ConfigError(
            f"integrated_gradients needs captum: {install_command('attribution')}"
        ) from error
    has_fixed_steps, target_mask = batch.settings.follows_paper, batch.target_mask
    first_steps = FIXED_STEPS if has_fixed_steps else batch.settings.steps
    if first_steps < 1:
        raise ConfigError(f"integrated gradients need at least 1 step, steps is {first_steps}")
    batch, rows = _with_input_rows(batch)
    baseline = _baseline_rows(batch, rows)
    values = rows.new_zeros(*rows.shape[:2], target_mask.shape[1])
    delta, steps_done = (torch.full_like(values[:, 0], torch.nan) for _ in range(2))
    with torch.no_grad():
        prediction = predict(batch, rows)
        change = prediction - predict(batch, baseline)
    tiny = torch.finfo(prediction.dtype).tiny
    # A change that is rounding has no relative error: the prediction sets the scale instead.
    scale = change.abs().maximum(ROUNDING * prediction.abs()).clamp_min(tiny)
    positions = POSITIONS_AT_ONCE if rows.device.type == "cpu" else ON_ACCELERATORS
    rows_at_once = positions // rows.shape[1]
    for target in target_mask.any(0).nonzero().flatten().tolist():
        forward = _prediction_of(batch, target)
        remaining, steps = target_mask[:, target].nonzero().flatten(), first_steps
        while len(remaining):
            # Sundararajan et al. 2017, eq. 1: (x - x') times the mean gradient from x' to x
            shares = IntegratedGradients(forward).attribute(
                rows[remaining],
                baseline[remaining],
                additional_forward_args=(remaining,),
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=max(rows_at_once, len(remaining)),
            )
            values[remaining, :, target] = _sum_features(batch, shares)
            # Completeness, Sundararajan et al. 2017, proposition 1: shares sum to the change.
            missing = (shares.sum((1, 2)) - change[remaining, target]).abs()
            delta[remaining, target] = missing / scale[remaining, target]
            steps_done[remaining, target] = steps
            if has_fixed_steps or steps >= MOST_STEPS:
                break
            remaining = remaining[~(delta[remaining, target] <= CONVERGED)]  # NaN has not
            steps = min(2 * steps, MOST_STEPS)
    return Scores(values, checks={"completeness_delta": delta, "steps": steps_done})


def looked_up(batch: AttributionBatch) -> Rows:
    """Return the rows that the embedding looks up for the scored tokens, in float32 or wider."""
    with torch.no_grad():
        rows = batch.stack.look_up(batch.scored_ids)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def predict(batch: AttributionBatch, rows: Rows) -> Float[Tensor, "B T"]:
    """Return the predictions for rows that replace the looked-up ones."""
    # Gradients and sums are in float32 or wider; the network runs in its own dtype.
    narrow = rows.to(batch.model.network.dtype)
    return batch.predictions(batch.read(rows=narrow)).to(rows.dtype)


def per_target(
    predictions: Float[Tensor, "B T"],
    target_mask: Bool[Tensor, "B T"],
    rows: Rows,
    reduce: Callable[[Rows], Float[Tensor, "B P"]],
) -> Float[Tensor, "B P T"]:
    """Return the gradients of predictions, one backward pass per target, reduced over features.

    Targets that no input has are skipped and score 0. An input's prediction depends on its own rows
    only.
    """
    values = rows.new_zeros(*rows.shape[:2], target_mask.shape[1])
    for target in target_mask.any(0).nonzero().flatten().tolist():
        # The sum over inputs gives each its own gradient: their predictions do not mix.
        (slope,) = torch.autograd.grad(predictions[:, target].sum(), rows, retain_graph=True)
        values[:, :, target] = reduce(slope)
    return values


@torch.enable_grad()
def _scores(batch: AttributionBatch, reduce: Callable[[Rows, Rows], Tensor]) -> Scores:
    """Score positions by a function of gradients and rows, which sums over features."""
    batch, rows = _with_input_rows(batch)
    rows.requires_grad_()
    predictions, constant = predict(batch, rows), rows.detach()
    values = per_target(predictions, batch.target_mask, rows, lambda slope: reduce(slope, constant))
    return Scores(values)


def _with_input_rows(batch: AttributionBatch) -> tuple[AttributionBatch, Rows]:
    """Return the batch to run, and the rows that gradients are taken at."""
    rows = looked_up(batch)
    if not batch.settings.follows_paper:
        return batch, rows
    batch = replace(batch, inputs=replace(batch.inputs, token_type_ids=None), reading=None)
    with torch.no_grad():
        embedded = batch.read().scored.embedding.to(rows.dtype)
    if embedded.shape != rows.shape:
        raise ConfigError(
            f"{batch.model.name}: protocol paper feeds the embedding module's output, of size "
            f"{embedded.shape[-1]}, as rows, of size {rows.shape[-1]}; use protocol sound"
        )
    return batch, embedded


def _baseline_rows(batch: AttributionBatch, rows: Rows) -> Rows:
    """Return the start of integrated gradients; at padding it is of no effect."""
    if batch.settings.follows_paper:
        return torch.zeros_like(rows)
    model, kind = batch.model, batch.settings.baseline
    if kind == "auto":
        kind = next((name for name in ("mask", "pad") if model.token_id(name) is not None), "zero")
    baseline = torch.zeros_like(rows)
    if kind != "zero":
        if (replacement := model.token_id(kind)) is None:
            raise ConfigError(
                f"{model.name}: the tokenizer has no {kind} token to start integrated "
                "gradients from; use baseline auto or zero"
            )
        baseline = looked_up(batch.with_ids(torch.full_like(batch.scored_ids, replacement)))
    tokenizer = model.tokenizer
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)  # GPT-2's end is its unknown token too
    special_ids = [i for i in tokenizer.all_special_ids if i in ends or i != tokenizer.unk_token_id]
    is_special = torch.isin(batch.scored_ids, torch.tensor(special_ids).to(batch.scored_ids))
    return torch.where(is_special[:, :, None], rows, baseline)


def _prediction_of(
    batch: AttributionBatch, target: int
) -> Callable[[Rows, Int[Tensor, " B"]], Float[Tensor, " B"]]:
    """Return a function of rows, and of the inputs they belong to, that predicts one target."""
    column = slice(target, target + 1)
    single = replace(
        batch,
        readouts=batch.readouts[:, column],
        targets=batch.targets[:, column],
        foils=batch.foils[:, column],
    )
    return lambda rows, indices: predict(single.select(indices), rows)[:, 0]


def _sum_features(batch: AttributionBatch, shares: Rows) -> Float[Tensor, "B P"]:
    """Sum the shares of each row's features, or their absolute values in the paper's protocol."""
    is_unsigned = batch.settings.follows_paper
    return (shares.abs() if is_unsigned else shares).sum(-1)
