"""What an architecture makes of the scale of its embeddings, measured on the live model.

Norms are recognised by what they do to scaled and shifted rows, never by a name. B inputs, P
positions, E size of a looked-up row, D hidden size, C tokens of the vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynamics.errors import CheckpointError
from dynamics.models.live_model import LiveModel
from dynamics.models.norm_response import norm_response
from dynamics.models.output import probe_inputs, sentence_ids
from dynamics.models.patching import outputs_recorded, weight_replaced

POSITIONS = 12
LARGE = 1e4
"""Size of probe rows and shifts beside which positions, biases and usual logits are negligible."""

_MODERATE = 100.0
"""Shift of logits that a usual cap (15 to 50) bends, and that float32 resolves well."""

_AGREES = 0.01
"""Largest relative difference of two results that count as the same."""


@torch.no_grad()
def probe_architecture(model: LiveModel) -> dict[str, Any]:
    """Measure what stands between the embeddings and the rest of a model.

    Args:
        model: A causal or masked LM.

    Returns:
        Plain values; a key is missing where the probe decides nothing.

        - `embedding_norm`: norm that looked-up rows pass before the first block: `layer`
          (LayerNorm), `rms` (RMSNorm) or `none`. Positions may be added before it.
        - `first_block_norm`: norm through which the first block reads its input, likewise. What
          the block adds its results to (the residual stream) does not pass it.
        - `final_norm`: norm whose output the output embedding receives, likewise.
        - `tied`: whether the output embedding is the input embedding.
        - `logit_softcap`: number that no logit exceeds; 0 without such a cap.
    """
    inputs, head = model.network.get_input_embeddings(), model.network.get_output_embeddings()
    assert inputs is not None and head is not None
    run = partial(model.output, probe_inputs(model.network, sentence_ids(model.network, POSITIONS)))
    facts = {
        "embedding_norm": _embedding_norm(model),
        "first_block_norm": _first_block_norm(model),
        "final_norm": _final_norm(model, head, run),
        "tied": head.weight is inputs.weight,
        "logit_softcap": probe_softcap(run, head),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def probe_softcap(logits: Callable[[], Float[Tensor, "..."]], head: nn.Module) -> float | None:
    """Measure the cap of a network's logits.

    One vector is added to every row of the output embedding, so that all logits of a position grow
    by the same number. Without a cap their differences stay, so that no prediction changes; under
    a cap they meet at it.

    Args:
        logits: Runs the network on one input, always the same, and returns its logits.
        head: The output embedding, a linear map.

    Returns:
        The cap, 0 without one; None where neither is found, such as where all logits are equal or
        the network does not call its head as a module.
    """
    with _inputs_of(head) as states:
        plain = _last(logits())
    if not states:
        return None
    state = _last(states[-1])
    weight = head.weight
    assert isinstance(weight, Tensor)

    def shifted(shift: float) -> Float[Tensor, " C"]:
        # (w + shift h / |h|^2) h = w h + shift
        vector = (shift * state / state.square().sum()).to(weight)
        with weight_replaced(head, weight + vector):
            return _last(logits())

    far = shifted(LARGE)
    if far.isfinite().all() and _same(far, shifted(2 * LARGE)):
        return round(float(far.max()), 3)
    deviations = [values - values.mean() for values in (plain, shifted(_MODERATE))]
    return 0.0 if plain.unique().numel() > 1 and _same(*deviations) else None


def _embedding_norm(model: LiveModel) -> str | None:
    """Return the norm between looked-up rows and the first block, None where it is not known."""
    ids = sentence_ids(model.network, POSITIONS)
    segments = [[0] * len(ids)] if model.has_segments else None
    batch = model.padded([ids], segments)
    width = model.embedding_matrix.shape[1]
    generator = torch.Generator().manual_seed(0)
    rows = LARGE * torch.randn(1, len(ids), width, generator=generator).to(model.embedding_matrix)

    def first(looked_up: Float[Tensor, "B P E"]) -> Float[Tensor, "B P D"]:
        return model.read(batch, rows=looked_up).scored.embedding.double()

    try:
        plain, doubled = first(rows), first(2 * rows)
    except CheckpointError:  # rows or the input of the first block cannot be observed
        return None
    if _same(doubled, 2 * plain):
        return "none"
    if not _same(doubled, plain):
        return None
    # A LayerNorm subtracts the mean over features, an RMSNorm does not; neither shows from outside
    # where rows are projected to another width before it.
    if _same(first(rows + LARGE), plain):
        return "layer"
    return "rms" if plain.shape[-1] == width else None


def _first_block_norm(model: LiveModel) -> str | None:
    """Return the norm through which the first block reads its input, None if not known."""
    stack = model.stack()
    reads: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        read = next((value for value in (*args, *kwargs.values()) if torch.is_tensor(value)), None)
        if read is not None and torch.is_tensor(output):
            reads.append((module, read, output))

    parts = [module for module in stack.first_block.modules() if not [*module.children()]]
    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in parts]
    try:
        with stack.observed() as observed:
            model.output(probe_inputs(model.network, sentence_ids(model.network, POSITIONS)))
    finally:
        for hook in hooks:
            hook.remove()
    if not observed.first:
        return None
    block_input = observed.first[0]
    readers = [
        module
        for module, read, output in reads
        if _equal(read, block_input) and not _equal(output, read)  # not a dropout
    ]
    norms = {_norm_of(module, block_input.shape[-1]) for module in readers}
    if len(norms) == 1 or "none" in norms:
        return "none" if "none" in norms else norms.pop()
    return None


def _final_norm(model: LiveModel, head: nn.Module, run: Callable[[], Tensor]) -> str | None:
    """Return the norm whose output the output embedding receives, None if not known."""
    with _inputs_of(head) as states, outputs_recorded(model.network.modules()) as outputs:
        run()
    if not states:
        return None
    state = states[-1]
    sources = [
        module for module, output in outputs.items() if module and _is_multiple(output, state)
    ]
    responses = [norm_response(module, state.shape[-1]) for module in sources]
    norm = next((response.type for response in responses if response is not None), None)
    if norm is None and any(not [*module.parameters()] or _is_linear(module) for module in sources):
        return "none"  # an activation or a projection
    return norm


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the first input of a module, each time it is called inside the block."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(next(iter((*args, *kwargs.values()))))

    with module.register_forward_pre_hook(record, with_kwargs=True):
        yield inputs


def _norm_of(module: nn.Module, width: int) -> str | None:
    """Return the type of a norm, `none` for a linear map, None for anything else."""
    response = norm_response(module, width)
    if response is not None:
        return response.type
    return "none" if _is_linear(module) else None


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module multiplies by a matrix, as `nn.Linear` and GPT-2's `Conv1D` do."""
    weight = getattr(module, "weight", None)
    return torch.is_tensor(weight) and weight.dim() == 2


def _is_multiple(output: Any, state: Tensor) -> bool:
    """Return whether a module's output is the state times a number; models scale their logits."""
    if not torch.is_tensor(output) or output.shape != state.shape:
        return False
    output, state = output.double(), state.double()
    # Least squares of state = factor * output.
    factor = (output * state).sum() / output.square().sum()
    return bool(factor != 0) and _same(output * factor, state)


def _last(values: Float[Tensor, "... K"]) -> Float[Tensor, " K"]:
    """Return the values of the last position, in float64."""
    return values.reshape(-1, values.shape[-1])[-1].double()


def _equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, in one shape."""
    return first.shape == second.shape and torch.equal(first, second)


def _same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors agree within `_AGREES` of the largest number of the second."""
    return bool((first - second).abs().max() <= _AGREES * second.abs().max())
