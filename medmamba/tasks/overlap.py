"""Losses of registration that know structures: overlap of warped labels, and features told apart by structure.

Letters: B batch, K structures, F feature channels, S two or three spatial axes.

References:
    Guo et al., "MambaMorph: a Mamba-based Framework for Medical MR-CT Deformable Registration", 2024, for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

#: Of the softmax over structures; MambaMorph's value.
TEMPERATURE = 0.25
#: Voxels of an image that are compared with the structures' means; MambaMorph's value.
SAMPLES = 10_000


def dice_of_warped(moving: Tensor, fixed: Tensor, field: Tensor, structures: Sequence[int]) -> Tensor:
    """One minus the mean Dice of structures, those of the moving image warped linearly by a field.

    What it returns is what warping an indicator image of each structure would give, background beyond the grid. But
    each warped voxel mixes 2^dims labels only, so these are added up by structure, and memory does not grow with K.

    Args:
        moving: (B, *S) label values.
        fixed: the same.
        field: (B, dims, *S) voxels, as in `medmamba.warp`.
        structures: the label values that count; the mean is over those that an image pair has, then over the batch.

    Returns:
        Scalar between 0 and 1; 0 if no image has any of the structures.
    """
    if moving.shape != fixed.shape or (moving.shape[0], *moving.shape[1:]) != (field.shape[0], *field.shape[2:]):
        raise ValueError(
            f"labels (B, *S) and field (B, dims, *S) must be of one grid, but are {tuple(moving.shape)}, "
            f"{tuple(fixed.shape)} and {tuple(field.shape)}"
        )
    with torch.autocast(field.device.type, enabled=False):
        field = field.to(torch.promote_types(field.dtype, torch.float32))
        batch, count = moving.shape[0], len(structures) + 1
        # Structure k of entry b is number b (K + 1) + k; k = 0 takes all other labels and is dropped.
        entry = torch.arange(batch, device=field.device).reshape(-1, *(1,) * (moving.dim() - 1)) * count
        moving, fixed = (_numbered(labels, structures) + entry for labels in (moving, fixed))
        zeros = field.new_zeros(batch * count)
        shared, warped = zeros, zeros
        for numbers, weights in _corners(moving, entry, field):
            shared = shared.index_add(0, fixed.flatten(), (weights * (numbers == fixed)).flatten())
            warped = warped.index_add(0, numbers.flatten(), weights.flatten())
        own = torch.bincount(fixed.flatten(), minlength=batch * count).to(field.dtype)
        total = (warped + own).reshape(batch, count)[:, 1:]
        present = (total.detach() > 0).to(field.dtype)
        dice = 2 * shared.reshape(batch, count)[:, 1:] / total.clamp(min=1e-6)
        missed = ((1 - dice) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        return missed.mean()


def _numbered(labels: Tensor, structures: Sequence[int]) -> Tensor:
    """Label values as 1 for the first structure and so on, 0 for all others."""
    largest = max([int(labels.max()), *structures, 0])
    table = torch.zeros(largest + 1, dtype=torch.int64, device=labels.device)
    table[list(structures)] = torch.arange(1, len(structures) + 1, device=labels.device)
    return table[labels.long()]


def _corners(numbers: Tensor, background: Tensor, field: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each corner around the positions that a field points to: numbers there, and their weights in between."""
    dims, sizes = field.shape[1], field.shape[2:]
    grids = [
        torch.arange(size, dtype=field.dtype, device=field.device).reshape(-1, *(1,) * (dims - axis - 1))
        for axis, size in enumerate(sizes)
    ]
    positions = [field[:, axis] + grid for axis, grid in enumerate(grids)]
    floors = [position.detach().floor() for position in positions]
    inner = numbers.flatten(1)
    corners = []
    for corner in product((0, 1), repeat=dims):
        weights, index, inside = torch.ones_like(positions[0]), torch.zeros_like(numbers), numbers >= 0
        for position, floor, side, size in zip(positions, floors, corner, sizes, strict=True):
            weights = weights * (position - floor if side else 1 - (position - floor))
            at = floor.long() + side
            inside = inside & (at >= 0) & (at < size)
            index = index * size + at.clamp(0, size - 1)
        found = inner.gather(1, index.flatten(1)).reshape(numbers.shape)
        corners.append((torch.where(inside, found, background.expand_as(found)), weights))
    return corners


def contrastive_features(
    features: Tensor,
    moving: Tensor,
    fixed: Tensor,
    structures: Sequence[int],
    *,
    samples: int = SAMPLES,
    temperature: float = TEMPERATURE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross-entropy of telling each voxel's structure by its feature: like its own mean, unlike those of others.

    The mean of a structure is of both images, each weighing as much, so features of one structure agree across
    modalities. In the authors' code a voxel's own structure is among the wrong answers too, which keeps the loss above
    log 2 and pushes voxels away from where they belong; here it is the right answer and nothing else.

    Args:
        features: (B, 2 F, *S / stride), of the moving image and then of the fixed one, as
            `medmamba.networks.mambamorph.Registration` has them.
        moving: (B, *S) label values, each on its own image.
        fixed: the same.
        structures: the label values that count; leave out background.
        samples: voxels of each image at most, drawn by the generator.
        temperature: cosines are divided by it.
        generator: of random numbers, on the labels' device; None: the first ``samples`` of a fixed permutation.

    Returns:
        Scalar, mean over sampled voxels of both images; 0 if there is none, or one structure only.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        generator = generator or torch.Generator(features.device).manual_seed(0)
        costs = []
        for entry, labels in zip(features, zip(moving, fixed, strict=True), strict=True):
            sides = [_voxels(side, values, structures) for side, values in zip(entry.chunk(2), labels, strict=True)]
            anchors, found = _anchors([side for side in sides if len(side[1])], len(structures))
            if int(found.sum()) > 1:
                costs += [
                    _told_apart(*_sampled(*side, samples, generator), anchors, found, temperature) for side in sides
                ]
        return torch.cat(costs).mean() if costs and sum(map(len, costs)) else features.sum() * 0


def _voxels(features: Tensor, labels: Tensor, structures: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Unit features (N, F) and structures' places in the list (N,) of one image's voxels that lie in a structure."""
    reduced = F.interpolate(labels[None, None].double(), size=features.shape[1:], mode="nearest")[0, 0]
    number = _numbered(reduced, structures).flatten() - 1
    inside = number >= 0
    return F.normalize(features.flatten(1)[:, inside].T, dim=1), number[inside]


def _anchors(sides: Sequence[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """Unit mean feature of each structure (K, F), each image's mean weighing the same, and which structures exist."""
    if not sides:
        return torch.zeros(count, 1), torch.zeros(count, dtype=torch.bool)
    total, found = sides[0][0].new_zeros(count, sides[0][0].shape[1]), sides[0][1].new_zeros(count, dtype=torch.bool)
    for features, number in sides:
        voxels = torch.bincount(number, minlength=count)
        total = total + torch.zeros_like(total).index_add(0, number, features) / voxels.clamp(min=1)[:, None]
        found = found | (voxels > 0)
    return F.normalize(total, dim=1), found


def _sampled(features: Tensor, number: Tensor, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if len(number) <= samples:
        return features, number
    chosen = torch.randperm(len(number), generator=generator, device=number.device)[:samples]
    return features[chosen], number[chosen]


def _told_apart(features: Tensor, number: Tensor, anchors: Tensor, found: Tensor, temperature: float) -> Tensor:
    logits = features @ anchors.T / temperature
    return F.cross_entropy(logits.masked_fill(~found, -torch.inf), number, reduction="none")
