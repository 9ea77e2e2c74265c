"""The methods of attribution by name, with the models that each covers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dynamics.attribution import baselines, gradients, lrp, normxlogit
from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.occlusion import occlusion
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
    """

    function: Callable[[AttributionBatch], Scores]
    covers: str
    refuses: Callable[[LiveModel], str | None] = lambda model: None
    needs: Literal["nothing", "prediction", "head"] = "prediction"


METHODS: dict[str, Method] = {
    "normxlogit": Method(normxlogit.normxlogit, "every architecture and head", needs="head"),
    "logit": Method(normxlogit.logit_only, "every architecture and head", needs="head"),
    "norm": Method(
        normxlogit.norm_only, "every architecture, also without a head", needs="nothing"
    ),
    "gradient_norm": Method(gradients.gradient_norm, "every architecture and head"),
    "gradient_x_input": Method(gradients.gradient_x_input, "every architecture and head"),
    "integrated_gradients": Method(
        gradients.integrated_gradients, "every architecture and head; needs the extra `attribution`"
    ),
    "cp_lrp": Method(
        lrp.cp_lrp,
        "attention with every head; no state-space or recurrent models, no log-probabilities",
        lrp.refuses,
    ),
    "occlusion": Method(occlusion, "every architecture and head; one forward pass per token"),
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
