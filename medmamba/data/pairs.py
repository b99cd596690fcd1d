"""Prepared pairs on disk: images aligned, normalised and on the working grid.

::

    <folder>/
      <id>.image.b2nd   (N, *S) float32, 0 to 1
      <id>.label.b2nd   (N, *S) int16, values by their place among the plan's labels; absent where there is no map
      <id>.mask.b2nd    (*S) uint8, where the first image counts; absent where that is everywhere
      <id>.json         written last: an entry without it is not finished

An entry is a subject, whose image (N = 1) is on the grid of the plan's reference, so that any two make a pair; or,
without a reference, a pair (N = 2), fixed image first, on the fixed image's own working grid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import Case, Pair
from medmamba.data.align import align
from medmamba.data.working_grid import placed, working_grid
from medmamba.engines import all_done, exactly, map_cases, suited
from medmamba.errors import DataError
from medmamba.files import content_digest, write_bytes
from medmamba.intensity import unusable
from medmamba.io.sizes import largest_voxels
from medmamba.plans.plan import ChannelPlan, Plan
from medmamba.progress import Progress, silent
from medmamba.records import from_json, read_json, to_json, write_json
from medmamba.transform import Affine
from medmamba.volume import Geometry, Volume, marked_box

log = logging.getLogger(__name__)

#: Memory a voxel takes about while its image is aligned and placed.
VOXEL_BYTES = 64
#: What is darker than this is background, of images from 0 to 1.
BACKGROUND = 0.02
#: Where an aligned label lies beyond its image.
NO_LABEL = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is prepared together.

    Args:
        id: of a subject, or of a pair.
        cases: the subject, or fixed and moving image.
        onto: whose working grid they come on.
    """

    id: str
    cases: tuple[Case, ...]
    onto: Case


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """What is known of a finished entry.

    Args:
        digest: of the plan's preprocessing.
        content: digest of the source files.
        shape: (*S) of the working grid.
        affine: 4x4, from voxels of the working grid to RAS millimetres.
        aligned: for each image the 4x4 map from the grid's image to it, RAS millimetres.
        box: first voxel, and behind the last, of what is not background.
        structures: for each image the places of the labels that occur in its map; empty without a map.
        has_mask: whether the first image has a mask.
        remarks: of the alignments.
    """

    digest: str
    content: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    aligned: tuple[tuple[tuple[float, ...], ...], ...]
    box: tuple[tuple[int, int, int], tuple[int, int, int]]
    structures: tuple[tuple[int, ...], ...]
    has_mask: bool
    remarks: tuple[str, ...] = ()

    @property
    def grid(self) -> Geometry:
        """The working grid."""
        return Geometry(self.shape, np.array(self.affine))


@dataclass(frozen=True, slots=True)
class Image:
    """Where a side of a pair is kept: the entry, and its place there."""

    entry: str
    place: int


class PairCache:
    """Finished entries, and the pairs that are made of them.

    Args:
        folder: where they are.
        pairs: of the fold.
        has_reference: an entry is a subject.
    """

    def __init__(self, folder: Path, pairs: Sequence[Pair], *, has_reference: bool) -> None:
        self.folder, self.pairs, self.has_reference = folder, tuple(pairs), has_reference
        self._records: dict[str, PairRecord] = {}

    def sides(self, pair: Pair) -> tuple[Image, Image]:
        """Where fixed and moving image of a pair are."""
        if self.has_reference:
            return Image(pair.fixed.id, 0), Image(pair.moving.id, 0)
        return Image(pair.id, 0), Image(pair.id, 1)

    def record(self, entry: str) -> PairRecord:
        """What is known of an entry."""
        if entry not in self._records:
            path = self.folder / f"{entry}.json"
            self._records[entry] = from_json(PairRecord, read_json(path), str(path))
        return self._records[entry]

    def image(self, image: Image, box: tuple[slice, ...]) -> NDArray[np.float32]:
        """A box of an image."""
        return np.asarray(self._open(image.entry, "image")[(image.place, *box)], dtype=np.float32)

    def label(self, image: Image, box: tuple[slice, ...]) -> NDArray[np.int16] | None:
        """A box of its label map; None without one."""
        if not self.record(image.entry).structures[image.place]:
            return None
        return np.asarray(self._open(image.entry, "label")[(image.place, *box)], dtype=np.int16)

    def mask(self, image: Image, box: tuple[slice, ...]) -> NDArray[np.uint8] | None:
        """A box of the mask of an entry's first image; None without one."""
        if image.place or not self.record(image.entry).has_mask:
            return None
        return np.asarray(self._open(image.entry, "mask")[box], dtype=np.uint8)

    def _open(self, entry: str, kind: str) -> Any:
        return blosc2.open(str(self.folder / f"{entry}.{kind}.b2nd"), mode="r")


