"""Pre-training dynamics: how embedding norms come to encode frequency and importance.

Every command is a function here; heavy modules are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dynamics.distribution import VERSION

if TYPE_CHECKING:
    from dynamics.attribution.attribute import attribute
    from dynamics.attribution.settings import AttributionSettings
    from dynamics.attribution.targets import TargetSpec
    from dynamics.checkpoints.series import CheckpointSeries, open_series
    from dynamics.config import StudySettings
    from dynamics.corpus.count import count_corpus
    from dynamics.corpus.counts import Counts, read_counts
    from dynamics.corpus.information.settings import InformationSettings
    from dynamics.models.load import load_model
    from dynamics.report.figures import plot
    from dynamics.runs.changed_tokens import changed_tokens
    from dynamics.runs.compare import compare
    from dynamics.runs.run import Run
    from dynamics.study.several import run_arms, run_series
    from dynamics.study.single import run_study
    from dynamics.tracking.callback import NormDynamicsCallback
    from dynamics.tracking.track import track
    from dynamics.training.train import train

__version__ = VERSION

__all__ = [
    "AttributionSettings",
    "CheckpointSeries",
    "Counts",
    "InformationSettings",
    "NormDynamicsCallback",
    "Run",
    "StudySettings",
    "TargetSpec",
    "attribute",
    "changed_tokens",
    "compare",
    "count_corpus",
    "load_model",
    "open_series",
    "plot",
    "read_counts",
    "run_arms",
    "run_series",
    "run_study",
    "track",
    "train",
]

_MODULES = {
    "AttributionSettings": "dynamics.attribution.settings",
    "CheckpointSeries": "dynamics.checkpoints.series",
    "Counts": "dynamics.corpus.counts",
    "InformationSettings": "dynamics.corpus.information.settings",
    "NormDynamicsCallback": "dynamics.tracking.callback",
    "Run": "dynamics.runs.run",
    "StudySettings": "dynamics.config",
    "TargetSpec": "dynamics.attribution.targets",
    "attribute": "dynamics.attribution.attribute",
    "changed_tokens": "dynamics.runs.changed_tokens",
    "compare": "dynamics.runs.compare",
    "count_corpus": "dynamics.corpus.count",
    "load_model": "dynamics.models.load",
    "open_series": "dynamics.checkpoints.series",
    "plot": "dynamics.report.figures",
    "read_counts": "dynamics.corpus.counts",
    "run_arms": "dynamics.study.several",
    "run_series": "dynamics.study.several",
    "run_study": "dynamics.study.single",
    "track": "dynamics.tracking.track",
    "train": "dynamics.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dynamics' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return what is public, without what has been imported along the way."""
    return __all__
