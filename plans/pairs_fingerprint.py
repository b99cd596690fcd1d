"""What is measured about the images of pairs: grids, where something is in them, intensities, modality."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case, Dataset
from medmamba.engines import all_done, map_cases, suited
from medmamba.errors import DataError
from medmamba.intensity import unusable
from medmamba.io import read_case, read_geometry, read_label
from medmamba.io.sizes import largest_voxels
from medmamba.memory import check_reading
from medmamba.plans.fingerprint import case_signature
from medmamba.plans.plan import IntensityStatistics
from medmamba.progress import Progress, silent
from medmamba.records import from_json, read_json, to_json, write_json
from medmamba.volume import Volume, bounding_box, closest_axes

SCHEMA = 1
#: Images that reach below this are in Hounsfield units.
AIR_BELOW = -200.0
#: What of a CT is body, in Hounsfield units; of other images, the share of the 99.5th percentile above the least.
BODY_ABOVE, SHARE_ABOVE = -500.0, 0.05
#: Parts of names of files and folders that tell the modality.
MODALITIES = (
    "t1",
    "t1w",
    "t1c",
    "t1ce",
    "t1n",
    "t2",
    "t2w",
    "flair",
    "pd",
    "dwi",
    "mr",
    "mri",
    "ct",
    "cbct",
    "pet",
    "us",
)
#: Where names tell nothing.
UNKNOWN = "image"
#: What is a CT by its name and has nothing as dark as air in Hounsfield units: cut to the body, or on another scale.
AIRLESS = "CT without air"
#: Memory a voxel takes about while its image is measured.
VOXEL_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFingerprint:
    """What was measured about one image; sizes and spacings along the array axes closest to R, A, S.

    Args:
        id: of the case.
        shape: voxels.
        spacing_mm: of a voxel.
        body_mm: size of the box around what is not background.
        orientation: where its array axes point to.
        modality: ``CT`` for Hounsfield units, else as names tell, ``CT without air`` among them, or ``image``.
        intensities: of what is not background.
        label_values: that occur in its label map; empty without one.
        source: signature of its files.
    """

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    body_mm: tuple[float, float, float]
    orientation: str
    modality: str
    intensities: IntensityStatistics
    label_values: tuple[int, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsFingerprint:
    """What was measured about the images of a data set of pairs, in its order."""

    dataset: str
    dataset_root: str
    images: tuple[ImageFingerprint, ...]
    schema: int = SCHEMA

    @classmethod
    def load(cls, path: Path) -> PairsFingerprint:
        """Read a fingerprint.

        Raises:
            FileNotFoundError: if there is no such file.
            DataError: if it is not a fingerprint of pairs.
        """
        return from_json(cls, read_json(path), str(path))

    def save(self, path: Path) -> None:
        """Write the fingerprint as readable JSON."""
        write_json(to_json(self), path)

    def describes(self, dataset: Dataset) -> bool:
        """Whether these are the measurements of the data set's images as they are on disk now."""
        measured = {image.id: image.source for image in self.images}
        return measured == {case.id: case_signature(case) for case in dataset.training}

    def of(self, cases: Sequence[Case]) -> tuple[ImageFingerprint, ...]:
        """The measurements of some cases, each once."""
        wanted = {case.id for case in cases}
        return tuple(image for image in self.images if image.id in wanted)


def pairs_fingerprint(dataset: Dataset, progress: Progress = silent, *, workers: int | None = None) -> PairsFingerprint:
    """Measure the images of pairs.

    Raises:
        FileNotFoundError: if a file is missing.
        DataError: if images cannot be measured, each with the reason.
    """
    cases = dataset.training
    size = largest_voxels([case.images[0] for case in cases]) * VOXEL_BYTES
    outcomes = map_cases(
        _measure,
        cases,
        suited(len(cases), at_most=workers, case_bytes=size),
        title="Measuring images",
        progress=progress,
    )
    return PairsFingerprint(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        images=tuple(all_done(cases, outcomes, "measured")),
    )


def _measure(case: Case) -> ImageFingerprint:
    check_reading(read_geometry(case.images[0]), 1)
    return image_fingerprint(case, read_case(case))


def image_fingerprint(case: Case, image: Volume) -> ImageFingerprint:
    """Measure one image.

    Args:
        case: whose it is; its label map is read for its values.
        image: as `medmamba.io.read_case` gives it.

    Raises:
        DataError: if it cannot be registered, or its label map lies on another grid.
    """
    geometry = image.geometry
    if image.channels != 1:
        raise DataError(
            f"registration takes one channel, but it has {image.channels} (a fourth axis of time, or several "
            "modalities); write the one to register to a file of its own"
        )
    if min(geometry.shape) < 2:
        raise DataError(f"registration takes volumes, but it has {' x '.join(map(str, geometry.shape))} voxels")
    array = image.array[0]
    if wrong := unusable(array):
        raise DataError(f"{wrong}; replace them, for example by the background's intensity")
    low, high = np.percentile(array, (0, 99.5))
    is_ct = bool(low < AIR_BELOW)
    body = array > (BODY_ABOVE if is_ct else low + SHARE_ABOVE * (high - low))
    if not body.any():
        raise DataError("the image is the same everywhere, or air alone: there is nothing to register")
    axes, _ = closest_axes(geometry)
    box = bounding_box(body)
    values: tuple[int, ...] = ()
    if case.label is not None:
        label = read_label(case.label, within=geometry)
        if apart := geometry.apart(label.geometry):
            raise DataError(f"image and label are not on the same grid: {apart}; resample {case.label} to the image's")
        values = tuple(int(value) for value in np.unique(label.array))
    i, j, k = axes
    size = [(part.stop - part.start) * spacing for part, spacing in zip(box, geometry.spacing_mm, strict=True)]
    return ImageFingerprint(
        id=case.id,
        shape=(geometry.shape[i], geometry.shape[j], geometry.shape[k]),
        spacing_mm=(geometry.spacing_mm[i], geometry.spacing_mm[j], geometry.spacing_mm[k]),
        body_mm=(size[i], size[j], size[k]),
        orientation=geometry.orientation,
        modality="CT" if is_ct else _told(case.images[0]),
        intensities=_statistics(array[body]),
        label_values=values,
        source=case_signature(case),
    )


def _statistics(values: NDArray[Any]) -> IntensityStatistics:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return IntensityStatistics(
        mean=float(values.mean(dtype=np.float64)),
        median=float(median),
        std=float(values.std(dtype=np.float64)),
        min=float(values.min()),
        max=float(values.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _told(path: Path) -> str:
    """The modality that the name of a file tells, or else that of its folder, of an image without dark air."""
    for name in (path.name, path.parent.name):
        for word in re.split(r"[^a-z0-9]+", name.lower()):
            if word in MODALITIES:
                return AIRLESS if word == "ct" else word.upper()
    return UNKNOWN