def prepare_pairs(
    pairs: Sequence[Pair],
    plan: Plan,
    folder: Path,
    *,
    reference: Case | None,
    progress: Progress = silent,
    workers: int | None = None,
) -> PairCache:
    """Prepare what is not finished yet; an interrupted preparation goes on where it was.

    Args:
        pairs: of the fold.
        plan: for registration.
        folder: where finished entries go; shared by processes and runs.
        reference: the case that all images are brought to; None: each moving one to its fixed one.
        progress: shows how far it is.
        workers: processes; None for what suits the machine, 0 for this process.

    Raises:
        DataError: if there are no pairs, or images cannot be prepared, after all others were: each with the reason.
    """
    if not pairs:
        raise DataError(f"{plan.dataset}: the fold holds no pairs; choose another, or 'all' to learn from every pair")
    entries = _entries(pairs, reference)
    cache = PairCache(folder, pairs, has_reference=reference is not None)
    folder.mkdir(parents=True, exist_ok=True)
    digest = plan.preprocessing_digest()
    with FileLock(folder / ".lock"):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        waiting = [entry for entry in entries if not _is_finished(folder, entry, digest)]
        for entry in waiting:
            (folder / f"{entry.id}.json").unlink(missing_ok=True)
        if waiting:
            log.info("preparing %d of %d entries in %s", len(waiting), len(entries), folder)
            size = VOXEL_BYTES * 2 * largest_voxels([case.images[0] for entry in waiting for case in entry.cases])
            engine = suited(len(waiting), case_bytes=size) if workers is None else exactly(workers)
            function = partial(_prepare_entry, plan=plan, folder=folder)
            outcomes = map_cases(function, waiting, engine, title="Aligning images", progress=progress)
            all_done(waiting, outcomes, "prepared", total=len(entries))
    for entry in entries:
        for remark in cache.record(entry.id).remarks:
            log.warning("%s: %s", entry.id, remark)
    return cache


def _entries(pairs: Sequence[Pair], reference: Case | None) -> list[Entry]:
    if reference is None:
        return [Entry(id=pair.id, cases=pair.cases, onto=pair.fixed) for pair in pairs]
    cases = {case.id: case for pair in pairs for case in pair.cases}
    return [Entry(id=case.id, cases=(case,), onto=reference) for _, case in sorted(cases.items())]


