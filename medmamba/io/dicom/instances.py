"""What the headers of DICOM files say, as far as it is needed to tell series and places apart; no pixels are read.

Only the attributes that are named here are ever looked at. Of those that say whose images these are only a digest is
kept, by a key that ends with the program: so images of two patients are told apart, and nobody is named.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from medmamba.io.dicom.slices import MARKS, LostError, Slice, slices_of, text_of
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
#: Files begin so that lack the preamble: with an element of the group of files, or of identification.
_BARE = (b"\x02\x00", b"\x08\x00")
#: What a file is called that the system does not let us read.
UNREADABLE = "unreadable file"
#: By which a digest tells patients apart; a name only where there is no id.
_KEY = secrets.token_bytes(16)
_OF_SERIES = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "SeriesDescription", "SeriesNumber", "ProtocolName", "SequenceName", "ScanningSequence"),
    *("PatientID", "IssuerOfPatientID", "PatientName"),
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
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
]
_TAGS = [*_OF_SERIES, *_OF_IMAGE, *MARKS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A file of a scan.

    Args:
        file: where it lies.
        uid: SOP instance UID.
        patient: a digest, by which files of one patient are known; it means nothing outside of this process. Empty
            where the file tells of none.
        sop_class: UID of the kind of object.
        shape: rows, columns.
        series_uid: of its series; so are study, frame of reference, modality, description and number.
        sequence: names of protocol and sequence.
        transfer_syntax: how its pixels are stored, UID.
        photometric: how pixels are to be shown, such as MONOCHROME2.
        colours: how colours are stored; empty for intensities.
        is_mosaic: one picture of it holds many slices side by side.
        slices: its slices or frames.
        lost: why it has no places in space; empty where it has.
    """

    file: Path
    uid: str
    patient: str
    sop_class: str
    shape: tuple[int, int]
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    sequence: str
    number: int | None
    transfer_syntax: str
    photometric: str
    colours: str
    is_mosaic: bool
    slices: tuple[Slice, ...]
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no part of a scan.

    Args:
        file: where it lies.
        kind: what it is instead.
        fault: why it cannot be said what it is; empty where it can.
    """

    file: Path
    kind: str
    fault: str = ""


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
    """Every DICOM file of a folder and those below it, by content, in the order of names; links to folders are left.

    Files that cannot be read may be some, and are among them.
    """
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file() and path.stat().st_size and _may_be_dicom(path):
                yield path


def _may_be_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return True


def dataset_of(path: Path, *, pixels: bool = False) -> Dataset:
    """What pydicom reads of a file: the attributes that are looked at, or all with pixels.

    Raises:
        ImageFileError: if the file is damaged.
        OSError: if it cannot be read.
    """
    try:
        if pixels:
            dataset = pydicom.dcmread(path, force=True)
            dataset.file_meta.setdefault("TransferSyntaxUID", uid.UID(syntax_of(dataset)))
            return dataset
        return pydicom.dcmread(path, stop_before_pixels=True, defer_size=_DEFER_BYTES, specific_tags=_TAGS, force=True)
    except DAMAGED as error:
        if is_of_system(error):
            raise
        raise ImageFileError(path, f"the DICOM header cannot be read ({damage(error)}); copy the file again") from error


def syntax_of(dataset: Dataset) -> str:
    """How pixels are stored, UID; of a file that does not tell, as those without a preamble, as its header is."""
    if told := dataset.file_meta.get("TransferSyntaxUID"):
        return str(told)
    is_implicit, is_little = dataset.original_encoding
    plain = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
    return str(uid.ImplicitVRLittleEndian if is_implicit else plain)


def is_of_system(error: BaseException) -> bool:
    """Whether it is the system that cannot read, and not the file that is damaged."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def damage(error: BaseException) -> str:
    """What is wrong with a file, in words; never a value of it, which might be a name."""
    return {"EOFError": "it ends too early", "InvalidDicomError": "it is no DICOM file"}.get(
        type(error).__name__, f"{type(error).__name__} in pydicom"
    )


