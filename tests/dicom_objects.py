"""DICOM objects of tests, with what the standard asks for in each: attributes, frames of one file, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

#: What identifies a patient, each a word that occurs nowhere else: none may be found in a log, a table or a page.
PATIENT = {
    "PatientName": "Zebedee^Quillfeather",
    "PatientID": "PIDQX77341",
    "PatientBirthDate": "19310417",
    "PatientSex": "O",
    "PatientAddress": "Wimplegate-Lane",
    "OtherPatientIDs": "OPIDQX55213",
    "AccessionNumber": "ACCQX90817",
    "StudyID": "STIDQX66",
    "InstitutionName": "Saint-Fribble-Hospital",
    "ReferringPhysicianName": "Mumblethorpe^Ada",
    "OperatorsName": "Crankshaw^Ivo",
    "StudyDescription": "Study of Zebedee Quillfeather",
}

SECRETS = ("Zebedee", "Quillfeather", "PIDQX77341", "19310417", "Wimplegate", "OPIDQX55213", "ACCQX90817")

SECRETS += ("STIDQX66", "Fribble", "Mumblethorpe", "Crankshaw")

CLASSES = {
    ("CT", False): uid.CTImageStorage,
    ("MR", False): uid.MRImageStorage,
    ("PT", False): uid.PositronEmissionTomographyImageStorage,
    ("CT", True): uid.EnhancedCTImageStorage,
    ("MR", True): uid.EnhancedMRImageStorage,
}

#: What the standard asks for of classic images, of all and of each modality.
OF_ALL = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "AcquisitionNumber": 1,
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "Laterality": "",
}

OF_MODALITY: dict[str, dict[str, Any]] = {
    "CT": {"KVP": "120"},
    "MR": {
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": "GR",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "EchoTime": 5.0,
        "EchoTrainLength": 1,
        "RepetitionTime": 20.0,
    },
    "PT": {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Units": "BQML",
        "CountsSource": "EMISSION",
        "SeriesType": ["STATIC", "IMAGE"],
        "CorrectedImage": ["DECY", "ATTN"],
        "DecayCorrection": "START",
        "DecayFactor": 1.0,
        "PatientWeight": 70.0,
        "CollimatorType": "NONE",
        "FrameReferenceTime": 0.0,
        "ActualFrameDuration": 120000,
        "ImageIndex": 1,
        "NumberOfSlices": 10,
        "PatientPosition": None,
        "PatientOrientationCodeSequence": [],
        "PatientGantryRelationshipCodeSequence": [],
        "RadiopharmaceuticalInformationSequence": [],
    },
}

#: What tells repeated positions apart, by the number of the repetition from 0.
ToldBy = Literal["time", "trigger", "echo", "b_value", "acquisition", "nothing"]

TOLD_BY: dict[str, Callable[[int], dict[str, Any]]] = {
    "time": lambda i: {
        "TemporalPositionIdentifier": i + 1,
        "NumberOfTemporalPositions": 2,
        "AcquisitionNumber": i + 1,
        "AcquisitionTime": f"1012{10 * i:02d}.5",
    },
    "trigger": lambda i: {"TriggerTime": 120.0 * i},
    "echo": lambda i: {"EchoNumbers": i + 1, "EchoTime": 5.0 + 15 * i},
    "b_value": lambda i: {"DiffusionBValue": 800.0 * i},
    "acquisition": lambda i: {"AcquisitionNumber": i + 1},
    "nothing": lambda i: {},
}


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice or frame, with what a reader must find in it."""

    height_mm: float  # along the normal, from the middle of the stack
    repetition: int  # of its position, from 0
    position_mm: NDArray[np.float64]
    values: NDArray[np.float64]  # (rows, columns), rescaled
    file: Path = Path()
    frame: int | None = None  # from 0; None in a file of one slice
    instance_uid: str = ""


def uid_of(*words: object) -> str:
    """The same words, the same UID."""
    return str(uid.generate_uid(entropy_srcs=[str(word) for word in words]))


def decimals(values: ArrayLike) -> list[str]:
    """Numbers of at most 16 characters, as DICOM has them."""
    return [f"{value:.10g}" for value in np.ravel(np.asarray(values, dtype=float)) + 0.0]


