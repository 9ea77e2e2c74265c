"""Kind, gain and bias of a norm in a live model, measured instead of read from its name."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynamics.axes import HiddenVector
from dynamics.checkpoints.architectures import Norm

_ROWS = 64
_TOLERANCE = 1e-4  # of the largest output; a right fit leaves about 1e-6, the other norm about 1


@dataclass(frozen=True, eq=False)
class NormResponse:
    """Output of a norm as `gain * unit + bias`.

    Attributes:
        type: `layer` where unit rows have their mean over features subtracted, else `rms`.
        gain: Factor of each feature, in float64.
        bias: Constant added to each feature, in float64.
    """

    type: Norm
    gain: HiddenVector
    bias: HiddenVector

    def multiplies_by(self, gain: HiddenVector) -> bool:
        """Return whether the measured gain equals an expected one, up to rounding of the probe."""
        return bool((self.gain - gain).abs().max() <= 10 * _TOLERANCE * (1 + gain.abs().max()))


def norm_response(module: nn.Module, width: int) -> NormResponse | None:
    """Probe a module with random rows; None when it is no norm of its last axis.

    A copy in float32 is called, without the hooks that belong to the model's own passes; neither
    the model nor the global random state is touched.

    Args:
        module: The module, called with one tensor.
        width: Features D of its input.
    """
    plain = copy.deepcopy(module).float()
    plain._forward_hooks.clear()
    plain._forward_pre_hooks.clear()
    generator = torch.Generator().manual_seed(0)
    # Large rows, so that the epsilon under the root is negligible; a common shift of each row, so
    # that subtracting the mean shows.
    rows = 50 * torch.randn(1, _ROWS, width, generator=generator)
    rows = rows + 25 * torch.randn(1, _ROWS, 1, generator=generator)
    device = next((parameter.device for parameter in plain.parameters()), rows.device)
    try:
        with torch.no_grad():
            out = plain(rows.to(device))
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return None  # needs more than one tensor, or another shape: not a norm of the last axis
    if not isinstance(out, Tensor) or out.shape != rows.shape:
        return None
    return _fit(rows[0].double(), out[0].double().cpu())


def _fit(rows: Float[Tensor, "n D"], out: Float[Tensor, "n D"]) -> NormResponse | None:
    """Fit gain and bias of each feature for both kinds of norms; None where neither fits."""
    centered = rows - rows.mean(-1, keepdim=True)
    norms: tuple[tuple[Norm, Tensor], ...] = (("layer", centered), ("rms", rows))
    for name, unscaled in norms:
        unit = unscaled / unscaled.square().mean(-1, keepdim=True).sqrt()
        # Least squares of out = gain * unit + bias, for each feature over the rows.
        deviation = unit - unit.mean(0)
        gain = (deviation * out).sum(0) / deviation.square().sum(0)
        bias = out.mean(0) - gain * unit.mean(0)
        error = (gain * unit + bias - out).abs().max()
        if error <= _TOLERANCE * out.abs().max():
            return NormResponse(name, gain, bias)
    return None
