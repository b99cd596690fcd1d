"""Which patches a network learns from.

The batch of a step is a function of seed, step and position alone, so that training can go on anywhere, with any number
of processes, and see the same patches.
"""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from medmamba.data.cache import ANNOTATED, Cache
from medmamba.data.preprocess import OUTSIDE
from medmamba.engines import end_with_parent, processors, signals_held
from medmamba.plans.plan import Plan

if TYPE_CHECKING:
    from medmamba.data.augment import Augmentation  # MONAI takes seconds to import in each process that has it

#: More processes than this do not draw patches any faster than a GPU learns from them; nnU-Net starts a few more.
MOST_WORKERS = 8
#: A worker has so many batches at most that wait, are on their way or in the making.
BATCHES_EACH = 4
#: What asks a process to stop.
_STOPS = (signal.SIGINT, signal.SIGTERM)
_SHARED = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from.

    Args:
        image: (B, C, *patch) float32.
        label: (B, *patch) int16, values by their place (see `medmamba.labels.Labels.number`).
    """

    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.image.to(device), self.label.to(device))


class PatchSampler:
    """Draws patches as nnU-Net does.

    Cases are chosen evenly. The last third of a batch (``oversample_foreground``) is centred on a voxel of a structure,
    structures chosen evenly among those present; the rest lies anywhere. Patches may reach over the edge, where images
    are zero.

    Args:
        cache: of preprocessed cases.
        ids: cases to draw from.
        plan: patch and batch size, seed.

    Raises:
        ValueError: if there are no cases.
    """

    def __init__(self, cache: Cache, ids: Sequence[str], plan: Plan) -> None:
        if not ids:
            raise ValueError("there are no cases to draw patches from")
        self.cache, self.ids, self.plan = cache, tuple(ids), plan
        self._has_ignore = plan.labels.ignore is not None

    def batch(self, step: int, augment: Augmentation | None) -> Batch:
        """The batch of a step.

        Args:
            step: from 0.
            augment: None for patches as they are.
        """
        with _one_thread():
            patches = [self.sample(step, index, augment) for index in range(self.plan.train.batch_size)]
        images, labels = zip(*patches, strict=True)
        return Batch(torch.stack(images), torch.stack(labels))

    def sample(self, step: int, index: int, augment: Augmentation | None) -> tuple[Tensor, Tensor]:
        """One patch: image (C, *patch) and label (*patch)."""
        settings = self.plan.train
        rng = np.random.default_rng([settings.seed, step, index])
        final = self.plan.topology.patch_size
        size = augment.initial_patch if augment else final
        case = self.ids[int(rng.integers(len(self.ids)))]
        centred = index >= round(settings.batch_size * (1 - settings.oversample_foreground))
        start = self._start(case, _three(size), _three(final), centred, rng)
        image, label = self._read(case, start, _three(size))
        if len(final) == 2:
            image, label = image[:, 0], label[0]
        seed = int(rng.integers(2**32))
        if augment:
            return augment(torch.from_numpy(image), torch.from_numpy(label), seed)
        label[label == OUTSIDE] = 0
        return torch.from_numpy(image), torch.from_numpy(label)

    def _start(
        self,
        case: str,
        size: tuple[int, int, int],
        final: tuple[int, int, int],
        centred: bool,
        rng: np.random.Generator,
    ) -> list[int]:
        """First voxel of the patch, which may lie before the case's first."""
        shape = self.cache.shape(case)
        low, high = [], []
        for n, patch, seen in zip(shape, size, final, strict=True):
            # The network's patch, inside of what is read, reaches every edge; a small case is padded on both sides.
            pad = max(patch - seen, patch - n)
            low.append(-pad // 2)
            high.append(n + pad // 2 + pad % 2 - patch)
        start = [int(rng.integers(a, max(a, b) + 1)) for a, b in zip(low, high, strict=True)]
        if centred or self._has_ignore:
            voxel = self._voxel(case, centred, rng)
            if voxel is not None:
                start = [max(a, int(v) - patch // 2) for a, v, patch in zip(low, voxel, size, strict=True)]
        return start

    def _voxel(self, case: str, centred: bool, rng: np.random.Generator) -> NDArray[np.int32] | None:
        """A voxel to centre on: of a structure, or any that is annotated; None when the case has none."""
        table = self.cache.foreground(case)
        numbers = np.unique(table[:, 0])
        structures = numbers[numbers != ANNOTATED]
        wanted = structures if centred and len(structures) else numbers[numbers == ANNOTATED]
        if not len(wanted):
            return None
        rows = table[table[:, 0] == rng.choice(wanted)]
        voxel: NDArray[np.int32] = rows[rng.integers(len(rows)), 1:]
        return voxel

    def _read(
        self, case: str, start: Sequence[int], size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """The patch, label values by their place; zero, and `OUTSIDE` in the label, where it reaches over the edge."""
        shape = self.cache.shape(case)
        inside = [(max(a, 0), min(a + n, limit)) for a, n, limit in zip(start, size, shape, strict=True)]
        read_image, read_label = self.cache.patch(case, [a for a, _ in inside], [b for _, b in inside])
        image = np.zeros((len(read_image), *size), dtype=np.float32)
        label = np.full(tuple(size), OUTSIDE, dtype=np.int16)
        box = tuple(slice(a - first, b - first) for (a, b), first in zip(inside, start, strict=True))
        image[(slice(None), *box)] = read_image
        label[box] = self.plan.labels.number(read_label)
        return image, label


def stream(
    sampler: PatchSampler, start: int = 0, *, augment: Augmentation | None = None, workers: int | None = None
) -> Generator[Batch, None, None]:
    """Batches of the steps ``start``, ``start + 1``, ... without end.

    Args:
        sampler: draws them.
        start: first step.
        augment: None for patches as they are.
        workers: processes that draw ahead; they change the speed and nothing else. None: none on two cores, which
            training keeps busy, else one for every second core, eight at most, as far as shared memory allows.

    Returns:
        A generator; closing it ends the processes.
    """
    settings, topology = sampler.plan.train, sampler.plan.topology
    voxels = settings.batch_size * math.prod(topology.patch_size)
    count = usual_workers(voxels * (4 * len(sampler.plan.channels) + 2)) if workers is None else workers
    return _drawn(_Steps(sampler, start, augment), count)


def usual_workers(batch_bytes: float) -> int:
    """How many processes draw batches of this size ahead on this machine; what they drew waits in shared memory."""
    cores = processors()
    room = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else math.inf  # containers may have very little
    return int(min(MOST_WORKERS, cores // 2, room / (BATCHES_EACH * batch_bytes))) if cores > 2 else 0


def _drawn(steps: _Steps, workers: int) -> Generator[Batch, None, None]:
    if not workers:
        yield from steps
    loader: DataLoader[Batch] = DataLoader(
        steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        # Not forked: a fork copies the locks of torch's threads in whatever state they are.
        multiprocessing_context="spawn",
        worker_init_fn=_expect_signals,
    )
    with signals_held(*_STOPS):  # until `_expect_signals`
        batches = iter(loader)
    yield from batches


def _expect_signals(worker: int) -> None:
    """Let the first signal to stop pass, and die of the second.

    A terminal or a batch system sends them to every process. Training then finishes its step, for which it may still
    wait for a batch, and closes the stream; asked twice, it ends at once.
    """

    def note(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in _STOPS:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    # PyTorch's own watch looks for another parent than at its start, by when the first may be gone.
    end_with_parent()


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker, of which each has one: sums of many voxels depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Steps(IterableDataset[Batch]):
    """Every ``workers``-th step in each process; the loader takes turns, which puts them in order again."""

    def __init__(self, sampler: PatchSampler, start: int, augment: Augmentation | None) -> None:
        self.sampler, self.start, self.augment = sampler, start, augment

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, stride = (self.start, 1) if worker is None else (self.start + worker.id, worker.num_workers)
        while True:
            yield self.sampler.batch(step, self.augment)
            step += stride


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    i, j, k = (1, *size) if len(size) == 2 else size
    return i, j, k
