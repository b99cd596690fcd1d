"""Dice plus cross-entropy with deep supervision, as nnU-Net trains with.

Letters: B batch, K output channels (classes with background first, or regions), S spatial axes.

References:
    Isensee et al., Nature Methods 18 (2021), supplementary note 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.labels import Labels
from medmamba.tasks import Loss

#: Keeps the Dice of an absent structure defined; nnU-Net's value.
SMOOTH = 1e-5


class DiceCrossEntropy(nn.Module):
    """Soft Dice over the structures plus cross-entropy over the voxels, ignored voxels left out of both.

    Args:
        labels: meaning of the target's values. Regions get a sigmoid and binary cross-entropy each, classes a softmax.
        batch_dice: sum intersections over the batch before dividing, which steadies the loss for small structures.
    """

    region_table: Tensor | None
    class_table: Tensor

    def __init__(self, labels: Labels, *, batch_dice: bool) -> None:
        super().__init__()
        self.labels = labels
        self.batch_dice = batch_dice
        self.register_buffer("class_table", class_table(labels), persistent=False)
        self.register_buffer("region_table", region_table(labels) if labels.has_regions else None, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Loss:
        """Loss of one output.

        Args:
            logits: (B, K, *S).
            target: (B, *S) integers out of ``labels.allowed_values``.

        Returns:
            Cross-entropy minus mean Dice, between -1 and infinity, and both parts.
        """
        logits = logits.float()  # sums over a million voxels lose small structures in 16 bits
        annotated = None if self.labels.ignore is None else target != self.labels.ignore
        if self.region_table is not None:
            truth = region_targets(target, self.region_table, self.labels.ignore)
            voxel_loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
            probabilities = torch.sigmoid(logits)
        else:
            classes = self.class_table[target.long()]
            voxel_loss = F.cross_entropy(logits, classes, reduction="none")
            probabilities = torch.softmax(logits, dim=1)[:, 1:]
            truth = torch.stack([classes == label for label in range(1, logits.shape[1])], dim=1).to(logits.dtype)
        if annotated is None:
            entropy = voxel_loss.mean()
        else:
            entropy = (voxel_loss * annotated).sum() / annotated.sum().clamp(min=1)
            probabilities, truth = probabilities * annotated[:, None], truth * annotated[:, None]
        dice = self._dice(probabilities, truth)
        return Loss(entropy - dice, {"cross_entropy": entropy.detach(), "dice": -dice.detach()})

    def _dice(self, probabilities: Tensor, truth: Tensor) -> Tensor:
        axes = [0, *range(2, truth.ndim)] if self.batch_dice else list(range(2, truth.ndim))
        intersection = (probabilities * truth).sum(axes)
        total = probabilities.sum(axes) + truth.sum(axes)
        return ((2 * intersection + SMOOTH) / (total + SMOOTH)).mean()


def deep_supervision(loss: Callable[[Tensor, Tensor], Loss], outputs: Sequence[Tensor], target: Tensor) -> Loss:
    """Mean loss of outputs of falling resolution, weighted 1, 1/2, 1/4, ..., the coarsest of several left out.

    Args:
        loss: of one output and a target of its size.
        outputs: each (B, K, *S_i), finest first; S_0 is the target's size.
        target: (B, *S_0); reduced to each output's size by nearest neighbour.

    Returns:
        The mean, and the parts of the finest output's loss.
    """
    weights = [0.5**i for i in range(max(1, len(outputs) - 1))]
    losses = [loss(output, _reduced(target, output.shape[2:])) for output, _ in zip(outputs, weights, strict=False)]
    weighted = (weight * each.total for weight, each in zip(weights, losses, strict=True))
    total = sum(weighted, start=torch.zeros((), device=target.device))
    return Loss(total / sum(weights), losses[0].parts)


def _reduced(target: Tensor, size: Sequence[int]) -> Tensor:
    if target.shape[1:] == size:
        return target
    return F.interpolate(target[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(target.dtype)


def region_targets(target: Tensor, region_table: Tensor, ignore: int | None) -> Tensor:
    """Masks of the regions, (B, R, *S) float, of a map of values (B, *S)."""
    values = target.long() if ignore is None else torch.where(target == ignore, 0, target).long()
    return region_table[values].movedim(-1, 1)


def region_table(labels: Labels) -> Tensor:
    """(largest value + 1, regions): whether a value belongs to a region."""
    table = torch.zeros(max(labels.values) + 1, len(labels.foreground))
    for column, label in enumerate(labels.foreground):
        table[list(label.values), column] = 1.0
    return table


def class_table(labels: Labels) -> Tensor:
    """(largest value + 1,) int64: output channel of a value; 0, background, for values to ignore."""
    table = torch.zeros(max(labels.allowed_values) + 1, dtype=torch.int64)
    for channel, label in enumerate(labels.foreground, start=1):
        table[list(label.values)] = channel
    return table
