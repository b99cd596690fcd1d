"""The scores of the BraTS challenges from 2024 on.

Lesions and predicted components are matched one to one. Means are over matched pairs, for metastases over large lesions
with penalties for what was missed or invented.

References:
    PyPI brats-evaluation 0.0.10 on panoptica 2.1.7, whose numbers `brats2024` and `metastases2024` reproduce; of its
        own way to measure distances see `_pair_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.components import union
from medmamba.evaluation.lesions import one_to_one
from medmamba.evaluation.region import Columns, Region, volume_mm3
from medmamba.evaluation.scores import ratio
from medmamba.evaluation.surface import Mask, border_distances

#: What stands for an infinite distance, in mm.
INFINITE_MM = 373.0
#: Lesions of the metastasis table are large from here on, in mm^3, and found from this Dice on.
LARGE_MM3, FOUND_DICE = 20.0, 0.1
_NAN = float("nan")


def brats2024(region: Region) -> Columns:
    """The plain table of BraTS from 2024 on: means over matched pairs, and how many were matched."""
    pairs = _Pairs.of(region)
    return {**pairs.detection, **_global(region), **_over_pairs(pairs)}


def metastases2024(region: Region) -> Columns:
    """The metastasis table of BraTS from 2024 on: large lesions are scored with penalties, small ones detected."""
    pairs = _Pairs.of(region)
    volume = np.array([volume_mm3(count, region.spacing_mm) for count in region.lesions.expected.voxels[1:]])
    large = volume >= LARGE_MM3
    is_matched = np.isin(region.lesions.expected.ids, pairs.reference)
    dice = np.zeros(len(volume))
    dice[pairs.reference - 1] = pairs.dice
    found = is_matched & (dice >= FOUND_DICE)
    punished = int(np.count_nonzero(large & ~is_matched)) + pairs.fp
    scored = large[pairs.reference - 1]
    lists = {
        "dice": np.append(pairs.dice[scored], np.zeros(punished)),
        "nsd": np.append(pairs.nsd[scored], np.zeros(punished)),
        "hd95": np.append(pairs.hd95[scored], np.full(punished, INFINITE_MM)),
    }
    means = (
        {
            key: value
            for name, values in lists.items()
            for key, value in ((name, float(values.mean())), (f"{name}_std", float(values.std())))
        }
        if large.any()
        else {key: _NAN for name in lists for key in (name, f"{name}_std")}
    )
    return {
        **pairs.detection,
        **_global(region),
        **means,
        **_detected("large", found[large], pairs.fp),
        **_detected("small", found[~large], pairs.fp),
    }


def _detected(which: str, found: NDArray[np.bool_], fp: int) -> Columns:
    """How many lesions of one size were found; nothing is known of a size that none has."""
    tp, fn = int(found.sum()), int((~found).sum())
    columns = {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }
    return {f"{which}_{name}": value if found.size else _NAN for name, value in columns.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Lesions and predicted components matched one to one.

    Args:
        reference: (N,) numbers of the lesions.
        dice: (N,) of each with its component.
        nsd: (N,) share of the border within one voxel, as in `_pair_scores`.
        hd95: (N,) likewise.
        expected: how many lesions there are.
        predicted: how many components.
    """

    reference: NDArray[np.int64]
    dice: NDArray[np.float64]
    nsd: NDArray[np.float64]
    hd95: NDArray[np.float64]
    expected: int
    predicted: int

    @classmethod
    def of(cls, region: Region) -> _Pairs:
        """Those of a region: at any overlap, and so that the sum of their Dice is the largest."""
        lesions = region.lesions
        expected, predicted, meetings = lesions.expected, lesions.predicted, lesions.meetings
        dice = 2.0 * meetings.voxels / (expected.voxels[meetings.one] + predicted.voxels[meetings.other])
        # An overlap of less than this the official matching does not take for one.
        candidates = np.flatnonzero(dice >= 1e-6)
        chosen = candidates[one_to_one(meetings.one[candidates], meetings.other[candidates], dice[candidates])]
        # The official package reads sizes of voxels in the order of ITK and applies them to arrays in numpy's.
        spacing = region.spacing_mm[::-1]
        scores = np.array(
            [
                _pair_scores(predicted.labels[box] == other, expected.labels[box] == one, spacing, min(spacing))
                for one, other in zip(meetings.one[chosen], meetings.other[chosen], strict=True)
                for box in [union([expected.boxes[one], predicted.boxes[other]])]
            ]
        ).reshape(-1, 2)
        return cls(
            reference=meetings.one[chosen],
            dice=dice[chosen],
            nsd=scores[:, 0],
            hd95=scores[:, 1],
            expected=expected.count,
            predicted=predicted.count,
        )

    @property
    def tp(self) -> int:
        return len(self.reference)

    @property
    def fp(self) -> int:
        return self.predicted - self.tp

    @property
    def detection(self) -> Columns:
        return {
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.expected - self.tp,
            "precision": ratio(self.tp, self.predicted),
            "recall": ratio(self.tp, self.expected),
            "f1": ratio(2 * self.tp, self.predicted + self.expected),
        }


def _over_pairs(pairs: _Pairs) -> Columns:
    """Mean and deviation over the matched pairs; without any, the worst where there is something, else undefined."""
    anything = pairs.expected + pairs.predicted > 0
    columns = {}
    for name, values, worst in (
        ("dice", pairs.dice, 0.0),
        ("nsd", pairs.nsd, 0.0),
        ("hd95", pairs.hd95, float("inf")),
    ):
        columns[name] = float(values.mean()) if values.size else worst if anything else _NAN
        columns[f"{name}_std"] = float(values.std()) if values.size else _NAN
    return columns


def _global(region: Region) -> Columns:
    """Scores of all lesions at once, of which the official package takes every voxel for a cube of 1 mm."""
    counts = region.voxels
    if not counts.tp:  # also where both have voxels, but none in common
        worst = 0.0 if counts.either else _NAN
        return {
            "global_dice": worst,
            "global_nsd": worst,
            "global_hd95": INFINITE_MM if counts.either else _NAN,
        }
    prediction, reference = region.prediction, region.reference
    nsd, hd95 = _pair_scores(prediction, reference, (1.0,) * reference.ndim, 0.5)
    return {"global_dice": counts.dice, "global_nsd": nsd, "global_hd95": hd95}


def _pair_scores(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """NSD and HD95 as in panoptica: between voxels at the borders, each counted alike.

    NSD is the mean of both borders' shares within the tolerance, HD95 the percentile of all distances in one list.
    """
    distances = border_distances(prediction, reference, spacing_mm)
    nsd = sum(float(np.mean(values <= tolerance_mm)) for values in distances) / 2
    return nsd, float(np.percentile(np.concatenate(distances), 95))
