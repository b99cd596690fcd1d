"""A fingerprint: what was measured about a data set, and enough to see whether it still describes it.

The measurements are nnU-Net's: cases are cropped to the box of their non-zero voxels, and the intensities of foreground
voxels are described by the same random sample. Shapes and spacings are in array order (see `medmamba.volume`), where
nnU-Net stores them reversed.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case, Dataset, some
from medmamba.engines import Failure, all_done, map_cases, suited
from medmamba.errors import DataError
from medmamba.files import signature
from medmamba.intensity import no_data_remark, unusable
from medmamba.io import files, is_image, read_case, read_geometry, read_label
from medmamba.io.layouts.editions import like_editions
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Labels
from medmamba.memory import TooLittleMemoryError, check_reading
from medmamba.plans.intensities import Sample, foreground_samples, statistics
from medmamba.plans.plan import IntensityStatistics
from medmamba.progress import Progress, silent
from medmamba.records import from_json, read_json, to_json, write_json
from medmamba.volume import Volume, bounding_box

log = logging.getLogger(__name__)

#: Rises with every change of meaning of a field.
SCHEMA = 1

#: Foreground voxels drawn from the whole data set, evenly over its cases.
FOREGROUND_SAMPLES = 100_000_000
#: Memory a voxel takes about while its case is measured: for each channel, and for its label and the draws.
CHANNEL_BYTES, VOXEL_BYTES = 16, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFingerprint:
    """What was measured about one training case.

    Args:
        id: name of the case.
        shape: voxels along each array axis.
        cropped_shape: the same of the box of non-zero voxels.
        spacing_mm: voxel size along each array axis.
        label_voxels: how often each value occurs in the label file, by value.
        source: signature of the case's files (see `case_signature`).
    """

    id: str
    shape: tuple[int, int, int]
    cropped_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    label_voxels: dict[str, int]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What was measured about the training cases of a data set.

    Args:
        dataset: name of the data set.
        dataset_root: where it was.
        channels: names of the image channels.
        cases: the training cases, in the order of the data set.
        intensities: of the foreground voxels, per channel.
        median_relative_size: median over the cases of voxels after cropping / voxels before.
        schema: version of this format.

    Raises:
        DataError: if there are no cases, or not one entry of intensities per channel.
    """

    dataset: str
    dataset_root: str
    channels: tuple[str, ...]
    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    median_relative_size: float
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise DataError(f"fingerprint has schema {self.schema}, this version of medmamba reads {SCHEMA}")
        if not self.cases or len(self.intensities) != len(self.channels):
            raise DataError(
                f"a fingerprint needs at least one case and intensities of each channel, got {len(self.cases)} cases "
                f"and {len(self.intensities)} for channels {', '.join(self.channels)}"
            )

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Read a fingerprint.

        Raises:
            FileNotFoundError: if there is no such file.
            DataError: if it is not a fingerprint, naming the key that is wrong.
        """
        return from_json(cls, read_json(path), str(path))

    def save(self, path: Path) -> None:
        """Write the fingerprint as readable JSON."""
        write_json(to_json(self), path)

    def describes(self, dataset: Dataset) -> bool:
        """Whether these are the measurements of this data set's training cases as they are on disk, and read, now."""
        measured = {case.id: case for case in self.cases}
        return (
            self.channels == dataset.channels
            and measured.keys() == {case.id for case in dataset.training}
            and all(_is_measured(case, measured[case.id]) for case in dataset.training)
        )

    def check_labels(self, labels: Labels, edition: str = "") -> None:
        """See whether the label files hold nothing but what the labels explain.

        Args:
            labels: of the data set.
            edition: of BraTS, whose labels they are, if any.

        Raises:
            DataError: for values without a meaning, naming the cases.
        """
        allowed = {str(value) for value in labels.allowed_values}
        strange = {case.id: sorted(set(case.label_voxels) - allowed, key=int) for case in self.cases}
        strange = {case: values for case, values in strange.items() if values}
        if strange:
            shown = "; ".join(f"{case} holds {', '.join(values)}" for case, values in list(strange.items())[:5])
            held = {int(value) for case in self.cases for value in case.label_voxels}
            words = f"; {like_editions(held)}" if like_editions(held) else ""
            remedy = f"name another edition than {edition}" if edition else "name the values in dataset.json"
            raise DataError(
                f"label files may hold {', '.join(map(str, labels.allowed_values))}, but {len(strange)} of "
                f"{len(self.cases)} cases hold other values: {shown}{' ...' if len(strange) > 5 else ''}; correct the "
                f"files, or {remedy}{words}"
            )


