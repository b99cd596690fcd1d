"""Small valid DICOM series made up for tests, of a function over space, so that the truth at any place is known.

All positions are in DICOM's own coordinates: mm, x to the left, y to the back, z to the head (LPS).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from tests.dicom_objects import (
    CLASSES,
    OF_ALL,
    OF_MODALITY,
    PATIENT,
    TOLD_BY,
    Slice,
    ToldBy,
    decimals,
    item,
    multi_frame,
    save,
    uid_of,
)
from tests.dicom_objects import SECRETS as SECRETS

#: The value at places (..., 3), in mm, LPS.
Content = Callable[[NDArray[np.float64]], NDArray[np.float64]]

OBLIQUE = ((0.8, 0.6, 0.0), (-0.36, 0.48, -0.8))
#: Along a row (to the next column) and down a column (to the next row).
PLANES: dict[str, ArrayLike] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": OBLIQUE,
    "feet_up": ((1, 0, 0), (0, -1, 0)),  # the normal points to the feet
}


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """Of a value that is added where it is."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    value: float

    def inside(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the places (..., 3) are in it."""
        inside: NDArray[np.bool_] = (((points - self.centre_mm) / self.radii_mm) ** 2).sum(-1) <= 1
        return inside


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A ramp through space, on which linear interpolation is exact, with ellipsoids in it."""

    base: float = 300.0
    ramp_per_mm: tuple[float, float, float] = (2.0, -1.0, 3.0)
    ellipsoids: tuple[Ellipsoid, ...] = ()

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self.base + points @ np.asarray(self.ramp_per_mm)
        return values + sum(each.value * each.inside(points) for each in self.ellipsoids)


HEAD = Phantom(
    ellipsoids=(
        Ellipsoid(centre_mm=(3, -2, 4), radii_mm=(15, 13, 11), value=400),
        Ellipsoid(centre_mm=(8, 3, 6), radii_mm=(5, 4, 4), value=600),
    )
)
RAMP = Phantom()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A series as it was written; `slices` ascend along the normal, repetition after repetition."""

    folder: Path
    uid: str
    study_uid: str
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing_mm: tuple[float, float]  # between rows, between columns
    slices: tuple[Slice, ...]

    @property
    def files(self) -> list[Path]:
        """Each once, ascending along the normal."""
        return list(dict.fromkeys(each.file for each in self.slices))

    def array(self, repetition: int = 0) -> NDArray[np.float64]:
        """Values (columns, rows, slices), ascending along the normal."""
        chosen = [each.values for each in self.slices if each.repetition == repetition]
        return np.stack(chosen).transpose(2, 1, 0)

    @property
    def affine(self) -> NDArray[np.float64]:
        """From indices of `array` to mm in RAS, for a stack that is even (a tilted one has a shear in it)."""
        first, second = (each.position_mm for each in self.slices[:2])
        matrix = np.eye(4)
        axes = (self.row * self.spacing_mm[1], self.column * self.spacing_mm[0], second - first)
        matrix[:3] = np.column_stack((*axes, first))
        return np.diag([-1.0, -1, 1, 1]) @ matrix

    def points(self, each: Slice) -> NDArray[np.float64]:
        """Centres of the pixels (rows, columns, 3) in mm, LPS."""
        return _points(each.position_mm, self.row, self.column, self.spacing_mm, each.values.shape)


def _points(
    position: NDArray[np.float64], row: ArrayLike, column: ArrayLike, spacing: tuple[float, float], shape: Sequence[int]
) -> NDArray[np.float64]:
    down, right = np.meshgrid(np.arange(shape[0]) * spacing[0], np.arange(shape[1]) * spacing[1], indexing="ij")
    points: NDArray[np.float64] = position + down[..., None] * np.asarray(column) + right[..., None] * np.asarray(row)
    return points


def series(  # a keyword for everything that may be odd about a series
    folder: Path,
    content: Content | Sequence[Content] = HEAD,
    *,
    name: str = "series",
    study: str = "study",
    frame_of_reference: str = "frame",
    description: str = "T1 post GD",
    modality: str = "CT",
    plane: str | ArrayLike = "axial",
    centre_mm: tuple[float, float, float] = (2.0, -1.0, 5.0),
    shape: tuple[int, int] = (24, 32),
    spacing_mm: tuple[float, float] = (1.8, 1.4),
    slices: int = 10,
    step_mm: float = 3.0,
    heights_mm: Sequence[float] | None = None,
    tilt_deg: float = 0.0,
    missing: Sequence[int] = (),
    duplicates: Sequence[int] = (),
    odd_shapes: Mapping[int, tuple[int, int]] | None = None,
    told_by: ToldBy = "time",
    order: Literal["ascending", "reversed", "shuffled"] = "ascending",
    numbers: Literal["as files", "shuffled", "none"] = "as files",
    file_name: str = "IM{:04d}.dcm",
    rescale: tuple[float, float] | Callable[[int], tuple[float, float]] | None = (1.0, -1024.0),
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2",
    signed: bool = False,
    bits: int = 16,
    syntax: str = uid.ExplicitVRLittleEndian,
    enhanced: bool = False,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Made:
    """Write a series into a folder, which may hold others.

    Args:
        folder: Made where it is not there.
        content: What is scanned; several for repeated positions (time points, echoes).
        name: Of the series: the same words, the same UIDs (also for `study` and `frame_of_reference`). Two calls with
            one name make a series of two orientations; give them different names of files.
        study: The same for series of one study.
        frame_of_reference: The same for series that share coordinates.
        description: SeriesDescription.
        modality: CT, MR or PT.
        plane: Key of `PLANES`, or directions along a row and down a column.
        centre_mm: The middle of the stack.
        shape: Rows, columns.
        spacing_mm: Between rows, between columns.
        slices: Their number.
        step_mm: Between slices, along the normal.
        heights_mm: Of the slices along the normal, instead of `slices` and `step_mm`.
        tilt_deg: Each slice is moved along its columns by its height times the tangent of this (gantry tilt).
        missing: Indices, from the bottom, that are left out.
        duplicates: Indices that are there twice, as two instances with the same content.
        odd_shapes: Rows and columns of some slices that differ from the others.
        told_by: What tells contents at one position apart.
        order: Of file names (or frames) along the normal, repetition after repetition.
        numbers: InstanceNumber.
        file_name: With a place for the number: "{:d}" has no extension.
        rescale: Slope and intercept, of all slices or by index, or None for no such attributes.
        photometric: How pixels are to be shown; stored numbers are the same.
        signed: Of the stored numbers.
        bits: Of the stored numbers, which take 16 in the file.
        syntax: Transfer syntax; RLE, JPEG-LS and JPEG 2000 (lossless) need what pydicom encodes them with, and
            JPEG 2000 at least 32 rows and columns.
        enhanced: All frames in one file, a classic file for each else.
        attributes: More or others, of every file; None leaves one out.
        seed: Of what is shuffled.
    """
    rng = np.random.default_rng([seed, len(name)])
    row, column = np.asarray(PLANES[plane] if isinstance(plane, str) else plane, dtype=float)
    normal = np.cross(row, column)
    heights = np.asarray(heights_mm if heights_mm is not None else (np.arange(slices) - (slices - 1) / 2) * step_mm)
    corner = centre_mm - (row * spacing_mm[1] * (shape[1] - 1) + column * spacing_mm[0] * (shape[0] - 1)) / 2

    def scaling(index: int) -> tuple[float, float]:
        return rescale(index) if callable(rescale) else rescale or (1.0, 0.0)

    dtype = np.dtype(np.int16 if signed else np.uint16)
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    made: list[tuple[Slice, NDArray[Any], int]] = []
    contents = [content] if callable(content) else list(content)
    for repetition, scanned in enumerate(contents):
        for index, height in enumerate(heights):
            if index in missing:
                continue
            rows, columns = (odd_shapes or {}).get(index, shape)
            position = corner + normal * height + column * height * np.tan(np.radians(tilt_deg))
            slope, intercept = scaling(index)
            truth = scanned(_points(position, row, column, spacing_mm, (rows, columns)))
            stored = np.clip(np.round((truth - intercept) / slope), lowest, highest).astype(dtype)
            one = Slice(
                height_mm=float(height),
                repetition=repetition,
                position_mm=position,
                values=stored * np.float64(slope) + intercept,
            )
            made += [(one, stored, index)] * (2 if index in duplicates else 1)

    places = {"ascending": np.arange, "reversed": lambda n: np.arange(n)[::-1], "shuffled": rng.permutation}
    ranks = places[order](len(made))
    study_uid, series_uid = uid_of("study", study), uid_of("series", name, study)
    common = Dataset()
    for keyword, value in {
        **PATIENT,
        "SOPClassUID": CLASSES[modality, enhanced],
        "Modality": modality,
        "Manufacturer": "MedMamba tests",
        "SeriesDescription": description,
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "FrameOfReferenceUID": uid_of("frame of reference", frame_of_reference),
        "SeriesNumber": 1 + rng.integers(1, 90),
        **dict.fromkeys(("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate"), "20240229"),
        **dict.fromkeys(("StudyTime", "SeriesTime", "ContentTime", "AcquisitionTime"), "101112"),
        **OF_ALL,
        **({} if enhanced else OF_MODALITY[modality]),
        "SliceThickness": step_mm,
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        **(attributes or {}),
    }.items():
        if value is not None:
            setattr(common, keyword, value)

    written: list[tuple[int, Slice]] = []
    folder.mkdir(parents=True, exist_ok=True)
    numbering = rng.permutation(len(made)) if numbers == "shuffled" else ranks
    if enhanced:
        path = folder / file_name.format(1)
        instance = uid_of(series_uid, "frames", file_name)
        ordered = [made[i] for i in np.argsort(ranks)]
        dataset = multi_frame(common, instance, row, column, spacing_mm, step_mm, ordered, rescale and scaling, told_by)
        save(dataset, path, syntax)
        written = [
            (i, replace(one, file=path, frame=int(ranks[i]), instance_uid=instance))
            for i, (one, _, _) in enumerate(made)
        ]
    else:
        for i, (one, stored, index) in enumerate(made):
            instance = uid_of(series_uid, file_name, i, row, column)
            one = replace(one, file=folder / file_name.format(ranks[i] + 1), instance_uid=instance)
            dataset = Dataset()
            dataset.update(common)
            dataset.SOPInstanceUID = instance
            dataset.InstanceNumber = None if numbers == "none" else int(numbering[i]) + 1
            dataset.ImagePositionPatient = decimals(one.position_mm)
            dataset.ImageOrientationPatient = decimals((*row, *column))
            dataset.PixelSpacing = decimals(spacing_mm)
            if rescale:
                dataset.RescaleSlope, dataset.RescaleIntercept = decimals(scaling(index))
                dataset.RescaleType = "HU" if modality == "CT" else "US"
            if len(contents) > 1:
                for keyword, value in TOLD_BY[told_by](one.repetition).items():
                    setattr(dataset, keyword, value)
            dataset.Rows, dataset.Columns = stored.shape
            dataset.PixelData = stored.tobytes()
            save(dataset, one.file, syntax)
            written.append((i, one))

    return Made(
        folder=folder,
        uid=series_uid,
        study_uid=study_uid,
        row=row,
        column=column,
        spacing_mm=spacing_mm,
        slices=tuple(one for _, one in sorted(written, key=lambda it: (it[1].repetition, it[1].height_mm, it[0]))),
    )


def localizer(folder: Path, made: Made, file_name: str = "LOC{:d}.dcm") -> list[Path]:
    """A sagittal and a coronal overview, one slice each, in one series of the study of another one."""
    files: list[Path] = []
    for number, plane in enumerate(("sagittal", "coronal"), 1):
        name = file_name.format(number).replace("{", "{{").replace("}", "}}")
        files += series(
            folder,
            name="localizer",
            study="study",
            description="Localizer",
            plane=plane,
            slices=1,
            shape=(20, 20),
            spacing_mm=(4.0, 4.0),
            file_name=name,
            attributes={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "StudyInstanceUID": made.study_uid},
        ).files
    return files


def ultrasound(path: Path, *, frames: int = 5, colour: bool = False) -> NDArray[np.uint8]:
    """A cine with a tissue region (0.05 cm by 0.04 cm a pixel) and a Doppler region (seconds, cm/s).

    Returns:
        Its frames (frames, rows, columns), or (..., 3) in colour.
    """
    shape = (40, 60)
    rng = np.random.default_rng(frames)
    pixels = rng.integers(0, 256, (frames, *shape, *([3] if colour else [])), dtype=np.uint8)
    dataset = Dataset()
    regions = [
        item(
            RegionSpatialFormat=1, RegionDataType=1, RegionFlags=0,
            RegionLocationMinX0=0, RegionLocationMinY0=0, RegionLocationMaxX1=29, RegionLocationMaxY1=39,
            PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.05, PhysicalDeltaY=0.04,
        ),
        item(
            RegionSpatialFormat=3, RegionDataType=3, RegionFlags=0,
            RegionLocationMinX0=30, RegionLocationMinY0=0, RegionLocationMaxX1=59, RegionLocationMaxY1=39,
            PhysicalUnitsXDirection=4, PhysicalUnitsYDirection=7, PhysicalDeltaX=0.01, PhysicalDeltaY=-1.5,
        ),
    ]  # fmt: skip
    for keyword, value in {
        **PATIENT,
        "SOPClassUID": uid.UltrasoundMultiFrameImageStorage,
        "SOPInstanceUID": uid_of("ultrasound", path.name, frames, colour),
        "StudyInstanceUID": uid_of("study", "ultrasound"),
        "SeriesInstanceUID": uid_of("series", "ultrasound"),
        "Modality": "US",
        "Manufacturer": "MedMamba tests",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "Laterality": "",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "StudyDate": "20240229",
        "StudyTime": "101112",
        "FrameTime": 40.0,
        "FrameIncrementPointer": 0x00181063,
        "NumberOfFrames": frames,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "Rows": shape[0],
        "Columns": shape[1],
        "PatientOrientation": "",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "LossyImageCompression": "00",
        "SequenceOfUltrasoundRegions": regions,
        "PixelData": pixels.tobytes(),
    }.items():
        setattr(dataset, keyword, value)
    if colour:
        dataset.PlanarConfiguration = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)
    return pixels


def without_preamble(file: Path) -> None:
    """Leave nothing of a file but its data set, as very old software wrote it."""
    dataset = pydicom.dcmread(file)
    is_implicit, _ = dataset.original_encoding
    bare = Dataset()
    bare.update(dataset)
    pydicom.dcmwrite(file, bare, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)


def medium(folder: Path, files: Sequence[Path]) -> Path:
    """A medium as a viewer's CD has it: copies of files below it, and their DICOMDIR, whose path is returned."""
    file_set = FileSet()
    for file in files:
        file_set.add(file)
    file_set.write(folder)
    return folder / "DICOMDIR"


def zipped(folder: Path, path: Path) -> Path:
    """A folder as a zip, with names as they are below it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(file, file.relative_to(folder))
    return path
