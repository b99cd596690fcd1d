"""DICOM SEG of a film: for each label a frame of bits for each frame of the film, which it refers to by its number.

The standard has a place for this (PS3.3 C.8.20), but highdicom makes segmentations of one frame without a position in
space alone. So it makes that of a single frame, and all frames are put into it here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UltrasoundImageStorage, generate_uid

from medmamba.clip import ClipInfo
from medmamba.files import replacing
from medmamba.io.clips.dicom import header_of, reading
from medmamba.io.clips.reader import ClipReader
from medmamba.io.dicom.codes import codings
from medmamba.io.dicom.derived import SEGMENTATIONS, Making, header, names_of, quiet, save, sop_class
from medmamba.io.dicom.frames import frames_of
from medmamba.io.dicom.instances import DAMAGED, damage, is_dicom, is_of_system
from medmamba.io.errors import ClipFileError, ImageFileError
from medmamba.io.formats.dicom_seg_write import VALUE_OF_SEGMENT, add_what_highdicom_leaves_out, descriptions
from medmamba.labels import Labels

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

#: Temporal Position Index in Frame Content: by which frames are told apart.
_POSITION_INDEX, _FRAME_CONTENT = 0x00209128, 0x00209111
#: What says of a source that it has several frames, or where in space: the stand-in has neither.
_NOT_OF_ONE = (
    *("NumberOfFrames", "FrameTime", "FrameTimeVector", "FrameIncrementPointer", "FrameOfReferenceUID"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
)
#: Bytes unpacked at once when the bits of segments are joined.
_AT_ONCE = 1 << 20


class _Bits:
    """Bits one behind the other, the first the lowest of its byte, as DICOM packs them: no gap between frames."""

    def __init__(self) -> None:
        self.count = 0
        self._bytes = bytearray()
        self._carry = np.zeros(0, np.uint8)

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Add values of 0 and 1."""
        self.count += bits.size
        bits = np.concatenate([self._carry, bits]) if self._carry.size else bits
        whole = bits.size // 8 * 8
        self._bytes += np.packbits(bits[:whole], bitorder="little").tobytes()
        self._carry = bits[whole:].copy()

    def add_all(self, other: _Bits) -> None:
        """Add all of another's."""
        for start in range(0, len(other._bytes), _AT_ONCE):
            packed = np.frombuffer(bytes(other._bytes[start : start + _AT_ONCE]), np.uint8)
            self.add(np.unpackbits(packed, bitorder="little"))
        self.add(other._carry)

    def padded(self) -> bytes:
        """All bytes, an even number of them."""
        rest = np.packbits(self._carry, bitorder="little").tobytes()
        packed = bytes(self._bytes) + rest
        return packed + b"\0" * (len(packed) % 2)


