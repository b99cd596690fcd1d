"""Deformations that are made up, so that it is known where each point went: to learn from pairs without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

#: Points that are moved independently of one another lie this far apart, in mm: what moves together in a body.
KNOTS_MM = (25.0, 60.0)


def made_up(size: Sequence[int], spacing_mm: Sequence[float], longest_mm: float, random: np.random.Generator) -> Tensor:
    """A smooth velocity, whose integral moves points by up to about so far: from nothing on, all equally likely.

    Args:
        size: of the grid, *S.
        spacing_mm: of it.
        longest_mm: of the longest way of a point.
        random: what is drawn from.

    Returns:
        (1, dims, *S) float32, voxels per unit of time, for `medmamba.warp.integrate`.
    """
    apart = random.uniform(*KNOTS_MM)
    knots = [max(2, round(n * s / apart) + 1) for n, s in zip(size, spacing_mm, strict=True)]
    drawn = random.standard_normal((len(knots), *knots))
    # Two more knots at each end, so that the border moves as what is inside of it.
    drawn = np.pad(drawn, [(0, 0), *[(2, 2)] * len(knots)], mode="reflect" if min(knots) > 2 else "edge")
    at = np.meshgrid(*(2 + np.linspace(0, k - 1, n) for k, n in zip(knots, size, strict=True)), indexing="ij")
    ways = np.stack([ndimage.map_coordinates(part, at, order=3) for part in drawn])
    ways *= random.uniform(0, longest_mm) / np.linalg.norm(ways, axis=0).max()
    ways /= np.reshape(spacing_mm, (-1, *(1,) * len(knots)))
    return torch.from_numpy(ways.astype(np.float32))[None]
