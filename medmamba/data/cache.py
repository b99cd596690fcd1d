"""Preprocessed cases on disk, ready for patches to be read out of them.

::

    <folder>/
      <id>.image.b2nd       (C, *S) float32
      <id>.label.b2nd       (*S) values; int16, or what `label_type` says where there are larger ones
      <id>.foreground.b2nd  (n, 4) int32: structure and position of sampled foreground voxels
      <id>.json             written last: a case without it is not finished

Compressed in blocks with blosc2, so that a patch is read without the rest of the case. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import Case
from medmamba.data.preprocess import Preprocessor, Sample, Trail, label_type
from medmamba.engines import all_done, exactly, map_cases, suited
from medmamba.errors import DataError
from medmamba.files import content_digest, signature, write_bytes
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Labels
from medmamba.memory import check_reading
from medmamba.plans.plan import Plan
from medmamba.progress import Progress, silent
from medmamba.records import from_json, read_json, to_json, write_json

log = logging.getLogger(__name__)

#: Foreground voxels kept per structure, and the least share of them; nnU-Net's values.
FOREGROUND_VOXELS = 10_000
FOREGROUND_SHARE = 0.01
#: In the table of foreground voxels: any annotated voxel, kept when there is an ignore label.
ANNOTATED = -1
#: Up to this size a chunk holds the whole case: reading it at once is faster than finding blocks.
CHUNK_BYTES = 4 * 2**20
#: Memory a voxel takes about while its case is prepared: for each channel, and for its label and for resampling.
CHANNEL_BYTES, VOXEL_BYTES = 24, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a finished case.

    Args:
        digest: of the plan's preprocessing, see `medmamba.plans.plan.Plan.preprocessing_digest`.
        sources: size and time of change of each source file, see `medmamba.files.Signature`.
        touched: when the system last saw each of them changed.
        content: digest of the source files; empty in records of version 0.1.0.
        shape: (C, *S) of the image.
        trail: the way back to the case's grid.
    """

    digest: str
    sources: tuple[tuple[int, int], ...]
    shape: tuple[int, int, int, int]
    trail: Trail
    touched: tuple[int, ...] = ()
    content: str = ""


class Cache:
    """Finished cases of one preprocessing.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, Record] = {}
        self._foreground: dict[str, NDArray[np.int32]] = {}

    def record(self, case: str) -> Record:
        """What is known of a case."""
        if case not in self._records:
            path = self.folder / f"{case}.json"
            self._records[case] = from_json(Record, read_json(path), str(path))
        return self._records[case]

    def shape(self, case: str) -> tuple[int, int, int]:
        """Voxels of a case, network axis order."""
        return self.record(case).shape[1:]

    def foreground(self, case: str) -> NDArray[np.int32]:
        """(n, 4): structure (or `ANNOTATED`) and position of sampled foreground voxels, sorted by structure."""
        if case not in self._foreground:
            self._foreground[case] = blosc2.open(str(self.folder / f"{case}.foreground.b2nd"), mode="r")[:]
        return self._foreground[case]

    def patch(
        self, case: str, start: Sequence[int], stop: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.signedinteger[Any]]]:
        """A box of a case: image (C, *box) and label (*box); the box lies inside the case."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        image = blosc2.open(str(self.folder / f"{case}.image.b2nd"), mode="r")[(slice(None), *box)]
        label = blosc2.open(str(self.folder / f"{case}.label.b2nd"), mode="r")[box]
        return image, label


