"""What the values of a label map may mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medmamba.case import Case
from medmamba.errors import DataError
from medmamba.labels import LARGEST_VALUE, Label, Labels, integer_type, looks_like_labels

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
        ({"foreground": (Label(name="a", values=(LARGEST_VALUE + 1,)),)}, "reach to 9007199254740992"),
        ({"foreground": tuple(Label(name=str(n), values=(n,)) for n in range(1, 40_000))}, "up to 32767"),
    ],
)
def test_labels_that_contradict_themselves_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Labels(**arguments)


def test_case_needs_a_name_and_an_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Case(id="x", images=())


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_values_are_numbered_by_their_place_and_marks_stay(dtype: type) -> None:
    atlas = Labels(
        foreground=(
            Label(name="b", values=(65535, 2**24 + 1)),
            Label(name="a", values=(40000,)),
            Label(name="c", values=(2**24 + 1,)),
        ),
        region_order=(65535, 40000, 2**24 + 1),
        ignore=2**24 + 2,
    )
    values = np.array([[0, 40000, 65535], [2**24 + 1, 2**24 + 2, -1]], dtype=dtype)
    assert atlas.number(values).tolist() == [[0, 1, 2], [3, 4, -1]]
    numbered = atlas.numbered()
    assert [label.values for label in numbered.foreground] == [(2, 3), (1,), (3,)]
    assert (numbered.ignore, numbered.region_order) == (4, atlas.region_order)
    with pytest.raises(ValueError, match=r"\[39999, 65536\], but the labels are \[0, 40000"):
        atlas.number(np.array([65536, 40000, 39999], dtype=dtype))


def test_values_without_gaps_are_their_own_places() -> None:
    labels = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
    assert labels.numbered() == labels
    values = np.array([0, 2, -1, 1], dtype=np.int16)
    assert labels.number(values).tolist() == values.tolist()
    with pytest.raises(ValueError, match=r"holds \[3\]"):
        labels.number(np.array([3], dtype=np.int16))


def test_values_that_nothing_explains_are_called_after_themselves() -> None:
    found = Labels.of_values([4, 0, 1, 4])
    assert [(label.name, label.values) for label in found.foreground] == [("label_1", (1,)), ("label_4", (4,))]
    for values in ([], [0], [-1, 1]):
        with pytest.raises(DataError, match="structures are 1 and more"):
            Labels.of_values(values)


def test_integer_type_is_the_smallest_that_holds_both_ends() -> None:
    found = [
        integer_type(*ends) for ends in ((0, 256), (0, 2**16), (-1, 127), (-1, 128), (0, 2**64 - 1), (-(2**63), 0))
    ]
    assert found == [np.uint16, np.uint32, np.int8, np.int16, np.uint64, np.int64]
    with pytest.raises(OverflowError):
        integer_type(-1, 2**63)


def test_label_maps_are_told_from_images_by_what_neighbours_share() -> None:
    rng = np.random.default_rng(0)
    structures = np.kron(rng.integers(0, 9, (1, 6, 5, 4)), np.ones((1, 4, 4, 3), int))
    assert looks_like_labels(structures)
    assert looks_like_labels(structures[..., :1].astype(np.float32))
    assert looks_like_labels(np.zeros((1, 4, 4, 4)))
    scan = np.where(structures > 6, 100 + rng.integers(0, 60, structures.shape), 24)  # a body in air of one value
    for image in (scan, scan.astype(np.uint8), scan - 1024, structures + 0.5, np.where(structures, np.nan, 1)):
        assert not looks_like_labels(image)
