"""Where to start a registration whose displacements are large: look everywhere near, then agree with the neighbours.

References:
    Heinrich et al., "Non-parametric Discrete Registration with Convex Optimisation", WBIR 2014, and Siebert et al.,
    "Fast 3D Registration with Accurate Optimisation and Little Learning for Learn2Reg 2021", 2021, for the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.tasks.separable import along_axes, box, resampling
from medmamba.tasks.similarity import mind_ssc

#: How strongly a point is drawn to what its neighbours found, round by round.
COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
#: Distance of the points that are looked for, in voxels of the finest axis.
GRID_VOXELS = 4


def search(moving: Tensor, fixed: Tensor, *, spacing_mm: Sequence[float], reach_mm: float) -> Tensor:
    """The smooth field with the best agreement of descriptors among all displacements within reach of each point.

    Args:
        moving: (1, 1, *S).
        fixed: the same.
        spacing_mm: of their grid.
        reach_mm: along each axis, in both directions.

    Returns:
        (1, dims, *S) voxels.
    """
    full, finest = tuple(fixed.shape[2:]), min(spacing_mm)
    counts = [
        max(2, round(n * s / finest / GRID_VOXELS)) if n > 1 else 1 for n, s in zip(full, spacing_mm, strict=True)
    ]
    units = [n / k for n, k in zip(full, counts, strict=True)]  # voxels
    reach = [round(reach_mm / (unit * s)) if k > 1 else 0 for unit, s, k in zip(units, spacing_mm, counts, strict=True)]
    pool = F.adaptive_avg_pool3d if fixed.dim() == 5 else F.adaptive_avg_pool2d
    described = (mind_ssc(image, spacing_mm=spacing_mm) for image in (moving, fixed))
    features = [pool(each, counts) for each in described]  # type: ignore[arg-type]  # two or three counts
    shifts = list(product(*(range(-r, r + 1) for r in reach)))
    costs = _costs(features[0], features[1], shifts, reach)
    offsets = torch.tensor(shifts, dtype=costs.dtype, device=costs.device)
    agreed = _agreed(costs, offsets, counts)
    scale = torch.tensor(units).to(agreed).reshape(1, -1, *(1,) * len(full))
    return along_axes(agreed * scale, [resampling(k, n, agreed) for k, n in zip(counts, full, strict=True)])


def _costs(moving: Tensor, fixed: Tensor, shifts: Sequence[tuple[int, ...]], reach: Sequence[int]) -> Tensor:
    """(shifts, *S): mean squared difference of the features of each point and of the point that a shift leads to."""
    wide = F.pad(moving, [r for r in reversed(reach) for _ in range(2)], mode="replicate")
    costs = []
    for shift in shifts:
        part = wide
        for axis, (by, r, n) in enumerate(zip(shift, reach, fixed.shape[2:], strict=True), start=2):
            part = part.narrow(axis, r + by, n)
        costs.append((part - fixed).square().mean(dim=(0, 1)))
    return torch.stack(costs)


def _agreed(costs: Tensor, offsets: Tensor, counts: Sequence[int]) -> Tensor:
    """(1, dims, *S) steps of the grid: alternately the best shift near what was found, and the neighbourhood's mean."""
    window = [box(k, 1, costs) for k in counts]
    window = [each / each.sum(dim=1, keepdim=True) for each in window]

    def smoothed(chosen: Tensor) -> Tensor:
        field = offsets[chosen].movedim(-1, 0)[None]
        return along_axes(along_axes(field, window), window)

    agreed = smoothed(costs.argmin(dim=0))
    for strength in COUPLING:
        away = sum(
            (offsets[:, axis].reshape(-1, *(1,) * len(counts)) - agreed[:, axis]).square()
            for axis in range(len(counts))
        )
        agreed = smoothed((costs + strength * away).argmin(dim=0))
    return agreed
