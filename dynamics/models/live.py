"""Former name of `dynamics.models.live_model`, which goes with 0.2."""

from dynamics.former_names import warn_of
from dynamics.models.live_model import LiveModel

__all__ = ["LiveModel"]

warn_of(__name__, "dynamics.models.live_model")
