"""Affine alignment of two images, before anything deformable: by SimpleITK, and an answer of its own.

Centres of mass are brought together where that agrees better than the headers do, then mutual information (Mattes) is
raised from coarse to fine, by a rigid and then by an affine map. That is done from either image, and the map halfway
between both is taken, as its error is smaller and the order of the images does not matter then. The same images give
the same map: samples are drawn with a fixed seed, and one thread sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from medmamba.data.working_grid import averaged
from medmamba.errors import DataError
from medmamba.intensity import measured
from medmamba.plans.plan import AffineKind
from medmamba.transform import Affine, Transform, resample
from medmamba.volume import FloatArray, Geometry, Volume

SEED = 1234
#: Images are averaged down to about so many voxels along their longest edge, which is enough for an affine map.
EDGE_VOXELS = 96
#: What ITK says of images, or masks, that have nothing in common, and of a mask that marks nothing.
_APART = ("do not sufficiently overlap", "must have 1 or more points", "Zero-valued spacing")
#: From coarse to fine: images are shrunk by so much, and this share of their voxels is looked at.
LEVELS = ((4, 1.0), (2, 0.5), (1, 0.1))
#: An image shrunk to fewer voxels along an axis shows too little.
LEAST_VOXELS = 8
BINS = 32
ITERATIONS = 100
#: An affine map that changes volumes by more than this, either way, has lost its way.
MOST_SCALING = 2.5
#: What lies halfway between two maps is taken if it reaches this share of the better one's mutual information.
AS_GOOD = 0.95
#: Headers are doubted where the images have to be turned by more than this, in degrees, or where they would agree so
#: much better mirrored. The halves of a head are too much alike for that: left and right of it cannot be told apart.
MOST_TURNED = 45.0
MIRRORED_BETTER = 1.05
#: Mutual information in nats below which nothing can be said about orientation.
TELLING = 0.02
#: An image this many times as long as the other makes one doubt its voxel size.
MUCH_LONGER = 4.0


class AlignmentError(DataError):
    """Two images could not be brought together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """How two images were brought together.

    Args:
        affine: from the fixed to the moving image.
        before: mutual information (nats) as the headers have them; NaN where they do not overlap.
        after: with the affine map.
        remarks: what was odd about it, in words.
    """

    affine: Affine
    before: float
    after: float
    remarks: tuple[str, ...] = ()


def align(
    fixed: Volume,
    moving: Volume,
    *,
    how: AffineKind = "affine",
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
) -> Aligned:
    """Bring two images together by an affine map.

    Args:
        fixed: (1, ...) any grid.
        moving: (1, ...) another one.
        how: "none", "centres" of mass alone, "rigid", or "affine".
        fixed_mask: where the fixed image counts; any grid.
        moving_mask: the same of the moving one.

    Raises:
        DataError: if an image is no volume of one channel, or empty.
        AlignmentError: if no overlap was found.
    """
    for name, volume in (("fixed", fixed), ("moving", moving)):
        if volume.channels != 1 or min(volume.geometry.shape) < 2:
            raise DataError(
                f"registration takes volumes of one channel, but the {name} image has {volume.channels} channels of "
                f"{' x '.join(map(str, volume.geometry.shape))} voxels"
            )
    remarks = []
    apart = not fixed.geometry.overlaps(moving.geometry)
    if how == "none":
        if apart:
            remarks.append("the images do not overlap in space, and were left where they are")
        return Aligned(affine=Affine(np.eye(4)), before=math.nan, after=math.nan, remarks=tuple(remarks))
    with _one_thread():
        return _searched(fixed, moving, how, (fixed_mask, moving_mask), remarks, apart)


def _searched(
    fixed: Volume,
    moving: Volume,
    how: AffineKind,
    masks: tuple[Volume | None, Volume | None],
    remarks: list[str],
    apart: bool,
) -> Aligned:
    images = _evened(fixed), _evened(moving)
    there, back = _Search(*images, *masks), _Search(*images[::-1], *masks[::-1])
    if apart:
        remarks.append("the images do not overlap in space: their centres of mass were brought together")
    best, odd = _one_way(there, how)
    if how != "centres":
        best = _either_way(there, back, best, _one_way(back, how)[0])
    score = there.score(best.matrix)
    if not math.isfinite(score):
        raise AlignmentError(
            "the images could not be brought to overlap: look at both, or bring them together by other software and "
            "leave the alignment out with --affine none"
        )
    remarks += [*odd, *_doubts(there, best, score)]
    return Aligned(affine=best, before=there.score(np.eye(4)), after=score, remarks=tuple(remarks))


