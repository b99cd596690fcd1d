"""DICOM segmentations (SEG): what is written, by highdicom."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import generate_uid

from medmamba.errors import UsageError
from medmamba.io.dicom.codes import Coding, Term, codings
from medmamba.io.dicom.derived import Making, headers, names_of, quiet, step_mm
from medmamba.io.dicom.instances import DAMAGED, damage, is_of_system
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.structures import Structures, painted
from medmamba.io.errors import ImageFileError
from medmamba.labels import Labels

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

#: Kinds of segmentation; ``itk`` is BINARY with all frames, one segment a file, for ITK and what builds on it.
SegType = Literal["binary", "labelmap", "fractional", "itk"]
SEG_TYPES: tuple[SegType, ...] = get_args(SegType)
#: How a segment's description tells the value that it has in a label map, so that it is the same when read again.
VALUE_OF_SEGMENT = "Label value "


def segmentation(
    path: Path,
    structures: Structures,
    planes: Sequence[Plane],
    making: Making,
    kind: SegType,
    *,
    among: Labels | None = None,
    number: int = 1,
) -> Segmentation:
    """The object of these structures.

    Args:
        path: of the file to be, for messages.
        structures: on these planes.
        planes: of the source.
        making: what it tells of its making.
        kind: of segmentation.
        among: all structures of the data set, where these are some of them.
        number: of the object among those of the data set.

    Raises:
        UsageError: if structures overlap in a label map, or there are no probabilities.
        ImageFileError: if the source is of a kind that cannot be referred to.
    """
    from highdicom import PixelMeasuresSequence
    from highdicom.seg import Segmentation, SegmentationTypeValues

    is_map = not structures.are_probabilities and not structures.overlap()
    if kind == "labelmap" and not is_map:
        raise UsageError("structures overlap, and a LABELMAP has one value per voxel; write --seg-type binary")
    if kind == "fractional" and not structures.are_probabilities:
        raise UsageError("--seg-type fractional stores probabilities, and these are labels; write --seg-type binary")
    sources = _frames_alone(path, planes, headers(planes, making))
    names = names_of(among or structures.labels)
    meaning = codings(names, making.codes, dataset=making.dataset)
    stored_as = _stored_as(kind, planes)
    pixels = structures.numbers() if is_map and stored_as != "FRACTIONAL" else _stacked(structures)
    first, step = planes[0], step_mm(planes)
    thickness = step or abs(float(sources[0].get("SliceThickness") or 1))
    with quiet(), _sound_source(path):
        made = Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues[stored_as],
            fractional_type="PROBABILITY" if kind == "fractional" else "OCCUPANCY",
            segment_descriptions=descriptions(structures.labels, names, meaning, making),
            series_instance_uid=generate_uid(),
            series_number=int(sources[0].get("SeriesNumber") or 0) % 1000 + 1000,
            sop_instance_uid=generate_uid(),
            instance_number=number,
            manufacturer="MedMamba",
            manufacturer_model_name=making.model,
            software_versions=making.version or "unknown",
            device_serial_number=making.plan[:64] or "none",
            series_description=making.description,
            content_label="SEGMENTATION",
            content_description=making.description,
            pixel_measures=PixelMeasuresSequence(first.spacing_mm, thickness, step),
            omit_empty_frames=kind != "itk",
        )
    add_what_highdicom_leaves_out(made, structures.labels, meaning)
    _name_true_frames(made, planes)
    return made


@contextmanager
def _sound_source(path: Path) -> Iterator[None]:
    """Highdicom copies attributes of the source, and says in its own way what is wrong with them."""
    try:
        yield
    except DAMAGED as error:
        if is_of_system(error):
            raise
        raise ImageFileError(
            path,
            f"a header of the source is damaged ({damage(error)}), so that no SEG can refer to it; export the series "
            "again, or give --format nii.gz",
        ) from error


def _frames_alone(path: Path, planes: Sequence[Plane], sources: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """The sources as highdicom takes them: files, or one file as if it had those frames alone that are segmented.

    Of several time points or echoes it takes none, since their frames have the same positions.
    """
    if planes[0].frame is None:
        return tuple(sources)
    if len(sources) > 1:
        raise ImageFileError(path, "the source is of several multi-frame files; take one of them, or write NIfTI")
    [source] = sources
    groups = source.PerFrameFunctionalGroupsSequence
    source.PerFrameFunctionalGroupsSequence = [groups[plane.frame or 0] for plane in planes]
    source.NumberOfFrames = len(planes)
    return (source,)


def _name_true_frames(made: Dataset, planes: Sequence[Plane]) -> None:
    """Say which frames of the source each frame was made of, after `_frames_alone` had them counted anew."""
    if planes[0].frame is None:
        return
    images = [
        image
        for group in made.PerFrameFunctionalGroupsSequence
        for derivation in group.get("DerivationImageSequence", ())
        for image in derivation.SourceImageSequence
    ]
    for image in {id(image): image for image in images}.values():  # segments share those of their frame
        image.ReferencedFrameNumber = (planes[int(image.ReferencedFrameNumber) - 1].frame or 0) + 1


def _stored_as(kind: SegType, planes: Sequence[Plane]) -> str:
    """SimpleITK leaves the last pixels undefined of bits that do not fill their bytes: it gets bytes of 0 and 255."""
    if kind != "itk":
        return kind.upper()
    return "FRACTIONAL" if sum(math.prod(plane.shape) for plane in planes) % 8 else "BINARY"


def _stacked(structures: Structures) -> NDArray[Any]:
    """(planes, rows, columns, S): masks, or probabilities."""
    if structures.are_probabilities:
        return np.moveaxis(structures.stored, 0, -1)
    return np.stack([structures.mask(number) for number in range(len(structures.labels.foreground))], axis=-1)


def descriptions(
    labels: Labels, names: Mapping[str, str], meaning: Mapping[str, Coding], making: Making
) -> list[SegmentDescription]:
    """The segments of structures, numbered from 1."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=making.model,
        family=codes.DCM.ArtificialIntelligence,
        version=making.version or "unknown",
        source="MedMamba",
        parameters={"plan": making.plan} if making.plan else None,
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=names[label.name],
            segmented_property_category=_concept(meaning[label.name].category),
            segmented_property_type=_concept(meaning[label.name].type),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=names[label.name],
            display_color=CIELabColor.from_rgb(*_colour(meaning[label.name])),
        )
        for number, label in enumerate(labels.foreground, start=1)
    ]


def _colour(coding: Coding) -> tuple[int, int, int]:
    assert coding.colour is not None  # `codings` gives each one
    return coding.colour


def _concept(term: Term) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=term.value, scheme_designator=term.scheme, meaning=term.meaning)


def add_what_highdicom_leaves_out(made: Dataset, labels: Labels, meaning: Mapping[str, Coding]) -> None:
    """Sides and parts of structures, and the values by which a label map means them."""
    segments = made.SegmentSequence[-len(labels.foreground) :]  # a LABELMAP has the background before them
    for segment, label, value in zip(segments, labels.foreground, painted(labels), strict=True):
        segment.SegmentDescription = f"{VALUE_OF_SEGMENT}{value}"
        if modifier := meaning[label.name].modifier:
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                _concept(modifier)
            ]
