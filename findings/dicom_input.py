"""Valid DICOM that scripts make as their input: pydicom 3 and NumPy are needed. Positions are in mm, LPS."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
STUDY, SERIES, FRAME_OF_REFERENCE = (uid.generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))
CT = {"Modality": "CT", "KVP": "120", "AcquisitionNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}


def item(**attributes):
    """A data set, or an item of a sequence."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def numbers(values):
    """Decimals of at most 16 characters."""
    return [f"{value:.8g}" for value in np.ravel(values) + 0.0]


def identity(sop_class, name):
    """What every object has: whose it is, its study and series."""
    return item(
        SOPClassUID=sop_class,
        SOPInstanceUID=uid.generate_uid(entropy_srcs=[name]),
        StudyInstanceUID=STUDY,
        PatientName="Nobody^",
        PatientID="0",
        PatientBirthDate="",
        PatientSex="O",
        StudyDate="20240229",
        StudyTime="101112",
        StudyID="1",
        AccessionNumber="",
        ReferringPhysicianName="",
        Manufacturer="Script",
        PositionReferenceIndicator="",
        FrameOfReferenceUID=FRAME_OF_REFERENCE,
        SeriesInstanceUID=SERIES,
        SeriesNumber=1,
        InstanceNumber=1,
    )


def with_pixels(dataset, values, **attributes):
    """The data set with 16 bits a pixel."""
    values = np.asarray(values, np.uint16)
    everywhere = {
        "Rows": values.shape[-2],
        "Columns": values.shape[-1],
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": values.tobytes(),
    }
    dataset.update(item(**{**everywhere, **attributes}))
    return dataset


def save(dataset, path):
    """Write a file, not compressed."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def slices(folder, values, corners, *, spacing_mm=(1.0, 1.0), plane=AXIAL, **attributes):
    """A CT series, a file a slice, of values (slices, rows, columns) and corners (slices, 3); its data sets."""
    folder.mkdir()
    made = []
    for number, (pixels, corner) in enumerate(zip(values, corners, strict=True), 1):
        dataset = identity(uid.CTImageStorage, f"slice {number}")
        dataset.update(item(**CT, PatientPosition="HFS", Laterality="", SliceThickness=1.0, InstanceNumber=number))
        dataset.update(item(ImageOrientationPatient=numbers(plane), PixelSpacing=numbers(spacing_mm)))
        dataset.InstanceNumber, dataset.ImagePositionPatient = number, numbers(corner)
        scaling = {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"}
        made.append(save(with_pixels(dataset, pixels, **{**scaling, **attributes}), folder / f"{number:03d}.dcm"))
    return made


def frames(path, values, corners, *, slopes=None, spacing_mm=(1.0, 1.0), plane=AXIAL):
    """An enhanced CT in one file, in which frames lie as given."""
    dataset = identity(uid.EnhancedCTImageStorage, "frames")
    kind = {
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
    }
    words = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    head = item(CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning="Head")
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=numbers(spacing_mm), SliceThickness=1.0)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=numbers(plane))],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=[head])],
        FrameVOILUTSequence=[item(WindowCenter=500, WindowWidth=1000)],
        CTImageFrameTypeSequence=[item(FrameType=words, **kind)],
        IrradiationEventIdentificationSequence=[item(IrradiationEventUID=uid.generate_uid(entropy_srcs=["event"]))],
    )
    heights = sorted({float(np.dot(np.cross(*plane), corner)) for corner in corners})
    groups = []
    for number, corner in enumerate(corners):
        place = heights.index(float(np.dot(np.cross(*plane), corner))) + 1
        content = item(
            FrameAcquisitionNumber=1,
            FrameReferenceDateTime="20240229101112",
            FrameAcquisitionDateTime="20240229101112",
            FrameAcquisitionDuration=10.0,
            StackID="1",
            InStackPositionNumber=place,
            DimensionIndexValues=[1, place],
        )
        group = item(FrameContentSequence=[content], PlanePositionSequence=[item(ImagePositionPatient=numbers(corner))])
        slope = 1 if slopes is None else slopes[number]
        scaling = item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="HU")
        group.PixelValueTransformationSequence = [scaling]
        groups.append(group)
    pointers = [(0x00209056, 0x00209111), (0x00209057, 0x00209111)]  # the stack, and the place in it
    organization = uid.generate_uid(entropy_srcs=["dimensions"])
    index = [
        item(DimensionIndexPointer=tag, FunctionalGroupPointer=group, DimensionOrganizationUID=organization)
        for tag, group in pointers
    ]
    dataset.update(
        item(
            **kind,
            Modality="CT",
            ImageType=words,
            PatientPosition="HFS",
            NumberOfFrames=len(groups),
            ManufacturerModelName="Script",
            DeviceSerialNumber="1",
            SoftwareVersions="1",
            AcquisitionContextSequence=[],
            AcquisitionDateTime="20240229101112",
            ContentDate="20240229",
            ContentTime="101112",
            BurnedInAnnotation="NO",
            ContentQualification="RESEARCH",
            LossyImageCompression="00",
            PresentationLUTShape="IDENTITY",
            DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization)],
            DimensionIndexSequence=index,
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=groups,
        )
    )
    return save(with_pixels(dataset, values), path)


def structure_set(path, name, images, outlines):
    """An RTSTRUCT of one structure: for each image the points (n, 3) of its outline, in mm, or None."""
    dataset = identity(uid.RTStructureSetStorage, "structures")
    references = [item(ReferencedSOPClassUID=i.SOPClassUID, ReferencedSOPInstanceUID=i.SOPInstanceUID) for i in images]
    series = item(SeriesInstanceUID=SERIES, ContourImageSequence=references)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=STUDY,
        RTReferencedSeriesSequence=[series],
    )
    contours = [
        item(
            ContourImageSequence=[reference],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(outline),
            ContourData=numbers(outline),
        )
        for reference, outline in zip(references, outlines, strict=True)
        if outline is not None
    ]
    frame = item(FrameOfReferenceUID=FRAME_OF_REFERENCE, RTReferencedStudySequence=[study])
    roi = item(
        ROINumber=1, ReferencedFrameOfReferenceUID=FRAME_OF_REFERENCE, ROIName=name, ROIGenerationAlgorithm="AUTOMATIC"
    )
    dataset.update(
        item(
            Modality="RTSTRUCT",
            SeriesInstanceUID=uid.generate_uid(entropy_srcs=["structure series"]),
            OperatorsName="",
            StructureSetLabel="made up",
            StructureSetDate="20240229",
            StructureSetTime="101112",
            ApprovalStatus="UNAPPROVED",
            ReferencedFrameOfReferenceSequence=[frame],
            StructureSetROISequence=[roi],
            ROIContourSequence=[item(ROIDisplayColor=[255, 0, 0], ReferencedROINumber=1, ContourSequence=contours)],
            RTROIObservationsSequence=[
                item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="ORGAN", ROIInterpreter="")
            ],
        )
    )
    return save(dataset, path)


def ball_outlines(images, centre_mm, radius_mm, points=100):
    """Circles where a ball meets the planes of images."""
    turns = np.linspace(0, 2 * np.pi, points, endpoint=False)
    for image in images:
        row, column = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
        normal = np.cross(row, column)
        away = float(normal @ (np.asarray(image.ImagePositionPatient, float) - centre_mm))
        if abs(away) >= radius_mm:
            yield None
            continue
        radius = np.sqrt(radius_mm**2 - away**2)
        yield centre_mm + away * normal + radius * (np.outer(np.cos(turns), row) + np.outer(np.sin(turns), column))
