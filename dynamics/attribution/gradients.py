"""Gradients of a prediction with respect to what the embedding looks up for each token.

The rows are fed in place of the embedding's answer; positions, segments and norms are added to them
once, by the model. The paper's released code feeds the output of the embedding module there, and
takes absolute values: the protocol `paper` does the same (NormXLogit, arXiv 2411.16252).

B inputs, P positions, T targets, E size of an embedding.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.attribution.question import Question, Scores
from dynamics.distribution import install_command
from dynamics.errors import ConfigError

Rows = Float[Tensor, "B P E"]
CONVERGED = 0.05  # of what the prediction changes by, from baseline to input
FIXED_STEPS, MOST_STEPS = 50, 800
ROUNDING = 1e-5  # of the prediction; a smaller change is none
POSITIONS_AT_ONCE = 2048  # of all steps and inputs that integrated gradients run together,
ON_ACCELERATORS = 8192  # which have more units to keep busy


def gradient_norm(question: Question) -> Scores:
    """Norm of each token's gradient: L2 over features, L1 in the paper's protocol; unsigned."""
    order = 1 if question.settings.rules.unsigned_gradients else 2
    return _scores(question, lambda slope, rows: slope.norm(p=order, dim=-1))


def gradient_x_input(question: Question) -> Scores:
    """Dot product of each token's gradient and row; the L1 norm of their product in the paper's."""
    return _scores(question, lambda slope, rows: _summed(question, slope * rows))


def integrated_gradients(question: Question) -> Scores:
    """Gradients averaged on the way from a baseline, times the way (arXiv 1703.01365), by captum.

    Gauss-Legendre steps are doubled, for each input and target on its own, until the scores sum to
    the change of the prediction within 5 % of it, or 800 are reached. The baseline puts the mask
    token, the padding token or zeros in place of each token, the first of these that the tokenizer
    has unless the settings name one; special tokens keep their rows, and score 0. The paper's
    protocol takes 50 steps from zeros, for special tokens too, and sums absolute values over
    features.

    Returns:
        Scores, and as checks `completeness_delta`, the distance of the signed sum from the change
        of the prediction, as a part of the change, and `steps`. NaN for targets that do not exist.

    Raises:
        ConfigError: captum or the baseline's token is missing, or there are no steps.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ConfigError(
            f"integrated_gradients needs captum: {install_command('attribution')}"
        ) from error
    fixed, asked = question.settings.rules.fixed_steps, question.asked
    first_steps = FIXED_STEPS if fixed else question.settings.steps
    if first_steps < 1:
        raise ConfigError(f"integrated gradients need at least 1 step, steps is {first_steps}")
    question, rows = _fed(question)
    start = _baseline(question, rows)
    values = rows.new_zeros(*rows.shape[:2], asked.shape[1])
    delta, taken = (torch.full_like(values[:, 0], torch.nan) for _ in range(2))
    with torch.no_grad():
        end = predict(question, rows)
        change = end - predict(question, start)
    scale = change.abs().maximum(ROUNDING * end.abs()).clamp_min(torch.finfo(end.dtype).tiny)
    positions = POSITIONS_AT_ONCE if rows.device.type == "cpu" else ON_ACCELERATORS
    at_once = positions // rows.shape[1]
    for target in asked.any(0).nonzero().flatten().tolist():
        along = _prediction_of(question, target)
        left, steps = asked[:, target].nonzero().flatten(), first_steps
        while len(left):
            shares = IntegratedGradients(along).attribute(
                rows[left],
                start[left],
                additional_forward_args=(left,),
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=max(at_once, len(left)),
            )
            values[left, :, target] = _summed(question, shares)
            missing = (shares.sum((1, 2)) - change[left, target]).abs()
            delta[left, target] = missing / scale[left, target]
            taken[left, target] = steps
            if fixed or steps >= MOST_STEPS:
                break
            left = left[~(delta[left, target] <= CONVERGED)]
            steps = min(2 * steps, MOST_STEPS)
    return Scores(values, checks={"completeness_delta": delta, "steps": taken})


