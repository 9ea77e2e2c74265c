"""Names that scripts of 0.1 import still work, and say what they are called now."""

import importlib
import sys

import numpy as np
import pytest

import dynamics
from dynamics.attribution.targets import Ask, TargetSpec
from tests.models import tiny

MODULES = {
    "dynamics.attribution.question":
        ("dynamics.attribution.batch", {"Settings": "AttributionSettings"}),
    "dynamics.models.live": ("dynamics.models.live_model", {"LiveModel": "LiveModel"}),
}  # fmt: skip


@pytest.mark.parametrize("former", MODULES)
def test_modules(former):
    current, names = MODULES[former]
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is called {current} now; the former"):
        module = importlib.import_module(former)
    for before, after in names.items():
        assert getattr(module, before) is getattr(importlib.import_module(current), after)


def test_the_argument_of_attribute():
    assert Ask is TargetSpec
    model = tiny.live("gpt2")
    with pytest.warns(DeprecationWarning, match="argument 'ask' of attribute is called 'target_sp"):
        (former,) = dynamics.attribute(model, "the cat sat", ask=Ask(5))
    (current,) = dynamics.attribute(model, "the cat sat", target_spec=TargetSpec(5))
    np.testing.assert_array_equal(former.scores, current.scores)
    assert former.targets == current.targets
