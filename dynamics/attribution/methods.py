"""The methods of attribution by name, with the models that each covers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dynamics.attribution import baselines, gradients, lrp, normxlogit
from dynamics.attribution.alti import alti, alti_logit
from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.decompx import decompx, decompx_without_biases
from dynamics.attribution.globenc import globenc
from dynamics.attribution.mixing import (
    LayoutRefusal,
    block_refusal,
    every_layout,
    layouts_that_add_to_the_residual,
    layouts_that_norm_the_residual,
)
from dynamics.attribution.occlusion import occlusion
from dynamics.attribution.rollout import attention_rollout
from dynamics.attribution.value_zeroing import value_zeroing
from dynamics.errors import ConfigError, did_you_mean
from dynamics.models.live_model import LiveModel


@dataclass(frozen=True)
class Method:
    """A method of attribution.

    Attributes:
        function: Scores a batch.
        covers: Architectures and heads, for the documentation.
        refuses: Returns the reason why a model is not covered, None when it is.
        needs: `nothing` of the prediction; the `prediction` of the whole network; or the `head`,
            applied to single representations or asked for its read-out position.
        forwards: Returns the number of its own forward passes over an input of so many positions;
            None for one where it needs predictions, else none.
        excludes: Returns the reason why it is not defined on a layout of blocks; None for a method
            that does not look into blocks.
    """

    function: Callable[[AttributionBatch], Scores]
    covers: str
    refuses: Callable[[LiveModel], str | None] = lambda model: None
    needs: Literal["nothing", "prediction", "head"] = "prediction"
    forwards: Callable[[int], int] | None = None
    excludes: LayoutRefusal | None = None

    @property
    def runs_network(self) -> bool:
        """Return whether it runs forward passes of its own."""
        return self.forwards is not None or self.needs == "prediction"

    def passes(self, positions: int) -> int:
        """Return the number of its own forward passes over an input of so many positions."""
        return int(self.runs_network) if self.forwards is None else self.forwards(positions)


def _one_pass(positions: int) -> int:
    """Return the number of passes of a method that records the blocks once."""
    return 1


def _of_blocks(
    function: Callable[[AttributionBatch], Scores],
    excludes: LayoutRefusal = every_layout,
    forwards: Callable[[int], int] = _one_pass,
) -> Method:
    """Return a method that takes the blocks of a network apart.

    Args:
        function: As in `Method`.
        excludes: As in `Method`.
        forwards: As in `Method`.
    """
    return Method(
        function,
        "[architectures with a record of their blocks](#methods-by-architecture)",
        partial(block_refusal, excludes),
        "head",
        forwards,
        excludes,
    )


METHODS: dict[str, Method] = {
    "normxlogit": Method(normxlogit.normxlogit, "every architecture and head", needs="head"),
    "logit": Method(normxlogit.logit_only, "every architecture and head", needs="head"),
    "norm": Method(
        normxlogit.norm_only, "every architecture, also without a head", needs="nothing"
    ),
    "gradient_norm": Method(gradients.gradient_norm, "every architecture and head"),
    "gradient_x_input": Method(gradients.gradient_x_input, "every architecture and head"),
    "integrated_gradients": Method(
        gradients.integrated_gradients,
        "every architecture and head; needs the extra `attribution`",
        forwards=lambda positions: 52,  # input, baseline, and steps where the first 50 converge
    ),
    "cp_lrp": Method(
        lrp.cp_lrp,
        "attention with every head; no state-space or recurrent models, no log-probabilities",
        lrp.refuses,
    ),
    "attention_rollout": _of_blocks(attention_rollout),
    "alti": _of_blocks(alti),
    "alti_logit": _of_blocks(alti_logit, layouts_that_add_to_the_residual),
    "globenc": _of_blocks(globenc, layouts_that_norm_the_residual),
    "decompx": _of_blocks(decompx),
    "decompx_without_biases": _of_blocks(decompx_without_biases),
    # One pass, and the blocks once more for each position and for the unchanged input.
    "value_zeroing": _of_blocks(value_zeroing, forwards=lambda positions: positions + 2),
    "occlusion": Method(
        occlusion,
        "every architecture and head; one forward pass per token",
        forwards=lambda positions: positions,
    ),
    "random": Method(baselines.random, "everything", needs="nothing"),
    "recency": Method(baselines.recency, "everything", needs="head"),
    "inverse_log_frequency": Method(
        baselines.inverse_log_frequency, "everything; needs counts", needs="nothing"
    ),
    "token_length": Method(baselines.token_length, "everything", needs="nothing"),
}


def find_method(name: str, model: LiveModel) -> Method:
    """Return the method of a name, if it covers a model.

    Raises:
        ConfigError: There is no such method, or it does not cover the model.
    """
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    if reason := method.refuses(model):
        raise ConfigError(f"{name} does not cover {type(model.network).__name__}: {reason}")
    return method
