"""Columns of the challenges: what each says of itself, and its values where they are known without looking."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.masks import Masks
from medmamba.evaluation.metrics import GROUPS, METRICS
from tests.mask_factory import Mask, box

SHAPE = (16, 16, 16)
EMPTY = np.zeros(SHAPE, dtype=bool)
LESION, OTHER = box(SHAPE, (1, 1, 1), (6, 6, 6)), box(SHAPE, (11, 11, 11), (15, 15, 15))


def values(group: str, prediction: Mask, reference: Mask) -> dict[str, float]:
    masks = Masks(prediction=prediction, reference=reference, spacing_mm=(1.0, 1.0, 1.0))
    return {name.removeprefix(f"{group}_"): METRICS[name].measure(masks) for name in GROUPS[group]}


@pytest.mark.parametrize("group", CHALLENGES)
def test_every_column_is_measured_and_says_whose_it_is(group: str) -> None:
    assert set(values(group, LESION, LESION)) == set(CHALLENGES[group].columns)
    for name in GROUPS[group]:
        row = METRICS[name]
        assert row.own_policy
        assert group[5:9] in row.source
        assert row.definition.endswith(".")
        assert row.title.endswith(f"({CHALLENGES[group].title})")


@pytest.mark.parametrize("group", CHALLENGES)
def test_equal_masks_are_perfect(group: str) -> None:
    for name, value in values(group, LESION | OTHER, LESION | OTHER).items():
        if name.startswith("small"):  # there is none below 20 mm^3
            assert math.isnan(value), name
        elif name.rpartition("_")[2] == "tp":
            assert value == 2, name
        else:
            assert value == pytest.approx(1.0 if METRICS[f"{group}_{name}"].higher_is_better else 0.0), name


@pytest.mark.parametrize("group", CHALLENGES)
def test_what_was_not_found_and_what_was_invented_is_counted(group: str) -> None:
    missed, invented = values(group, LESION, LESION | OTHER), values(group, LESION | OTHER, LESION)
    assert (missed["tp"], missed["fp"], missed["fn"]) == (1, 0, 1)
    assert (invented["tp"], invented["fp"], invented["fn"]) == (1, 1, 0)


def test_means_of_2023_are_over_lesions_and_false_positives() -> None:
    for prediction, reference in ((LESION, LESION | OTHER), (LESION | OTHER, LESION)):
        found = values("brats2023_gli", prediction, reference)
        assert (found["dice"], found["hd95"]) == (0.5, 374 / 2)


def test_means_since_2024_are_over_matched_pairs_but_for_metastases() -> None:
    for prediction, reference in ((LESION, LESION | OTHER), (LESION | OTHER, LESION)):
        plain, metastases = (values(f"brats2024_{name}", prediction, reference) for name in ("gli", "met"))
        assert (plain["dice"], plain["hd95"]) == (1.0, 0.0)
        assert (metastases["dice"], metastases["hd95"]) == (0.5, 373 / 2)


def test_empty_masks_follow_the_policy_of_the_challenge() -> None:
    assert (both := values("brats2023_gli", EMPTY, EMPTY))["dice"] == both["legacy_dice"] == 1
    assert both["hd95"] == both["legacy_hd95"] == 0
    assert (one := values("brats2023_gli", EMPTY, LESION))["hd95"] == one["legacy_hd95"] == 374
    assert math.isnan(values("brats2024_gli", EMPTY, EMPTY)["global_dice"])
    assert (late := values("brats2024_gli", EMPTY, LESION))["global_hd95"] == 373
    assert late["hd95"] == math.inf


def test_case_without_prediction_has_the_official_penalty() -> None:
    worst = {name: METRICS[f"brats2024_gli_{name}"].worst for name in CHALLENGES["brats2024_gli"].columns}
    assert {name for name, value in worst.items() if value == 373} == {"hd95", "global_hd95"}
    assert set(worst.values()) == {0, 373}
    assert METRICS["brats2023_gli_hd95"].worst == 374
    assert METRICS["brats2023_gli_fn"].of_empty, "what is not there misses every lesion"


def test_challenges_with_the_same_rules_share_one_table() -> None:
    masks = Masks(prediction=LESION, reference=LESION | OTHER, spacing_mm=(1.0, 1.0, 1.0))
    shared = [masks.columns(CHALLENGES[f"brats2023_{name}"].table) for name in ("gli", "ssa", "ped")]
    assert shared[0] is shared[1] is shared[2]
