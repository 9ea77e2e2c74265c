"""NormXLogit: the norm of a token's input embedding times what the head reads from it."""

from jaxtyping import Float
from torch import Tensor


def normxlogit(norms: Float[Tensor, " N"], logits: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """Attribution of each token to each target (NormXLogit, arXiv 2411.16252).

    Signed: a token whose logit is negative falls the lower the larger its norm.

    Args:
        norms: Norm of each token's input embedding, from `embedding_norm`.
        logits: From `logit_attribution`, one column for each target.
    """
    # NormXLogit, arXiv 2411.16252: Att(x_i) = ||x_i^0|| * Att_LogAt(x_i)
    return norms[:, None] * logits
