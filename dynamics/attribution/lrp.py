"""CP-LRP: Gradient x Input where everything but the values of the tokens is a constant.

The model runs once as a linear one: attention weights, standard deviations of norms and the slopes
act(z)/z of activations are constants. The logit is then the sum of the shares of the tokens'
embeddings and of the additive terms. One forward pass, and one backward pass for each target.
"""

import re

import torch
from torch.autograd import forward_ad

from dynamics.attribution.gradients import looked_up, per_target, predict
from dynamics.attribution.question import Question, Scores
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.linearized import linearized
from dynamics.models.live_model import LiveModel

TOLERANCE = 1e-3
_RECURRENT = re.compile("mamba|rwkv|recurrent|deltanet|xlstm|retention", re.IGNORECASE)


def refuses(model: LiveModel) -> str | None:
    """Why the rules do not cover a model."""
    kinds = {type(module).__name__ for module in model.network.modules()}
    recurrent = sorted(filter(_RECURRENT.search, kinds))
    if not recurrent:
        return None
    return f"its scan over a state ({recurrent[0]}) is not attention, and no rule makes it linear"


def cp_lrp(question: Question) -> Scores:
    """Share of each token's embedding in the logit of each target; signed.

    CP-LRP (arXiv 2202.07304) with the slopes act(z)/z for activations, and half of the gradient for
    each factor of a product: the same numbers as DecompX (arXiv 2306.02873) without redistribution
    of biases, at the cost of Gradient x Input.

    Returns:
        Scores, and as checks `bias`, the share of all additive terms: biases, position and segment
        embeddings, and in an encoder-decoder the tokens of the other side; and `conservation`, how
        far scores and bias are from summing to the prediction, as a part of the largest of the
        three. The bias is a derivative of its own, not what is left over. NaN for targets that do
        not exist.

    Raises:
        ConfigError: The log-probability is asked for, which is no sum of shares.
        MeasureError: Scores and bias miss the prediction by more than .001, in half precision by
            more than 16 units of rounding, or torch cannot follow the additive terms.
    """
    asked, network = question.asked, question.model.network
    form = question.settings.logit_form
    if question.form == "log_sigmoid" or (
        form == "log_probability" and bool((asked & (question.foils < 0)).any())
    ):
        raise ConfigError(
            "cp_lrp shares a logit out, and a log-probability is no sum of shares; use the logit "
            "form raw" + ("" if question.form == "log_sigmoid" else " or centered, or give foils")
        )
    rows = looked_up(question).requires_grad_()
    _ = question.model.output  # both try the model as it is
    if form != "raw":
        _ = question.model.head
    with torch.enable_grad(), linearized(network):
        try:
            both = predict(question, rows)
        except NotImplementedError as error:  # torch names the operation
            raise MeasureError(
                f"{question.model.name} ({type(network).__name__}): the architecture has an "
                f"operation that the rules of cp_lrp do not cover: {str(error).splitlines()[0]}"
            ) from error
        predictions, bias = forward_ad.unpack_dual(both)
        bias = torch.zeros_like(predictions) if bias is None else bias.detach()
    fixed = rows.detach()
    values = per_target(predictions, asked, rows, lambda slope: (slope * fixed).sum(-1))
    parts = torch.stack([predictions.detach(), -values.sum(1), -bias])
    largest = parts.abs().amax(0).maximum(values.abs().sum(1)).clamp_min(1e-6)
    error = (parts.sum(0).abs() / largest).where(asked, torch.nan)
    worst = error[asked].max() if asked.any() else error.new_zeros(())
    if not worst <= max(TOLERANCE, 16 * torch.finfo(network.dtype).eps):
        raise MeasureError(
            f"{question.model.name} ({type(network).__name__}): scores and bias miss the "
            f"prediction by {worst:.2g} of the largest of them; the architecture has an operation "
            "that the rules of cp_lrp do not cover"
        )
    return Scores(values, checks={"bias": bias.where(asked, torch.nan), "conservation": error})
