"""How well two masks agree: every metric of the report, one row each.

Edge cases, the same for every metric that applies (a value that is undefined is counted apart, never replaced):

======================  =========  =========  ===========  =============  =============
masks                   dice, iou  precision  sensitivity  hd, hd95, assd  surface dice
======================  =========  =========  ===========  =============  =============
both empty              NaN        NaN        NaN          NaN            NaN
only prediction empty   0          NaN        0            inf            0
only reference empty    0          0          NaN          inf            0
======================  =========  =========  ===========  =============  =============

References:
    Maier-Hein et al., "Metrics reloaded", Nature Methods 2024: which metric for which question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medmamba.evaluation.surface import (
    Mask,
    SurfaceDistances,
    assd,
    hausdorff,
    ratio,
    same_shape,
    surface_dice,
    surface_distances,
)


def dice(prediction: Mask, reference: Mask) -> float:
    """Twice the common voxels over the sum of both masks' voxels; NaN when both are empty."""
    return ratio(2 * _common(prediction, reference), _size(prediction) + _size(reference))


def iou(prediction: Mask, reference: Mask) -> float:
    """Common voxels over the voxels of either mask (Jaccard index); NaN when both are empty."""
    common = _common(prediction, reference)
    return ratio(common, _size(prediction) + _size(reference) - common)


def precision(prediction: Mask, reference: Mask) -> float:
    """Share of the prediction that is right; NaN when it is empty."""
    return ratio(_common(prediction, reference), _size(prediction))


def sensitivity(prediction: Mask, reference: Mask) -> float:
    """Share of the reference that was found (recall); NaN when it is empty."""
    return ratio(_common(prediction, reference), _size(reference))


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A prediction and its reference, with what several metrics need computed once.

    Args:
        prediction: (I, J, K) bool.
        reference: (I, J, K) bool.
        spacing_mm: size of a voxel along each array axis.
    """

    prediction: Mask
    reference: Mask
    spacing_mm: tuple[float, ...]

    @cached_property
    def surface(self) -> SurfaceDistances:
        """The distances between both surfaces."""
        return surface_distances(self.prediction, self.reference, self.spacing_mm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table the report reads.

    Args:
        title: what stands above its column.
        measure: the value for a pair of masks.
        higher_is_better: which direction is better.
        unit: of the value; empty for a share.
        symmetric: whether prediction and reference may change places.
        bound: the worst value there is; None for 0 where higher is better and infinity where lower is.
    """

    title: str
    measure: Callable[[Masks], float]
    higher_is_better: bool = True
    unit: str = ""
    symmetric: bool = True
    bound: float | None = None

    @property
    def worst(self) -> float:
        """The value of a case that has no usable prediction."""
        if self.bound is not None:
            return self.bound
        return 0.0 if self.higher_is_better else float("inf")


#: Every metric the report knows, by the name it is asked for. One more metric is one function and one row, with what it
#: tells in words.py.
METRICS: dict[str, Metric] = {
    "dice": Metric(title="Dice", measure=lambda masks: dice(masks.prediction, masks.reference)),
    "iou": Metric(title="IoU", measure=lambda masks: iou(masks.prediction, masks.reference)),
    "precision": Metric(
        title="precision", measure=lambda masks: precision(masks.prediction, masks.reference), symmetric=False
    ),
    "sensitivity": Metric(
        title="sensitivity", measure=lambda masks: sensitivity(masks.prediction, masks.reference), symmetric=False
    ),
    "nsd_1mm": Metric(title="surface Dice at 1 mm", measure=lambda masks: surface_dice(masks.surface, 1.0)),
    "nsd_2mm": Metric(title="surface Dice at 2 mm", measure=lambda masks: surface_dice(masks.surface, 2.0)),
    "hd95": Metric(title="HD95", measure=lambda masks: hausdorff(masks.surface, 95), higher_is_better=False, unit="mm"),
    "hd": Metric(
        title="Hausdorff", measure=lambda masks: hausdorff(masks.surface, 100), higher_is_better=False, unit="mm"
    ),
    "assd": Metric(title="ASSD", measure=lambda masks: assd(masks.surface), higher_is_better=False, unit="mm"),
}


def _common(prediction: Mask, reference: Mask) -> int:
    same_shape(prediction, reference)
    return _size(np.logical_and(prediction, reference))


def _size(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
