"""Lesion-wise scores of BraTS: the official numbers, and a slow way to the same that shares no line with ours."""

from __future__ import annotations

import json
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
from numpy.typing import NDArray
from scipy import ndimage

from medmamba import io
from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.lesionwise2023 import Brats2023, dilated
from medmamba.evaluation.masks import Masks
from medmamba.evaluation.metrics import METRICS
from tests.mask_factory import Mask, blobs, box
from tests.tumour_factory import REGIONS_2023, REGIONS_2024, TINY, recoded, tiny_pair

SHARED = Path(os.environ.get("MEDMAMBA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
FOLDER = Path(os.environ.get("MEDMAMBA_LESIONWISE", SHARED / "golden" / "brats_lesionwise"))
#: What the official table of 2023 calls our columns.
COLUMNS_2023 = {
    "Num_TP": "tp",
    "Num_FP": "fp",
    "Num_FN": "fn",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Legacy_Dice": "legacy_dice",
    "Legacy_HD95": "legacy_hd95",
    "LesionWise_Score_Dice": "dice",
    "LesionWise_Score_HD95": "hd95",
}
VOLUME_2023 = "GT_Complete_Volume"
#: Likewise of 2024: what comes before the region.
COLUMNS_2024 = {
    "all_instance_tp": "tp",
    "all_instance_fp": "fp",
    "all_instance_fn": "fn",
    "all_instance_prec": "precision",
    "all_instance_rec": "recall",
    "all_instance_f1": "f1",
    "global_dsc": "global_dice",
    "global_nsd": "global_nsd",
    "global_hd95": "global_hd95",
    "lesionwise_dsc_mean": "dice",
    "lesionwise_dsc_std": "dice_std",
    "lesionwise_nsd_mean": "nsd",
    "lesionwise_nsd_std": "nsd_std",
    "lesionwise_hd95_mean": "hd95",
    "lesionwise_hd95_std": "hd95_std",
    **{
        f"{size}_instance_{theirs}": f"{size}_{ours}"
        for size in ("large", "small")
        for theirs, ours in (
            ("tp", "tp"),
            ("fp", "fp"),
            ("fn", "fn"),
            ("prec", "precision"),
            ("rec", "recall"),
            ("f1", "f1"),
        )
    },
}
OFFICIAL = json.loads((Path(__file__).parent / "brats2024_official.json").read_text())["tables"]


def region(prediction: NDArray[Any], reference: NDArray[Any], values: tuple[int, ...], spacing: Any) -> Masks:
    return Masks(
        prediction=np.isin(prediction, values),
        reference=np.isin(reference, values),
        spacing_mm=tuple(float(size) for size in spacing),
    )


def number(value: Any) -> float:
    """As written in JSON: null for undefined, words for infinite."""
    return math.nan if value is None else float(value)


# 2023


def expected_pairs() -> list[dict[str, Any]]:
    path = FOLDER / "expected.json"
    return json.loads(path.read_text())["pairs"] if path.is_file() else []


@pytest.mark.skipif(
    not expected_pairs(), reason=f"{FOLDER} holds no expected.json; MEDMAMBA_LESIONWISE names another folder"
)
@pytest.mark.parametrize("entry", expected_pairs(), ids=lambda entry: entry["pair"])
def test_lesionwise_scores_of_2023_are_the_official_ones(entry: dict[str, Any]) -> None:
    prediction, reference = (io.read_label(FOLDER / f"{entry['pair']}_{side}.nii.gz") for side in ("pred", "ref"))
    group = "brats2023_" + entry["challenge"].rpartition("-")[2].lower()
    for name, official in entry["metrics"].items():
        masks = region(prediction.array[0], reference.array[0], REGIONS_2023[name], reference.geometry.spacing_mm)
        for column, value in official.items():
            if column == VOLUME_2023:
                ours = masks.columns(CHALLENGES[group].table)["reference_mm3"]
            else:
                ours = METRICS[f"{group}_{COLUMNS_2023[column]}"].measure(masks)
            assert ours == pytest.approx(number(value), abs=1e-6, nan_ok=True), f"{name} {column}"


def slow_2023(masks: Masks, dilation: int, volume_mm3: float) -> dict[str, float]:
    """The rules of 2023 word by word, lesion by lesion, in the whole image."""
    grow = ndimage.generate_binary_structure(3, 2)
    near, spacing = np.ones((3, 3, 3)), masks.spacing_mm

    def hd95(prediction: Mask, reference: Mask) -> float:
        if not (prediction.any() and reference.any()):  # surface-distance 0.1 asks NumPy 2 for its Inf, which is gone
            return 374.0
        distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
        return float(surface_distance.compute_robust_hausdorff(distances, 95))

    zones, lesion_count = ndimage.label(ndimage.binary_dilation(masks.reference, grow, dilation), near)
    pieces, piece_count = ndimage.label(masks.prediction, near)
    used: set[int] = set()
    dices, distances, tp, fn = [], [], 0, 0
    for number in range(1, lesion_count + 1):
        lesion = masks.reference & (zones == number)
        touched = set(np.unique(pieces[ndimage.binary_dilation(lesion, grow, dilation)])) - {0}
        used |= touched
        if lesion.sum() * np.prod(spacing) <= volume_mm3:
            continue
        predicted = np.isin(pieces, list(touched))
        tp, fn = (tp + 1, fn) if touched else (tp, fn + 1)
        dices.append(2 * (predicted & lesion).sum() / (predicted.sum() + lesion.sum()))
        distances.append(hd95(predicted, lesion))
    fp = piece_count - len(used)
    both_empty = not (masks.prediction.any() or masks.reference.any())
    common, outside = (masks.prediction & masks.reference).sum(), (~masks.reference).sum()
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "dice": sum(dices) / (len(dices) + fp) if len(dices) + fp else 1.0,
        "hd95": (sum(distances) + 374 * fp) / (len(distances) + fp) if len(distances) + fp else 0.0,
        "legacy_dice": 1.0 if both_empty else 2 * common / (masks.prediction.sum() + masks.reference.sum()),
        "legacy_hd95": 0.0 if both_empty else hd95(masks.prediction, masks.reference),
        "sensitivity": 1.0 if both_empty else common / max(masks.reference.sum(), 1),
        "specificity": (~masks.prediction & ~masks.reference).sum() / max(outside, 1),
    }


def masks_of(prediction: Mask, reference: Mask, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Masks:
    return Masks(prediction=prediction, reference=reference, spacing_mm=spacing)


SHAPE = (14, 16, 12)
EMPTY, ALL = np.zeros(SHAPE, dtype=bool), np.ones(SHAPE, dtype=bool)
TWO = box(SHAPE, (0, 0, 0), (4, 4, 4)) | box(SHAPE, (0, 10, 0), (4, 14, 4))
#: Pairs that each meet one of the rules.
CASES = {
    "both empty": masks_of(EMPTY, EMPTY),
    "no prediction": masks_of(EMPTY, TWO),
    "no reference": masks_of(TWO, EMPTY),
    "everything predicted": masks_of(ALL, TWO),
    "everything expected": masks_of(TWO, ALL),
    "everything both": masks_of(ALL, ALL),
    "one component meets two lesions": masks_of(box(SHAPE, (1, 0, 1), (3, 16, 3)), TWO),
    "two components meet one lesion": masks_of(TWO, box(SHAPE, (1, 0, 1), (3, 16, 3))),
    "near without overlap": masks_of(box(SHAPE, (7, 0, 0), (10, 4, 4)), box(SHAPE, (0, 0, 0), (5, 4, 4))),
    "near along a corner alone": masks_of(box(SHAPE, (5, 5, 5), (9, 9, 9)), box(SHAPE, (1, 1, 1), (5, 5, 5))),
    "lesions close together are one": masks_of(
        box(SHAPE, (0, 0, 0), (4, 4, 4)), box(SHAPE, (0, 0, 0), (4, 4, 4)) | box(SHAPE, (0, 6, 0), (4, 10, 4))
    ),
    "lesion as large as the limit": masks_of(box(SHAPE, (0, 0, 0), (5, 5, 2)), box(SHAPE, (0, 0, 0), (5, 5, 2))),
    "lesion just above the limit": masks_of(EMPTY, box(SHAPE, (0, 0, 0), (5, 5, 2)) | box(SHAPE, (0, 0, 2), (1, 1, 3))),
    "small lesion keeps its prediction from being false": masks_of(
        box(SHAPE, (0, 0, 0), (6, 6, 6)), box(SHAPE, (0, 0, 0), (1, 1, 1))
    ),
    "lesion of one slice": masks_of(box(SHAPE, (2, 2, 6), (12, 14, 7)), box(SHAPE, (2, 2, 6), (12, 12, 7))),
    "image of one slice": masks_of(box((16, 16, 1), (2, 2, 0), (12, 14, 1)), box((16, 16, 1), (4, 2, 0), (14, 12, 1))),
    "column of voxels": masks_of(box((1, 1, 90), (0, 0, 5), (1, 1, 80)), box((1, 1, 90), (0, 0, 9), (1, 1, 88))),
    "isolated voxels of the reference": masks_of(TWO, (np.indices(SHAPE) % 8 == 0).all(axis=0)),
    "voxels of a fifth of a mm": masks_of(TWO, np.roll(TWO, 1, axis=1), (0.2, 0.2, 0.2)),
}
RULES = {
    (dilation, volume): Brats2023(dilation=dilation, volume_mm3=volume)
    for dilation, volume in ((3, 50), (1, 50), (1, 2))
}


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rules_of_2023_are_followed_at_the_edges(case: str, rules: tuple[int, float]) -> None:
    ours, slow = RULES[rules](CASES[case]), slow_2023(CASES[case], *rules)
    assert {name: ours[name] for name in slow} == pytest.approx(slow, abs=1e-6)


def scattered(seed: int) -> Masks:
    """Random blobs and single voxels, some at the border, on a grid of any proportions; sides may differ a lot."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(5, 30, size=3))
    prediction, reference = blobs(seed, shape, likeness=float(rng.random()))
    sparse = [rng.random(shape) < rng.choice([0, 0.002, 0.02]) for _ in range(2)]
    spacing = tuple(float(size) for size in rng.choice([0.5, 0.8, 1.0, 1.0, 2.5], size=3))
    order = "F" if seed % 2 else "C"
    return masks_of(
        *(np.asarray(mask, order=order) for mask in (prediction ^ sparse[0], reference ^ sparse[1])), spacing
    )


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rules_of_2023_give_what_a_slow_way_gives(seed: int) -> None:
    masks = scattered(seed)
    for rules, fast in RULES.items():
        ours, slow = fast(masks), slow_2023(masks, *rules)
        assert {name: ours[name] for name in slow} == pytest.approx(slow, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 400))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rules_of_2023_give_what_a_slow_way_gives_for_many_masks(seed: int) -> None:
    test_rules_of_2023_give_what_a_slow_way_gives(seed)


@pytest.mark.parametrize("number", TINY)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_small_tumours_are_scored_as_a_slow_way_scores_them(number: int) -> None:
    pair = tiny_pair(number)
    for values in REGIONS_2023.values():
        masks = region(pair.prediction, pair.reference, values, pair.spacing_mm)
        slow = slow_2023(masks, 3, 50)
        ours = {name: METRICS[f"brats2023_gli_{name}"].measure(masks) for name in slow}
        assert ours == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("shape", [(9, 12, 7), (20, 1, 9), (11, 13)])
def test_masks_grow_as_in_scipy(shape: tuple[int, ...], times: int) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.03
    structure = ndimage.generate_binary_structure(len(shape), 2)
    np.testing.assert_array_equal(dilated(mask, times), ndimage.binary_dilation(mask, structure, times))


def test_lesions_grow_no_further_than_masks_leave_room() -> None:
    with pytest.raises(ValueError, match=r"grow by up to 3 voxels, got 4"):
        Brats2023(dilation=4, volume_mm3=50)


# 2024


@cache
def stored(name: str) -> Any:
    return [io.read_label(FOLDER_OF_2024 / f"{name}_{side}.nii.gz") for side in ("pred", "ref")]


#: The pairs whose numbers were made; another folder of MEDMAMBA_LESIONWISE has others.
FOLDER_OF_2024 = SHARED / "golden" / "brats_lesionwise"


def columns_2024(
    challenge: str, values: tuple[int, ...], prediction: Any, reference: Any, spacing: Any
) -> dict[str, float]:
    masks = region(recoded(prediction, challenge), recoded(reference, challenge), values, spacing)
    return masks.columns(CHALLENGES[f"brats2024_{challenge}"].table)


def check_2024(challenge: str, name: str, prediction: Any, reference: Any, spacing: Any) -> None:
    official = dict(zip(OFFICIAL[challenge]["columns"], OFFICIAL[challenge]["rows"][name], strict=True))
    compared = 0
    for structure, values in REGIONS_2024[challenge].items():
        ours = columns_2024(challenge, values, prediction, reference, spacing)
        for column, value in official.items():
            theirs, _, of = column.rpartition("_")
            if of == structure:
                compared += 1
                assert ours[COLUMNS_2024[theirs]] == pytest.approx(number(value), abs=1e-6, nan_ok=True), column
    assert compared == len(official)


@pytest.mark.parametrize("challenge", REGIONS_2024)
@pytest.mark.parametrize("tiny", TINY)
def test_lesionwise_scores_of_2024_are_the_official_ones_for_small_tumours(challenge: str, tiny: int) -> None:
    check_2024(challenge, f"tiny{tiny:02d}", *tiny_pair(tiny))


def stored_pairs() -> list[Any]:
    """Every pair for every challenge; of those, a few that differ are enough for every day."""
    every = [(challenge, f"pair{index:02d}") for challenge in REGIONS_2024 for index in range(18)]
    daily = {(challenge, name) for challenge in ("gli", "met") for name in ("pair01", "pair05", "pair14")}
    return [pytest.param(*one, marks=() if one in daily else pytest.mark.slow) for one in every]


@pytest.mark.skipif(not FOLDER_OF_2024.is_dir(), reason=f"{FOLDER_OF_2024} is missing; MEDMAMBA_SHARED names its place")
@pytest.mark.parametrize(("challenge", "name"), stored_pairs())
def test_lesionwise_scores_of_2024_are_the_official_ones(challenge: str, name: str) -> None:
    prediction, reference = stored(name)
    check_2024(challenge, name, prediction.array[0], reference.array[0], reference.geometry.spacing_mm)


@pytest.mark.parametrize("tiny", TINY)
def test_panoptic_quality_is_that_of_panoptica(tiny: int) -> None:
    pair = tiny_pair(tiny)
    masks = masks_of(pair.prediction > 0, pair.reference > 0)
    official = dict(zip(OFFICIAL["panoptic"]["columns"], OFFICIAL["panoptic"]["rows"][f"tiny{tiny:02d}"], strict=True))
    for name, value in official.items():
        assert METRICS[name].measure(masks) == pytest.approx(number(value), abs=1e-6, nan_ok=True), name
