"""The lesion-wise scores of the BraTS challenges of 2023.

Lesions of the reference that lie close together count as one, each is held against everything predicted near it, and
the sums are divided by lesions and false positives alike.

References:
    Saluja et al., github.com/rachitsaluja/BraTS-2023-Metrics, whose numbers `Brats2023` reproduces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.components import Box, Components, components_in_slabs, overlaps, union
from medmamba.evaluation.region import MARGIN, Columns, Region, volume_mm3
from medmamba.evaluation.surface import (
    Mask,
    Surface,
    SurfaceDistances,
    distances_between,
    hausdorff,
    surface_distances,
    surface_in_slabs,
)
from medmamba.volume import slabs

#: What stands for an infinite distance, in mm.
INFINITE_MM = 374.0
#: A guard of the official script against division by zero, which a specificity of 0 / 0 shows.
_EPSILON = float(np.finfo(float).eps)


def dilated(mask: Mask, times: int) -> Mask:
    """A mask grown by voxels that share a face or an edge with it (18 neighbours), some times over.

    As scipy's `binary_dilation` by `generate_binary_structure(3, 2)` does it, of which only the time differs: the
    neighbours lie in three planes, and growing in a plane is growing along one axis and then along the other.
    """
    turned = mask.T
    for _ in range(times):
        grown = np.empty_like(turned)
        for rows in slabs(turned.shape):
            around = slice(max(rows.start - 1, 0), rows.stop + 1)
            grown[rows] = _grown_once(turned[around])[rows.start - around.start :][: rows.stop - rows.start]
        turned = grown
    return turned.T


def _grown_once(mask: Mask) -> Mask:
    first = _grown(mask, 0)
    grown = _grown(first, 1)
    for axis in range(2, mask.ndim):
        grown |= _grown(first, axis)
        grown |= _grown(_grown(mask, 1), axis)
    return grown


def _grown(mask: Mask, axis: int) -> Mask:
    grown = mask.copy(order="K")
    near, far = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
    grown[near] |= mask[far]
    grown[far] |= mask[near]
    return grown


@dataclass(frozen=True, slots=True)
class _Growing:
    """A mask that grows slab by slab.

    Args:
        labels: what is not zero is marked.
        times: how often it grows, see `dilated`.
    """

    labels: NDArray[Any]
    times: int

    def __call__(self, rows: slice) -> Mask:
        """A part of the grown mask, transposed."""
        around = slice(max(rows.start - self.times, 0), rows.stop + self.times)
        part = self.labels.T[around] != 0
        if part.any():
            part = dilated(part.T, self.times).T
        grown: Mask = part[rows.start - around.start :][: rows.stop - rows.start]
        return grown


@dataclass(frozen=True, slots=True, kw_only=True)
class Brats2023:
    """The lesion-wise scores of BraTS 2023.

    Args:
        dilation: how often the reference grows by a voxel, so that lesions that then touch count as one, and
            predicted components that it then touches are theirs.
        volume_mm3: lesions of the reference up to this volume do not count; what touches them is no false positive.
    """

    dilation: int
    volume_mm3: float

    def __post_init__(self) -> None:
        if self.dilation > MARGIN:
            raise ValueError(f"masks leave room for lesions to grow by up to {MARGIN} voxels, got {self.dilation}")

    def __call__(self, region: Region) -> Columns:
        """All columns of the official table, by name."""
        matched = self._matches(region)
        voxel = region.spacing_mm
        kept = [lesion for lesion in matched.lesions if volume_mm3(lesion.voxels, voxel) > self.volume_mm3]
        found = sum(lesion.is_found for lesion in kept)
        false = matched.false
        distances = [self._hd95(region, matched, lesion) for lesion in kept]
        judged = len(kept) + false
        counts = region.voxels
        empty = not counts.either
        return {
            "dice": sum(lesion.dice for lesion in kept) / judged if judged else 1.0,
            "hd95": (sum(distances) + INFINITE_MM * false) / judged if judged else 0.0,
            "tp": found,
            "fp": false,
            "fn": len(kept) - found,
            "sensitivity": 1.0 if empty else counts.tp / (counts.reference + _EPSILON),
            "specificity": counts.tn / (counts.tn + counts.fp + _EPSILON),
            "legacy_dice": 1.0 if empty else counts.dice,
            "legacy_hd95": 0.0 if empty else _finite(hausdorff(_whole(region)), INFINITE_MM),
            "reference_mm3": volume_mm3(counts.reference, voxel),
        }

    def _matches(self, region: Region) -> _Matches:
        """The lesions of the reference, merged where they lie close together, and what was predicted near each."""
        expected, predicted = region.lesions.expected, region.lesions.predicted
        # The zone around a merged lesion is the component of the grown reference that it lies in: growing it by itself
        # gives the same, as every voxel grows into one piece.
        zones = components_in_slabs(_Growing(expected.labels, self.dilation), expected.labels.shape, region.voxels.all)
        near, common = overlaps(zones.labels, predicted.labels), np.zeros(zones.count + 1, dtype=np.int64)
        zone = np.zeros(expected.count + 1, dtype=np.int64)
        home = overlaps(expected.labels, zones.labels)
        zone[home.one] = home.other
        np.add.at(common, zone[region.lesions.meetings.one], region.lesions.meetings.voxels)
        return _Matches(
            zone=zone,
            lesions=tuple(
                _Lesion(
                    id=int(lesion),
                    box=union([expected.boxes[part] for part in np.flatnonzero(zone == lesion)]),
                    voxels=int(expected.voxels[zone == lesion].sum()),
                    common=int(common[lesion]),
                    near=(ids := near.other[near.one == lesion]),
                    near_voxels=int(predicted.voxels[ids].sum()),
                )
                for lesion in zones.ids
            ),
            false=predicted.count - len(np.unique(near.other)),
        )

    def _hd95(self, region: Region, matched: _Matches, lesion: _Lesion) -> float:
        if not lesion.is_found:
            return INFINITE_MM
        expected, predicted = region.lesions.expected, region.lesions.predicted
        if len(matched.lesions) == 1 and not matched.false:  # it is all there is, which has been measured
            return hausdorff(_whole(region))
        box = union([lesion.box, *(predicted.boxes[other] for other in lesion.near)])
        is_near = np.zeros(predicted.count + 1, dtype=bool)
        is_near[lesion.near] = True

        def surface(whole: Components, chosen: NDArray[np.bool_]) -> Surface:
            labels = whole.labels[box].T
            return surface_in_slabs(
                lambda rows: chosen[labels[rows]], labels.shape, region.spacing_mm[::-1], region.voxels.all
            )

        return hausdorff(
            distances_between(
                surface(predicted, is_near), surface(expected, matched.zone == lesion.id), region.voxels.all
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesion:
    """A lesion of the reference in BraTS 2023: its voxels, those it shares, and the predicted components near it."""

    id: int
    box: Box
    voxels: int
    common: int
    near: NDArray[np.int64]
    near_voxels: int

    @property
    def is_found(self) -> bool:
        return bool(self.near.size)

    @property
    def dice(self) -> float:
        return 2 * self.common / (self.voxels + self.near_voxels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matches:
    """All lesions of a case in BraTS 2023, and how many predicted components are near none.

    Args:
        zone: (N + 1,) number of the lesion that each component of the reference is part of.
        lesions: those.
        false: how many predicted components are near none.
    """

    zone: NDArray[np.int64]
    lesions: tuple[_Lesion, ...]
    false: int


def _whole(region: Region) -> SurfaceDistances:
    """The surface distances between all of both masks, where a single slice is a slab and no contour."""
    if 1 not in region.reference.shape:
        return region.surface
    return surface_distances(region.prediction, region.reference, region.spacing_mm, contour=False)


def _finite(distance: float, instead: float) -> float:
    return distance if np.isfinite(distance) else instead
