"""Two masks, and what several metrics need of them, computed once and only when one asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.calibration import reliability
from medmamba.evaluation.challenges import Table
from medmamba.evaluation.components import components
from medmamba.evaluation.lesions import Lesions, Panoptic
from medmamba.evaluation.region import Columns
from medmamba.evaluation.scores import Reliability, Voxels
from medmamba.evaluation.surface import Mask, SurfaceDistances, distances_between, same_shape, surface_of


def count_voxels(prediction: Mask, reference: Mask) -> Voxels:
    """In how many voxels two masks agree and differ.

    Raises:
        ValueError: if shapes differ.
    """
    same_shape(prediction, reference)
    common = int(np.count_nonzero(prediction & reference))
    only_prediction, only_reference = (int(np.count_nonzero(mask)) - common for mask in (prediction, reference))
    rest = prediction.size - common - only_prediction - only_reference
    return Voxels(tp=common, fp=only_prediction, fn=only_reference, tn=rest)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A prediction and its reference, with what several metrics need computed once.

    Args:
        prediction: (I, J, K) bool.
        reference: (I, J, K) bool.
        spacing_mm: size of a voxel along each array axis.
        annotated: (I, J, K) bool, the voxels that count; None where all do. Both masks are empty in the others.
        probability: (I, J, K) of the structure, where the network's are at hand.
        corner: where the first voxel of these arrays is in the image, of which they may be a part.
    """

    prediction: Mask
    reference: Mask
    spacing_mm: tuple[float, ...]
    annotated: Mask | None = None
    probability: NDArray[np.float32] | None = None
    corner: tuple[int, ...] = (0, 0, 0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel whose edges are perpendicular."""
        return float(np.prod(self.spacing_mm)) / 1000

    @cached_property
    def voxels(self) -> Voxels:
        """In how many voxels both agree and differ, of those that count."""
        voxels = count_voxels(self.prediction, self.reference)
        if self.annotated is None:
            return voxels
        return replace(voxels, tn=int(np.count_nonzero(self.annotated)) - voxels.either)

    @cached_property
    def surface(self) -> SurfaceDistances:
        """The distances between both surfaces."""
        # One mask after the other: where they are made on demand, there is never more than one.
        voxels = self.voxels.all
        prediction = surface_of(self.prediction, self.spacing_mm, image=voxels)
        return distances_between(prediction, surface_of(self.reference, self.spacing_mm, image=voxels), voxels)

    @cached_property
    def reliability(self) -> Reliability | None:
        """How often probabilities around the structure are right; None without probabilities."""
        if self.probability is None:
            return None
        return reliability(self.probability, self.prediction, self.reference, self.spacing_mm, annotated=self.annotated)

    @cached_property
    def lesions(self) -> Lesions:
        """The connected components of both."""
        predicted = components(self.prediction, self.voxels.all)
        return Lesions(predicted=predicted, expected=components(self.reference, self.voxels.all), corner=self.corner)

    @cached_property
    def panoptic(self) -> Panoptic:
        """How well their components are recognized and segmented."""
        return self.lesions.panoptic

    def columns(self, table: Table) -> Columns:
        """The table of a challenge, made once."""
        if table not in self._tables:
            self._tables[table] = table(self)
        return self._tables[table]

    @cached_property
    def _tables(self) -> dict[Table, Columns]:
        return {}