def read_headers(files: Sequence[Path], progress: Progress = silent) -> list[Instance | Skipped]:
    """What the headers of files say, in their order; disks and networks are waited for in several threads."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(progress(threads.map(read_header, files), title="Reading headers", total=len(files)))


def read_header(path: Path) -> Instance | Skipped:
    """What the header of a file says; what is no scan, or cannot be read, is passed over with a word."""
    try:
        dataset = dataset_of(path)
        return _instance(path, dataset)
    except DAMAGED as error:  # an ImageFileError is a ValueError
        if is_of_system(error):
            return Skipped(path, UNREADABLE, getattr(error, "strerror", ""))
        return Skipped(path, "damaged file", "damaged")


def _instance(path: Path, dataset: Dataset) -> Instance | Skipped:
    if no_scan := _no_scan(path, dataset):
        return no_scan
    slices, lost = list[Slice](), ""
    try:
        slices = list(slices_of(path, dataset))
    except LostError as error:
        lost = str(error)
    if lost and dataset.get("SOPClassUID") == uid.SecondaryCaptureImageStorage:
        return Skipped(path, "secondary capture")
    number, photometric = dataset.get("SeriesNumber"), text_of(dataset, "PhotometricInterpretation")
    words = (text_of(dataset, keyword) for keyword in ("ProtocolName", "SequenceName", "ScanningSequence"))
    return Instance(
        file=path,
        uid=text_of(dataset, "SOPInstanceUID"),
        patient=_patient(dataset),
        sop_class=text_of(dataset, "SOPClassUID"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        series_uid=text_of(dataset, "SeriesInstanceUID"),
        study_uid=text_of(dataset, "StudyInstanceUID"),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
        modality=text_of(dataset, "Modality"),
        description=text_of(dataset, "SeriesDescription"),
        sequence=" ".join(filter(None, words)),
        number=None if number is None else int(number),
        transfer_syntax=syntax_of(dataset),
        photometric=photometric,
        colours="" if (dataset.get("SamplesPerPixel") or 1) == 1 and photometric != "PALETTE COLOR" else photometric,
        is_mosaic="MOSAIC" in _kinds(dataset),
        slices=tuple(slices),
        lost=lost,
    )


def _patient(dataset: Dataset) -> str:
    """Digest of the id, or else of the name, in whatever case and with whatever blanks; empty without both."""
    told = [text_of(dataset, keyword) for keyword in ("PatientID", "IssuerOfPatientID")]
    if not told[0]:
        told = [str(dataset.get("PatientName") or "").replace("^", " ")]
    words = "\\".join(" ".join(each.casefold().split()) for each in told)
    return hashlib.blake2b(words.encode(), key=_KEY, digest_size=16).hexdigest() if words.strip("\\") else ""


def _kinds(dataset: Dataset) -> list[str]:
    kinds = dataset.get("ImageType") or []
    return [kinds] if isinstance(kinds, str) else list(kinds)


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


def _no_scan(path: Path, dataset: Dataset) -> Skipped | None:
    """What an object is that is no scan; None for a scan."""
    sop_class = uid.UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    modality = str(dataset.get("Modality", ""))
    known = sop_class.is_valid and sop_class.name != sop_class
    name = sop_class.name if known else {"SEG": "Segmentation"}.get(modality, "object of an unknown class")
    if not sop_class:
        return Skipped(path, "damaged file", "its header does not say what it is")
    lacking = [each for each in ("SeriesInstanceUID", "Rows", "Columns") if not dataset.get(each)]
    if lacking and "Image Storage" in name:
        return Skipped(path, "damaged file", f"{lacking[0]} is missing")
    if lacking or modality in ("SEG", "RTDOSE", "RTIMAGE", "SR", "PR", "KO"):
        return Skipped(path, name.removesuffix(" Storage"))
    return Skipped(path, "localizer") if "LOCALIZER" in _kinds(dataset) else None
