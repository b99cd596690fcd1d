"""What the headers of DICOM files say, as far as it is needed to tell series and places apart; no pixels are read.

Only the attributes that are named here are ever looked at, and none of them says whose images these are.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from medmamba.io.dicom.planes import Plane, Triple
from medmamba.io.errors import ImageFileError
from medmamba.progress import Progress, silent

#: What pydicom raises at bytes that are not as they should be: it checks values when they are looked at.
DAMAGED = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
    OSError,  # its own, without a number, or because it sought a place that no file has: see `is_of_system`
)
#: A value longer than this is no part of a header that is looked at.
_DEFER_BYTES = 4096
#: Threads that wait for the disk, which may be far away.
_THREADS = 8
#: Vectors along rows and columns may be this far from perpendicular, a cosine.
_PERPENDICULAR = 1e-3
#: Files begin so that lack the preamble: with an element of the group of files, or of identification.
_BARE = (b"\x02\x00", b"\x08\x00")

#: Attributes of a file or a frame that tell slices at one position apart, by what they are called in tables.
MARKS: dict[str, str] = {
    "ImageType": "image type",
    "FrameType": "image type",
    "EchoNumbers": "echo",
    "EchoTime": "echo time",
    "EffectiveEchoTime": "echo time",
    "InversionTime": "inversion time",
    "DiffusionBValue": "b-value",
    "DiffusionGradientOrientation": "gradient",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "TriggerTime": "trigger time",
    "NominalCardiacTriggerDelayTime": "trigger time",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "AcquisitionNumber": "acquisition",
    "FrameAcquisitionNumber": "acquisition",
    "ContentTime": "time",
}
_OF_SERIES = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "SeriesDescription", "SeriesNumber", "ProtocolName", "SequenceName", "ScanningSequence"),
]
_OF_IMAGE = [
    *(
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "PixelSpacing",
        "ImageOrientationPatient",
        "ImagePositionPatient",
    ),
    *("SliceThickness", "InstanceNumber", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_TAGS = [*_OF_SERIES, *_OF_IMAGE, *MARKS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A plane, and what tells it from others at its position.

    Args:
        plane: where it lies.
        marks: words such as ``echo time`` -> value.
        order: acquisition and instance number, frame: how they follow one another where nothing else tells.
    """

    plane: Plane
    marks: dict[str, str]
    order: tuple[float, float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A file of a scan.

    Args:
        file: where it lies.
        uid: SOP instance UID.
        series_uid: of its series; so are study, frame of reference, modality, description and number.
        sequence: names of protocol and sequence.
        transfer_syntax: how its pixels are stored, UID.
        colours: how colours are stored; empty for intensities.
        slices: its slices or frames.
        lost: why it has no places in space; empty where it has.
    """

    file: Path
    uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    sequence: str
    number: int | None
    transfer_syntax: str
    colours: str
    slices: tuple[Slice, ...]
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no part of a scan, and what it is instead."""

    file: Path
    kind: str


def begins_as_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file, at least 132 of them, are those of a DICOM file, preamble or not."""
    if start[128:132] == b"DICM":
        return True
    if start[:2] not in _BARE or len(start) < 16:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or (start[3] == 0 and int.from_bytes(start[4:8], "little") <= 64)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever it is called.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return begins_as_dicom(file.read(132))


def dicom_files(folder: Path) -> Iterator[Path]:
    """Every DICOM file of a folder and those below it, by content, in the order of names; links to folders are left."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file() and path.stat().st_size and is_dicom(path):
                yield path


def dataset_of(path: Path, *, pixels: bool = False) -> Dataset:
    """What pydicom reads of a file: the attributes that are looked at, or all with pixels.

    Raises:
        ImageFileError: if the file is damaged.
        OSError: if it cannot be read.
    """
    try:
        if pixels:
            return pydicom.dcmread(path, force=True)
        return pydicom.dcmread(path, stop_before_pixels=True, defer_size=_DEFER_BYTES, specific_tags=_TAGS, force=True)
    except DAMAGED as error:
        if is_of_system(error):
            raise
        raise ImageFileError(path, f"the DICOM header cannot be read ({damage(error)}); copy the file again") from error


def is_of_system(error: BaseException) -> bool:
    """Whether it is the system that cannot read, and not the file that is damaged."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def damage(error: BaseException) -> str:
    """What is wrong with a file, in words; never a value of it, which might be a name."""
    return {"EOFError": "it ends too early", "InvalidDicomError": "it is no DICOM file"}.get(
        type(error).__name__, f"{type(error).__name__} in pydicom"
    )


def read_headers(files: Sequence[Path], progress: Progress = silent) -> list[Instance | Skipped]:
    """What the headers of files say, in their order; disks and networks are waited for in several threads.

    Raises:
        OSError: if a file cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(progress(threads.map(read_header, files), title="Reading headers", total=len(files)))


def read_header(path: Path) -> Instance | Skipped:
    """What the header of a file says; what is no scan, or is damaged, is passed over with a word."""
    try:
        dataset = dataset_of(path)
        return _instance(path, dataset)
    except DAMAGED as error:  # an ImageFileError is a ValueError
        if is_of_system(error):
            raise
        return Skipped(path, "damaged file")


def _instance(path: Path, dataset: Dataset) -> Instance | Skipped:
    if kind := _no_scan(dataset):
        return Skipped(path, kind)
    slices, lost = list[Slice](), ""
    try:
        slices = list(_slices(path, dataset))
    except _LostError as error:
        lost = str(error)
    if lost and dataset.get("SOPClassUID") == uid.SecondaryCaptureImageStorage:
        return Skipped(path, "secondary capture")
    number, photometric = dataset.get("SeriesNumber"), _text(dataset, "PhotometricInterpretation")
    words = (_text(dataset, keyword) for keyword in ("ProtocolName", "SequenceName", "ScanningSequence"))
    return Instance(
        file=path,
        uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        modality=_text(dataset, "Modality"),
        description=_text(dataset, "SeriesDescription"),
        sequence=" ".join(filter(None, words)),
        number=None if number is None else int(number),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian)),
        colours="" if (dataset.get("SamplesPerPixel") or 1) == 1 and photometric != "PALETTE COLOR" else photometric,
        slices=tuple(slices),
        lost=lost,
    )