def prepare(
    cases: Sequence[Case], plan: Plan, folder: Path, *, progress: Progress = silent, workers: int | None = None
) -> Cache:
    """Preprocess cases that are not finished yet.

    Args:
        cases: with references.
        plan: says how.
        folder: where finished cases go; shared by processes and runs.
        progress: shows how far it is.
        workers: processes; None for what suits the machine and the number of cases, 0 for this process.

    Returns:
        The cache; it holds at least the given cases.

    Raises:
        DataError: if cases cannot be prepared, after all others were: each with the reason.
        OSError: if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(folder)
    digest = plan.preprocessing_digest()
    with FileLock(folder / ".lock"):
        for pattern in (".*.tmp", ".tmp-*"):  # what a killed preparation left; the second, of version 0.1.0
            for leftover in folder.glob(pattern):
                leftover.unlink()
        open_cases = [case for case in cases if not _is_finished(cache, case, digest, plan.labels)]
        if not open_cases:
            return cache
        for case in open_cases:  # from here on it is unfinished, whatever an earlier preparation left
            (folder / f"{case.id}.json").unlink(missing_ok=True)
        log.info("preparing %d of %d cases in %s", len(open_cases), len(cases), folder)
        size = largest_voxels([case.images[0] for case in open_cases]) * (
            CHANNEL_BYTES * len(plan.channels) + VOXEL_BYTES
        )
        engine = suited(len(open_cases), case_bytes=size) if workers is None else exactly(workers)
        function = partial(_prepare_case, plan=plan, folder=folder)
        outcomes = map_cases(function, open_cases, engine, title="Preparing cases", progress=progress)
    all_done(open_cases, outcomes, "prepared", total=len(cases))
    return cache


def _prepare_case(case: Case, plan: Plan, folder: Path) -> None:
    """Prepare and store one case.

    Raises:
        DataError: if it cannot be prepared.
        MemoryError: if there is too little memory now.
        OSError: if it cannot be read or stored.
    """
    check_reading(io.read_geometry(case.images[0]), len(plan.channels))
    if case.label is None:
        raise DataError("it has no reference to learn from")
    image = io.read_case(case)
    label = io.read_label(case.label, within=image.geometry)
    if apart := image.geometry.apart(label.geometry):
        raise DataError(f"image and label lie differently: {apart}")
    unknown = sorted(set(np.unique(label.array).tolist()) - set(plan.labels.allowed_values))
    if unknown:
        raise DataError(f"its label holds values {unknown} that the plan does not know")
    _store(case, Preprocessor(plan).forward(image, label), plan, folder)


def _store(case: Case, sample: Sample, plan: Plan, folder: Path) -> None:
    assert sample.label is not None
    seed = int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:8])
    foreground = sample_foreground(sample.label, plan.labels, np.random.default_rng(seed))
    arrays: dict[str, NDArray[Any]] = {"image": sample.image, "label": sample.label, "foreground": foreground}
    for kind, array in arrays.items():
        chunks = None if array.nbytes <= CHUNK_BYTES else _chunks(array, plan.topology.patch_size)
        compressed = blosc2.asarray(
            np.ascontiguousarray(array),
            contiguous=True,
            chunks=array.shape if chunks is None and array.size else chunks,
            cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
        )
        # The bytes that blosc2 would write itself, but without saying why when it cannot.
        write_bytes(compressed.to_cframe(), folder / f"{case.id}.{kind}.b2nd")
    channels, *size = sample.image.shape
    sources, touched = _signatures(case)
    record = Record(
        digest=plan.preprocessing_digest(),
        sources=sources,
        shape=(channels, size[0], size[1], size[2]),
        trail=sample.trail,
        touched=touched,
        content=content_digest(_source_files(case)),
    )
    write_json(to_json(record), folder / f"{case.id}.json")


def _chunks(array: NDArray[Any], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Chunks about as large as a patch, so that reading one touches few of them; one channel each."""
    spatial = array.shape[-3:]
    patch = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)
    sizes = tuple(max(1, min(n, p)) for n, p in zip(spatial, patch, strict=True))
    return sizes if array.ndim == 3 else (1, *sizes)


def sample_foreground(
    label: NDArray[np.signedinteger[Any]], labels: Labels, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Positions to centre patches on.

    Args:
        label: (*S) values.
        labels: structures, numbered in their order.
        rng: chooses among too many voxels.

    Returns:
        (n, 4) int32: number of the structure and position, sorted by structure.
    """
    wanted = dict(enumerate(structure.values for structure in labels.foreground))
    if labels.ignore is not None:
        wanted[ANNOTATED] = labels.values
    tables = [np.empty((0, 4), dtype=np.int32)]
    for number, values in sorted(wanted.items()):
        positions = np.argwhere(np.isin(label, values))
        keep = max(FOREGROUND_VOXELS, int(np.ceil(FOREGROUND_SHARE * len(positions))))
        if len(positions) > keep:
            positions = positions[np.sort(rng.choice(len(positions), keep, replace=False))]
        tables.append(np.column_stack([np.full(len(positions), number), positions]).astype(np.int32))
    return np.concatenate(tables)


def _is_finished(cache: Cache, case: Case, digest: str, labels: Labels) -> bool:
    path = cache.folder / f"{case.id}.json"
    if not path.is_file():
        return False
    try:
        record = from_json(Record, read_json(path), str(path))
    except ValueError as error:
        log.warning("%s; preparing the case again", error)
        return False
    files = [cache.folder / f"{case.id}.{kind}.b2nd" for kind in ("image", "label", "foreground")]
    sources, touched = _signatures(case)
    if record.digest != digest or record.sources != sources or not all(file.is_file() for file in files):
        return False
    # Version 0.1.0 kept all labels as int16, in which larger values became others.
    kind = label_type(labels)
    if kind != np.int16 and blosc2.open(str(files[1]), mode="r").dtype != kind:
        return False
    if record.content and record.touched != touched:
        # A file of the same size and date may be another one all the same, or the same in another place.
        if record.content != content_digest(_source_files(case)):
            return False
        write_json(to_json(replace(record, touched=touched)), path)
    return True


def _source_files(case: Case) -> list[Path]:
    return [file for image in case.files for file in io.files(image)]


def _signatures(case: Case) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Of its source files, as a record keeps them: ``sources`` and ``touched``."""
    found = [signature(file) for file in _source_files(case)]
    return tuple((one.size, one.changed_ns) for one in found), tuple(one.touched_ns for one in found)