def item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def multi_frame(
    common: Dataset,
    instance: str,
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    spacing_mm: tuple[float, float],
    step_mm: float,
    frames: Sequence[tuple[Slice, NDArray[Any], int]],
    scaling: Callable[[int], tuple[float, float]] | None,
    told_by: ToldBy,
) -> Dataset:
    """An enhanced image: what all frames share once, position and scaling of each its own."""
    dataset = Dataset()
    dataset.update(common)
    del dataset.Laterality
    letters = dataset.Modality
    kind = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]  # of what is made up, the standard asks for less
    properties = {
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
    }
    if letters == "MR":
        properties |= {"ComplexImageComponent": "MAGNITUDE", "AcquisitionContrast": "T1"}
        dataset.ApplicableSafetyStandardAgency = "IEC"
    frame_type = item(FrameType=kind, **properties)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=decimals(spacing_mm), SliceThickness=step_mm)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=decimals((*row, *column)))],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=[code("T-D1100", "SRT", "Head")])],
        FrameVOILUTSequence=[item(WindowCenter=400, WindowWidth=1200)],
        **{f"{letters}ImageFrameTypeSequence": [frame_type]},
    )
    if letters == "CT":
        event = item(IrradiationEventUID=uid_of(instance, "event"))
        shared.IrradiationEventIdentificationSequence = [event]
    stack = uid_of(instance, "dimensions")
    heights = sorted({one.height_mm for one, _, _ in frames})
    many = len({one.repetition for one, _, _ in frames}) > 1
    groups = []
    for one, _, index in frames:
        place = heights.index(one.height_mm) + 1
        group = item(
            FrameContentSequence=[
                item(
                    FrameAcquisitionNumber=one.repetition + 1,
                    FrameReferenceDateTime="20240229101112",
                    FrameAcquisitionDateTime="20240229101112",
                    FrameAcquisitionDuration=10.0,
                    StackID="1",
                    InStackPositionNumber=place,
                    DimensionIndexValues=[1, place, one.repetition + 1] if many else [1, place],
                )
            ],
            PlanePositionSequence=[item(ImagePositionPatient=decimals(one.position_mm))],
        )
        if scaling:
            slope, intercept = decimals(scaling(index))
            unit = "HU" if letters == "CT" else "US"
            group.PixelValueTransformationSequence = [
                item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=unit)
            ]
        if many and told_by == "time":
            group.FrameContentSequence[0].TemporalPositionIndex = one.repetition + 1
        elif many and told_by == "echo":
            group.MREchoSequence = [item(EffectiveEchoTime=5.0 + 15 * one.repetition)]
        elif many and told_by == "b_value":
            b_value = 800.0 * one.repetition
            direction = "ISOTROPIC" if b_value else "NONE"
            group.MRDiffusionSequence = [item(DiffusionBValue=b_value, DiffusionDirectionality=direction)]
        groups.append(group)
    pointers = [(0x00209056, 0x00209111), (0x00209057, 0x00209111)]
    if many:
        pointers.append(
            {
                "time": (0x00209128, 0x00209111),
                "echo": (0x00189082, 0x00189114),
                "b_value": (0x00189087, 0x00189117),
            }.get(told_by, (0x00209156, 0x00209111))
        )
    for keyword, value in {
        "ImageType": kind,
        "SOPInstanceUID": instance,
        "InstanceNumber": 1,
        "AcquisitionDateTime": "20240229101112",
        **properties,
        "ManufacturerModelName": "Factory",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "AcquisitionContextSequence": [],
        "ContentQualification": "RESEARCH",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "PresentationLUTShape": "IDENTITY",
        "NumberOfFrames": len(frames),
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=stack)],
        "DimensionIndexSequence": [
            item(DimensionIndexPointer=pointer, FunctionalGroupPointer=group, DimensionOrganizationUID=stack)
            for pointer, group in pointers
        ],
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": groups,
        "PixelData": b"".join(stored.tobytes() for _, stored, _ in frames),
    }.items():
        setattr(dataset, keyword, value)
    dataset.Rows, dataset.Columns = frames[0][1].shape
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def save(dataset: Dataset, path: Path, syntax: str = uid.ExplicitVRLittleEndian) -> None:
    dataset.file_meta = FileMetaDataset()
    plain = not uid.UID(syntax).is_encapsulated
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax) if plain else uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if not plain:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
