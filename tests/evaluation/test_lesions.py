"""Lesions and which of them meet: counted by hand, matched by trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmamba.evaluation.components import components
from medmamba.evaluation.lesions import Lesions, one_to_one
from tests.mask_factory import Mask, blobs, box

SHAPE = (12, 14, 9)
LEFT, MIDDLE, RIGHT = (box(SHAPE, (0, start, 2), (3, start + 3, 5)) for start in (0, 5, 10))


def lesions(prediction: Mask, reference: Mask) -> Lesions:
    return Lesions(predicted=components(prediction), expected=components(reference))


def test_lesions_are_found_missed_and_false() -> None:
    counts = lesions(LEFT | MIDDLE, MIDDLE | RIGHT)
    assert (counts.found, counts.missed, counts.false) == (1, 1, 1)
    assert (counts.sensitivity, counts.precision, counts.f1) == (0.5, 0.5, 0.5)


def test_one_component_finds_all_lesions_that_it_meets() -> None:
    counts = lesions(box(SHAPE, (1, 0, 3), (2, 14, 4)), LEFT | MIDDLE | RIGHT)
    assert (counts.found, counts.missed, counts.false, counts.f1) == (3, 0, 0, 1.0)


def test_lesions_that_are_not_there_leave_shares_undefined() -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    nothing, missed, invented = lesions(empty, empty), lesions(empty, LEFT), lesions(LEFT, empty)
    assert (nothing.missed, nothing.false) == (0, 0)
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.panoptic.segmentation)
    assert (missed.sensitivity, missed.f1, missed.panoptic.segmentation) == (0.0, 0.0, 0.0)
    assert math.isnan(missed.precision)
    assert (invented.precision, invented.f1) == (0.0, 0.0)
    assert math.isnan(invented.sensitivity)
    assert nothing.table((1, 1, 1), 0.001) == ()


def test_table_names_every_lesion_where_it_is() -> None:
    prediction = box(SHAPE, (1, 5, 2), (4, 8, 5)) | LEFT
    found, missed, false = lesions(prediction, MIDDLE | RIGHT).table((1.0, 2.0, 1.0), 0.002)
    assert (found.kind, found.voxel, found.volume_ml) == ("found", (1, 6, 3), pytest.approx(0.054))
    assert found.dice == pytest.approx(2 * 18 / (27 + 27))
    assert (missed.kind, missed.voxel, missed.dice) == ("missed", (1, 11, 3), 0.0)
    assert (false.kind, false.voxel, false.dice) == ("false", (1, 1, 3), 0.0)


def test_dice_of_a_lesion_is_with_all_components_that_it_touches() -> None:
    pieces = box(SHAPE, (0, 0, 2), (1, 3, 5)) | box(SHAPE, (2, 0, 2), (4, 3, 5))
    (row,) = lesions(pieces, LEFT).table((1, 1, 1), 0.001)
    assert row.dice == pytest.approx(2 * 18 / (27 + 27))


def test_voxel_of_a_hollow_lesion_lies_in_it() -> None:
    ring = box((9, 9, 1), (1, 1, 0), (8, 8, 1)) & ~box((9, 9, 1), (2, 2, 0), (7, 7, 1))
    (row,) = lesions(np.zeros_like(ring), ring).table((1, 1, 1), 0.001)
    assert ring[row.voxel]


@pytest.mark.parametrize("seed", range(6))
def test_place_in_the_image_does_not_matter(seed: int) -> None:
    prediction, reference = blobs(seed, (20, 22, 18))
    padded = lesions(*(np.pad(mask, ((30, 2), (0, 9), (5, 5))) for mask in (prediction, reference)))
    plain = lesions(prediction, reference)
    assert (padded.found, padded.missed, padded.false) == (plain.found, plain.missed, plain.false)
    assert padded.panoptic == plain.panoptic
    assert [row.dice for row in padded.table((1, 2, 3), 1.0)] == [row.dice for row in plain.table((1, 2, 3), 1.0)]


def test_pieces_that_cover_half_a_lesion_each_match_it_once() -> None:
    shape = (4, 1, 1)
    halves = np.array([1, 0, 1, 0], dtype=bool).reshape(shape)
    whole = np.array([1, 1, 0, 0], dtype=bool).reshape(shape)
    assert lesions(halves, whole).panoptic.matched == 1


def test_masks_of_different_shapes_have_no_lesions_in_common() -> None:
    with pytest.raises(ValueError, match="same shape"):
        lesions(LEFT, LEFT[:-1])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.floats(0.01, 1), max_size=8))
def test_matching_is_the_best_of_all_there_are(scores: dict[tuple[int, int], float]) -> None:
    pairs = list(scores)
    one, other = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    chosen = one_to_one(one, other, np.array(list(scores.values()), dtype=np.float64))
    assert len(set(one[chosen])) == len(set(other[chosen])) == len(chosen)

    def total(choice: tuple[tuple[int, int], ...]) -> float:
        return sum(scores[pair] for pair in choice)

    every = itertools.chain.from_iterable(itertools.combinations(pairs, size) for size in range(5))
    allowed = [each for each in every if all(len({pair[side] for pair in each}) == len(each) for side in (0, 1))]
    assert total(tuple(pairs[index] for index in chosen)) == pytest.approx(max(map(total, allowed)), abs=1e-5)
