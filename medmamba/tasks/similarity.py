"""How unlike two images are: losses that compare a moved image with the fixed one, small where they agree.

They take images (B, 1, *S) of one grid and a mask (B, 1, *S) of voxels that count (None: all), compute in float32 at
least, also under autocast, and return a scalar. `SIMILARITIES` names them.

Letters: B batch, C channels, S two or three spatial axes.

References:
    Avants et al., Medical Image Analysis 12 (2008), for the local correlation of windows.
    Mattes et al., IEEE TMI 22 (2003), for mutual information of Parzen windows.
    Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions using Self-Similarities",
    MICCAI 2013, for the descriptor MIND-SSC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.tasks.separable import along_axes, box, cubic, gaussian

#: Local variance, as a share of the whole image's, below which a window counts as flat.
FLAT = 1e-3
#: A descriptor's variance is kept within this factor of its mean over the image.
VARIANCE_RANGE = 1e3

Similarity = Callable[..., Tensor]


def lncc(
    moved: Tensor,
    fixed: Tensor,
    mask: Tensor | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    radius: int = 4,
    sigma: float | None = None,
) -> Tensor:
    """One minus the mean squared correlation of the images in a window around each voxel.

    Any local change of brightness and contrast, inversion included, costs nothing. A window counts its voxels inside
    image and mask. One that is flat in either image has correlation 0: it costs 1, and has no gradient to speak of.

    Args:
        moved: (B, 1, *S).
        fixed: the same.
        mask: (B, 1, *S), what counts is above 0.
        spacing_mm: of the grid; the window then has ``radius`` voxels along the finest axis, and as many millimetres
            along the others.
        radius: of a box, in voxels.
        sigma: of a Gaussian window instead, in voxels.

    Returns:
        Scalar between 0 and 1.
    """
    moved, fixed, mask = _prepared(moved, fixed, mask)
    finest = _relative_spacing(spacing_mm, moved)
    sizes = moved.shape[2:]
    if sigma is None:
        window = [box(size, max(1, round(radius / s)), moved) for size, s in zip(sizes, finest, strict=True)]
    else:
        window = [gaussian(size, sigma / s, moved) for size, s in zip(sizes, finest, strict=True)]
    moved, fixed = _standardised(moved, mask), _standardised(fixed, mask)
    if mask is None:
        count = along_axes(torch.ones_like(moved[:1]), window)
        own, other = along_axes(torch.cat([fixed, fixed * fixed], dim=1), window).div(count).chunk(2, dim=1)
        sums = along_axes(torch.cat([moved, moved * moved, moved * fixed], dim=1), window) / count
    else:
        # A window without a voxel of the mask has sums of 0 and is not counted.
        count = along_axes(mask, window).clamp(min=1e-6)
        own, other = along_axes(torch.cat([fixed, fixed * fixed], dim=1) * mask, window).div(count).chunk(2, dim=1)
        sums = along_axes(torch.cat([moved, moved * moved, moved * fixed], dim=1) * mask, window) / count
    mean, square, product = sums.chunk(3, dim=1)
    covariance = product - mean * own
    variances = (square - mean * mean).clamp(min=0) + FLAT, (other - own * own).clamp(min=0) + FLAT
    return 1 - _mean(covariance * covariance / (variances[0] * variances[1]), mask)


def mse(
    moved: Tensor, fixed: Tensor, mask: Tensor | None = None, *, spacing_mm: Sequence[float] | None = None
) -> Tensor:
    """Mean squared difference of intensities, for images of one scanner and scale; ``spacing_mm`` has no effect."""
    moved, fixed, mask = _prepared(moved, fixed, mask)
    return _mean((moved - fixed) ** 2, mask)


def mi(
    moved: Tensor,
    fixed: Tensor,
    mask: Tensor | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    bins: int = 32,
    samples: int = 200_000,
) -> Tensor:
    """Minus the mutual information of the intensities in nats, mean over the batch; 0 if they tell nothing.

    The joint histogram has cubic B-splines as Parzen windows along both axes, so it has a gradient everywhere.

    Args:
        moved: (B, 1, *S).
        fixed: the same.
        mask: (B, 1, *S), what counts is above 0.
        spacing_mm: has no effect.
        bins: from each image's least to its largest intensity inside the mask.
        samples: voxels that are looked at of a larger image, spread evenly; always the same.

    Returns:
        Scalar; for identical images minus the entropy of their smoothed histogram.
    """
    moved, fixed, mask = _prepared(moved, fixed, mask)
    total = moved.new_zeros(())
    for entry in range(moved.shape[0]):
        counted = slice(None) if mask is None else mask[entry].flatten() > 0
        pair = [image[entry].flatten()[counted] for image in (moved, fixed)]
        if pair[0].numel() == 0:
            continue
        if (count := pair[0].numel()) > samples:
            chosen = torch.linspace(0, count - 1, samples, dtype=torch.float64, device=moved.device).long()
            pair = [values[chosen] for values in pair]
        total = total - _information(*(_parzen(values, bins) for values in pair))
    return total / moved.shape[0]


def mind(
    moved: Tensor,
    fixed: Tensor,
    mask: Tensor | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    radius: int = 1,
    distance: int = 2,
) -> Tensor:
    """Mean squared difference of the descriptors of `mind_ssc`, for images of different modalities."""
    moved, fixed, mask = _prepared(moved, fixed, mask)
    pair = [mind_ssc(image, spacing_mm=spacing_mm, radius=radius, distance=distance) for image in (moved, fixed)]
    return _mean((pair[0] - pair[1]) ** 2, mask)


def mind_ssc(image: Tensor, *, spacing_mm: Sequence[float] | None = None, radius: int = 1, distance: int = 2) -> Tensor:
    """What surrounds each voxel, told by how alike its neighbours are to one another, whatever the contrast.

    The neighbours lie one step along each axis on either side; compared are all pairs that are not opposite. For each
    pair: ``exp(-D / V)``, with D the mean squared difference of boxes around both, minus the least of all pairs, and V
    the mean of these over the pairs, kept within a factor of 1000 of its mean over the image. Beyond the image,
    neighbours and boxes see its border go on.

    Args:
        image: (B, 1, *S).
        spacing_mm: of the grid; steps and boxes are then equally long in millimetres along coarser axes, as far as
            whole voxels allow, and one voxel at least.
        radius: of the boxes, in voxels of the finest axis.
        distance: of the neighbours, the same.

    Returns:
        (B, 12, *S), or 4 channels in 2D, between 0 and 1, float32 at least.
    """
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    dims, finest = image.dim() - 2, _relative_spacing(spacing_mm, image)
    steps = [max(1, round(distance / s)) for s in finest]
    radii = [max(1, round(radius / s)) if radius else 0 for s in finest]
    margins = [step + reach for step, reach in zip(steps, radii, strict=True)]
    wide = F.pad(image, [margin for margin in reversed(margins) for _ in range(2)], mode="replicate")
    offsets = [tuple(sign * steps[a] * (a == axis) for a in range(dims)) for axis in range(dims) for sign in (-1, 1)]
    shifted = [_shifted(wide, offset, steps) for offset in offsets]
    pairs = [(a, b) for a, b in combinations(range(2 * dims), 2) if a // 2 != b // 2]
    differences = torch.cat([(shifted[a] - shifted[b]) ** 2 for a, b in pairs], dim=1)
    window = [
        box(size, reach, image)[reach : size - reach] / (2 * reach + 1)
        for size, reach in zip(differences.shape[2:], radii, strict=True)
    ]
    apart = along_axes(differences, window)
    apart = apart - apart.amin(dim=1, keepdim=True)
    variance = apart.mean(dim=1, keepdim=True)
    usual = variance.mean(dim=tuple(range(1, image.dim())), keepdim=True).detach().clamp(min=1e-12)
    variance = variance.clamp(min=usual / VARIANCE_RANGE, max=usual * VARIANCE_RANGE)
    return torch.exp(-apart / variance)


#: By name: (moved, fixed, mask=None, *, spacing_mm=None) to a scalar.
SIMILARITIES: dict[str, Similarity] = {"lncc": lncc, "mse": mse, "mi": mi, "mind": mind}


def _prepared(moved: Tensor, fixed: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The images in float32 at least, the mask as 0 and 1 of the same type."""
    if moved.shape != fixed.shape or moved.dim() not in (4, 5) or (mask is not None and mask.shape != fixed.shape):
        raise ValueError(
            f"moved image, fixed image and mask must be (B, 1, *S) of one grid, but are {tuple(moved.shape)}, "
            f"{tuple(fixed.shape)} and {None if mask is None else tuple(mask.shape)}"
        )
    precision = torch.promote_types(torch.promote_types(moved.dtype, fixed.dtype), torch.float32)
    return moved.to(precision), fixed.to(precision), None if mask is None else (mask > 0).to(precision)


