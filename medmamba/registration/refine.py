"""Instance optimisation: deform one moving image onto one fixed image, from a network's field or from nothing.

From coarse to fine, the field is composed with small smooth steps downhill. Every step moves a voxel by a part of a
voxel and is smooth, so it is invertible, and so is the whole as far as interpolation allows. A step follows Adam's
direction: the gradient of the similarity at each voxel, over its usual size there. The gradient is that of moving one
image one way and the other one the other way, so that it matters little which of them is called the fixed one.

Fields are those of `medmamba.warp`: (1, dims, *S) voxels, pull.

References:
    Avants et al., Medical Image Analysis 12 (2008), for composing smoothed gradients.
    Vercauteren et al., NeuroImage 45 (2009), for forces of both images.
    Jena et al., "FireANTs: Adaptive Riemannian Optimization for Multi-Scale Diffeomorphic Matching", 2024, for Adam on
    them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.errors import UsageError
from medmamba.progress import Progress, silent
from medmamba.registration.search import search
from medmamba.registration.stiff import settle
from medmamba.tasks.separable import along_axes, gaussian, resampling
from medmamba.tasks.similarity import SIMILARITIES
from medmamba.warp import compose, jacobian_determinant, warp

#: A free field follows each border, a stiff one is coarse and held back, see `medmamba.registration.stiff`.
Deformation = Literal["free", "stiff"]
#: Share of the mean usual size that is added to that of each voxel, so that where images say little, little moves.
STEADY = 1.0
#: Length of the last step at a level, as a share of the first.
LAST_STEP = 0.2
#: Rounds of smoothing after which folds are left as they are.
UNFOLDING_ROUNDS = 20
#: A field that nowhere moved by more voxels than this did not register anything.
STILL_VOXELS = 0.02
#: A value is from within an image if interpolation took at least so much of it from there.
_WHOLE = 0.99
#: No level has less voxels than this along an axis, if the image has them.
LEAST_SIZE = 16
#: What is brighter than this share of the fixed image's range is no background.
FOREGROUND = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineSettings:
    """How to go downhill.

    Args:
        shrink: how much coarser than the finest each level is, coarsest first. With a field to start from, the
            coarsest of three or more is left out.
        most_voxels: of the finest level, which is that of the images unless they have more; the field in between is
            smooth.
        coarse_steps: at each level but the last at most.
        step_voxels: the longest way of a voxel in one step, in voxels of the level.
        step_sigma: of the Gaussian that smooths a step, in voxels of the level's finest axis.
        field_sigma: of the Gaussian that smooths the whole field after each step; 0: none.
        level_mm: of the voxels of the one level at which the field is stiff, see `medmamba.registration.stiff`; 0: it
            is free, and the levels are those of ``shrink``.
        width_mm, weight: of the stiff field, see there.
        foreground: without a mask, compare only where the fixed image is above `FOREGROUND` of its range.
        search_mm: how far to look in all directions for where to start from, by the descriptor MIND-SSC; 0: start from
            no displacement.
        window: steps over which the similarity must have improved by ``tolerance`` of itself, else a level is done.
        tolerance: see there; 0: take all steps.
    """

    shrink: tuple[float, ...] = (4, 2, 1)
    most_voxels: int = 2_000_000
    coarse_steps: int = 40
    step_voxels: float = 0.25
    step_sigma: float = 1.25
    field_sigma: float = 0.6
    level_mm: float = 0.0
    width_mm: float = 20.0
    weight: float = 1e-3
    foreground: bool = False
    search_mm: float = 0.0
    window: int = 10
    tolerance: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


#: A stiff field by each similarity. Images of two modalities say little inside of muscle and fat, and where their
#: borders lie they are not quite alike: a coarse, stiff field then errs least.
STIFF = {
    name: RefineSettings(level_mm=4.0, weight=weight, foreground=True)
    for name, weight in (("lncc", 1.2e-3), ("mse", 1e-5), ("mi", 3e-3), ("mind", 3e-4))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What came of it.

    Args:
        displacement: (1, dims, *S) voxels.
        losses: similarity at each step of each level, coarsest level first.
        remarks: what whoever reads the result should know, a sentence each.
    """

    displacement: Tensor
    losses: tuple[tuple[float, ...], ...]
    remarks: tuple[str, ...] = field(default=())


