"""The methods of attribution, by name, with what each covers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dynamics.attribution import baselines, gradients, lrp
from dynamics.attribution import normxlogit as own
from dynamics.attribution.occlusion import occlusion
from dynamics.attribution.question import Question, Scores
from dynamics.errors import ConfigError, did_you_mean
from dynamics.models.live_model import LiveModel


@dataclass(frozen=True)
class Method:
    """A method of attribution.

    Attributes:
        function: Scores a batch.
        covers: Architectures and heads, for the documentation.
        refuses: Why a model is not covered, None when it is.
        needs: `nothing` of the prediction; the `prediction` of the whole network; or the `head`
            applied to single representations, or where it reads.
    """

    function: Callable[[Question], Scores]
    covers: str
    refuses: Callable[[LiveModel], str | None] = lambda model: None
    needs: Literal["nothing", "prediction", "head"] = "prediction"


METHODS: dict[str, Method] = {
    "normxlogit": Method(own.normxlogit, "every architecture and head", needs="head"),
    "logit": Method(own.logit_only, "every architecture and head", needs="head"),
    "norm": Method(own.norm_only, "every architecture, also without a head", needs="nothing"),
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
        baselines.inverse_log_frequency, "everything, given counts", needs="nothing"
    ),
    "token_length": Method(baselines.token_length, "everything", needs="nothing"),
}


def find_method(name: str, model: LiveModel) -> Method:
    """The method of a name, if it fits a model.

    Raises:
        ConfigError: There is no such method, or it does not cover the model.
    """
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    if reason := method.refuses(model):
        raise ConfigError(f"{name} does not cover {type(model.network).__name__}: {reason}")
    return method
