"""One pair of images: aligned, deformed by a network and by refinement, and brought together by one interpolation.

The transform takes points of the fixed image to the moving one: first the field, on the working grid, then the affine
map. Its inverse is the inverse of that map, then that of the field.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as default

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmamba.data.align import Aligned, align
from medmamba.data.pairs import normalised
from medmamba.data.working_grid import placed, working_grid
from medmamba.errors import DataError
from medmamba.evaluation import deformation
from medmamba.intensity import unusable
from medmamba.labels import looks_like_labels
from medmamba.memory import peak_bytes
from medmamba.plans.plan import AffineKind, ChannelPlan, Similarity
from medmamba.progress import Progress, silent
from medmamba.registration.model import Model
from medmamba.registration.reach import Reach, reach
from medmamba.registration.refine import STIFF, Deformation, counted, refine
from medmamba.tasks.registration import MOST_FOLDED_PERCENT
from medmamba.tasks.similarity import SIMILARITIES
from medmamba.transform import (
    Affine,
    Field,
    Inverse,
    Transform,
    field_of_voxels,
    resample,
)
from medmamba.volume import Geometry, Volume, closest_axes
from medmamba.warp import warp

#: Without a model, the working grid has at most so many voxels: refinement looks at no more, and files stay small.
MOST_VOXELS = 2_000_000
#: A mean displacement of less, an inverse that misses by more, or a loss that grew by such a share is worth a word.
ZERO_MM, ASTRAY_MM, WORSE = 0.02, 0.5, 1e-3
#: So many points are taken to measure how well the inverse leads back.
TRIED_POINTS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a pair is registered.

    Args:
        channels: how the fixed and the moving image are normalised.
        spacing_mm: of the working grid along R, A, S; None: the fixed image's, coarser where it has more than
            `MOST_VOXELS`.
        affine: alignment before all else.
        similarity: by which refinement compares.
        refine: steps of it at the last level; 0: none.
        deformation: what it lets a field do.
    """

    channels: tuple[ChannelPlan, ChannelPlan]
    spacing_mm: tuple[float, float, float] | None = None
    affine: AffineKind = "affine"
    similarity: Similarity = "lncc"
    refine: int = 50
    deformation: Deformation = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Numbers about the field, without its affine map, at the fixed image's voxels of `deformation.counted`.

    Args:
        folding_percent: voxels that fold; this and the next two by `medmamba.evaluation.deformation`.
        sd_log_jacobian: how unevenly it stretches.
        min_jacobian: where it shrinks most.
        displacement_mm: mean length of the field.
        largest_mm: of its lengths.
        inverse_consistency_mm: mean distance of points from where they were, after the transform and its inverse.
    """

    folding_percent: float
    sd_log_jacobian: float
    min_jacobian: float
    displacement_mm: float
    largest_mm: float
    inverse_consistency_mm: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Registered:
    """What came of a pair.

    Args:
        transform: from the fixed to the moving image.
        inverse: the way back, and how exact its fields are.
        aligned: the affine part of it.
        warped: the moving image on the fixed grid.
        background: its value where the moving image does not reach.
        jacobian: determinant of the field on the fixed grid.
        measures: of the field.
        losses: by which refinement compares, aligned and deformed; small is good.
        seconds: by stage.
        peak_bytes: memory that this process had taken at most by then.
        remarks: what to know.
        warnings: what makes the result doubtful.
    """

    transform: Transform
    inverse: Inverse
    aligned: Aligned
    warped: Volume
    background: float
    jacobian: Volume
    measures: Measures
    losses: tuple[float, float]
    seconds: dict[str, float]
    peak_bytes: int
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = default(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begun, 3)


def check_images(fixed: Volume, moving: Volume) -> tuple[str, ...]:
    """What cannot be registered is refused; what is odd is returned in words.

    Raises:
        DataError: for several channels (a series of time points), a single slice, sheared axes, or intensities that
            are no measurements.
    """
    for name, volume in (("fixed", fixed), ("moving", moving)):
        shape = " x ".join(map(str, volume.geometry.shape))
        if volume.channels != 1:
            raise DataError(
                f"registration takes one 3D image, but the {name} one has {volume.channels} channels or time points; "
                "write the one to register to a file of its own"
            )
        if min(volume.geometry.shape) < 2:
            raise DataError(
                f"registration takes volumes, but the {name} image is a single slice of {shape} voxels; give the "
                "whole series"
            )
        if not volume.geometry.is_orthogonal():
            raise DataError(
                f"the axes of the {name} image are not perpendicular, and transforms of ITK do not keep such a grid; "
                "resample the image first"
            )
        if wrong := unusable(volume.array):
            raise DataError(f"{name} image: {wrong}; replace them, for example by the background's intensity")
    told = [
        f"the {name} image looks like a label map, whole numbers that neighbours share: see whether the right file was "
        "given"
        for name, volume in (("fixed", fixed), ("moving", moving))
        if looks_like_labels(volume.array)
    ]
    if fixed.geometry.same_grid(moving.geometry) and np.array_equal(fixed.array, moving.array):
        told.append("both images are the same, voxel by voxel: see whether the right files were given")
    return tuple(told)


def automatic_spacing(fixed: Geometry) -> tuple[float, float, float]:
    """Spacing along R, A, S of a grid as fine as the image's, or coarser along the finest axes to `MOST_VOXELS`."""
    axes, _ = closest_axes(fixed)
    own = np.array(fixed.spacing_mm)[list(axes)]
    extent = own * np.array(fixed.shape)[list(axes)]
    least = own.min()
    while np.prod(extent / np.maximum(own, least)) > MOST_VOXELS:
        least *= 1.02
    x, y, z = (float(f"{value:.6g}") for value in np.maximum(own, least))
    return x, y, z


