"""When frames of DICOM are, and how large their pixels: what no library reads from its headers."""

from __future__ import annotations

from datetime import datetime, timedelta
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.valuerep import DT, TM

from medmamba.clip import is_increasing
from medmamba.io.remarks import Remark

_FRAME_TIME, _TIME_VECTOR = 0x00181063, 0x00181065
#: Of ultrasound regions: pictures, and centimetres.
_PICTURE, _CENTIMETRES = 1, 3


def times_of(header: Dataset, count: int) -> tuple[tuple[Fraction, ...] | None, tuple[Remark, ...]]:
    """When each frame is, by the attribute that the header says counts them; None where it does not tell.

    Values are taken as they are written: 33.333 ms is no thirtieth of a second.
    """
    if count == 1:
        return (Fraction(0),), ()
    pointer = header.get("FrameIncrementPointer")
    pointers = {
        int(tag) for tag in (pointer if isinstance(pointer, list | pydicom.multival.MultiValue) else [pointer]) if tag
    }
    step, vector = _milliseconds(header.get("FrameTime")), header.get("FrameTimeVector")
    if vector and (_TIME_VECTOR in pointers or not step) and len(vector) == count:
        times = tuple(accumulate(_milliseconds(value) or Fraction(0) for value in (0, *list(vector)[1:])))
        if is_increasing(times):
            return times, ()
        return None, (Remark("FrameTimeVector does not go on from frame to frame, so times are unknown"),)
    if step and (_FRAME_TIME in pointers or not vector):
        return tuple(index * step for index in range(count)), ()
    if enhanced := _enhanced_times(header, count):
        return enhanced, ()
    rate = Fraction(str(header.get("CineRate") or 0))
    if rate <= 0 and (duration := _milliseconds(header.get("ActualFrameDuration"))):
        rate = 1 / duration
    if rate > 0:
        return tuple(index / rate for index in range(count)), ()
    shown = Fraction(str(header.get("RecommendedDisplayFrameRate") or 0))
    if shown > 0:
        words = f"times are those of the rate it is to be shown at, {float(shown):g} frames a second"
        return tuple(index / shown for index in range(count)), (Remark(words),)
    return None, (Remark("the header does not tell when frames are", is_warning=False),)


def _milliseconds(value: Any) -> Fraction | None:
    """Seconds of so many milliseconds; None of nothing and 0."""
    number = Fraction(str(value)) if value else Fraction(0)
    return number / 1000 if number > 0 else None


def _enhanced_times(header: Dataset, count: int) -> tuple[Fraction, ...] | None:
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    contents = [group.FrameContentSequence[0] for group in groups if "FrameContentSequence" in group]
    for keyword in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
        moments = [DT(each.get(keyword)) for each in contents if each.get(keyword)]
        if len(moments) == count:
            return _since_first([moment for moment in moments if moment is not None])
    return None


def _since_first(moments: list[Any]) -> tuple[Fraction, ...] | None:
    times = tuple(Fraction((moment - moments[0]) // timedelta(microseconds=1), 10**6) for moment in moments)
    return times if is_increasing(times) else None


def spacing_of(header: Dataset) -> tuple[tuple[float, float] | None, tuple[Remark, ...]]:
    """Millimetres between rows, and columns, of the picture; those of ultrasound only if they are of all of it."""
    if (told := header.get("PixelSpacing")) and min(map(float, told)) > 0:
        return (float(told[0]), float(told[1])), ()
    regions = [
        region
        for region in header.get("SequenceOfUltrasoundRegions") or ()
        if region.get("RegionSpatialFormat") == _PICTURE
        and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
    ]
    found = {(10 * abs(float(r.PhysicalDeltaY)), 10 * abs(float(r.PhysicalDeltaX))) for r in regions}
    if not found:
        return None, ()
    rows, columns = int(header.Rows), int(header.Columns)
    outside = [r for r in regions if int(r.RegionLocationMaxX1) >= columns or int(r.RegionLocationMaxY1) >= rows]
    if outside:
        words = (
            f"the region of ultrasound ends at column {int(outside[0].RegionLocationMaxX1)}, row "
            f"{int(outside[0].RegionLocationMaxY1)} of a picture of {columns} x {rows}: it was scaled, by how much is "
            "not told, so areas are in pixels alone"
        )
        return None, (Remark(words),)
    if len(found) > 1 or min(min(found)) <= 0:
        return None, (Remark("regions of ultrasound have several spacings, so areas are in pixels alone"),)
    return found.pop(), ()


def times_of_files(headers: list[Dataset]) -> tuple[tuple[Fraction, ...] | None, tuple[Remark, ...]]:
    """When each frame is, of files with one each, by triggers or times of acquisition; None where they do not tell."""
    if len(headers) == 1:
        return (Fraction(0),), ()
    triggers = [Fraction(str(header.TriggerTime)) / 1000 for header in headers if header.get("TriggerTime") is not None]
    if len(triggers) == len(headers) and is_increasing(triggers):
        return tuple(time - triggers[0] for time in triggers), ()
    for read in (_date_time, _time_of_day):
        moments = [moment for header in headers if (moment := read(header)) is not None]
        if len(moments) == len(headers) and (times := _since_first(moments)):
            return times, ()
    return None, (Remark("the headers do not tell when frames are, or in another order than their numbers"),)


def _date_time(header: Dataset) -> Any:
    return DT(header.get("AcquisitionDateTime") or "") or None


def _time_of_day(header: Dataset) -> Any:
    time = TM(header.get("AcquisitionTime") or header.get("ContentTime") or "")
    return datetime.combine(datetime(1, 1, 2), time) if time is not None else None
