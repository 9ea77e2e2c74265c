"""CP-LRP: Gradient x Input where everything but the values of the tokens is a constant.

The model runs once as a linear one: attention weights, standard deviations of norms and the slopes
act(z)/z of activations are constants. The logit is then the sum of the shares of the tokens'
embeddings and of the additive terms. It takes one forward pass, and a backward pass per target.
"""

import re

import torch
from torch.autograd import forward_ad

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.gradients import looked_up, per_target, predict
from dynamics.attribution.logit_shares import check_is_sum
from dynamics.errors import MeasureError
from dynamics.models.linearized import linearized
from dynamics.models.live_model import LiveModel

TOLERANCE = 1e-3  # of the largest of prediction, scores and bias
_RECURRENT = re.compile("mamba|rwkv|recurrent|deltanet|xlstm|retention", re.IGNORECASE)


def refuses(model: LiveModel) -> str | None:
    """Return the reason why the rules do not cover a model, None when they do."""
    kinds = {type(module).__name__ for module in model.network.modules()}
    recurrent = sorted(filter(_RECURRENT.search, kinds))
    if not recurrent:
        return None
    return f"its scan over a state ({recurrent[0]}) is not attention, and no rule makes it linear"


def cp_lrp(batch: AttributionBatch) -> Scores:
    """Share of each token's embedding in the logit of each target; signed.

    CP-LRP (arXiv 2202.07304) with the slopes act(z)/z for activations, and half of the gradient for
    each factor of a product: the same numbers as DecompX (arXiv 2306.02873) without redistribution
    of biases, at the cost of Gradient x Input.

    Returns:
        Scores, and as checks `bias`, the share of all additive terms: biases, position and segment
        embeddings, and in an encoder-decoder the tokens of the other side; and `conservation`, the
        distance of the sum of scores and bias from the prediction, relative to the largest of the
        three. The bias is computed as a derivative, not as the remainder. NaN for targets that do
        not exist.

    Raises:
        ConfigError: The logit form is a log-probability, which is no sum of shares.
        MeasureError: Scores and bias miss the prediction by more than .001, in half precision by
            more than 16 units of rounding, or torch cannot follow the additive terms.
    """
    target_mask, network = batch.target_mask, batch.model.network
    form = batch.settings.logit_form
    check_is_sum(batch, "cp_lrp")
    rows = looked_up(batch).requires_grad_()
    _ = batch.model.output  # this and the head probe the model, before it is linearized
    if form != "raw":
        _ = batch.model.head
    with torch.enable_grad(), linearized(network):
        try:
            dual = predict(batch, rows)
        except NotImplementedError as error:  # torch names the operation
            raise MeasureError(
                f"{batch.model.name} ({type(network).__name__}): the architecture has an "
                f"operation that the rules of cp_lrp do not cover: {str(error).splitlines()[0]}"
            ) from error
        # Additive terms are their own tangents: the tangent of the prediction is their share in it.
        predictions, bias = forward_ad.unpack_dual(dual)
        bias = torch.zeros_like(predictions) if bias is None else bias.detach()
    constant = rows.detach()
    # A linear function is its gradient times its input, so Gradient x Input is the exact share.
    values = per_target(predictions, target_mask, rows, lambda slope: (slope * constant).sum(-1))
    # Conservation: prediction = sum of the scores + bias.
    parts = torch.stack([predictions.detach(), -values.sum(1), -bias])
    largest = parts.abs().amax(0).maximum(values.abs().sum(1)).clamp_min(1e-6)
    error = (parts.sum(0).abs() / largest).where(target_mask, torch.nan)
    worst = error[target_mask].max() if target_mask.any() else error.new_zeros(())
    if not worst <= max(TOLERANCE, 16 * torch.finfo(network.dtype).eps):
        raise MeasureError(
            f"{batch.model.name} ({type(network).__name__}): scores and bias miss the "
            f"prediction by {worst:.2g} of the largest of them; the architecture has an operation "
            "that the rules of cp_lrp do not cover"
        )
    return Scores(
        values, checks={"bias": bias.where(target_mask, torch.nan), "conservation": error}
    )
