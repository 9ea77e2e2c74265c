"""How far one prediction is from another. N predictions over V tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

WIDE = 50.0  # nats beyond which the precise form could overflow


def kl_divergence(before: Float[Tensor, "N V"], after: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(softmax(before) || softmax(after)) in nats.

    With u = after - before, its mean under softmax(before) subtracted, the divergence is
    log1p(sum p (e^u - 1 - u)): no large terms cancel, so that it is precise in float32 where the
    two hardly differ, never negative, and exactly 0 where they are equal. Predictions that are far
    apart are compared as log-probabilities in float64.

    Args:
        before: Logits.
        after: Logits of the same tokens; a shift of all of them changes nothing.

    Returns:
        In float32 or wider; NaN where a logit is not finite.

    Example:
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[7.0, 7.0]]))
        tensor([0.])
    """
    wider = torch.promote_types(before.dtype, torch.float32)
    before, after = before.to(wider), after.to(wider)
    share = before.softmax(-1)
    ratio = after - before
    ratio = ratio - (share * ratio).sum(-1, keepdim=True)
    divergence = (share * (ratio.expm1() - ratio)).sum(-1).log1p()
    wide = ratio.amax(-1) > WIDE
    if wide.any():
        left, right = (each[wide].double().log_softmax(-1) for each in (before, after))
        divergence[wide] = (left.exp() * (left - right)).sum(-1).to(wider)
    return divergence
