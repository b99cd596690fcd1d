"""Metrics: answers known by hand, laws over the whole table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medmamba.evaluation.metrics import METRICS, Masks, Metric, dice, iou, precision, sensitivity
from medmamba.evaluation.words import WORDS
from tests.mask_factory import Mask, blobs, box


def test_overlaps_of_two_boxes_are_those_counted_by_hand() -> None:
    prediction, reference = box((6, 6, 6), (0, 0, 0), (4, 2, 2)), box((6, 6, 6), (1, 0, 0), (3, 2, 3))
    assert np.count_nonzero(prediction) == 16
    assert np.count_nonzero(reference) == 12
    assert dice(prediction, reference) == 2 * 8 / 28
    assert iou(prediction, reference) == 8 / 20
    assert precision(prediction, reference) == 8 / 16
    assert sensitivity(prediction, reference) == 8 / 12


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_perfect_for_equal_masks(name: str) -> None:
    mask, _ = blobs(1, (15, 16, 17))
    masks = Masks(prediction=mask, reference=mask, spacing_mm=(1.0, 2.0, 3.0))
    assert METRICS[name].measure(masks) == (1.0 if METRICS[name].higher_is_better else 0.0)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gets_worse_with_the_masks(name: str) -> None:
    reference, _ = blobs(2, (24, 24, 24))
    near, far = (np.roll(reference, shift, axis=0) for shift in (1, 5))
    good, bad = (
        METRICS[name].measure(Masks(prediction=mask, reference=reference, spacing_mm=(1.2, 1.2, 1.2)))
        for mask in (near, far)
    )
    assert good > bad if METRICS[name].higher_is_better else good < bad


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_follows_the_table_of_edge_cases(name: str) -> None:
    empty, full = np.zeros((4, 4, 4), dtype=bool), box((4, 4, 4), (1, 1, 1), (3, 3, 3))

    def value(prediction: Mask, reference: Mask) -> float:
        return METRICS[name].measure(Masks(prediction=prediction, reference=reference, spacing_mm=(1.0, 1.0, 1.0)))

    assert math.isnan(value(empty, empty))
    one_empty = [value(empty, full), value(full, empty)]
    if not METRICS[name].symmetric:  # it may be undefined on the side that it is a share of
        one_empty = [each for each in one_empty if not math.isnan(each)]
    assert one_empty
    assert set(one_empty) == {METRICS[name].worst}


def test_share_of_an_empty_mask_is_undefined() -> None:
    empty, full = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    assert math.isnan(precision(empty, full))
    assert precision(full, empty) == 0
    assert math.isnan(sensitivity(full, empty))
    assert sensitivity(empty, full) == 0


def test_every_metric_has_words_for_the_help() -> None:
    assert list(WORDS) == list(METRICS)


def test_row_may_say_what_the_worst_value_is() -> None:
    assert Metric(title="correlation", measure=lambda _: 1.0, bound=-1.0).worst == -1.0
    assert Metric(title="angle", measure=lambda _: 0.0, bound=0.0, higher_is_better=False).worst == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_symmetric_where_their_row_says_so(name: str) -> None:
    one, other = blobs(3, (20, 18, 16))
    forth = METRICS[name].measure(Masks(prediction=one, reference=other, spacing_mm=(1.0, 1.5, 2.0)))
    back = METRICS[name].measure(Masks(prediction=other, reference=one, spacing_mm=(1.0, 1.5, 2.0)))
    assert (forth == pytest.approx(back)) == METRICS[name].symmetric


def test_masks_of_different_shapes_are_refused_instead_of_broadcast() -> None:
    with pytest.raises(ValueError, match=r"same shape.*\(4, 4, 1\) and \(4, 4, 4\)"):
        dice(np.ones((4, 4, 1), dtype=bool), np.ones((4, 4, 4), dtype=bool))
