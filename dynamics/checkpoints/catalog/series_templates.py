"""Expansion of the catalog: one template stands for many sizes, seeds or recipes."""

import itertools
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any


def expand_family(family: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the series of a family, one for every combination of the values under `each`.

    Args:
        family: Fields that its series share, their templates under `series`, and `defects`. Fields
            of a template replace shared ones; fields of a value under `each` replace both.

    Example:
        >>> templates = [{"repository": "A-{seed}", "each": {"seed": [1, 2]}}]
        >>> family = {"organisation": "us", "series": templates}
        >>> [series["repositories"] for series in expand_family(family)]
        [['us/A-1'], ['us/A-2']]
    """
    shared = {key: family[key] for key in family.keys() - {"series", "defects"}}
    for template in family["series"]:
        axes = template.get("each", {})
        for values in itertools.product(*axes.values()):
            choices = zip(axes.values(), values, strict=True)
            overrides = [axis[value] for axis, value in choices if isinstance(axis, dict)]
            fields = _merge(shared, template, *overrides)
            fields.pop("each", None)
            for axis, value in zip(axes, values, strict=True):
                fields = _fill(fields, f"{{{axis}}}", str(value))
            organisation = fields.pop("organisation", None)
            if repository := fields.pop("repository", None):
                fields = {"name": repository.lower()} | fields
                fields["repositories"] = [f"{organisation}/{repository}"]
            fields["defects"] = [
                {key: value for key, value in defect.items() if key != "series"}
                for defect in family.get("defects", ())
                if any(
                    fnmatchcase(fields["name"], pattern) for pattern in defect.get("series", "*")
                )
            ]
            yield fields


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers: later ones replace earlier ones, but `notes` and `unverified` add up."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    if notes := [layer["notes"] for layer in layers if "notes" in layer]:
        merged["notes"] = " ".join(notes)
    merged["unverified"] = [item for layer in layers for item in layer.get("unverified", ())]
    return merged


def _fill(value: Any, placeholder: str, text: str) -> Any:
    """Replace a placeholder in every string; str.format would trip over regular expressions."""
    if isinstance(value, str):
        return value.replace(placeholder, text)
    if isinstance(value, list):
        return [_fill(item, placeholder, text) for item in value]
    if isinstance(value, dict):
        return {key: _fill(item, placeholder, text) for key, item in value.items()}
    return value
