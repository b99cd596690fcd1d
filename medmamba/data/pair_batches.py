"""Batches of pairs by seed and step.

Letters: B batch, S voxels of the training size.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmamba.case import Pair
from medmamba.data.deformations import made_up
from medmamba.data.pairs import Image, PairCache
from medmamba.plans.plan import Plan
from medmamba.warp import integrate, warp

#: Contrast: intensities from 0 to 1 are raised to a power between these, each image by itself, every other time.
GAMMA = (0.8, 1.25)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs on their working grids, each cut to the training size.

    Args:
        moving: (B, 1, *S) float32, 0 to 1.
        fixed: the same.
        moving_label: (B, *S) int16, values by their place among the plan's labels; None unless all have maps.
        fixed_label: the same.
        mask: (B, 1, *S) float32, where the fixed image counts; None unless all have one.
        truth: (B, dims, *S) float32, voxels: the field that moving images were deformed by; None if they were not.
    """

    moving: Tensor
    fixed: Tensor
    moving_label: Tensor | None = None
    fixed_label: Tensor | None = None
    mask: Tensor | None = None
    truth: Tensor | None = None

    def to(self, device: torch.device) -> PairBatch:
        """The same on a device."""
        values = (getattr(self, each.name) for each in fields(self))
        return PairBatch(*(None if value is None else value.to(device, non_blocking=True) for value in values))  # type: ignore[arg-type]  # the first two never are


class PairSampler:
    """Draws pairs to learn from, varied; and those to be judged on, one after the other, as they are.

    Args:
        cache: of prepared pairs.
        pairs: of one side of the fold.
        plan: training size, batch size and seed.
        vary: mirror pairs, change contrasts and move the cut a little. Made-up deformations, where the plan has some,
            are put on moving images in either case.
    """

    def __init__(self, cache: PairCache, pairs: Sequence[Pair], plan: Plan, *, vary: bool) -> None:
        self.cache, self.pairs, self.plan, self.vary = cache, tuple(pairs), plan, vary

    def stream(self, start: int) -> Generator[PairBatch, None, None]:
        """Batches of the steps ``start``, ``start + 1``, ... without end."""
        for step in count(start):
            yield self.batch(step)

    def batch(self, step: int) -> PairBatch:
        """The batch of a step: a function of seed and step alone."""
        size = self.plan.train.batch_size
        parts = [self._pair(step * size + number) for number in range(size)]
        moving, fixed, moving_label, fixed_label, mask, truth = map(_stacked, zip(*parts, strict=True))
        assert moving is not None
        assert fixed is not None
        is_labelled = moving_label is not None and fixed_label is not None
        return PairBatch(
            moving[:, None],
            fixed[:, None],
            moving_label if is_labelled else None,
            fixed_label if is_labelled else None,
            None if mask is None else mask[:, None].float(),
            truth,
        )

    def _pair(self, number: int) -> tuple[NDArray[Any] | None, ...]:
        random = np.random.default_rng((self.plan.train.seed, number, int(self.vary)))
        chosen = int(random.integers(len(self.pairs))) if self.vary else number % len(self.pairs)
        fixed, moving = self.cache.sides(self.pairs[chosen])
        box = self._box(fixed, moving, random)
        images = [self.cache.image(image, box) for image in (moving, fixed)]
        if self.vary:
            images = [_contrasted(image, random) for image in images]
        arrays: list[NDArray[Any] | None] = [
            *images,
            self.cache.label(moving, box),
            self.cache.label(fixed, box),
            self.cache.mask(fixed, box),
        ]
        flips = [axis for axis in self.plan.train.mirror_axes if self.vary and random.random() < 0.5]
        arrays = [None if array is None else self._fitted(np.flip(array, tuple(flips))) for array in arrays]
        return (*self._deformed(arrays, random),) if self._longest_mm else (*arrays, None)

    @property
    def _longest_mm(self) -> float:
        return 0.0 if self.plan.registration is None else self.plan.registration.synthetic_mm

    def _deformed(self, arrays: list[NDArray[Any] | None], random: np.random.Generator) -> list[NDArray[Any] | None]:
        """With the moving image and its labels moved by a field that is made up, and that field at the end."""
        moving, fixed, label, *rest = arrays
        assert moving is not None
        velocity = made_up(moving.shape, self.plan.spacing_mm, self._longest_mm, random)
        away = integrate(-velocity)
        moving = warp(torch.from_numpy(moving)[None, None], away)[0, 0].numpy()
        if label is not None:
            labels = torch.from_numpy(label)[None, None].float()
            label = warp(labels, away, "nearest")[0, 0].numpy().astype(label.dtype)
        return [moving, fixed, label, *rest, integrate(velocity)[0].numpy()]

    def _box(self, fixed: Image, moving: Image, random: np.random.Generator) -> tuple[slice, ...]:
        """Around what is not background: all of it where the training size holds it, else a part."""
        records = [self.cache.record(image.entry) for image in (fixed, moving)]
        box = []
        for axis, wanted in enumerate(self.plan.topology.patch_size):
            size = records[0].shape[axis]
            low = min(record.box[0][axis] for record in records)
            high = max(record.box[1][axis] for record in records)
            first, last = sorted((low, high - wanted))
            first, last = (min(max(0, place), max(0, size - wanted)) for place in (first, last))
            start = int(random.integers(first, last + 1)) if self.vary else (first + last) // 2
            box.append(slice(start, min(start + wanted, size)))
        return tuple(box)

    def _fitted(self, array: NDArray[Any]) -> NDArray[Any]:
        """With background around it where the training size is larger than the grid."""
        lacking = [wanted - n for wanted, n in zip(self.plan.topology.patch_size, array.shape, strict=True)]
        return np.ascontiguousarray(np.pad(array, [(n // 2, n - n // 2) for n in lacking]))


def _contrasted(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    low, high = np.log(GAMMA)
    power = float(np.exp(random.uniform(low, high)))
    return np.asarray(image**power if random.random() < 0.5 else image, dtype=np.float32)


def _stacked(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """None unless all are there."""
    there = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(there)) if len(there) == len(arrays) else None
