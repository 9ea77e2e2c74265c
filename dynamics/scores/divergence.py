"""Kullback-Leibler divergence between predictions. N predictions over V tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

WIDE = 50.0  # nats beyond which the precise form could overflow


def kl_divergence(
    p_logits: Float[Tensor, "N V"], q_logits: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Kullback-Leibler divergence KL(p || q) in nats, p = softmax(p_logits), q = softmax(q_logits).

    With u = q_logits - p_logits, its mean under p subtracted, the divergence is
    log1p(sum p (e^u - 1 - u)): no large terms cancel, so that it is precise in float32 where the
    two hardly differ, never negative, and exactly 0 where they are equal. Predictions that are far
    apart are compared as log-probabilities in float64.

    Args:
        p_logits: Logits of p.
        q_logits: Logits of q for the same tokens; a shift of all of them changes nothing.

    Returns:
        In float32 or wider; NaN where a logit is not finite.

    Example:
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[7.0, 7.0]]))
        tensor([0.])
    """
    wider = torch.promote_types(p_logits.dtype, torch.float32)
    p_logits, q_logits = p_logits.to(wider), q_logits.to(wider)
    p = p_logits.softmax(-1)
    u = q_logits - p_logits
    u = u - (p * u).sum(-1, keepdim=True)
    # KL(p || q) = log sum p e^u - sum p u, where both sum p u = 0 and sum p = 1.
    divergence = (p * (u.expm1() - u)).sum(-1).log1p()
    wide = u.amax(-1) > WIDE
    if wide.any():
        log_p, log_q = (logits[wide].double().log_softmax(-1) for logits in (p_logits, q_logits))
        divergence[wide] = (log_p.exp() * (log_p - log_q)).sum(-1).to(wider)
    return divergence