def looked_up(question: Question) -> Rows:
    """What the embedding looks up for the scored tokens, in float32 or wider."""
    with torch.no_grad():
        rows = question.stack.look_up(question.scored_ids)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def predict(question: Question, rows: Rows) -> Float[Tensor, "B T"]:
    """The predictions for rows that are fed in place of the looked-up ones."""
    narrow = rows.to(question.model.network.dtype)
    return question.predictions(question.read(rows=narrow)).to(rows.dtype)


def per_target(
    predictions: Float[Tensor, "B T"],
    asked: Bool[Tensor, "B T"],
    rows: Rows,
    reduced: Callable[[Rows], Float[Tensor, "B P"]],
) -> Float[Tensor, "B P T"]:
    """Gradients of predictions, one backward pass for each target, reduced over features.

    Targets that no input has are skipped and score 0. An input's prediction depends on its own rows
    only, so that inputs do not mix.
    """
    values = rows.new_zeros(*rows.shape[:2], asked.shape[1])
    for target in asked.any(0).nonzero().flatten().tolist():
        (slope,) = torch.autograd.grad(predictions[:, target].sum(), rows, retain_graph=True)
        values[:, :, target] = reduced(slope)
    return values


@torch.enable_grad()
def _scores(question: Question, reduced: Callable[[Rows, Rows], Tensor]) -> Scores:
    question, rows = _fed(question)
    rows.requires_grad_()
    predictions, fixed = predict(question, rows), rows.detach()
    values = per_target(predictions, question.asked, rows, lambda slope: reduced(slope, fixed))
    return Scores(values)


def _fed(question: Question) -> tuple[Question, Rows]:
    """Rows to start from, and the question they are fed to."""
    rows = looked_up(question)
    if not question.settings.rules.embeds_twice:
        return question, rows
    batch = replace(question.batch, token_type_ids=None)
    question = replace(question, batch=batch, reading=None)
    with torch.no_grad():
        twice = question.read().scored.embedding.to(rows.dtype)
    if twice.shape != rows.shape:
        raise ConfigError(
            f"{question.model.name}: protocol paper feeds the embedding module's output, of size "
            f"{twice.shape[-1]}, as rows, of size {rows.shape[-1]}; use protocol sound"
        )
    return question, twice


def _baseline(question: Question, rows: Rows) -> Rows:
    """Rows that integrated gradients start from; what padding starts from has no gradient."""
    if question.settings.rules.fixed_steps:
        return torch.zeros_like(rows)
    tokenizer, wanted = question.model.tokenizer, question.settings.baseline
    if wanted == "auto":
        known = (name for name in ("mask", "pad") if _token(question, name) is not None)
        wanted = next(known, "zero")
    start = torch.zeros_like(rows)
    if wanted != "zero":
        if (token := _token(question, wanted)) is None:
            raise ConfigError(
                f"{question.model.name}: the tokenizer has no {wanted} token to start integrated "
                "gradients from; use baseline auto or zero"
            )
        start = looked_up(question.with_ids(torch.full_like(question.scored_ids, token)))
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)  # GPT-2's end is its unknown token too
    special = [
        each for each in tokenizer.all_special_ids if each in ends or each != tokenizer.unk_token_id
    ]
    keep = torch.isin(question.scored_ids, torch.tensor(special).to(question.scored_ids))
    return torch.where(keep[:, :, None], rows, start)


def _token(question: Question, name: str) -> int | None:
    return getattr(question.model.tokenizer, f"{name}_token_id")


def _prediction_of(
    question: Question, target: int
) -> Callable[[Rows, Int[Tensor, " B"]], Float[Tensor, " B"]]:
    """One target's prediction, as a function of rows and of the inputs that they stand for."""
    only = slice(target, target + 1)
    one = replace(
        question,
        readouts=question.readouts[:, only],
        targets=question.targets[:, only],
        foils=question.foils[:, only],
    )
    return lambda rows, inputs: predict(one.select(inputs), rows)[:, 0]


def _summed(question: Question, shares: Rows) -> Float[Tensor, "B P"]:
    unsigned = question.settings.rules.unsigned_gradients
    return (shares.abs() if unsigned else shares).sum(-1)
