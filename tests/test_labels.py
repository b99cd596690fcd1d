"""What the values of a label map may mean."""

from __future__ import annotations

from typing import Any

import pytest

from medmamba.case import Case
from medmamba.labels import Label, Labels

A, B = Label(name="a", values=(1,)), Label(name="b", values=(4,))
WHOLE, CORE = Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))


def test_classes_have_a_background_channel_and_regions_have_none() -> None:
    classes = Labels(foreground=(A, B))
    assert (classes.output_channels, classes.has_regions, classes.values) == (3, False, (0, 1, 4))
    regions = Labels(foreground=(WHOLE, CORE), region_order=(1, 2), ignore=3)
    assert (regions.output_channels, regions.has_regions) == (2, True)
    assert regions.values == (0, 1, 2)
    assert regions.allowed_values == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"foreground": ()}, "at least one label"),
        ({"foreground": (A, Label(name="a", values=(2,)))}, "names must differ"),
        ({"foreground": (Label(name="a", values=()),)}, "1 or more"),
        ({"foreground": (Label(name="a", values=(0,)),)}, "1 or more"),
        ({"foreground": (A, Label(name="b", values=(1,)))}, "regions_class_order"),
        ({"foreground": (WHOLE,)}, "regions_class_order"),
        ({"foreground": (WHOLE, CORE), "region_order": (1,)}, "2 regions"),
        ({"foreground": (A,), "ignore": 1}, "ignore value 1"),
    ],
)
def test_labels_that_contradict_themselves_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Labels(**arguments)


def test_case_needs_a_name_and_an_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Case(id="x", images=())