def _one_way(search: _Search, how: AffineKind) -> tuple[Affine, list[str]]:
    """The map with the most mutual information on the fixed image's voxels, and what was odd on the way."""
    centres, odd = np.eye(4), []
    centres[:3, 3] = _centre(search.moving) - _centre(search.fixed)
    before, brought = search.score(np.eye(4)), search.score(centres)
    start, score = (np.eye(4), before) if before >= brought else (centres, brought)
    if how == "centres":
        start, score = centres, brought
    best = Affine(start)
    for kind in {"rigid": ("rigid",), "affine": ("rigid", "affine")}.get(how, ()):
        found = search.improved(best, kind)
        scaling = abs(float(np.linalg.det(found.matrix[:3, :3])))
        if not 1 / MOST_SCALING < scaling < MOST_SCALING:
            odd.append(f"the {kind} map would change volumes {scaling:.2g}-fold, and was not taken")
        elif (reached := search.score(found.matrix)) >= score or not math.isfinite(score):
            best, score = found, reached
    return best, odd


def _either_way(there: _Search, back: _Search, found: Affine, found_back: Affine) -> Affine:
    """Halfway between what was found from either image, so that their order does not matter; one where they disagree.

    Each search ends where its samples happen to fit best, and the errors of both are independent.
    """
    from scipy.linalg import expm, logm  # slow to load

    ways = [found, found_back.inverse()]
    logs = [logm(way.matrix) for way in ways]
    if all(np.isrealobj(each) or np.abs(each.imag).max() < 1e-9 for each in logs):
        middle = np.eye(4)
        middle[:3] = expm(sum(each.real for each in logs) / 2)[:3]
        ways.insert(0, Affine(middle))
    scores = [there.score(way.matrix) + back.score(way.inverse().matrix) for way in ways]
    best = max((score for score in scores if math.isfinite(score)), default=0.0)
    enough = best * AS_GOOD if best > 0 else best
    return next((way for way, score in zip(ways, scores, strict=True) if score >= enough), found)


