"""Pre-training dynamics: how embedding norms come to encode frequency and importance.

Every command is a function here; heavy modules are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dynamics.distribution import VERSION

if TYPE_CHECKING:
    from dynamics.attribution.attribute import attribute as attribute
    from dynamics.attribution.settings import AttributionSettings as AttributionSettings
    from dynamics.attribution.targets import TargetSpec as TargetSpec
    from dynamics.checkpoints.series import CheckpointSeries as CheckpointSeries
    from dynamics.checkpoints.series import open_series as open_series
    from dynamics.config import StudySettings as StudySettings
    from dynamics.corpus.count import count_corpus as count_corpus
    from dynamics.corpus.counts import Counts as Counts
    from dynamics.corpus.counts import read_counts as read_counts
    from dynamics.corpus.information.settings import InformationSettings as InformationSettings
    from dynamics.models.load import load_model as load_model
    from dynamics.report.figures import plot as plot
    from dynamics.runs.changed_tokens import changed_tokens as changed_tokens
    from dynamics.runs.compare import compare as compare
    from dynamics.runs.run import Run as Run
    from dynamics.study.several import run_arms as run_arms
    from dynamics.study.several import run_series as run_series
    from dynamics.study.single import run_study as run_study
    from dynamics.tracking.callback import NormDynamicsCallback as NormDynamicsCallback
    from dynamics.tracking.track import track as track
    from dynamics.training.train import train as train

__version__ = VERSION

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
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'dynamics' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return what is public, without what has been imported along the way."""
    return __all__
