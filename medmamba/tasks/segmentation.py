"""Segmentation as a task: what the trainer asks of it.

Letters: B batch, K output channels, R structures (foreground classes or regions), S spatial axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmamba import networks
from medmamba.plans.plan import Plan
from medmamba.tasks.losses import DeepSupervision, DiceCrossEntropy, region_table, region_targets


class Segmentation(nn.Module):
    """Loss and scores of a segmentation plan.

    Args:
        plan: labels, network and recipe.
    """

    region_table: Tensor | None

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        #: Patches come with values by their place: tables stay small, and floats exact, whatever the values are.
        self.labels = plan.labels.numbered()
        self.criterion = DeepSupervision(DiceCrossEntropy(self.labels, batch_dice=plan.train.batch_dice))
        self.register_buffer("region_table", region_table(self.labels) if self.labels.has_regions else None, False)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of what is scored, in the order of `count`."""
        return tuple(label.name for label in self.labels.foreground)

    def build_network(self) -> nn.Module:
        """A freshly initialised network, deep supervision as the recipe says."""
        return build_network(self.plan)

    def loss(self, outputs: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Training loss.

        Args:
            outputs: logits (B, K, *S), or a list of them, finest first.
            target: (B, *S) label values by their place, as in `medmamba.data.patches.Batch`.

        Returns:
            Scalar, float32.
        """
        loss: Tensor = self.criterion(outputs if isinstance(outputs, list) else [outputs], target)
        return loss

    def count(self, logits: Tensor, target: Tensor) -> Tensor:
        """Voxels behind the Dice of each structure.

        Args:
            logits: (B, K, *S), the finest output.
            target: (B, *S) label values by their place.

        Returns:
            (R, 3) int64: intersection, voxels predicted, voxels in the reference.
        """
        if self.region_table is not None:
            predicted = logits > 0
            truth = region_targets(target, self.region_table, self.labels.ignore) > 0.5
        else:
            chosen = logits.argmax(dim=1)
            classes = range(1, logits.shape[1])
            predicted = torch.stack([chosen == label for label in classes], dim=1)
            truth = torch.stack([target == label.values[0] for label in self.labels.foreground], dim=1)
        if self.labels.ignore is not None:
            annotated = (target != self.labels.ignore)[:, None]
            predicted, truth = predicted & annotated, truth & annotated
        axes = [0, *range(2, truth.ndim)]
        return torch.stack([(predicted & truth).sum(axes), predicted.sum(axes), truth.sum(axes)], dim=1)

    def score(self, counts: Tensor) -> dict[str, float]:
        """Dice of each structure from summed counts; structures absent from both sides are left out."""
        scores = {}
        for name, (intersection, predicted, truth) in zip(self.structures, counts.tolist(), strict=True):
            if predicted + truth:
                scores[name] = 2 * intersection / (predicted + truth)
        return scores


def build_network(plan: Plan) -> nn.Module:
    """The plan's network, freshly initialised."""
    network = networks.create(
        plan.network.name,
        len(plan.channels),
        plan.labels.output_channels,
        plan.topology,
        **plan.network.options,
    )
    set_deep_supervision(network, plan.train.deep_supervision)
    return network


def set_deep_supervision(network: nn.Module, enabled: bool) -> None:
    """Whether the network returns a list of outputs, finest first, or the finest alone; nnU-Net's convention."""
    network.get_submodule("decoder").deep_supervision = enabled  # type: ignore[assignment]  # a plain attribute
