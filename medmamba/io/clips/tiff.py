"""TIFF files with a page for each frame."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from medmamba.io.clips.reader import ClipFormat, Raw, Source, as_pixels, info_of
from medmamba.io.errors import ClipFileError
from medmamba.io.remarks import Remark

SUFFIXES = (".tif", ".tiff")
#: What a file that is damaged makes tifffile raise.
_DAMAGED = (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error, RuntimeError)
#: Axes that count frames: time, and where nobody says so, any sequence.
_OVER_TIME = ("T", "Q", "I", "Z")
_SECONDS: dict[str, Fraction | int] = {
    "s": 1,
    "ms": Fraction(1, 1000),
    "µs": Fraction(1, 10**6),
    "us": Fraction(1, 10**6),
    "min": 60,
    "sec": 1,
}
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "\\u00b5m": 1e-3, "nm": 1e-6, "m": 1e3}


def _recognises(path: Path, start: bytes) -> bool:
    return path.is_file() and start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """A file as tifffile opens it.

    Raises:
        ClipFileError: if it is damaged, or compressed in a way that nothing here decodes.
    """
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except ClipFileError:
        raise
    except _DAMAGED as error:
        raise ClipFileError(
            path, f"the TIFF is damaged, or stored in a way that is not read ({type(error).__name__}); write it again"
        ) from error


def pages_of(path: Path, file: tifffile.TiffFile) -> tuple[Sequence[Any], str]:
    """A page for each frame, and the axes of each: "YX", "YXS" or "CYX", with C for whole planes.

    Raises:
        ClipFileError: if axes are none of a film, or pages differ in size.
    """
    series = file.series
    if not series:
        raise ClipFileError(path, "the TIFF holds no page")
    if len(series) > 1:  # written page by page
        shapes = {each.shape for each in series}
        if len(shapes) > 1 or len(series[0].pages) != 1:
            raise ClipFileError(path, f"all pages of a film are of one size, got {sorted(shapes)[:3]}")
        return [each.pages[0] for each in series], series[0].axes
    [one] = series
    sizes = {axis: size for axis, size in zip(one.axes, one.shape, strict=True) if size > 1 or axis in "YX"}
    over = [axis for axis in sizes if axis not in "YXSC"]
    if len(over) > 1 or (over and over[0] not in _OVER_TIME):
        raise ClipFileError(path, f"a film has one axis over its frames, got axes {one.axes} of {one.shape}")
    inner = "".join(axis for axis in sizes if axis in "YXSC")
    if inner not in ("YX", "YXS", "CYX", "SYX") or "".join(sizes) != "".join(over) + inner:
        raise ClipFileError(path, f"frames are rows, columns and channels, got axes {one.axes} of {one.shape}")
    if inner == "SYX" and not over:
        raise ClipFileError(
            path,
            f"the one page of {one.shape[0]} planes may be colours, or frames that were written as such; write a page "
            'for each frame (tifffile: photometric="minisblack")',
        )
    return one.pages, inner


def _frames(pages: Sequence[Any], inner: str, count: int) -> Iterator[NDArray[Any]]:
    """Each frame, (H, W) or (H, W, C), one in memory."""
    each = len(pages) // count
    for start in range(0, each * count, each):
        planes = [pages[start + place].asarray() for place in range(each)]
        array = planes[0] if each == 1 else np.stack(planes)
        yield np.moveaxis(array, 0, -1) if inner in ("CYX", "SYX") else array


def stacked(path: Path, file: tifffile.TiffFile) -> tuple[int, Iterator[NDArray[Any]]]:
    """How many frames there are, and each of them.

    A stack that lies in one piece behind a single page, as ImageJ writes large ones, is mapped and not loaded.

    Raises:
        ClipFileError: see `pages_of`.
    """
    pages, inner = pages_of(path, file)
    series = file.series[0]
    if len(file.series) > 1:
        return len(pages), _frames(pages, inner, len(pages))
    count = 1
    for axis, size in zip(series.axes, series.shape, strict=True):
        count *= size if axis not in "YXSC" else 1
    if len(pages) >= count and all(page is not None for page in pages):
        return count, _frames(pages, inner, count)
    shape = [size for axis, size in zip(series.axes, series.shape, strict=True) if axis in inner]
    mapped = file.asarray(out="memmap").reshape(count, *shape)
    return count, (np.moveaxis(each, 0, -1) if inner in ("CYX", "SYX") else each for each in mapped)


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    with opened(path) as file:
        count, frames = stacked(path, file)
        first = as_pixels(path, next(frames))
        step_s, spacing = _metadata(file)
        remarks = [Remark("the file does not tell when its frames are", is_warning=False)] * (step_s is None)

        def all_frames() -> Iterator[Raw]:
            yield Raw(0, None if step_s is None else Fraction(0), first)
            for index, frame in enumerate(frames, start=1):
                yield Raw(index, None if step_s is None else index * step_s, as_pixels(path, frame))

        yield Source(
            info=info_of(first, frames=count, rate=step_s and 1 / step_s, spacing_mm=spacing),
            frames=all_frames(),
            numbers=range(count),
            time_base=step_s,
            remarks=tuple(remarks),
        )


def _metadata(file: tifffile.TiffFile) -> tuple[Fraction | None, tuple[float, float] | None]:
    """Seconds between frames and spacing, where OME-XML or ImageJ tell them."""
    if file.ome_metadata:
        return _of_ome(file.ome_metadata)
    told = file.imagej_metadata or {}
    step = _positive(told.get("finterval"))
    step = step * Fraction(_SECONDS.get(str(told.get("tunit", "s")).strip(), 1)) if step else None
    if step is None and (fps := _positive(told.get("fps"))):
        step = 1 / fps
    unit = _MILLIMETRES.get(str(told.get("unit", "")).strip())
    tags = file.pages[0].tags if unit else {}  # type: ignore[union-attr]
    found = [tags[name].value for name in ("YResolution", "XResolution") if name in tags]
    if unit is None or len(found) != 2 or not all(number and per for number, per in found):
        return step, None
    rows, columns = (unit * per / number for number, per in found)
    return step, (rows, columns)


def _of_ome(xml: str) -> tuple[Fraction | None, tuple[float, float] | None]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, None
    pixels = next((each for each in root.iter() if each.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, None
    step, unit = _positive(pixels.get("TimeIncrement")), _SECONDS.get(str(pixels.get("TimeIncrementUnit", "s")))
    spacing = []
    for axis in "YX":
        size, scale = _positive(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        spacing.append(float(size) * _MILLIMETRES[scale] if size and scale in _MILLIMETRES else 0.0)
    return (step * unit if step and unit else None), (spacing[0], spacing[1]) if all(spacing) else None


def _positive(value: object) -> Fraction | None:
    """A number as it is written in decimal digits; None where it is none, or not above 0."""
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None
    return number if number > 0 else None


def read_picture(path: Path) -> NDArray[Any]:
    """A TIFF of one page, (H, W, C).

    Raises:
        ClipFileError: if it is damaged or has several.
    """
    return as_pixels(path, read_page(path))


def read_page(path: Path) -> NDArray[Any]:
    """The values of a TIFF of one page as they are stored.

    Raises:
        ClipFileError: if it is damaged or has several.
    """
    with opened(path) as file:
        count, frames = stacked(path, file)
        if count != 1:
            raise ClipFileError(path, f"a frame in a folder is one page, and this TIFF has {count}")
        return next(frames)


TIFF = ClipFormat(name="multi-page TIFF", suffixes=SUFFIXES, recognises=_recognises, open=_open, masks="tiff")