def _prepare_entry(entry: Entry, plan: Plan, folder: Path) -> None:
    """Align, normalise, place and store an entry.

    Raises:
        DataError: if it cannot be prepared.
    """
    assert plan.registration is not None
    ground = _read(entry.onto)
    grid = working_grid(ground.geometry, plan.spacing_mm, plan.topology.total_stride)
    masks = {case.id: _mask(case) for case in (entry.onto, *entry.cases)}
    images, labels, aligned, structures = [], [], [], []
    remarks: list[str] = []
    for place, case in enumerate(entry.cases):
        volume = ground if case.id == entry.onto.id else _read(case)
        affine = Affine(np.eye(4))
        if case.id != entry.onto.id:
            found = align(
                ground,
                volume,
                how=plan.registration.affine,
                fixed_mask=masks[entry.onto.id],
                moving_mask=masks[case.id],
            )
            affine = found.affine
            remarks += found.remarks
        # In subjects' entries either side may be the channel's; both then are of one kind.
        images.append(placed(normalised(volume, plan.channels[place]), affine, grid).array[0])
        labels.append(_placed_label(case, plan, volume.geometry, affine, grid))
        structures.append(() if case.label is None else tuple(int(n) for n in np.unique(labels[-1]) if n > 0))
        aligned.append(affine.matrix)
    mask = masks[entry.cases[0].id]
    arrays: dict[str, NDArray[Any]] = {"image": np.stack(images)}
    if any(structures):
        arrays["label"] = np.stack(labels)
    if mask is not None:
        first = Volume((mask.array != 0).astype(np.uint8), mask.geometry)
        arrays["mask"] = placed(first, Affine(aligned[0]), grid, "nearest").array[0]
    for kind, array in arrays.items():
        packed = blosc2.asarray(
            np.ascontiguousarray(array),
            contiguous=True,
            cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1},
        )
        write_bytes(packed.to_cframe(), folder / f"{entry.id}.{kind}.b2nd")
    box = marked_box(np.max(images, axis=0) > BACKGROUND) or tuple(slice(0, n) for n in grid.shape)
    (a, b, c), (x, y, z) = ([getattr(part, end) for part in box] for end in ("start", "stop"))
    record = PairRecord(
        digest=plan.preprocessing_digest(),
        content=_content(entry),
        shape=grid.shape,
        affine=_rows(grid.affine),
        aligned=tuple(map(_rows, aligned)),
        box=((a, b, c), (x, y, z)),
        structures=tuple(structures),
        has_mask=mask is not None,
        remarks=tuple(remarks),
    )
    write_json(to_json(record), folder / f"{entry.id}.json")


def normalised(volume: Volume, channel: ChannelPlan) -> Volume:
    """An image from 0 to 1, as a plan for registration has it.

    Args:
        volume: (1, ...) as it was read.
        channel: "window" clips to the percentiles in the plan, "percentiles" to those of this image's voxels that are
            not its smallest value.

    Raises:
        DataError: for intensities that are no measurements, an image that is the same everywhere, or another
            normalisation.
    """
    if wrong := unusable(volume.array):
        raise DataError(f"{wrong}; replace them, for example by the background's intensity")
    array = volume.array.astype(np.float32)
    if channel.normalization == "window":
        low, high = channel.intensities.percentile_00_5, channel.intensities.percentile_99_5
    elif channel.normalization == "percentiles":
        least = float(array.min())
        inside = array[array > least]
        low, high = (float(each) for each in np.percentile(inside, (0.5, 99.5))) if inside.size else (least, least)
    else:
        raise DataError(
            f"images to register are normalised by 'percentiles' or by a 'window', not {channel.normalization!r}; "
            "correct channels in the plan"
        )
    if not high > low:
        raise DataError(f"the image has nothing between {low:g} and {high:g}; look at it, and at channels in the plan")
    return volume.with_array(np.clip((array - low) / (high - low), 0, 1))


def _read(case: Case) -> Volume:
    volume = io.read_case(case)
    if volume.channels != 1:
        raise DataError(f"{case.images[0]} has {volume.channels} channels, and registration takes one")
    return volume


def _mask(case: Case) -> Volume | None:
    return None if case.mask is None else io.read_label(case.mask)


def _placed_label(case: Case, plan: Plan, image: Geometry, affine: Affine, grid: Geometry) -> NDArray[np.int16]:
    if case.label is None:
        return np.full(grid.shape, NO_LABEL, dtype=np.int16)
    label = io.read_label(case.label, within=image)
    if apart := image.apart(label.geometry):
        raise DataError(f"image and label of {case.id} lie differently: {apart}")
    numbered = Volume(plan.labels.number(label.array), image)
    return np.asarray(placed(numbered, affine, grid, "label").array[0], dtype=np.int16)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _content(entry: Entry) -> str:
    paths = {file: None for case in (*entry.cases, entry.onto) for file in case.files if file != case.points}
    return content_digest([file for path in paths for file in io.files(path)])


def _is_finished(folder: Path, entry: Entry, digest: str) -> bool:
    path = folder / f"{entry.id}.json"
    if not path.is_file():
        return False
    try:
        record = from_json(PairRecord, read_json(path), str(path))
    except ValueError as error:
        log.warning("%s; preparing it again", error)
        return False
    kinds = ["image", *["label"] * any(record.structures), *["mask"] * record.has_mask]
    there = all((folder / f"{entry.id}.{kind}.b2nd").is_file() for kind in kinds)
    return record.digest == digest and there and record.content == _content(entry)