def _relative_spacing(spacing_mm: Sequence[float] | None, image: Tensor) -> list[float]:
    """Spacing over that of the finest axis."""
    spacing = spacing_mm or (1.0,) * (image.dim() - 2)
    return [each / min(spacing) for each in spacing]


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp(min=1)


def _standardised(image: Tensor, mask: Tensor | None) -> Tensor:
    """With mean 0 and variance 1 in the mask, so that squares keep their digits; no gradient goes through that."""
    axes = tuple(range(1, image.dim()))
    with torch.no_grad():
        weight = torch.ones_like(image) if mask is None else mask
        count = weight.sum(axes, keepdim=True).clamp(min=1)
        mean = (image * weight).sum(axes, keepdim=True) / count
        deviation = (((image - mean) ** 2 * weight).sum(axes, keepdim=True) / count).sqrt()
    return (image - mean) / deviation.clamp(min=1e-6)


def _parzen(values: Tensor, bins: int) -> Tensor:
    """(N, bins + 2): the share of each value in each bin, rows sum to 1."""
    least, largest = values.detach().aminmax()
    place = (values - least) / (largest - least).clamp(min=1e-6) * (bins - 1)
    return cubic(place[:, None] - torch.arange(-1, bins + 1, device=values.device))


def _information(moved: Tensor, fixed: Tensor) -> Tensor:
    with torch.autocast(moved.device.type, enabled=False):
        joint = moved.T @ fixed / moved.shape[0]
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    return (joint * (joint.clamp(min=tiny).log() - apart.clamp(min=tiny).log())).sum()


def _shifted(wide: Tensor, offset: Sequence[int], steps: Sequence[int]) -> Tensor:
    """The part of a padded image that an offset of at most ``steps`` leads to."""
    for axis, (step, by) in enumerate(zip(steps, offset, strict=True), start=2):
        wide = wide.narrow(axis, step + by, wide.shape[axis] - 2 * step)
    return wide
