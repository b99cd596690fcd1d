"""Registration as a task: what the trainer asks of it.

Letters: B batch, S voxels of the training size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medmamba import networks
from medmamba.case import Case, Pair, Split
from medmamba.data.pair_batches import PairBatch, PairSampler
from medmamba.data.pairs import BACKGROUND, PairCache, prepare_pairs
from medmamba.plans.plan import Plan
from medmamba.progress import Progress
from medmamba.tasks import Forward, Loss, Measure, Part, Scores
from medmamba.tasks.overlap import contrastive_features, dice_of_warped
from medmamba.tasks.similarity import SIMILARITIES
from medmamba.tasks.smoothness import SMOOTHNESSES, inverse_consistency, jacobian_penalty
from medmamba.transform import Field, Transform, field_of_voxels
from medmamba.volume import Geometry
from medmamba.warp import jacobian_determinant, warp

#: More folded voxels than this, in per cent, and a mean displacement of less than this, in voxels, are worth a word.
MOST_FOLDED_PERCENT = 1.0
ZERO_VOXELS = 0.01
#: More structures than this are shown as their mean.
MOST_SHOWN = 8


class PairTrail(NamedTuple):
    """What is needed to go back from a prepared pair: its working grid, and the grid of the fixed image."""

    working: Geometry
    fixed: Geometry


class RegistrationTask:
    """Pairs, loss and scores of a plan for registration; see `medmamba.tasks.PlannedTask`."""

    def __init__(
        self, plan: Plan, prepared: PairCache | None = None, split: Split | None = None, workers: int | None = None
    ) -> None:
        assert plan.registration is not None
        self.plan, self.settings, self.cache, self.split, self.workers = (
            plan,
            plan.registration,
            prepared,
            split,
            workers,
        )
        labels = plan.labels.numbered()
        self.structures = [value for value in labels.values if value > 0]
        self.names = {value: label.name for label in labels.foreground for value in label.values}
        self.similarity = SIMILARITIES[self.settings.similarity]
        self.has_labels = self.settings.dice_weight > 0

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Dice of warped labels where there are some, else the similarity; and what the field is like."""
        first = (
            Measure(name="dice", title="Dice", limits=(0.0, 1.0))
            if self.has_labels
            else Measure(name="similarity", title=f"{self.settings.similarity} loss", higher_is_better=False)
        )
        known = (
            Measure(name="error_mm", title="distance from the made-up field in mm", higher_is_better=False),
            Measure(name="error_before_mm", title="length of the made-up field in mm", higher_is_better=False),
        )
        return (
            *(known if self.settings.synthetic_mm else ()),
            first,
            Measure(name="before", title=f"{first.title} before", higher_is_better=first.higher_is_better),
            Measure(name="folding_percent", title="folded voxels in %", higher_is_better=False),
            Measure(name="displacement_mm", title="displacement in mm"),
        )

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
    ) -> PairCache:
        """See `medmamba.data.pairs.prepare_pairs`."""
        return prepare_pairs(pairs, plan, folder, reference=reference, progress=progress, workers=workers)

    def network(self) -> nn.Module:
        """A freshly initialised network of two images of one channel each."""
        network = self.plan.network
        return networks.create_registration(network.name, 1, self.plan.topology, **network.options)

    def batches(self, part: Part, start: int) -> Generator[PairBatch, None, None]:
        """Pairs whose images are both on one side of the fold: varied to learn from, as they are to be judged on."""
        assert self.cache is not None
        assert self.split is not None
        ids = set(getattr(self.split, part))
        pairs = [pair for pair in self.cache.pairs if {case.id for case in pair.cases} <= ids]
        return PairSampler(self.cache, pairs, self.plan, vary=part == "train").stream(start)

    def noise(self, size: int) -> PairBatch:
        """Pairs to measure the time of a step with."""
        shape = (size, *self.plan.topology.patch_size)
        labels = torch.randint(0, len(self.structures) + 1, shape, dtype=torch.int16) if self.has_labels else None
        truth = torch.zeros(size, len(shape) - 1, *shape[1:]) if self.settings.synthetic_mm else None
        moving, fixed = torch.rand(2, size, 1, *shape[1:])
        return PairBatch(moving, fixed, labels, labels, truth=truth)

    def loss(self, network: Forward, batch: PairBatch) -> Loss:
        """Similarity, smoothness, and what else has a weight in the plan."""
        return self._loss(network(batch.moving, batch.fixed), network, batch)

    def _loss(self, found: Any, network: Forward, batch: PairBatch) -> Loss:
        settings, spacing = self.settings, self.plan.spacing_mm
        terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "similarity": (settings.similarity_weight, lambda: self._unlike(found.moved, batch)),
            "smoothness": (
                settings.smoothness_weight,
                lambda: SMOOTHNESSES[settings.smoothness](found.velocity, spacing),
            ),
            "jacobian": (settings.jacobian_weight, lambda: jacobian_penalty(found.displacement)),
            "inverse": (
                settings.inverse_weight,
                lambda: inverse_consistency(
                    found.displacement, network(batch.fixed, batch.moving).displacement, spacing
                ),
            ),
        }
        if batch.truth is not None:
            truth = batch.truth
            terms["synthetic"] = (settings.synthetic_weight, lambda: self._astray(found.displacement - truth, batch))
        if batch.moving_label is not None and batch.fixed_label is not None:
            moving, fixed = batch.moving_label.long(), batch.fixed_label.long()
            chosen = self._some_structures()
            terms["dice"] = (settings.dice_weight, lambda: dice_of_warped(moving, fixed, found.displacement, chosen))
            if found.features is not None:
                terms["features"] = (
                    settings.features_weight,
                    lambda: contrastive_features(found.features, moving, fixed, self.structures),
                )
        losses = {name: (weight, term()) for name, (weight, term) in terms.items() if weight}
        total = torch.stack([weight * value.float() for weight, value in losses.values()]).sum()
        return Loss(total, {name: value.detach() for name, (_, value) in losses.items()})

    def score(self, network: Forward, batches: Iterable[PairBatch]) -> Scores:
        """Over all pairs together: Dice of each structure, or similarity, before and after; folds and displacement."""
        counts = torch.zeros(2, len(self.structures), 2, dtype=torch.float64)
        losses, alike, folded, distances, shifts, astray = [], [], [], [], [], []
        spacing = torch.tensor(self.plan.spacing_mm)
        for batch in batches:
            found = network(batch.moving, batch.fixed)
            losses.append(float(self._loss(found, network, batch).total))
            alike.append([float(self._unlike(image, batch)) for image in (batch.moving, found.moved)])
            folded.append(100 * float((jacobian_determinant(found.displacement) <= 0).float().mean()))
            vectors = found.displacement.float().movedim(1, -1)
            shifts.append(float(vectors.norm(dim=-1).mean()))
            distances.append(float((vectors * spacing.to(vectors.device)).norm(dim=-1).mean()))
            if batch.truth is not None:
                missed = found.displacement - batch.truth, batch.truth
                astray.append([float(self._astray(each, batch)) for each in missed])
            if batch.moving_label is not None and batch.fixed_label is not None:
                fixed = batch.fixed_label.long()
                moved = warp(batch.moving_label[:, None].float(), found.displacement, "nearest")[:, 0].long()
                for place, label in enumerate((batch.moving_label.long(), moved)):
                    counts[place] += self._overlaps(label, fixed).cpu()
        before, after = (self._dice(each) if self.has_labels else {} for each in counts)
        if not self.has_labels:
            before, after = ({"all": float(np.mean([pair[place] for pair in alike]))} for place in (0, 1))
        percent, shift = float(np.mean(folded)), float(np.mean(shifts))
        values = {
            "dice" if self.has_labels else "similarity": after,
            "before": before,
            "folding_percent": {"all": percent},
            "displacement_mm": {"all": float(np.mean(distances))},
        }
        if astray:
            error, length = np.mean(astray, axis=0)
            values |= {"error_mm": {"all": float(error)}, "error_before_mm": {"all": float(length)}}
        return Scores(float(np.mean(losses)), values, tuple(_remarks(percent, shift)))

    def restore(self, output: NDArray[np.float32], trail: PairTrail) -> Field:
        """The field in millimetres on the fixed image's own grid.

        Args:
            output: (3, *S) displacement of the whole working grid, in its voxels.
            trail: of its preparation.
        """
        return Transform((field_of_voxels(output, trail.working),)).displacement(trail.fixed)

    def _unlike(self, image: Tensor, batch: PairBatch) -> Tensor:
        return self.similarity(image, batch.fixed, batch.mask, spacing_mm=self.plan.spacing_mm)

    def _astray(self, away: Tensor, batch: PairBatch) -> Tensor:
        """Mean length in mm of a field (B, dims, *S) in voxels, where the fixed image counts."""
        spacing = torch.tensor(self.plan.spacing_mm).to(away).reshape(1, -1, *(1,) * (away.dim() - 2))
        # Not quite 0, where the slope of a length is not a number.
        lengths = ((away.float() * spacing).square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
        counted = (batch.fixed > BACKGROUND).float() if batch.mask is None else batch.mask
        return (lengths * counted).sum() / counted.sum().clamp(min=1)

    def _some_structures(self) -> list[int]:
        """Those for the Dice of this step, drawn from PyTorch's random numbers, which the trainer seeds by step."""
        wanted = self.settings.structures_per_step
        if len(self.structures) <= wanted:
            return self.structures
        return [self.structures[int(place)] for place in torch.randperm(len(self.structures))[:wanted]]

    def _overlaps(self, moved: Tensor, fixed: Tensor) -> Tensor:
        """(K, 2): voxels that both have of each structure, and the sum of what each has."""
        size = len(self.structures) + 1
        both = torch.bincount(torch.where(moved == fixed, fixed, 0).flatten(), minlength=size)[1:size]
        each = sum(torch.bincount(label.flatten(), minlength=size)[1:size] for label in (moved, fixed))
        return torch.stack([both, torch.as_tensor(each)], dim=1)

    def _dice(self, counts: Tensor) -> dict[str, float]:
        """By structure, or the mean where there are many; NaN for one that is in none of the images."""
        values = {
            self.names[value]: 2 * float(both) / float(each) if each else math.nan
            for value, (both, each) in zip(self.structures, counts.tolist(), strict=True)
        }
        if len(values) <= MOST_SHOWN:
            return values
        known = [value for value in values.values() if math.isfinite(value)]
        return {f"mean of {len(known)} structures": float(np.mean(known)) if known else math.nan}


def _remarks(folded_percent: float, shift_voxels: float) -> Iterable[str]:
    if folded_percent > MOST_FOLDED_PERCENT:
        yield (
            f"{folded_percent:.2g} % of voxels fold, more than {MOST_FOLDED_PERCENT:g} %: the field is not plausible "
            "there; raise registration.smoothness_weight, or give registration.jacobian_weight a value"
        )
    if shift_voxels < ZERO_VOXELS:
        yield (
            f"the field is next to zero, {shift_voxels:.2g} voxels in the mean; if it stays so, raise "
            "train.learning_rate or lower registration.smoothness_weight"
        )
