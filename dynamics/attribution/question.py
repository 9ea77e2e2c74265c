"""Former names of `dynamics.attribution.batch`, which go with 0.2."""

from dynamics.attribution.batch import AttributionBatch as Question
from dynamics.attribution.batch import Scores
from dynamics.attribution.settings import AttributionSettings as Settings
from dynamics.former_names import warn_of

__all__ = ["Question", "Scores", "Settings"]

warn_of(__name__, "dynamics.attribution.batch")