def no_decoder(transfer_syntax: str) -> str:
    """Why pixels that are stored so cannot be read here, and what to do; empty where they can."""
    syntax = uid.UID(transfer_syntax)
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError:
        is_available = False
    if is_available:
        return ""
    remedy = 'install some with: pip install "medmamba[dicom]"'
    return f"its pixels are compressed as {syntax.name}, for which there is no decoder here; {remedy}"


def _no_scan(dataset: Dataset) -> str:
    """What an object is that is no scan; empty for a scan."""
    sop_class = uid.UID(str(dataset.get("SOPClassUID", "")))
    modality = str(dataset.get("Modality", ""))
    known = sop_class.is_valid and sop_class.name != sop_class
    name = sop_class.name if known else {"SEG": "Segmentation"}.get(modality, "object of an unknown class")
    if "SeriesInstanceUID" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        return name.removesuffix(" Storage") if sop_class else "file without a class"
    if modality in ("SEG", "RTDOSE", "RTIMAGE", "SR", "PR", "KO"):
        return name.removesuffix(" Storage")
    kinds = dataset.get("ImageType") or []
    return "localizer" if "LOCALIZER" in ([kinds] if isinstance(kinds, str) else kinds) else ""


class _LostError(Exception):
    """A slice has no place in space; the message says what is missing."""


def _slices(path: Path, dataset: Dataset) -> Iterator[Slice]:
    """Slices of a classic file, which is one, or of a multi-frame one.

    Raises:
        _LostError: where it is not told where they lie.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if per_frame is None:
        if frames > 1:
            raise _LostError(f"{frames} frames without positions, as of a film")
        yield _slice(path, dataset, [dataset], None)
        return
    for number in range(len(per_frame)):
        yield _slice(path, dataset, functional_groups(dataset, number), number)


def functional_groups(dataset: Dataset, frame: int) -> list[Dataset]:
    """Where the attributes of a frame are looked for, its own items before those of all frames and of the file."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return [*_items(dataset.PerFrameFunctionalGroupsSequence[frame]), *_items(shared[0]), dataset]


def _items(groups: Dataset) -> Iterator[Dataset]:
    """The items of functional groups, in which the attributes of a frame are."""
    for element in groups:
        if element.VR == "SQ" and element.value:
            yield element.value[0]


def _slice(path: Path, dataset: Dataset, items: Sequence[Dataset], frame: int | None) -> Slice:
    def told(keyword: str) -> Any:
        return next(
            (item[keyword].value for item in items if keyword in item and item[keyword].value is not None), None
        )

    position = _numbers(told("ImagePositionPatient"), 3, "ImagePositionPatient")
    orientation = _numbers(told("ImageOrientationPatient"), 6, "ImageOrientationPatient")
    spacing = _numbers(told("PixelSpacing"), 2, "PixelSpacing")
    row, column = _unit(orientation[:3]), _unit(orientation[3:])
    if abs(float(np.dot(row, column))) > _PERPENDICULAR:
        raise _LostError("rows and columns are not perpendicular by ImageOrientationPatient")
    if min(spacing) <= 0:
        raise _LostError("PixelSpacing is not positive")
    marks = {words: _words(value) for keyword, words in MARKS.items() if (value := told(keyword)) is not None}
    plane = Plane(
        file=path,
        frame=frame,
        instance_uid=_text(dataset, "SOPInstanceUID"),
        position_mm=(position[0], position[1], position[2]),
        row=row,
        column=column,
        spacing_mm=(spacing[0], spacing[1]),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        thickness_mm=_number(told("SliceThickness")) or 1.0,
    )
    order = (_number(told("AcquisitionNumber")), _number(dataset.get("InstanceNumber")), frame or 0)
    return Slice(plane=plane, marks=marks, order=order)


def _numbers(value: Any, count: int, keyword: str) -> list[float]:
    """Raises `_LostError` for what are not so many finite numbers."""
    try:
        numbers = [float(each) for each in value] if value is not None else []
    except (TypeError, ValueError) as error:
        raise _LostError(f"{keyword} holds no numbers") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise _LostError(f"{keyword} is missing" if not numbers else f"{keyword} does not hold {count} numbers")
    return numbers


def _unit(vector: Iterable[float]) -> Triple:
    x, y, z = vector
    length = float(np.linalg.norm((x, y, z)))
    if not 0.5 < length < 2:
        raise _LostError("ImageOrientationPatient holds no unit vectors")
    return x / length, y / length, z / length


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _words(value: Any) -> str:
    several = isinstance(value, (list, tuple)) or (not isinstance(value, str) and hasattr(value, "__iter__"))
    return "\\".join(map(str, value)) if several else str(value)


def _text(dataset: Dataset, keyword: str) -> str:
    """A text on one line, without what a terminal would obey; empty where there is none."""
    value = dataset.get(keyword)
    return "" if value is None else "".join(letter for letter in _words(value) if letter.isprintable()).strip()