def refine(
    moving: Tensor,
    fixed: Tensor,
    *,
    spacing_mm: Sequence[float],
    start: Tensor | None = None,
    mask: Tensor | None = None,
    reached: Tensor | None = None,
    similarity: str = "lncc",
    steps: int = 50,
    settings: RefineSettings | None = None,
    progress: Progress = silent,
) -> Refined:
    """Deform one image until it looks like another; the same arguments give the same field.

    Args:
        moving: (1, 1, *S), float.
        fixed: the same.
        spacing_mm: of their grid, for which steps are smooth in millimetres.
        start: (1, dims, *S) voxels, a network's field.
        mask: (1, 1, *S), where in the fixed image the similarity counts; None: everywhere.
        reached: (1, 1, *S), what there is of the moving image; the similarity counts only what comes from there, and
            nothing from beyond the grid. None: all, and what lies beyond is as dark as it is shown.
        similarity: a name of `medmamba.tasks.similarity.SIMILARITIES`.
        steps: at the last level at most.
        settings: see there, and `STIFF`.
        progress: told of each step.

    Returns:
        The field, the similarity on the way, and remarks: on a similarity that is no number, at which it stops and
        keeps the last field, on a field that did not move, and on folds.

    Raises:
        UsageError: if there is no such similarity.
        ValueError: if images, field and spacing do not belong together.
    """
    if similarity not in SIMILARITIES:
        raise UsageError(f"a similarity is one of {', '.join(SIMILARITIES)}, but got {similarity!r}")
    settings = settings or RefineSettings()
    _check(moving, fixed, start, spacing_mm)
    moving, fixed = moving.detach().float(), fixed.detach().float()
    full = tuple(fixed.shape[2:])
    finest = max(1.0, (math.prod(full) / settings.most_voxels) ** (1 / max(1, sum(n > 1 for n in full))))
    shrink = [finest * factor for factor in (settings.shrink if start is None else settings.shrink[-2:])]
    if settings.level_mm:
        shrink = [settings.level_mm / min(spacing_mm)]
    if start is None and settings.search_mm:
        start = search(moving, fixed, spacing_mm=spacing_mm, reach_mm=settings.search_mm)
    if mask is None and settings.foreground:
        least, largest = fixed.aminmax()
        mask = (fixed > least + FOREGROUND * (largest - least)).float()
    here = torch.zeros(1, len(full), *full).to(fixed) if start is None else start.detach().float()
    losses: list[tuple[float, ...]] = []
    remarks: list[str] = []
    for factor in shrink:
        count = steps if factor == shrink[-1] else settings.coarse_steps
        size = _size(full, spacing_mm, factor, settings.level_mm)
        level = _Level(
            _smaller(moving, size),
            _smaller(fixed, size),
            None if mask is None else (_smaller(mask.float(), size) > 0.5).float(),
            None if reached is None else (_smaller(reached.float(), size) > 0.5).float(),
            [s * (n - 1) / (k - 1) if n > 1 else s for s, n, k in zip(spacing_mm, full, size, strict=True)],
        )
        before = resized(here, size)
        descend = _settle if settings.level_mm else _descend
        here, descent = descend(before, level, similarity, count, settings, progress, f"refine 1/{factor:.3g}")
        losses.append(descent)
        if not all(map(_finite, descent)):
            remarks.append(
                f"the {similarity} of the images is no number at 1/{factor:.3g} of the resolution, step "
                f"{len(descent)}; the field is the best before that"
            )
            break
    return _result(_unfolded(resized(here, full)), start, losses, remarks)


def _size(full: Sequence[int], spacing_mm: Sequence[float], factor: float, level_mm: float) -> tuple[int, ...]:
    """Voxels of a level along each axis: a share of the image's, or as long as told where the image is that fine."""
    factors = [max(1.0, level_mm / s) if level_mm else factor for s in spacing_mm]
    return tuple(min(n, max(math.ceil(n / each), LEAST_SIZE)) for n, each in zip(full, factors, strict=True))