@contextmanager
def seg_writer(
    path: Path, clip: ClipReader, labels: Labels, making: Making
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Takes masks (H, W) one by one; the object is there when the block ends well.

    In memory is one bit for each pixel, frame and label.

    Raises:
        ClipFileError: if the source cannot be referred to.
    """
    if not clip.files:
        raise ClipFileError(path, f"a DICOM SEG refers to a film in DICOM, and {clip.path.name} is none")
    try:
        sources = [header(file, making) for file in clip.files]
    except ImageFileError as error:
        raise ClipFileError(error.path, error.reason) from error
    bits = {label.values[0]: _Bits() for label in labels.foreground}
    count = 0

    def put(mask: NDArray[Any]) -> None:
        nonlocal count
        for label in labels.foreground:
            bits[label.values[0]].add(np.isin(mask, label.values).astype(np.uint8).ravel())
        count += 1

    with replacing(path) as temporary:
        yield put
        made = _of_one_frame(path, sources[0], clip.info, labels, making)
        _put_frames(made, sources, labels, count)
        joined = _Bits()
        for label in labels.foreground:
            joined.add_all(bits[label.values[0]])
        made.PixelData = joined.padded()
        save(made, temporary)


def _of_one_frame(path: Path, source: Dataset, info: ClipInfo, labels: Labels, making: Making) -> Segmentation:
    """The object of a single frame of the film, with all that does not depend on frames."""
    from highdicom.seg import Segmentation, SegmentationTypeValues

    alone = copy.deepcopy(source)
    alone.SOPClassUID = UltrasoundImageStorage
    for keyword in _NOT_OF_ONE:
        if keyword in alone:
            delattr(alone, keyword)
    alone.Rows, alone.Columns = info.size
    alone.PatientOrientation = alone.get("PatientOrientation") or ""
    names = names_of(labels)
    meaning = codings(names, making.codes, dataset=making.dataset)
    try:
        with quiet():
            made = Segmentation(
                source_images=[alone],
                pixel_array=np.ones((1, *info.size, len(labels.foreground)), np.uint8),
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions(labels, names, meaning, making),
                series_instance_uid=generate_uid(),
                series_number=int(source.get("SeriesNumber") or 0) % 1000 + 1000,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="MedMamba",
                manufacturer_model_name=making.model,
                software_versions=making.version or "unknown",
                device_serial_number=making.plan[:64] or "none",
                series_description=making.description,
                content_label="SEGMENTATION",
                content_description=making.description,
                omit_empty_frames=False,
            )
    except DAMAGED as error:
        if is_of_system(error):
            raise
        raise ClipFileError(
            path, f"a header of the source is damaged ({damage(error)}), so that no SEG can refer to it"
        ) from error
    add_what_highdicom_leaves_out(made, labels, meaning)
    made.PatientOrientation = ""
    return made


def _put_frames(made: Dataset, sources: Sequence[Dataset], labels: Labels, count: int) -> None:
    """Say of each frame, segment by segment, which frame of the film it is of."""
    patterns = {
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber): group
        for group in made.PerFrameFunctionalGroupsSequence
    }
    groups = []
    for segment in range(1, len(labels.foreground) + 1):
        for index in range(count):
            group = copy.deepcopy(patterns[segment])
            content = group.FrameContentSequence[0]
            content.TemporalPositionIndex = index + 1
            content.DimensionIndexValues = [segment, index + 1]
            _refer(group.DerivationImageSequence[0].SourceImageSequence[0], sources, index)
            groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    made.NumberOfFrames = len(groups)
    _index_by_frame(made)
    _list_sources(made, sources[: max(1, count)])


def _refer(reference: Dataset, sources: Sequence[Dataset], index: int) -> None:
    source = sources[0] if len(sources) == 1 else sources[index]
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if len(sources) == 1:
        reference.ReferencedFrameNumber = index + 1


def _index_by_frame(made: Dataset) -> None:
    """Frames are told apart by segment and position in time."""
    by_segment = made.DimensionIndexSequence[0]
    by_time = Dataset()
    by_time.DimensionIndexPointer = _POSITION_INDEX
    by_time.FunctionalGroupPointer = _FRAME_CONTENT
    by_time.DimensionOrganizationUID = by_segment.DimensionOrganizationUID
    by_time.DimensionDescriptionLabel = "Temporal Position Index"
    made.DimensionIndexSequence = [by_segment, by_time]


def _list_sources(made: Dataset, sources: Sequence[Dataset]) -> None:
    """Name the film's own objects where the stand-in is named."""
    listed = []
    for source in sources:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        listed.append(item)
    for series in made.get("ReferencedSeriesSequence", ()):
        series.ReferencedInstanceSequence = copy.deepcopy(listed)
    if "SourceImageSequence" in made:
        made.SourceImageSequence = copy.deepcopy(listed)


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    return path.is_file() and path.stat().st_size > 0 and is_dicom(path) and sop_class(path) in SEGMENTATIONS


@contextmanager
def open_seg(path: Path, clip: ClipReader) -> Iterator[Iterator[NDArray[Any] | None]]:
    """The masks of a SEG, one for each frame of the film that it is of; None of frames that it says nothing of.

    Raises:
        ClipFileError: if it is not of this film, or of a kind that is not read.
    """
    with reading(path):
        dataset = pydicom.dcmread(path)
        if str(dataset.get("SegmentationType")) != "BINARY":
            raise ClipFileError(path, "masks of films in DICOM are read from BINARY segmentations; convert it")
        values = {int(each.SegmentNumber): _value_of(each) for each in dataset.SegmentSequence}
        of_frame = _frames_by_index(path, dataset, clip)
        found: dict[int, NDArray[np.int32]] = {}
        for frame, (index, segment) in zip(frames_of(dataset), of_frame, strict=True):
            mask = found.setdefault(index, np.zeros(frame.shape, np.int32))
            inside = frame > 0
            if (mask[inside] > 0).any():
                raise ClipFileError(path, f"segments overlap in frame {index}, and a mask has one label a pixel")
            mask[inside] = values[segment]
    yield (found.get(index) for index in range(len(clip.numbers or ())))


def _value_of(segment: Dataset) -> int:
    """The label value that a segment stands for: what its writer said, or else its number."""
    told = str(segment.get("SegmentDescription", ""))
    number = told.removeprefix(VALUE_OF_SEGMENT)
    return int(number) if told.startswith(VALUE_OF_SEGMENT) and number.isdecimal() else int(segment.SegmentNumber)


def _frames_by_index(path: Path, dataset: Dataset, clip: ClipReader) -> list[tuple[int, int]]:
    """For each frame of the object the index of the film's frame and the number of the segment."""
    # Masks of a film in another form are taken by their numbers.
    of_uid = {str(header_of(file).SOPInstanceUID): place for place, file in enumerate(clip.files)}
    of_number = {number: index for index, number in enumerate(clip.numbers or ())}
    found = []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        uid = str(reference.ReferencedSOPInstanceUID)
        if of_uid and uid not in of_uid:
            raise ClipFileError(path, f"is a segmentation of another film than {clip.path.name}")
        number = reference.get("ReferencedFrameNumber")
        index = of_uid.get(uid, 0) if number is None else of_number.get(int(number), -1)
        if not 0 <= index < len(of_number):
            raise ClipFileError(path, f"is of frame {number}, and {clip.path.name} has {len(of_number)} frames")
        found.append((index, int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)))
    return found
