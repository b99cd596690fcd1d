"""Whether probabilities can be believed: of the voxels to which a network gives 80 %, do 80 % hold the structure?

Most of a scan is background that nobody takes for anything else, and would hide whatever is wrong near a structure. So
only voxels in a box around both masks count.

References:
    Guo et al., "On calibration of modern neural networks", ICML 2017: the expected calibration error over 15 bins.
    Mehrtash et al., "Confidence calibration and predictive uncertainty estimation for deep medical image segmentation",
    IEEE Transactions on Medical Imaging 2020: of each structure by itself, in a box around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.scores import Reliability
from medmamba.evaluation.surface import Mask
from medmamba.volume import bounding_box

#: Bins of equal width.
BINS = 15
#: So far the box reaches beyond both masks.
MARGIN_MM = 10.0


def reliability(
    probability: NDArray[np.float32],
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float],
    *,
    annotated: Mask | None = None,
) -> Reliability:
    """Count voxels by their probability in the box around both masks, grown by `MARGIN_MM`.

    Args:
        probability: (I, J, K) of the structure, from 0 to 1.
        prediction: (I, J, K) mask.
        reference: likewise.
        spacing_mm: size of a voxel along each array axis.
        annotated: (I, J, K) mask of the voxels that count; None where all do.

    Returns:
        Counts for each of `BINS` bins, the last of which holds 1 as well; all 0 where both masks are empty.
    """
    either = prediction | reference
    if not either.any():
        return Reliability(voxels=(0,) * BINS, confidence=(0.0,) * BINS, positives=(0,) * BINS)
    around = tuple(
        slice(max(part.start - math.ceil(MARGIN_MM / step), 0), part.stop + math.ceil(MARGIN_MM / step))
        for part, step in zip(bounding_box(either), spacing_mm, strict=True)
    )
    counts = np.ones(either[around].shape, dtype=bool) if annotated is None else annotated[around]
    values = probability[around][counts].astype(np.float64)
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)

    return Reliability(
        voxels=tuple(np.bincount(bins, minlength=BINS).tolist()),
        confidence=tuple(np.bincount(bins, values, minlength=BINS).tolist()),
        positives=tuple(np.bincount(bins[reference[around][counts]], minlength=BINS).tolist()),
    )


def expected_calibration_error(reliability: Reliability) -> float:
    """Mean over voxels of how far the probability of their bin is from its share of positives; NaN without voxels."""
    total = sum(reliability.voxels)
    apart = sum(abs(sure - right) for sure, right in zip(reliability.confidence, reliability.positives, strict=True))
    return apart / total if total else math.nan
