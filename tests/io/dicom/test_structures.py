"""Structures on slices: one map for all of them, whatever values they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba.errors import UsageError
from medmamba.io.dicom import find_series
from medmamba.io.dicom.structures import Structures
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume
from tests.dicom_factory import series

#: Values with gaps, as those of atlases.
APART = Labels(foreground=(Label(name="cortex", values=(40000,)), Label(name="vessel", values=(7,))), ignore=65535)
NESTED = Labels(
    foreground=(Label(name="WT", values=(1, 2)), Label(name="TC", values=(1,))), region_order=(2, 1)
)  # fmt: skip


def on_a_series(folder: Path, values: list[int] | None, labels: Labels | None, dtype: type = np.int32) -> Structures:
    """Values, one after the other, over a small series; None: probabilities of two structures."""
    made = series(folder, shape=(4, 6), slices=3)
    shape = made.array().shape
    if values is None:
        array = np.stack([np.full(shape, 0.6, np.float32), np.full(shape, 0.4, np.float32)])
    else:
        array = np.resize(np.array(values, dtype), shape)[None]
    return Structures.on(Volume(array, Geometry(shape, made.affine)), find_series(folder)[0].planes, labels)


def test_large_values_with_gaps_are_numbered_by_their_structures(tmp_path: Path) -> None:
    structures = on_a_series(tmp_path, [0, 7, 40000, 65535], APART)
    assert np.unique(structures.numbers()).tolist() == [0, 1, 2]
    assert (structures.numbers().dtype, structures.stored.dtype) == (np.uint8, np.int16)
    for number in (0, 1):
        np.testing.assert_array_equal(structures.mask(number), structures.numbers() == number + 1)
        assert structures.mask(number).sum() == 18
    assert not structures.overlap()
    assert [(one.labels.values, int(one.mask(0).sum())) for one in structures.one_by_one()] == [
        ((0, 40000), 18),
        ((0, 7), 18),
    ]


def test_regions_overlap_where_a_voxel_is_of_both(tmp_path: Path) -> None:
    assert on_a_series(tmp_path / "a", [0, 1, 2], NESTED).overlap()
    assert not on_a_series(tmp_path / "b", [0, 2], NESTED).overlap()
    assert not on_a_series(tmp_path / "c", None, NESTED).overlap()


def test_probabilities_are_masks_where_they_are_at_least_half(tmp_path: Path) -> None:
    structures = on_a_series(tmp_path, None, NESTED)
    assert [bool(structures.mask(number).all()) for number in (0, 1)] == [True, False]
    assert structures.are_probabilities


@pytest.mark.parametrize("values", [[0, 3], [-1, 0]])
def test_value_that_means_nothing_is_refused(tmp_path: Path, values: list[int]) -> None:
    with pytest.raises(UsageError, match=r"the label map holds \[-?\d\], but the labels are \[0, 1, 2\]"):
        on_a_series(tmp_path, values, NESTED)
