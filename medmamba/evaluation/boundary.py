"""How well the outlines of two masks in a picture agree: the boundary measure F of DAVIS.

A pixel is on the edge of a mask where it differs from its neighbour to the right, below, or right below. A pixel of one
edge is matched if one of the other lies within a bound, a share of the picture's diagonal.

References:
    Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation", CVPR 2016, section
    4.1; Martin et al., "Learning to detect natural image boundaries", PAMI 2004, whose edge maps these are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medmamba.evaluation.surface import Mask, same_shape

#: How far apart edges match, as a share of the picture's diagonal.
BOUND = 0.008


def edge(mask: Mask) -> Mask:
    """(H, W) the pixels on the edge of a mask, half a pixel towards the origin from where it is.

    Beyond the picture everything is as in its last row and column, so that a mask of all pixels has no edge.
    """
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = beyond[:-1, :-1]
    return np.asarray((here ^ beyond[:-1, 1:]) | (here ^ beyond[1:, :-1]) | (here ^ beyond[1:, 1:]))


def bound_px(shape: tuple[int, ...]) -> int:
    """How many pixels edges may be apart in a picture of (H, W) pixels.

    >>> bound_px((480, 854)), bound_px((256, 256))
    (8, 3)
    """
    return math.ceil(BOUND * math.hypot(*shape))


def boundary_f(prediction: Mask, reference: Mask) -> float:
    """Harmonic mean of the shares of both edges that lie near the other one.

    Args:
        prediction: (H, W).
        reference: (H, W).

    Returns:
        0 to 1; 0 if one of the masks, or of the edges, is empty; NaN if both masks are. There DAVIS says 1, as it does
        where one mask is empty and the other has every pixel.

    Raises:
        ValueError: if shapes differ.
    """
    same_shape(prediction, reference)
    some = bool(prediction.any()), bool(reference.any())
    if not all(some):
        return 0.0 if any(some) else math.nan
    ours, theirs = (np.argwhere(edge(mask)) for mask in (prediction, reference))
    if not (len(ours) and len(theirs)):
        return float(len(ours) == len(theirs))
    bound = bound_px(prediction.shape)
    precision, recall = _near(ours, theirs, bound), _near(theirs, ours, bound)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(points: NDArray[np.intp], others: NDArray[np.intp], bound: int) -> float:
    """The share of points that have one of the others within the bound."""
    # Distances are roots of whole numbers: half a pixel more takes none in, and keeps those at the bound.
    distances, _ = cKDTree(others).query(points, distance_upper_bound=bound + 0.5)
    return float(np.mean(distances <= bound))
