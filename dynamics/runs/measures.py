"""Records of the measures: name, null family, needs and label of each, in one place.

A measure is a number per token at each step. Its full name is ROLE_SUFFIX, such as
`output_embedding_norm_centered`. The function that measures it has the same suffix in
`dynamics.tracking.measure_functions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.errors import OutputError, did_you_mean
from dynamics.measure_groups import MeasureGroup

NullFamily = Literal["norm", "unused", "displacement"]
"""Measures of one family share a simultaneous null band."""

EXPOSURE = {"input_embedding": "exposure_as_input", "output_embedding": "exposure_as_target"}
"""Column of the exposure that belongs to each embedding."""


@dataclass(frozen=True)
class Measure:
    """A measure of one embedding.

    Attributes:
        suffix: Its name without the embedding.
        family: NullFamily of its null band; norms are shown and compared on a log scale.
        needs_all_rows: Whether it needs a mean over rows, so that there is none of some rows only.
        group: Group of measures that it is taken with.
        labels: Embeddings for which findings and figures show it, each with what is removed from
            the norm (empty for nothing).
        with_importance: Embeddings for which it is compared with importance.
        distance: Suffix of the distance from the first step that is held fixed beside a norm, as
            an explanation of what the norm has to do with importance.
    """

    suffix: str
    family: NullFamily
    needs_all_rows: bool = False
    group: MeasureGroup = "norms"
    labels: Mapping[Role, str] = field(default_factory=dict)
    with_importance: tuple[Role, ...] = ()
    distance: str = ""


MEASURES = {
    measure.suffix: measure
    for measure in (
        Measure(
            "norm",
            "norm",
            labels={"input_embedding": "", "output_embedding": "raw"},
            with_importance=ROLES,
            distance="distance_from_first",
        ),
        Measure(
            "norm_centered",
            "norm",
            needs_all_rows=True,
            labels={"output_embedding": "uniform mean removed"},
            with_importance=("output_embedding",),
            distance="distance_from_first_centered",
        ),
        Measure(
            "norm_centered_frequency",
            "norm",
            needs_all_rows=True,
            labels={"output_embedding": "unigram mean removed"},
            with_importance=("output_embedding",),
        ),
        Measure("norm_folded", "norm", True),
        Measure("norm_features_centered", "norm", with_importance=("input_embedding",)),
        Measure("distance_from_first", "displacement", group="distances", with_importance=ROLES),
        Measure(
            "distance_from_first_centered",
            "displacement",
            needs_all_rows=True,
            group="distances",
            with_importance=ROLES,
        ),
        Measure("cosine_to_first", "displacement", group="distances"),
        Measure("unused_distance", "unused", True, group="distances"),
        Measure("unused_cosine_distance", "unused", True, group="distances"),
        Measure("unused_cosine_distance_centered", "unused", True, group="distances"),
        Measure("cosine_to_input", "displacement", group="distances"),
        Measure("unused_cosine_distance_without_first", "unused", True, group="spectrum"),
        Measure("norm_whitened", "norm", True, group="spectrum"),
    )
}
"""Every measure by suffix."""


def split_name(name: str) -> tuple[Role, Measure]:
    """Split the full name of a measure into its embedding and its record.

    Raises:
        OutputError: There is no measure of this name.

    Example:
        >>> role, measure = split_name("output_embedding_norm_centered")
        >>> role, measure.family
        ('output_embedding', 'norm')
    """
    for role in ROLES:
        if (measure := MEASURES.get(name.removeprefix(f"{role}_"))) and name.startswith(role):
            return role, measure
    names = [f"{role}_{suffix}" for role in ROLES for suffix in MEASURES]
    raise OutputError(f"there is no measure {name!r}; {did_you_mean(name, names)}")


def is_norm(name: str) -> bool:
    """Return whether a full name is that of a norm; False for names that are no measure's.

    Example:
        >>> is_norm("input_embedding_norm"), is_norm("norm")  # `norm` attributes predictions
        (True, False)
    """
    suffixes = (name.removeprefix(f"{role}_") for role in ROLES if name.startswith(f"{role}_"))
    measure = MEASURES.get(next(suffixes, ""))
    return measure is not None and measure.family == "norm"


@dataclass(frozen=True)
class Label:
    """Label of a norm that findings and figures show.

    Attributes:
        role: The embedding.
        removed: What is removed from the norm, `raw`, or empty.
    """

    role: Role
    removed: str

    @property
    def sentence(self) -> str:
        """Label in sentences, such as `output embedding norms, uniform mean removed`."""
        return self._joined(f"{self.role.replace('_', ' ')} norms", ", ")

    @property
    def short(self) -> str:
        """Label in tables, such as `output, uniform mean removed`."""
        return self._joined(self.role.removesuffix("_embedding"), ", ")

    @property
    def panel(self) -> str:
        """Title of a panel, such as `output embedding`, in two lines where something follows."""
        return self._joined(self.role.replace("_", " "), ",\n")

    @property
    def axis(self) -> str:
        """Label of an axis, such as `norm of output rows`, in two lines where something follows."""
        return self._joined(f"norm of {self.role.removesuffix('_embedding')} rows", ",\n")

    def _joined(self, norm: str, between: str) -> str:
        return f"{norm}{between}{self.removed}" if self.removed else norm


def shown_measures() -> dict[str, Label]:
    """Return the measures that findings and figures show with their labels, by full name."""
    return {
        f"{role}_{measure.suffix}": Label(role, measure.labels[role])
        for role in ROLES
        for measure in MEASURES.values()
        if role in measure.labels
    }


def identifiable_measures() -> dict[str, Label]:
    """Return those of `shown_measures` that no vector added to every row changes."""
    return {name: label for name, label in shown_measures().items() if label.removed != "raw"}


def measures_with_importance() -> list[str]:
    """Return the measures that are compared with importance, raw output norms last."""
    names = [
        f"{role}_{measure.suffix}"
        for role in ROLES
        for measure in MEASURES.values()
        if role in measure.with_importance
    ]
    return sorted(names, key=(shown_measures().keys() - identifiable_measures()).__contains__)
