"""Instance optimisation of images of two contrasts: a smooth field that moves no further than the images insist.

Two contrasts say little inside of muscle or fat, and their borders are not quite alike, so that a free field follows
what is not motion. Here the field is a sample of a Gaussian process: Gaussians of some width at the voxels of a coarse
grid, whose heights are normally distributed. Similarity pulls, the heights' squares hold back: far from borders the
field is what its surroundings make likely.

References:
    Gerig et al., "Spatially Varying Registration using Gaussian Processes", MICCAI 2014, for the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medmamba.progress import Progress
from medmamba.tasks.separable import along_axes
from medmamba.warp import warp

#: The largest change of a height in a step at the first, and the share of it at the last.
STEP, LAST_STEP = 0.02, 0.2
#: Gaussians lie up to so many of their widths beyond the image.
BEYOND = 2.0


def settle(
    start: Tensor,
    moving: Tensor,
    compare: Callable[[Tensor], Tensor],
    *,
    spacing_mm: Sequence[float],
    width_mm: float,
    weight: float,
    count: int,
    progress: Progress,
    title: str,
) -> tuple[Tensor, tuple[float, ...]]:
    """Add to a field what makes the images alike, as far as it is likely.

    Args:
        start: (1, dims, *S) voxels.
        moving: (1, 1, *S).
        compare: tells how unlike the moved image is.
        spacing_mm: of the grid.
        width_mm: standard deviation of the Gaussians.
        weight: of the sum of the heights' squares; independent heights of 1 make a field whose components vary by 1 mm.
        count: of steps.
        progress: told of each.
        title: of it.

    Returns:
        The best field, (1, dims, *S) voxels, and the similarity before each step; it ends at one that is no number.
    """
    windows = [_bells(n, width_mm / s, start) for n, s in zip(start.shape[2:], spacing_mm, strict=True)]
    scale = torch.tensor(list(spacing_mm)).to(start).reshape(1, -1, *(1,) * (start.dim() - 2))
    heights = torch.zeros(*start.shape[:2], *(each.shape[1] for each in windows)).to(start).requires_grad_()
    optimizer = torch.optim.Adam([heights], lr=STEP)
    losses: list[float] = []
    best, least = start, float("inf")
    for step in progress(range(count + 1), title=title, total=count + 1):
        here = start + along_axes(heights, windows) / scale
        unlike = compare(warp(moving, here))
        total = unlike + weight * heights.square().sum()
        losses.append(float(unlike.detach()))
        if losses[-1] - losses[-1] != 0:
            break
        if float(total.detach()) < least:
            best, least = here.detach(), float(total.detach())
        if step == count:
            break
        optimizer.zero_grad()
        total.backward()
        optimizer.param_groups[0]["lr"] = STEP * (1 - step / count * (1 - LAST_STEP))
        optimizer.step()
    return best, tuple(losses)


def _bells(size: int, sigma: float, like: Tensor) -> Tensor:
    """(size, size + margins): Gaussians whose weighted sum has variance 1 for independent weights of variance 1."""
    if size == 1:
        return torch.ones(1, 1).to(like)
    margin = int(BEYOND * sigma)
    at, line = torch.arange(size), torch.arange(-int(5 * sigma), int(5 * sigma) + 1)
    bells = torch.exp(-0.5 * ((at[:, None] - torch.arange(-margin, size + margin)) / sigma) ** 2)
    return (bells / torch.exp(-0.5 * (line / sigma) ** 2).square().sum().sqrt()).to(like)