def _doubts(search: _Search, found: Affine, score: float) -> Iterator[str]:
    """What speaks for a wrong orientation in one of the headers."""
    u, _, v = np.linalg.svd(found.matrix[:3, :3])
    turned = math.degrees(math.acos(float(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))
    if turned > MOST_TURNED:
        yield (
            f"the images were turned by {turned:.0f} degrees against one another: see whether one of the headers has "
            "a wrong orientation"
        )
    sizes = [image.geometry.extent_mm for image in (search.fixed, search.moving)]
    if max(map(max, sizes)) > MUCH_LONGER * min(map(max, sizes)):
        told = [" x ".join(f"{mm:.3g}" for mm in size) for size in sizes]
        yield (
            f"the fixed image spans {told[0]} mm and the moving one {told[1]} mm: see whether the voxel size in one of "
            "the headers is wrong"
        )
        return
    if score < TELLING:
        return
    centre = _centre(search.fixed)
    for axis, directions in enumerate(("left and right", "front and back", "head and foot")):
        mirror = np.eye(4)
        mirror[axis, axis], mirror[axis, 3] = -1, 2 * centre[axis]
        mirrored = search.score(found.matrix @ mirror)
        if mirrored > MIRRORED_BETTER * score:
            yield (
                f"the images agree better with {directions} exchanged (mutual information {mirrored:.3g} against "
                f"{score:.3g}): one of the headers seems to be mirrored, and no registration can make up for that"
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """ITK's sums of parts depend on how many threads took the parts, and which came first."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _evened(volume: Volume) -> Volume:
    """0 to 1 between the percentiles, averaged down to `EDGE_VOXELS`, on perpendicular axes."""
    geometry = volume.geometry
    if not geometry.is_orthogonal():
        volume = _upright(volume)
        geometry = volume.geometry
    array = volume.array[0].astype(np.float32)
    known = array[measured(array)]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 0.0)
    if not high > low:
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if not high > low:
        raise DataError("an image is the same everywhere: there is nothing to register; look at it")
    even = np.clip((np.nan_to_num(array, nan=low, posinf=high, neginf=low) - low) / (high - low), 0, 1)
    array = even.astype(np.float32)  # ITK takes two images of one type only, and percentiles are float64
    target = max(geometry.extent_mm) / EDGE_VOXELS
    factors = [max(1, math.floor(target / s + 0.1)) for s in geometry.spacing_mm]
    return averaged(Volume(array[None], geometry), factors)


def _upright(volume: Volume) -> Volume:
    """On the nearest grid of perpendicular axes around it."""
    corners = volume.geometry.corners_mm()
    spacing = min(volume.geometry.spacing_mm)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = corners.min(0)
    i, j, k = (int(n) for n in np.ceil((corners.max(0) - corners.min(0)) / spacing) + 1)
    return resample(volume, Transform(), Geometry((i, j, k), affine), outside=float(volume.array.min()))


def _centre(volume: Volume) -> FloatArray:
    """Centre of mass in millimetres."""
    array = volume.array[0].astype(np.float64)
    index = [
        float((array.sum(axis=tuple(other for other in range(3) if other != axis)) * np.arange(n)).sum() / array.sum())
        for axis, n in enumerate(array.shape)
    ]
    return np.asarray(volume.geometry.affine[:3, :3] @ index + volume.geometry.affine[:3, 3], dtype=np.float64)


class _Search:
    """Mutual information of two images, measured and raised. ITK is shown RAS as if it were its own frame."""

    def __init__(self, fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
        self.fixed, self.moving = fixed, moving
        self._images = _itk(fixed), _itk(moving)
        self._masks = [
            None if mask is None else _itk(_mask_on(mask, volume.geometry))
            for mask, volume in ((fixed_mask, fixed), (moving_mask, moving))
        ]

    def score(self, matrix: FloatArray) -> float:
        """Mutual information with a map; NaN where nothing overlaps."""
        method = self._method()
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInitialTransform(self._transform(matrix, "affine"))
        try:
            return -float(method.MetricEvaluate(*self._images))
        except RuntimeError as error:
            if _is_apart(error):
                return math.nan
            raise

    def improved(self, start: Affine, kind: str) -> Affine:
        """A better map of a kind, found from another."""
        method = self._method()
        method.SetMetricSamplingStrategy(method.REGULAR)
        smallest = min(self.fixed.geometry.shape)
        levels = [(factor, share) for factor, share in LEVELS if smallest // factor >= LEAST_VOXELS] or [(1, 1.0)]
        method.SetMetricSamplingPercentagePerLevel([share for _, share in levels], SEED)
        method.SetShrinkFactorsPerLevel([factor for factor, _ in levels])
        method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor, _ in levels])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
        spacing = max(self.fixed.geometry.spacing_mm)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=spacing / 4,
            minStep=spacing / 400,
            numberOfIterations=ITERATIONS,
            relaxationFactor=0.5,
            gradientMagnitudeTolerance=1e-8,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        transform = self._transform(start.matrix, kind)
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(*self._images)
        except RuntimeError as error:
            if _is_apart(error):
                return start
            raise
        return _matrix(transform)

    def _method(self) -> Any:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=BINS)
        method.SetInterpolator(sitk.sitkLinear)
        for mask, put in zip(self._masks, (method.SetMetricFixedMask, method.SetMetricMovingMask), strict=True):
            if mask is not None:
                put(mask)
        return method

    def _transform(self, matrix: FloatArray, kind: str) -> Any:
        """ITK's, around the fixed image's centre of mass: x goes to R (x - c) + c + t."""
        centre = _centre(self.fixed)
        linear = matrix[:3, :3]
        if kind == "rigid":
            transform = sitk.Euler3DTransform()
            u, _, v = np.linalg.svd(linear)
            linear = u @ v
        else:
            transform = sitk.AffineTransform(3)
        transform.SetCenter(centre.tolist())
        transform.SetMatrix(linear.ravel().tolist(), *([1e-6] if kind == "rigid" else []))
        transform.SetTranslation((matrix[:3, :3] @ centre + matrix[:3, 3] - centre).tolist())
        return transform


def _is_apart(error: RuntimeError) -> bool:
    """Whether ITK says that no sample of one image, or of its mask, lies in the other, or that a mask has none."""
    return any(words in str(error) for words in _APART)


def _matrix(transform: Any) -> Affine:
    points = np.vstack([np.zeros(3), np.eye(3)]).tolist()
    corners = np.array([transform.TransformPoint(point) for point in points])
    matrix = np.eye(4)
    matrix[:3, 3] = corners[0]
    matrix[:3, :3] = (corners[1:] - corners[0]).T
    return Affine(matrix)


def _itk(volume: Volume) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].T))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction.ravel().tolist())
    return image


def _mask_on(mask: Volume, grid: Geometry) -> Volume:
    marked = Volume((mask.array[:1] != 0).astype(np.uint8), mask.geometry)
    return resample(marked, Transform(), grid, "nearest")
