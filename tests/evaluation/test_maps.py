"""Masks of labels out of two label maps: counts in a box are those of the whole, and nothing is made for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medmamba.evaluation.maps import FEW, LabelMaps, holding
from medmamba.evaluation.masks import Masks, count_voxels
from medmamba.evaluation.metrics import METRICS
from medmamba.labels import Label

WHOLE, CORE = Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))


def two_maps(ignore: int | None = None, order: str = "C") -> LabelMaps:
    rng = np.random.default_rng(0)
    prediction, reference = np.zeros((2, 20, 18, 16), np.uint8)
    prediction[3:9, 4:9, 5:11] = rng.integers(0, 3, (6, 5, 6))
    reference[5:12, 3:8, 5:14] = rng.integers(0, 4, (7, 5, 9))
    arrays = (np.asarray(array, order=order) for array in (prediction, reference))  # type: ignore[call-overload]
    return LabelMaps(prediction=next(arrays), reference=next(arrays), spacing_mm=(1.0, 1.5, 2.0), ignore=ignore)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("label", [WHOLE, CORE], ids=lambda label: label.name)
def test_counts_in_the_box_are_those_of_the_whole_masks(label: Label, ignore: int | None, order: str) -> None:
    maps = two_maps(ignore, order)
    counts = np.ones(maps.reference.shape, bool) if ignore is None else maps.reference != ignore
    prediction, reference = (np.isin(array, label.values) & counts for array in (maps.prediction, maps.reference))
    masks = maps.masks(label)
    assert masks.voxels == replace(
        count_voxels(prediction, reference), tn=int((counts & ~prediction & ~reference).sum())
    )
    whole = Masks(
        prediction=prediction,
        reference=reference,
        spacing_mm=maps.spacing_mm,
        annotated=None if ignore is None else counts,
    )
    assert masks.reference.size < whole.reference.size
    assert masks.lesions.table((1, 1, 1), 1.0) == whole.lesions.table((1, 1, 1), 1.0)
    for name, row in METRICS.items():
        np.testing.assert_equal(row.measure(masks), row.measure(whole), err_msg=name)


def test_box_of_a_label_leaves_the_room_that_metrics_look_at() -> None:
    maps = two_maps()
    assert maps.masks(WHOLE).reference.shape == (15, 12, 14)  # 3 voxels, where the image has them
    probability = np.zeros(maps.reference.shape, np.float32)
    assert maps.masks(WHOLE, probability).reference.shape == (20, 16, 16)  # 10 mm


def test_maps_of_background_alone_are_counted_too() -> None:
    nothing = np.zeros((4, 5, 6), np.uint8)
    counts = LabelMaps(prediction=nothing, reference=nothing, spacing_mm=(1.0, 1.0, 1.0)).masks(WHOLE).voxels
    assert (counts.either, counts.tn) == (0, 120)


def test_few_values_and_many_are_found_alike() -> None:
    array = np.arange(40, dtype=np.int16).reshape(5, 8)
    for count in (1, 2, FEW, FEW + 1, 20):
        np.testing.assert_array_equal(holding(array, range(3, 3 + count)), np.isin(array, range(3, 3 + count)))
