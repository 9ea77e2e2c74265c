"""Head-on-top logits: the output of a model's own head for representations, in several forms.

N representations, D hidden size, T targets, C labels or tokens of the vocabulary.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Head = Callable[[Float[Tensor, "N D"], Int[Tensor, " T"] | None], Float[Tensor, "N C"]]
LogitForm = Literal["raw", "centered", "log_probability", "log_sigmoid"]
CHUNK = 64  # representations whose logits over all columns exist at once


def logit_attribution(
    head: Head,
    states: Float[Tensor, "N D"],
    targets: Int[Tensor, " T"],
    *,
    foils: Int[Tensor, " T"] | None = None,
    form: LogitForm = "raw",
    reference: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, "N T"]:
    """LogAt: the logit of each target that the head gives to each representation.

    NormXLogit (arXiv 2411.16252), Att_LogAt(x_i) = HoT(x_i)[p]; for regression
    |HoT(x_i) - HoT(reference)|. A softmax ignores what is added to all logits, the raw form does
    not: `centered` subtracts the mean over all columns, `log_probability` the log of the summed
    exponentials (nats). Both need every column, 64 representations at a time; the other forms
    multiply the rows of the targets only. `log_sigmoid` is the log-probability (nats) of a label
    that does not compete with others.

    Args:
        head: Maps representations and columns to the logits of these columns, in their order; of
            all columns for None.
        states: Representations as the head takes them.
        targets: Column of each target; may repeat.
        foils: Column of the contrast of each target, whose logit is subtracted; -1 for none.
            Where there is one, the forms that subtract give the same as the raw one.
        form: Term that is subtracted from the logits, or log-sigmoid.
        reference: Representation that the prediction is read from, for regression.

    Returns:
        One number for each representation and target; empty when there is none of either. NaN and
        infinite logits stay what they are.
    """
    # Att_LogAt(x_i) = HoT(x_i)[p] (NormXLogit, arXiv 2411.16252)
    if form in ("raw", "log_sigmoid"):
        logits = log_form(head(states, targets), form)
    else:
        logits = torch.cat(
            [
                logits[:, targets] - shift(logits, form)[:, None]
                for logits in (head(chunk, None) for chunk in states.split(CHUNK))
            ]
        )
    if foils is not None and (foils >= 0).any():
        # -1 stands for no foil; clamped to a column that exists, its logit is then not used.
        contrast = logit_attribution(head, states, foils.clamp_min(0), form=form)
        logits = torch.where(foils >= 0, logits - contrast, logits)
    if reference is not None:
        read_out = logit_attribution(head, reference[None], targets, foils=foils, form=form)
        logits = (logits - read_out).abs()  # regression: |HoT(x_i) - HoT(reference)|
    return logits


def log_form(logits: Float[Tensor, "..."], form: LogitForm) -> Float[Tensor, "..."]:
    """Apply a form that treats every logit by itself: the log-sigmoid, or the logits unchanged."""
    return torch.nn.functional.logsigmoid(logits) if form == "log_sigmoid" else logits


def shift(logits: Float[Tensor, "N C"], form: LogitForm) -> Float[Tensor, " N"]:
    """Number that a form subtracts from all logits of a representation; 0 for the raw form."""
    if form == "centered":
        return logits.mean(-1)
    # log softmax(z)_k = z_k - log sum_j exp z_j
    return logits.logsumexp(-1) if form == "log_probability" else torch.zeros_like(logits[:, 0])
