"""What objects that are made of a series take over from it, and what they tell of their own making.

Patient, study and frame of reference are the source's; what the standard asks for and the source lacks is filled in,
empty where it may be. Anonymous ones are made of a source that was stripped first: only geometry is kept of it, and its
UIDs are replaced, so that nothing else can come through.
"""

from __future__ import annotations

import logging
import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage, generate_uid

from medmamba.io.dicom.codes import Coding
from medmamba.io.dicom.instances import DAMAGED, damage, is_dicom, is_of_system
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.selection import is_selection, series_of
from medmamba.io.errors import ImageFileError
from medmamba.labels import Labels

#: SEG, the one of 2024 for label maps, which pydicom has no name for, and RTSTRUCT.
SEGMENTATIONS = (SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7"))
DERIVED = (*SEGMENTATIONS, RTStructureSetStorage)
#: What patient and study modules must have, be it empty (type 2).
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
#: All that is left of a source for anonymous objects.
_KEPT = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SliceThickness", "SpacingBetweenSlices", "InstanceNumber", "SeriesNumber", "ImageType", "SamplesPerPixel"),
    *("PhotometricInterpretation", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
#: What UIDs of the standard begin with.
_STANDARD = "1.2.840.10008."
#: Of a name (VR LO), in characters; and categories of Unicode that it may not have: controls, halves, ends of lines.
_LONGEST, _NO_LETTERS = 64, ("Cc", "Cs", "Zl", "Zp")
_KEPT_OF_FRAMES = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What an object tells of its making.

    Args:
        model: name of what segmented, which is `text`.
        dataset: that it learned from: names of structures may mean something in it alone.
        plan: digest of the plan it was trained by.
        version: of MedMamba.
        codes: the user's, by names of structures.
        salt: secret by which UIDs and the patient's id are replaced, the same ones by the same; empty: they are kept.
    """

    model: str = "MedMamba"
    dataset: str = ""
    plan: str = ""
    version: str = ""
    codes: Mapping[str, Coding] = field(default_factory=dict)
    salt: str = ""

    @property
    def description(self) -> str:
        """Of the series."""
        return text(f"Segmentation by {self.model}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom and highdicom say of odd values to themselves: they quote them, patients' names among them."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.disabled for logger in loggers]
    children = [
        logger
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith("highdicom.")
    ]
    states = [(logger, logger.disabled) for logger in children] + list(zip(loggers, before, strict=True))
    try:
        for logger, _ in states:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in states:
            logger.disabled = state


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Errors of pydicom, which meets damage where an element is asked for, are those of a damaged file.

    Raises:
        ImageFileError: instead of them.
    """
    try:
        with quiet():
            yield
    except ImageFileError:  # is a ValueError itself, as those of damage are
        raise
    except (*DAMAGED, RuntimeError) as error:  # RuntimeError: no decoder
        what = damage(error)
        raise ImageFileError(path, f"the object is damaged, or lacks what the standard asks for ({what})") from error


def sop_class(path: Path) -> str:
    """What kind of object a file is, by its first group alone; empty where it does not tell."""
    try:
        with quiet():
            return str(pydicom.filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except DAMAGED:
        return ""


def source_planes(path: Path, like: Path | None) -> tuple[Plane, ...]:
    """The planes of the series that an object is derived from.

    Raises:
        ImageFileError: if ``like`` is no DICOM series, or several, or no even stack and nobody said how to go on.
    """
    if like is None or not _is_scan(like):
        raise ImageFileError(
            path, "a DICOM object refers to the DICOM series that was segmented; write .nii.gz instead"
        )
    return series_of(like).planes


def _is_scan(path: Path) -> bool:
    """Whether an image is of a DICOM series: a folder of it, a file, or a selection."""
    return path.is_dir() or is_selection(path) or is_dicom(path)


def headers(planes: Sequence[Plane], making: Making) -> tuple[Dataset, ...]:
    """The files of a series without their pixels, in the order of its planes, fit to take attributes from.

    Raises:
        OSError: if a file cannot be read.
        ImageFileError: if it lacks what nobody can make up.
    """
    files = dict.fromkeys(plane.file for plane in planes)
    with quiet():
        return tuple(header(file, making) for file in files)


def header(path: Path, making: Making) -> Dataset:
    """A file without its pixels, fit to take attributes from.

    Raises:
        OSError: if it cannot be read.
        ImageFileError: if it lacks what nobody can make up.
    """
    try:
        return _completed(path, pydicom.dcmread(path, stop_before_pixels=True, force=True), making)
    except ImageFileError:
        raise
    except DAMAGED as error:
        if is_of_system(error):
            raise
        raise ImageFileError(path, f"its header is damaged ({damage(error)}); export the series again") from error


def _completed(path: Path, dataset: Dataset, making: Making) -> Dataset:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not dataset.get(keyword):
            raise ImageFileError(path, f"the source has no {keyword}, without which nothing can refer to it")
    if not dataset.get("FrameOfReferenceUID"):  # one for the whole series, the same each time
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", dataset.SeriesInstanceUID])
    if making.salt:
        return _stripped(dataset, making.salt)
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2:
        if keyword not in dataset or not _is_valid(keyword, dataset[keyword].value):
            setattr(dataset, keyword, "")
    return dataset


def _is_valid(keyword: str, value: Any) -> bool:
    if keyword == "PatientSex":
        return value in ("M", "F", "O")
    reader = {"DA": pydicom.valuerep.DA, "TM": pydicom.valuerep.TM}.get(dictionary_VR(keyword))
    try:
        return reader is None or reader(value) is not None
    except ValueError:
        return False


def _stripped(dataset: Dataset, salt: str) -> Dataset:
    """Geometry and replaced UIDs; ids of patient and study are replaced as well, so that scans stay together."""
    kept = Dataset()
    for keyword in _KEPT:
        if keyword in dataset:
            kept.add(dataset[keyword])
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in kept.get(groups, ()):
            for element in [element for element in item if element.keyword not in _KEPT_OF_FRAMES]:
                del item[element.tag]
    for keyword in _TYPE_2:
        setattr(kept, keyword, "")
    kept.SpecificCharacterSet = "ISO_IR 192"
    kept.PatientID = _hashed(salt, f"patient {dataset.get('PatientID', '')}")[-16:]
    kept.StudyID = _hashed(salt, dataset.StudyInstanceUID)[-16:]
    kept.PatientIdentityRemoved = "YES"
    kept.DeidentificationMethod = "MedMamba: geometry kept, UIDs replaced"
    for element in kept:
        if element.VR == "UI":
            element.value = anonymous_uid(element.value, salt)
    return kept


def anonymous_uid(uid: str, salt: str) -> UID:
    """The UID that stands for another one wherever the same salt is used; those of the standard stay."""
    return UID(uid) if uid.startswith(_STANDARD) else UID(_hashed(salt, uid))


def _hashed(salt: str, text: str) -> str:
    return str(generate_uid(entropy_srcs=[salt, text]))


def step_mm(planes: Sequence[Plane]) -> float | None:
    """The distance between neighbouring planes along their normal; None where it is not one, or there is one plane."""
    steps = np.abs(np.diff([plane.depth_mm for plane in planes]))
    if not len(steps) or steps.max() - steps.min() > 0.01 * steps.min():
        return None
    return float(steps.mean())


def text(words: str) -> str:
    """Words as DICOM takes them for a name: 64 characters at most, none that part values or control anything.

    Nor are there blanks at the ends, which are no part of a value.
    """
    plain = "".join(" " if unicodedata.category(letter) in _NO_LETTERS else letter for letter in words)
    return plain.replace("\\", "/").strip()[:_LONGEST].strip()


def names_of(labels: Labels) -> dict[str, str]:
    """What each structure of a data set is called in an object, by its own name: no two alike.

    Where names are alike once they are `text`, later ones end in a number.
    """
    names: dict[str, str] = {}
    taken = set[str]()
    for number, label in enumerate(labels.foreground, start=1):
        name = short = text(label.name) or f"structure {number}"
        again = 1
        while name in taken:
            again += 1
            name = f"{short[: _LONGEST - len(f' {again}')].rstrip()} {again}"
        taken.add(name)
        names[label.name] = name
    return names


def save(made: Dataset, path: Path) -> None:
    """Write an object.

    Raises:
        OSError: of the system, such as that of a full disk, which pydicom wraps into a text with a traceback.
    """
    try:
        with quiet():
            made.save_as(path, enforce_file_format=True)
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno is not None:
                raise OSError(cause.errno, os.strerror(cause.errno), cause.filename or str(path)) from error
            cause = cause.__cause__ or cause.__context__
        raise
