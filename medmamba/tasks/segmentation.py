"""Segmentation as a task: what the trainer asks of it.

Letters: B batch, K output channels, R structures (foreground classes or regions), S spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medmamba import networks
from medmamba.case import Case, Pair, Split
from medmamba.data.augment import Augmentation
from medmamba.data.cache import Cache, prepare
from medmamba.data.patches import Batch, PatchSampler, stream
from medmamba.data.preprocess import Preprocessor, Trail
from medmamba.plans.plan import Plan
from medmamba.progress import Progress
from medmamba.tasks import Forward, Loss, Measure, Part, Scores
from medmamba.tasks.losses import DiceCrossEntropy, deep_supervision, region_targets


class Segmentation:
    """Patches, loss and scores of a segmentation plan; see `medmamba.tasks.PlannedTask`."""

    measures: ClassVar[tuple[Measure, ...]] = (Measure(name="dice", title="Dice", limits=(0.0, 1.0)),)

    def __init__(
        self, plan: Plan, prepared: Cache | None = None, split: Split | None = None, workers: int | None = None
    ) -> None:
        self.plan, self.cache, self.split, self.workers = plan, prepared, split, workers
        #: Patches come with values by their place: tables stay small, and floats exact, whatever the values are.
        self.labels = plan.labels.numbered()
        self.criterion = DiceCrossEntropy(self.labels, batch_dice=plan.train.batch_dice)

    @staticmethod
    def prepare(
        cases: Sequence[Case],
        plan: Plan,
        folder: Path,
        *,
        progress: Progress,
        workers: int | None = None,
        pairs: Sequence[Pair] = (),
        reference: Case | None = None,
    ) -> Cache:
        """See `medmamba.data.cache.prepare`."""
        return prepare(cases, plan, folder, progress=progress, workers=workers)

    def network(self) -> nn.Module:
        """A freshly initialised network, deep supervision as the recipe says."""
        return build_network(self.plan)

    def batches(self, part: Part, start: int) -> Generator[Batch, None, None]:
        """Patches by step: augmented to learn from, as they are to be judged on."""
        assert self.cache is not None
        assert self.split is not None
        sampler = PatchSampler(self.cache, getattr(self.split, part), self.plan)
        if part == "validation":
            return stream(sampler, start, workers=0)  # a few patches as they are: starting processes would take longer
        return stream(sampler, start, augment=Augmentation(self.plan), workers=self.workers)

    def noise(self, size: int) -> Batch:
        """A batch to measure the time of a step with."""
        plan, patch = self.plan, self.plan.topology.patch_size
        return Batch(torch.randn(size, len(plan.channels), *patch), torch.zeros(size, *patch, dtype=torch.int16))

    def loss(self, network: Forward, batch: Batch) -> Loss:
        """Dice and cross-entropy of all outputs."""
        return self._loss(_outputs(network(batch.image)), batch.label)

    def score(self, network: Forward, batches: Iterable[Batch]) -> Scores:
        """Dice of each structure over all voxels together; NaN for one that is neither there nor predicted."""
        counts, losses = torch.zeros(len(self.labels.foreground), 3, dtype=torch.int64), []
        for batch in batches:
            outputs = _outputs(network(batch.image))
            losses.append(float(self._loss(outputs, batch.label).total))
            counts += self.count(outputs[0], batch.label).cpu()
        names = (label.name for label in self.labels.foreground)
        return Scores(sum(losses) / len(losses), {"dice": dict(zip(names, map(_dice, counts.tolist()), strict=True))})

    def restore(self, output: NDArray[np.float32], trail: Trail) -> NDArray[np.integer[Any]]:
        """Label map of a case on its own grid.

        Args:
            output: (K, *S) logits of a prepared case.
            trail: of its preparation.

        Returns:
            (I, J, K) label values.
        """
        return Preprocessor(self.plan).restore(output, trail)

    def _loss(self, outputs: list[Tensor], target: Tensor) -> Loss:
        return deep_supervision(self.criterion.to(target.device), outputs, target)

    def count(self, logits: Tensor, target: Tensor) -> Tensor:
        """Voxels behind the Dice of each structure.

        Args:
            logits: (B, K, *S), the finest output.
            target: (B, *S) label values by their place, as in `medmamba.data.patches.Batch`.

        Returns:
            (R, 3) int64: intersection, voxels predicted, voxels in the reference.
        """
        if self.criterion.region_table is not None:
            predicted = logits > 0
            table = self.criterion.region_table.to(target.device)
            truth = region_targets(target, table, self.labels.ignore) > 0.5
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


def _outputs(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    """Outputs of a network, finest first, also of one that has a single output."""
    return outputs if isinstance(outputs, list) else [outputs]


def _dice(counts: list[int]) -> float:
    intersection, predicted, truth = counts
    return 2 * intersection / (predicted + truth) if predicted + truth else math.nan
