"""Metrics: answers known by hand, laws over the whole table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO

from medmamba.errors import UsageError
from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.masks import Masks
from medmamba.evaluation.metrics import (
    BOTH_EMPTY,
    GROUPS,
    METRICS,
    ONE_EMPTY,
    Metric,
    dice,
    expand,
    iou,
    metric,
    precision,
    sensitivity,
)
from medmamba.evaluation.scores import Policy
from medmamba.evaluation.surface import surface_dice
from medmamba.evaluation.words import GROUP_WORDS, WORDS
from tests.mask_factory import Mask, blobs, box

#: Metrics that leave empty masks to the report's policy.
PLAIN = [name for name, row in METRICS.items() if not row.own_policy]


def pair(
    prediction: Mask, reference: Mask, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0), certainty: float = 1.0
) -> Masks:
    """Two masks, the prediction being what a network was as sure of."""
    sure = prediction.astype(np.float32) * np.float32(certainty)
    return Masks(prediction=prediction, reference=reference, spacing_mm=spacing_mm, probability=sure)


#: Those that follow the table of edge cases; what challenges make of them is theirs.
PLAIN = [name for name, row in METRICS.items() if not row.own_policy]
#: These do not see where a volume lies, or how much of a lesion is found.
COARSE = {*GROUPS["volume"], *GROUPS["lesions"], *GROUPS["panoptic"]}


def test_overlaps_of_two_boxes_are_those_counted_by_hand() -> None:
    prediction, reference = box((6, 6, 6), (0, 0, 0), (4, 2, 2)), box((6, 6, 6), (1, 0, 0), (3, 2, 3))
    assert np.count_nonzero(prediction) == 16
    assert np.count_nonzero(reference) == 12
    assert dice(prediction, reference) == 2 * 8 / 28
    assert iou(prediction, reference) == 8 / 20
    assert precision(prediction, reference) == 8 / 16
    assert sensitivity(prediction, reference) == 8 / 12


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_is_perfect_for_equal_masks(name: str) -> None:
    mask, _ = blobs(1, (15, 16, 17))
    masks = pair(mask, mask, (1.0, 2.0, 3.0))
    assert METRICS[name].measure(masks) == (1.0 if METRICS[name].higher_is_better else 0.0)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in COARSE])
def test_every_metric_gets_worse_with_the_masks(name: str) -> None:
    reference, _ = blobs(2, (24, 24, 24))
    near, far = (np.roll(reference, shift, axis=0) for shift in (1, 5))
    good, bad = (METRICS[name].measure(pair(mask, reference, (1.2, 1.2, 1.2))) for mask in (near, far))
    assert good > bad if METRICS[name].higher_is_better else good < bad


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_follows_the_table_of_edge_cases(name: str) -> None:
    empty, full = np.zeros((4, 4, 4), dtype=bool), box((4, 4, 4), (1, 1, 1), (3, 3, 3))

    def value(prediction: Mask, reference: Mask) -> float:
        return METRICS[name].measure(pair(prediction, reference))

    assert math.isnan(value(empty, empty))
    one_empty = [value(empty, full), value(full, empty)]
    if not METRICS[name].symmetric:  # it may be undefined on the side that it is a share of
        one_empty = [each for each in one_empty if not math.isnan(each)]
    assert one_empty
    # A volume that is missing or too much is as many ml apart as it has, which is not the worst there could be.
    assert set(one_empty) == {0.008 if METRICS[name].unit == "ml" else METRICS[name].worst}


def test_share_of_an_empty_mask_is_undefined() -> None:
    empty, full = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    assert math.isnan(precision(empty, full))
    assert precision(full, empty) == 0
    assert math.isnan(sensitivity(full, empty))
    assert sensitivity(empty, full) == 0


def test_every_metric_has_words_for_the_help() -> None:
    columns = {f"{group}_{name}" for group, challenge in CHALLENGES.items() for name in challenge.columns}
    assert list(WORDS) == [name for name in METRICS if name not in columns]
    assert list(GROUP_WORDS) == list(GROUPS)


def test_row_may_say_what_the_worst_value_is() -> None:
    def row(**facts: Any) -> Metric:
        return Metric(measure=lambda _: 1.0, definition="What it is.", source="whose", **facts)

    assert row(title="correlation", bound=-1.0).worst == -1.0
    assert row(title="angle", bound=0.0, higher_is_better=False).worst == 0.0


@pytest.mark.parametrize("name", PLAIN)
def test_metrics_are_symmetric_where_their_row_says_so(name: str) -> None:
    one, other = blobs(3, (20, 18, 16))
    forth = METRICS[name].measure(pair(one, other, (1.0, 1.5, 2.0), certainty=0.9))
    back = METRICS[name].measure(pair(other, one, (1.0, 1.5, 2.0), certainty=0.9))
    assert (forth == pytest.approx(back)) == METRICS[name].symmetric


def test_masks_of_different_shapes_are_refused_instead_of_broadcast() -> None:
    with pytest.raises(ValueError, match=r"same shape.*\(4, 4, 1\) and \(4, 4, 4\)"):
        dice(np.ones((4, 4, 1), dtype=bool), np.ones((4, 4, 4), dtype=bool))


def test_volumes_are_compared_wherever_they_lie() -> None:
    one, other = box((8, 8, 8), (0, 0, 0), (2, 2, 2)), box((8, 8, 8), (4, 4, 4), (7, 6, 6))
    masks = Masks(prediction=one, reference=other, spacing_mm=(1.0, 2.0, 5.0))
    assert METRICS["volume_difference"].measure(masks) == pytest.approx((12 - 8) * 0.01)
    assert METRICS["volume_similarity"].measure(masks) == pytest.approx(1 - 4 / 20)
    assert METRICS["dice"].measure(masks) == 0


@pytest.mark.parametrize("tolerance", ["0.5", "1", "1.0", "2.50", "10"])
def test_surface_dice_is_known_at_any_tolerance(tolerance: str) -> None:
    reference, _ = blobs(2, (24, 24, 24))
    masks = Masks(prediction=np.roll(reference, 1, axis=0), reference=reference, spacing_mm=(1.2, 1.2, 1.2))
    row = metric(f"nsd_{tolerance}mm")
    assert row.measure(masks) == surface_dice(masks.surface, float(tolerance))
    assert f"at {float(tolerance):g} mm" in row.title


@pytest.mark.parametrize("name", ["nsd_0mm", "nsd_0.0mm", "nsd_-1mm", "nsd_mm", "nsd_1", "nsd_infmm", "Dice", ""])
def test_what_nothing_is_called_by_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"larger than 0 mm|choose from dice, .*nsd_0\.5mm.*standard"):
        metric(name)


def test_group_stands_for_its_metrics_and_each_comes_once() -> None:
    assert expand(["iou", "standard", "dice", "nsd_2.0mm", "surface"]) == (
        "iou",
        "dice",
        "hd95",
        "nsd_2mm",
        "hd",
        "assd",
        "nsd_0.5mm",
        "nsd_1mm",
    )


def test_every_group_holds_metrics_and_bears_the_name_of_none() -> None:
    for name, members in GROUPS.items():
        assert name not in METRICS
        assert members == expand([name])


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_says_what_it_is_and_whose_definition_that_is(name: str) -> None:
    row = METRICS[name]
    assert row.definition.endswith(".")
    assert len(row.definition) > 30
    assert row.source
    assert row.best != row.worst


@pytest.mark.parametrize("name", [*PLAIN, "nsd_3mm"])
def test_definition_says_what_the_policy_makes_of_empty_masks(name: str) -> None:
    row = metric(name)
    assert row.defined(Policy()) == row.definition
    assert BOTH_EMPTY in row.definition
    assert f"{row.best:g} if both" in row.defined(Policy(empty="perfect"))
    assert BOTH_EMPTY not in row.defined(Policy(empty="perfect"))
    assert (ONE_EMPTY in row.definition) == (row.unit == "mm")
    for infinite, words in (("drop", "left out if one"), ("diagonal", "diagonal of the grid if one")):
        assert (words in row.defined(Policy(infinite=infinite))) == (row.unit == "mm")


@pytest.mark.parametrize("seed", range(4))
def test_dice_is_that_of_nnunet_and_of_monai(seed: int, tmp_path: Path) -> None:
    masks = blobs(seed, (17, 21, 19), likeness=0.2 * seed)
    labels = [mask.astype(np.uint8) for mask in masks]
    files = [str(tmp_path / f"{side}.nii.gz") for side in ("prediction", "reference")]
    for path, array in zip(files, labels, strict=True):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    theirs = compute_metrics(files[1], files[0], NibabelIO(), [1])["metrics"][1]
    assert dice(*masks) == pytest.approx(theirs["Dice"], rel=1e-12)
    assert iou(*masks) == pytest.approx(theirs["IoU"], rel=1e-12)
    batches = [torch.from_numpy(array)[None, None] for array in labels]
    assert dice(*masks) == pytest.approx(float(compute_dice(*batches)), rel=1e-6)


def test_dice_of_empty_masks_is_undefined_as_in_nnunet_and_monai() -> None:
    empty = torch.zeros((1, 1, 4, 4, 4))
    assert math.isnan(dice(empty[0, 0].numpy() > 0, empty[0, 0].numpy() > 0))
    assert math.isnan(float(compute_dice(empty, empty)))


def test_what_counts_lesions_says_so() -> None:
    counts = {name for name, row in METRICS.items() if row.count}
    assert {"lesions_missed", "lesions_false", "brats2023_gli_tp", "brats2024_met_small_fp"} <= counts
    assert counts == {name for name in METRICS if name.startswith("lesions_") or name.endswith(("_tp", "_fp", "_fn"))}
    assert not any(METRICS[name].unit for name in counts)
