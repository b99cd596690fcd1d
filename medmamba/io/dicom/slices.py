"""The slices of a file: where each lies, what its values are scaled by, and what tells it from others at its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medmamba.io.dicom.planes import Plane, Triple

#: Vectors along rows and columns may be this far from perpendicular, a cosine.
_PERPENDICULAR = 1e-3

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
    "AcquisitionTime": "acquisition time",
    "ContentTime": "time",
}
#: Marks whose values are times of the day, of which only the order is told.
TIMES = ("acquisition time", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A plane, and what tells it from others at its position.

    Args:
        plane: where it lies.
        marks: words such as ``echo time`` -> value.
        order: acquisition and instance number, frame: how they follow one another where nothing else tells.
        scaling: slope and intercept of its values; None where there are none.
    """

    plane: Plane
    marks: dict[str, str]
    order: tuple[float, float, int]
    scaling: tuple[float, float] | None = None


class LostError(Exception):
    """A slice has no place in space; the message says what is missing."""


def slices_of(path: Path, dataset: Dataset) -> Iterator[Slice]:
    """Slices of a classic file, which is one, or of a multi-frame one.

    Raises:
        LostError: where it is not told where they lie.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if per_frame is None:
        if frames > 1:
            raise LostError(f"{frames} frames without positions, as of a film")
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
        raise LostError("rows and columns are not perpendicular by ImageOrientationPatient")
    if min(spacing) <= 0:
        raise LostError("PixelSpacing is not positive")
    marks = {words: _words(value) for keyword, words in MARKS.items() if (value := told(keyword)) is not None}
    plane = Plane(
        file=path,
        frame=frame,
        instance_uid=text_of(dataset, "SOPInstanceUID"),
        position_mm=(position[0], position[1], position[2]),
        row=row,
        column=column,
        spacing_mm=(spacing[0], spacing[1]),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        thickness_mm=_number(told("SliceThickness")) or 1.0,
    )
    order = (_number(told("AcquisitionNumber")), _number(dataset.get("InstanceNumber")), frame or 0)
    return Slice(plane=plane, marks=marks, order=order, scaling=scaling_of(items))


def scaling_of(items: Sequence[Dataset]) -> tuple[float, float] | None:
    """Slope and intercept of the values of a slice; 1 and 0 of a look-up table; None where there is nothing of it.

    Args:
        items: where they are looked for, see `functional_groups`.
    """
    found = {
        keyword: next((item[keyword].value for item in items if item.get(keyword) is not None), None)
        for keyword in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept")
    }
    table, slope, intercept = found.values()
    if table:
        return 1.0, 0.0
    if slope is None and intercept is None:
        return None
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _numbers(value: Any, count: int, keyword: str) -> list[float]:
    """Raises `LostError` for what are not so many finite numbers."""
    try:
        numbers = [float(each) for each in value] if value is not None else []
    except (TypeError, ValueError) as error:
        raise LostError(f"{keyword} holds no numbers") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise LostError(f"{keyword} is missing" if not numbers else f"{keyword} does not hold {count} numbers")
    return numbers


def _unit(vector: Iterable[float]) -> Triple:
    x, y, z = vector
    length = float(np.linalg.norm((x, y, z)))
    if not 0.5 < length < 2:
        raise LostError("ImageOrientationPatient holds no unit vectors")
    return x / length, y / length, z / length


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _words(value: Any) -> str:
    several = isinstance(value, (list, tuple)) or (not isinstance(value, str) and hasattr(value, "__iter__"))
    return "\\".join(map(str, value)) if several else str(value)


def text_of(dataset: Dataset, keyword: str) -> str:
    """A text on one line, without what a terminal would obey; empty where there is none."""
    value = dataset.get(keyword)
    return "" if value is None else "".join(letter for letter in _words(value) if letter.isprintable()).strip()
