"""What the tables of challenges are measured of: one region of one case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from medmamba.evaluation.lesions import Lesions
from medmamba.evaluation.scores import Voxels
from medmamba.evaluation.surface import Mask, SurfaceDistances

#: So many voxels challenges look beyond both masks at most.
MARGIN = 3
#: Values by the names of their columns.
Columns = dict[str, float]


class Region(Protocol):
    """One region of one case, as `medmamba.evaluation.masks.Masks`."""

    @property
    def prediction(self) -> Mask:
        """(I, J, K) bool, in a box that leaves room for `MARGIN` where the image does."""
        ...

    @property
    def reference(self) -> Mask:
        """(I, J, K) bool."""
        ...

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Size of a voxel along each array axis."""
        ...

    @property
    def voxels(self) -> Voxels:
        """In how many both agree and differ."""
        ...

    @property
    def surface(self) -> SurfaceDistances:
        """The distances between both surfaces."""
        ...

    @property
    def lesions(self) -> Lesions:
        """Their components."""
        ...


def volume_mm3(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Multiplied in the official order: a lesion as large as the limit is on the same side of it."""
    volume = float(voxels)
    for step in spacing_mm:
        volume *= step
    return volume