def register(
    fixed: Volume,
    moving: Volume,
    settings: Settings,
    *,
    model: Model | None = None,
    masks: tuple[Volume | None, Volume | None] = (None, None),
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Registered:
    """Bring a moving image onto a fixed one.

    Args:
        fixed: (1, I, J, K), any grid of perpendicular axes.
        moving: the same, any other.
        settings: how.
        model: a trained network that deforms before refinement, on whose working grid all is done then; None: none.
        masks: where the fixed and the moving image count, on any grids.
        device: of the refinement; the processor if None.
        progress: told of steps of refinement.

    Raises:
        DataError: if an image cannot be registered, or no overlap is found.
    """
    clock = _Clock()
    remarks = [*check_images(fixed, moving)]
    counted = deformation.counted(fixed, masks[0])
    with clock.stage("affine"):
        aligned = align(fixed, moving, how=settings.affine, fixed_mask=masks[0], moving_mask=masks[1])
    remarks += aligned.remarks
    spacing = settings.spacing_mm or automatic_spacing(fixed.geometry)
    grid = working_grid(fixed.geometry, spacing, model.strides if model else (1, 1, 1))
    tensors, mask = _placed(fixed, moving, settings, aligned, grid, masks[0], device or torch.device("cpu"))
    seen = reach(*tensors, mask, (moving.geometry, fixed.geometry), aligned.affine, grid)
    remarks += seen.remarks
    displacement = torch.zeros(1, 3, *grid.shape, device=tensors[0].device)
    if model:
        with clock.stage("network"):
            displacement = model.displacement(*tensors)
    if settings.refine:
        with clock.stage("refine"):
            found = refine(
                seen.moving,
                seen.fixed,
                spacing_mm=grid.spacing_mm,
                start=displacement if model else None,
                mask=seen.mask,
                reached=seen.reached,
                similarity=settings.similarity,
                steps=settings.refine,
                settings=STIFF[settings.similarity] if settings.deformation == "stiff" else None,
                progress=progress,
            )
        displacement = found.displacement
        remarks += found.remarks
    deforms = model is not None or settings.refine > 0
    field = (field_of_voxels(displacement[0].cpu().numpy(), grid),) if deforms else ()
    transform = Transform((*field, aligned.affine))
    with clock.stage("inverse"):
        inverse = transform.inverse()
    with clock.stage("resampling"):
        background = min(0.0, float(moving.array.min()))
        warped = resample(moving, transform, fixed.geometry, outside=background)
    with clock.stage("measuring"):
        determinants = deformation.jacobian(transform, fixed.geometry)
        measures = _measures(transform, inverse, determinants, counted, fixed.geometry)
        alike = _losses(seen, displacement, grid, settings.similarity)
    return Registered(
        transform=transform,
        inverse=inverse,
        aligned=aligned,
        warped=warped,
        background=background,
        jacobian=Volume(determinants[None], fixed.geometry),
        measures=measures,
        losses=alike,
        seconds=clock.seconds,
        peak_bytes=peak_bytes(),
        remarks=tuple(dict.fromkeys(remarks)),
        warnings=tuple(_doubts(measures, alike, deforms)),
    )


def _placed(
    fixed: Volume,
    moving: Volume,
    settings: Settings,
    aligned: Aligned,
    grid: Geometry,
    fixed_mask: Volume | None,
    device: torch.device,
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Moving and fixed image on the working grid, (1, 1, *S), 0 to 1, and what counts of it."""

    def tensor(volume: Volume) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None].to(device)

    images = (
        tensor(placed(normalised(moving, settings.channels[1]), aligned.affine, grid)),
        tensor(placed(normalised(fixed, settings.channels[0]), Affine(np.eye(4)), grid)),
    )
    return images, None if fixed_mask is None else tensor(_marked(fixed_mask, grid))


def _marked(mask: Volume, grid: Geometry) -> Volume:
    """A mask on another grid, 0 and 1."""
    return resample(mask.with_array((mask.array[:1] != 0).astype(np.uint8)), Transform(), grid, "nearest")


def _measures(
    transform: Transform,
    inverse: Inverse,
    determinants: NDArray[np.float32],
    counted: NDArray[np.bool_],
    fixed: Geometry,
) -> Measures:
    some = counted.copy()
    if (count := int(counted.sum())) > TRIED_POINTS:
        some[counted] = np.random.default_rng(0).random(count) < TRIED_POINTS / count
    mm = np.argwhere(some) @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    fields = Transform(tuple(step for step in transform.steps if isinstance(step, Field)))
    lengths = np.linalg.norm(fields.points(mm) - mm, axis=1)
    there_and_back = deformation.inverse_consistency_mm(transform, inverse.transform, fixed, some)
    return Measures(
        folding_percent=deformation.folding_percent(determinants, counted),
        sd_log_jacobian=deformation.sd_log_jacobian(determinants, counted),
        min_jacobian=deformation.min_jacobian(determinants, counted),
        displacement_mm=float(lengths.mean()) if len(lengths) else math.nan,
        largest_mm=float(lengths.max()) if len(lengths) else math.nan,
        inverse_consistency_mm=float(there_and_back.mean()) if len(mm) else math.nan,
    )


def _losses(seen: Reach, displacement: Tensor, grid: Geometry, name: Similarity) -> tuple[float, float]:
    """By which refinement compares, aligned and deformed, both where there is something to compare when aligned."""
    mask = counted(seen.mask, seen.reached, torch.zeros_like(displacement))
    with torch.inference_mode():
        before, after = (
            float(SIMILARITIES[name](image, seen.fixed, mask, spacing_mm=grid.spacing_mm))
            for image in (seen.moving, warp(seen.moving, displacement))
        )
    return before, after


def _doubts(measures: Measures, losses: tuple[float, float], deforms: bool) -> Iterator[str]:
    if measures.folding_percent > MOST_FOLDED_PERCENT:
        yield (
            f"the field folds in {measures.folding_percent:.2g} % of the voxels, more than "
            f"{MOST_FOLDED_PERCENT:g} %: it is not plausible there; look at jacobian.nii.gz, and refine "
            "less, or train with more smoothness"
        )
    if deforms and measures.displacement_mm < ZERO_MM:
        yield (
            f"the field is next to zero, {measures.displacement_mm:.2g} mm in the mean: nothing was deformed, as with "
            "images that are alike already or a network that learned nothing"
        )
    if measures.inverse_consistency_mm > ASTRAY_MM:
        yield (
            f"the inverse misses where points came from by {measures.inverse_consistency_mm:.2g} mm in the mean: the "
            "field is too steep to be inverted well"
        )
    if losses[1] > losses[0] + WORSE * max(abs(losses[0]), WORSE):
        yield (
            f"the images are less alike after the deformation than before it ({losses[0]:.4g} to {losses[1]:.4g}, "
            "small is good)"
        )