@dataclass(frozen=True, slots=True)
class _Level:
    moving: Tensor
    fixed: Tensor
    mask: Tensor | None
    reached: Tensor | None
    spacing_mm: Sequence[float]


def counted(mask: Tensor | None, reached: Tensor | None, displacement: Tensor) -> Tensor | None:
    """(1, 1, *S), 0 and 1: what the similarity counts with a field; None: everything.

    Args:
        mask: (1, 1, *S), of the fixed image; None: all.
        reached: (1, 1, *S), of the moving one; None: all, and beyond the grid as well.
        displacement: (1, dims, *S) voxels.
    """
    if reached is None:
        return mask
    lacking = (warp(reached, displacement) < _WHOLE).float()
    # A voxel's slope is that of its neighbours, which therefore have to be there as well.
    near = [3 if n > 1 else 1 for n in lacking.shape[2:]]
    pool = F.max_pool3d if len(near) == 3 else F.max_pool2d
    there = 1 - pool(lacking, near, stride=1, padding=[n // 2 for n in near])
    return there if mask is None else there * mask


def _descend(
    here: Tensor, level: _Level, similarity: str, count: int, settings: RefineSettings, progress: Progress, title: str
) -> tuple[Tensor, tuple[float, ...]]:
    """The field at which the images were most alike in at most so many steps, and the similarity before each."""
    compare, finest = SIMILARITIES[similarity], min(level.spacing_mm)
    # Once for a level: a count that changes with the field could be lowered by moving what disagrees out of sight.
    mask = counted(level.mask, level.reached, here)
    relative = torch.tensor([s / finest for s in level.spacing_mm]).to(here).reshape(1, -1, *(1,) * (here.dim() - 2))
    sizes = here.shape[2:]
    smooth, relax = (
        [gaussian(n, max(sigma, 0.05) * finest / s, here) for n, s in zip(sizes, level.spacing_mm, strict=True)]
        for sigma in (settings.step_sigma, settings.field_sigma)
    )
    first, second = torch.zeros_like(here), torch.zeros_like(here)
    fast, slow = settings.betas
    losses: list[float] = []
    best = here
    fixed, fixed_slopes = level.fixed.detach().requires_grad_(), _slopes(level.fixed)
    for step in progress(range(count + 1), title=title, total=count + 1):
        moved = warp(level.moving, here).requires_grad_()
        loss = compare(moved, fixed, mask, spacing_mm=level.spacing_mm)
        losses.append(float(loss.detach()))
        if not _finite(losses[-1]):
            break
        if losses[-1] < min(losses[:-1], default=math.inf):
            best = here
        if step == count or _settled(losses, settings):
            break
        pull, push = torch.autograd.grad(loss, (moved, fixed))
        # Downhill for a step composed before the field, per length of the finest axis.
        slope = (pull * _slopes(moved.detach()) - push * fixed_slopes) / relative
        slope = along_axes(slope, smooth)
        taken = step + 1
        first.lerp_(slope, 1 - fast)
        second.lerp_(slope.square().sum(dim=1, keepdim=True).expand_as(second), 1 - slow)
        usual = (second / (1 - slow**taken)).sqrt()
        way = along_axes(first / (1 - fast**taken) / (usual + STEADY * usual.mean() + 1e-20), smooth)
        longest = settings.step_voxels * (1 - step / count * (1 - LAST_STEP))
        length = way.square().sum(dim=1, keepdim=True).sqrt()
        here = compose(here, way * (-longest / length.amax().clamp(min=1e-20)) / relative)
        if settings.field_sigma:
            here = along_axes(here, relax)
    return best, tuple(losses)


def _settle(
    here: Tensor, level: _Level, similarity: str, count: int, settings: RefineSettings, progress: Progress, title: str
) -> tuple[Tensor, tuple[float, ...]]:
    """The same for a stiff field."""
    compare, mask = SIMILARITIES[similarity], counted(level.mask, level.reached, here)
    return settle(
        here,
        level.moving,
        lambda moved: compare(moved, level.fixed, mask, spacing_mm=level.spacing_mm),
        spacing_mm=level.spacing_mm,
        width_mm=settings.width_mm,
        weight=settings.weight,
        count=count,
        progress=progress,
        title=title,
    )


def _slopes(image: Tensor) -> Tensor:
    """(1, dims, *S): central differences of an image (1, 1, *S), 0 along axes of one voxel."""
    axes = [axis for axis in range(2, image.dim()) if image.shape[axis] > 1]
    found = dict(zip(axes, torch.gradient(image, dim=axes), strict=True)) if axes else {}
    return torch.cat([found.get(axis, torch.zeros_like(image)) for axis in range(2, image.dim())], dim=1)


def _settled(losses: Sequence[float], settings: RefineSettings) -> bool:
    """Whether the last steps were worth less than the tolerance."""
    if len(losses) <= settings.window or not settings.tolerance:
        return False
    before, now = losses[-settings.window - 1], losses[-1]
    return before - now < settings.tolerance * abs(before)


def _finite(value: float) -> bool:
    return value - value == 0


def _smaller(image: Tensor, size: Sequence[int]) -> Tensor:
    """Smoothed and brought to fewer voxels between the same first and last one."""
    matrices = []
    for n, k in zip(image.shape[2:], size, strict=True):
        matrix = resampling(n, k, image)
        if k < n:
            smoothing = gaussian(n, 0.5 * (n - 1) / max(k - 1, 1), image)
            matrix = matrix @ (smoothing / smoothing.sum(dim=1, keepdim=True))
        matrices.append(matrix)
    return along_axes(image, matrices)


def resized(displacement: Tensor, size: Sequence[int]) -> Tensor:
    """A field on another number of voxels between the same first and last one, in voxels of those."""
    sizes = tuple(displacement.shape[2:])
    if sizes == tuple(size):
        return displacement
    scale = [(k - 1) / max(n - 1, 1) for n, k in zip(sizes, size, strict=True)]
    field = along_axes(displacement, [resampling(n, k, displacement) for n, k in zip(sizes, size, strict=True)])
    return field * torch.tensor(scale).to(field).reshape(1, -1, *(1,) * len(sizes))


def _unfolded(displacement: Tensor) -> Tensor:
    """The field, smoothed around voxels where it folds until it does not; a field without folds as it is."""
    if min(displacement.shape[2:]) < 2:
        return displacement
    window = [gaussian(n, 1.0, displacement) for n in displacement.shape[2:]]
    inside = along_axes(torch.ones_like(displacement[:, :1]), window)
    for _ in range(UNFOLDING_ROUNDS):
        folded = (jacobian_determinant(displacement) <= 0)[:, None].to(displacement.dtype)
        if not bool(folded.any()):
            break
        share = (along_axes(folded, window) * 4).clamp(max=1)
        displacement = displacement.lerp(along_axes(displacement, window) / inside, share)
    return displacement


def _result(
    displacement: Tensor, start: Tensor | None, losses: Sequence[tuple[float, ...]], remarks: list[str]
) -> Refined:
    moved = displacement if start is None else displacement - start
    if float(moved.abs().max()) < STILL_VOXELS:
        remarks.append(
            "the field did not move: the images are alike already, flat, or the similarity does not suit them"
        )
    if min(displacement.shape[2:]) > 1:
        folding = float((jacobian_determinant(displacement) <= 0).float().mean()) * 100
        if folding > 1:
            remarks.append(f"{folding:.2g} % of the grid is folded; smooth steps more, or take fewer")
    return Refined(displacement=displacement, losses=tuple(losses), remarks=tuple(remarks))


def _check(moving: Tensor, fixed: Tensor, start: Tensor | None, spacing_mm: Sequence[float]) -> None:
    dims = fixed.dim() - 2
    fits = moving.shape == fixed.shape and fixed.shape[:2] == (1, 1) and len(spacing_mm) == dims
    if not fits or (start is not None and start.shape != (1, dims, *fixed.shape[2:])):
        raise ValueError(
            f"moving and fixed image must be (1, 1, *S), the field (1, dims, *S), with a spacing for each axis, but "
            f"are {tuple(moving.shape)}, {tuple(fixed.shape)}, {None if start is None else tuple(start.shape)} and "
            f"{tuple(spacing_mm)}"
        )