def _is_measured(case: Case, measured: CaseFingerprint) -> bool:
    """Whether the case's files are those that were measured, and their voxels of the size that was found then.

    Version 0.1.0 took lengths in micrometres and metres for millimetres.
    """
    return case_signature(case) == measured.source and bool(
        np.allclose(read_geometry(case.images[0]).spacing_mm, measured.spacing_mm, rtol=1e-3)
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and is_image(path)


def case_signature(case: Case) -> str:
    """Twelve hexadecimal digits that change when a file of the case is exchanged or edited.

    Made of name, size and time of last change, of all files where an image is a folder, so that telling whether a data
    set is still the same takes milliseconds. Folders on the way do not count: a data set that is moved with its file
    times stays the same.

    Raises:
        FileNotFoundError: if a file is gone.
    """
    parts = [part for path in case.files for part in (files(path) if _is_folder(path) else (path,))]
    found = [(path.name, signature(path)) for path in parts]
    facts = [f"{name}\0{one.size}\0{one.changed_ns}" for name, one in found]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def fingerprint(dataset: Dataset, progress: Progress = silent, *, workers: int | None = None) -> Fingerprint:
    """Measure the training cases of a data set.

    Args:
        dataset: read in place, nothing is written.
        progress: told about each case.
        workers: cases that are read at the same time; what suits the machine when None.

    Raises:
        FileNotFoundError: if a file of a case is missing.
        MemoryError: if a case is larger than there is memory.
        DataError: if there are no training cases, cases cannot be measured, each with the reason, or none has any
            foreground.
    """
    cases = dataset.training
    if not cases:
        raise DataError(f"{dataset.root} has no training cases: there is nothing to learn from")
    missing = [str(path) for case in cases for path in case.files if not is_image(path)]
    if missing:  # known before hours of measuring the others
        raise FileNotFoundError(
            f"{len(missing)} files of training cases are not there: {some(missing)}; restore them or leave out "
            "the cases"
        )
    size = largest_voxels([case.images[0] for case in cases]) * (CHANNEL_BYTES * len(dataset.channels) + VOXEL_BYTES)
    function = partial(_measure, channels=dataset.channels, samples=FOREGROUND_SAMPLES // len(cases))
    engine = suited(len(cases), at_most=workers, case_bytes=size)
    outcomes = map_cases(function, cases, engine, title="Measuring cases", progress=progress)
    for case, outcome in zip(cases, outcomes, strict=True):
        if isinstance(outcome, Failure) and outcome.kind in ("memory", "killed"):
            raise TooLittleMemoryError(f"case {case.id!r} cannot be measured: {outcome.reason}")
    ordered = all_done(cases, outcomes, "measured")
    if not any(sample.drawn for measurement in ordered for sample in measurement.foreground):
        raise DataError(
            f"no case of {dataset.root} has a voxel labelled as foreground: there is nothing to learn; check the label "
            "files"
        )
    return Fingerprint(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        channels=dataset.channels,
        cases=tuple(measurement.case for measurement in ordered),
        intensities=tuple(
            statistics([measurement.foreground[channel] for measurement in ordered])
            for channel in range(len(dataset.channels))
        ),
        median_relative_size=float(np.median([np.prod(m.case.cropped_shape) / np.prod(m.case.shape) for m in ordered])),
    )


class _Measurement(NamedTuple):
    case: CaseFingerprint
    foreground: tuple[Sample, ...]


def _measure(case: Case, channels: tuple[str, ...], samples: int) -> _Measurement:
    if case.label is None:
        raise DataError("it has no label file")
    check_reading(read_geometry(case.images[0]), len(channels))
    image = read_case(case)
    label = read_label(case.label, within=image.geometry)
    _check(case, channels, image, label)
    # nnU-Net also fills holes in the mask, which does not change its box.
    box = bounding_box(np.any(image.array != 0, axis=0))
    i, j, k = (part.stop - part.start for part in box)
    return _Measurement(
        CaseFingerprint(
            id=case.id,
            shape=image.geometry.shape,
            cropped_shape=(i, j, k),
            spacing_mm=image.geometry.spacing_mm,
            label_voxels=_label_voxels(label.array[0]),
            source=case_signature(case),
        ),
        foreground_samples(image.array[:, *box], label.array[0][box], samples),
    )


def _label_voxels(label: NDArray[Any]) -> dict[str, int]:
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        values, voxels = np.unique(label, return_counts=True)
        return {str(int(value)): int(n) for value, n in zip(values, voxels, strict=True)}
    # Sorting a whole CT takes seconds, counting it slice by slice a tenth of that.
    counts = np.zeros(high + 1, dtype=np.int64)
    for part in label:
        counts += np.bincount(part.ravel().astype(np.int64), minlength=high + 1)
    return {str(value): int(n) for value, n in enumerate(counts) if n}


def _check(case: Case, channels: tuple[str, ...], image: Volume, label: Volume) -> None:
    if image.channels != len(channels):
        raise DataError(f"it has {image.channels} channels, the data set has {len(channels)}: {', '.join(channels)}")
    if apart := image.geometry.apart(label.geometry):
        raise DataError(f"image and label are not on the same grid: {apart}; resample {case.label} to the image's grid")
    if rounded := image.geometry.rounded(label.geometry):
        log.warning("case %s: image and label lie less than half a voxel apart, taken as one: %s", case.id, rounded)
    for name, channel in zip(channels, image.array, strict=True):
        wrong = unusable(channel)
        if wrong:
            raise DataError(f"channel {name!r}: {wrong}; replace them, for example by the background's intensity")
        remark = no_data_remark(channel)
        if remark:
            log.warning("case %s, channel %s: %s", case.id, name, remark)
