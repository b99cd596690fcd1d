"""DICOM structure sets (RTSTRUCT): contours on each slice of a series, by PS3.3 section A.19.

Contours are on the outer edges of pixels, in the plane of their own slice however it lies, and holes are reached by
keyholes (`medmamba.io.dicom.contours`). They are written and not read: a label map asks for voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medmamba.files import replacing
from medmamba.io.dicom.check import check, of_structure_set, of_structures
from medmamba.io.dicom.codes import Coding, codings
from medmamba.io.dicom.contours import trace
from medmamba.io.dicom.derived import Making, headers, names_of, save, sop_class, source_planes
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.structures import Structures
from medmamba.io.errors import ImageFileError
from medmamba.io.formats.format import Header, Stored
from medmamba.labels import Labels
from medmamba.volume import FloatArray, Volume

#: What patient and study modules hold, taken over from the source.
_OF_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyDescription", "FrameOfReferenceUID", "PositionReferenceIndicator", "SpecificCharacterSet"),
)
#: Class of the reference to a study that the standard asks for, though it was retired (PS3.3 C.8.8.5).
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"


@dataclass(frozen=True, slots=True)
class Rtstruct:
    """Structure sets in one file.

    Args:
        making: what is told of the making of what is written.
    """

    making: Making = field(default_factory=Making)
    name: str = "RTSTRUCT"
    suffixes: tuple[str, ...] = (".rtstruct.dcm",)

    def recognises(self, path: Path, start: bytes) -> bool:
        """By the SOP class."""
        return start[128:132] == b"DICM" and sop_class(path) == RTStructureSetStorage

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file alone."""
        return (path,)

    def read_header(self, path: Path) -> Header:
        """Refused."""
        _refuse(path)

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Refused."""
        _refuse(path)

    def why_not_integer(self, path: Path) -> None:
        """Nothing is known."""

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Write label values, or where probabilities are at least half, as contours on the slices of ``like``."""
        planes = source_planes(path, like)
        structures = Structures.on(volume, planes, labels)
        made = structure_set(structures, planes, self.making)
        with replacing(path) as temporary:
            save(made, temporary)
            check(temporary, path, of_structure_set, of_structures(volume, structures, planes), planes)


RTSTRUCT = Rtstruct()


class ContoursError(ImageFileError):
    """A file holds contours, sound as they may be, where voxels are asked for."""


def _refuse(path: Path) -> NoReturn:
    raise ContoursError(
        path, "contours of a structure set are no voxels; give the SEG, NIfTI or NRRD, or fill them by other software"
    )


def structure_set(structures: Structures, planes: Sequence[Plane], making: Making) -> FileDataset:
    """The object of these structures.

    Args:
        structures: on these planes; probabilities where they are at least half.
        planes: of the source.
        making: what it tells of its making.
    """
    sources = headers(planes, making)
    by_file = dict(zip(dict.fromkeys(plane.file for plane in planes), sources, strict=True))
    frame_of_reference = sources[0].FrameOfReferenceUID
    made = _general(sources[0], making)
    made.ReferencedFrameOfReferenceSequence = [
        _item(
            FrameOfReferenceUID=frame_of_reference,
            RTReferencedStudySequence=[
                _item(
                    ReferencedSOPClassUID=_STUDY_CLASS,
                    ReferencedSOPInstanceUID=sources[0].StudyInstanceUID,
                    RTReferencedSeriesSequence=[
                        _item(
                            SeriesInstanceUID=sources[0].SeriesInstanceUID,
                            ContourImageSequence=[_reference(by_file[plane.file], plane) for plane in planes],
                        )
                    ],
                )
            ],
        )
    ]
    foreground, names = structures.labels.foreground, names_of(structures.labels)
    meaning = codings(names, making.codes, dataset=making.dataset)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, label in enumerate(foreground, start=1):
        coding = meaning[label.name]
        made.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame_of_reference,
                ROIName=names[label.name],
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        contours = _item(ROIDisplayColor=list(coding.colour or ()), ReferencedROINumber=number)
        if items := list(_contours(structures.mask(number - 1), planes, by_file)):
            contours.ContourSequence = items
        made.ROIContourSequence.append(contours)
        made.RTROIObservationsSequence.append(_observation(number, coding))
    return made


def _general(source: Dataset, making: Making) -> FileDataset:
    """All but the structures: patient, study, series, equipment, the set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    # Explicit syntaxes have no room for a contour of more than 65534 characters.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    for keyword in _OF_PATIENT_AND_STUDY:
        if keyword in source:
            made.add(source[keyword])
    now = datetime.now()
    made.update(
        _item(
            SOPClassUID=meta.MediaStorageSOPClassUID,
            SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
            Modality="RTSTRUCT",
            SeriesInstanceUID=generate_uid(),
            SeriesNumber=int(source.get("SeriesNumber") or 0) % 1000 + 2000,
            SeriesDescription=making.description,
            OperatorsName="",
            Manufacturer="MedMamba",
            ManufacturerModelName=making.model,
            SoftwareVersions=making.version or "unknown",
            DeviceSerialNumber=making.plan[:64] or "none",
            PositionReferenceIndicator=source.get("PositionReferenceIndicator", ""),
            InstanceNumber=1,
            StructureSetLabel="SEGMENTATION",
            StructureSetName=making.description,
            StructureSetDate=now.strftime("%Y%m%d"),
            StructureSetTime=now.strftime("%H%M%S"),
            InstanceCreationDate=now.strftime("%Y%m%d"),
            InstanceCreationTime=now.strftime("%H%M%S"),
            ApprovalStatus="UNAPPROVED",
        )
    )
    return made


def _observation(number: int, coding: Coding) -> Dataset:
    code = _item(
        CodeValue=coding.type.value, CodingSchemeDesignator=coding.type.scheme, CodeMeaning=coding.type.meaning
    )
    return _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[code],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )


def _contours(layers: NDArray[np.bool_], planes: Sequence[Plane], sources: dict[Path, Dataset]) -> Iterator[Dataset]:
    """The contours of a structure, slice by slice."""
    for mask, plane in zip(layers, planes, strict=True):
        for contour in trace(mask):
            # Plastimatch loses the first point on sagittal and coronal series: it is in the middle of an edge.
            begun = np.vstack([contour[:2].mean(axis=0, keepdims=True), contour[1:], contour[:1]])
            points = plane.position_mm + begun[:, ::-1] @ plane.steps_mm.T
            yield _item(
                ContourImageSequence=[_reference(sources[plane.file], plane)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=_decimals(points),
            )


def _decimals(points: FloatArray) -> list[str]:
    """Coordinates to a millionth of a millimetre, of at most 16 characters as the standard has it."""
    return [f"{value:.6f}" for value in (points + 0.0).ravel()]


def _reference(source: Dataset, plane: Plane) -> Dataset:
    item = _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    if plane.frame is not None:
        item.ReferencedFrameNumber = plane.frame + 1
    return item


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
