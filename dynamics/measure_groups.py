"""Groups of measures of the weights, by which it is chosen what is measured."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from dynamics.errors import did_you_mean

MeasureGroup = Literal["norms", "distances", "ranks", "readouts", "spectrum"]
"""Groups of measures of the weights at one step.

`norms`: norms of rows, the mean direction, the output bias. `distances`: from the first step, from
rows that are never used, between input and output rows. `ranks`: effective ranks. `readouts`:
linear read-outs of frequency from rows. `spectrum`: whitened norms, and distance from unused rows
without the first principal component.
"""

MEASURE_GROUPS: tuple[MeasureGroup, ...] = get_args(MeasureGroup)
DEFAULT_GROUPS: tuple[MeasureGroup, ...] = ("norms", "distances")


def measure_groups(names: Any) -> list[MeasureGroup]:
    """Return groups of measures in their order; `norms` are always among them.

    Args:
        names: Names of groups, or of `all`; in one text with commas, or a list.

    Raises:
        ValueError: There is no such group.

    Example:
        >>> measure_groups("ranks,distances")
        ['norms', 'distances', 'ranks']
    """
    if isinstance(names, str):
        names = names.replace(" ", "").split(",")
    if not isinstance(names, list | tuple):
        raise ValueError("groups of measures are names with commas, or a list of names")
    for name in names:
        if name != "all" and name not in MEASURE_GROUPS:
            suggestion = did_you_mean(str(name), (*MEASURE_GROUPS, "all"))
            raise ValueError(f"there is no group of measures {name!r}; {suggestion}")
    return [group for group in MEASURE_GROUPS if group in ("norms", *names) or "all" in names]


MeasureGroups = Annotated[list[MeasureGroup], BeforeValidator(measure_groups)]
