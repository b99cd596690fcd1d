"""Films in DICOM: many frames in a file, as ultrasound and endoscopy store them, or a folder with one in each file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels

from medmamba.clip import rate_of
from medmamba.io.clips.dicom_times import spacing_of, times_of, times_of_files
from medmamba.io.clips.film import container_of, open_film
from medmamba.io.clips.reader import ClipFormat, Raw, Source, as_pixels, clock_of, info_of
from medmamba.io.dicom.derived import DERIVED, quiet, sop_class
from medmamba.io.dicom.instances import (
    DAMAGED,
    begins_as_dicom,
    damage,
    dicom_files,
    is_of_system,
    no_decoder,
    syntax_of,
)
from medmamba.io.errors import ClipEndsEarlyError, ClipFileError
from medmamba.io.remarks import Remark

#: MPEG-2, MPEG-4 and HEVC: one stream for all frames.
_STREAMS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))


def _recognises(path: Path, start: bytes) -> bool:
    if path.is_dir():
        return any(True for _ in _files(path))
    return len(start) >= 132 and begins_as_dicom(start) and sop_class(path) not in DERIVED


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in dicom_files(folder) if path.parent == folder)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of pydicom are those of a damaged file.

    Raises:
        ClipFileError: instead of them.
    """
    try:
        with quiet():
            yield
    except ClipFileError:
        raise
    except (*DAMAGED, RuntimeError) as error:
        if isinstance(error, Exception) and is_of_system(error):
            raise
        raise ClipFileError(path, f"the DICOM object is damaged ({damage(error)}); export it again") from error


def header_of(path: Path) -> Dataset:
    """All attributes but the pixels."""
    with reading(path):
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    opening = _of_folder if path.is_dir() else _of_file
    with opening(path) as source:
        yield source


@contextmanager
def _of_file(path: Path) -> Iterator[Source]:
    header = header_of(path)
    with reading(path):
        count = int(header.get("NumberOfFrames") or 1)
        if not 0 < count <= path.stat().st_size:  # before anything is made for each of them
            raise ClipFileError(path, f"the header says {count} frames, which the file cannot hold; export it again")
        times, remarks = times_of(header, count)
        spacing, more = spacing_of(header)
        syntax = syntax_of(header)
    known = {"rate": rate_of(times) if times else None, "spacing_mm": spacing}
    if syntax.startswith(_STREAMS):
        with _of_stream(path, count, times, known, (*remarks, *more)) as source:
            yield source
        return
    if lacking := no_decoder(syntax):
        raise ClipFileError(path, lacking)
    frames = _pixels(path, header, count)
    first = next(frames)
    yield Source(
        info=info_of(first, frames=count, **known),
        frames=_with_times(first, frames, times),
        numbers=range(1, count + 1),
        time_base=clock_of(times) if times else None,
        remarks=(*remarks, *more),
        files=(path,),
    )


def _with_times(first: NDArray[Any], rest: Iterator[NDArray[Any]], times: tuple[Fraction, ...] | None) -> Iterator[Raw]:
    yield Raw(1, times[0] if times else None, first)
    for index, pixels in enumerate(rest, start=1):
        yield Raw(index + 1, times[index] if times else None, pixels)


def _pixels(path: Path, header: Dataset, count: int) -> Iterator[NDArray[Any]]:
    """The frames of a file, one in memory."""
    frames = iter_pixels(path)
    for index in range(count):
        try:
            with reading(path):
                frame = next(frames, None)
                pixels = None if frame is None else values_of(path, header, frame)
        except ClipFileError as error:
            raise ClipEndsEarlyError(
                path, f"frame {index + 1} of {count} cannot be read: {error.reason}", index
            ) from error
        if pixels is None:
            raise ClipEndsEarlyError(path, f"there are {index} frames where the header says {count}", index)
        yield pixels


def values_of(path: Path, header: Dataset, frame: NDArray[Any]) -> NDArray[Any]:
    """A decoded frame as pixels: colours of palettes looked up, slopes applied, white where there is most."""
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(frame, header)
        return as_pixels(path, (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours)
    slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    if photometric == "MONOCHROME1" and frame.dtype.kind == "u":
        frame = ((1 << int(header.BitsStored)) - 1 - frame).astype(frame.dtype)
    if (slope, intercept) != (1, 0):
        frame = frame.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return as_pixels(path, frame)


@contextmanager
def _of_stream(
    path: Path, count: int, times: tuple[Fraction, ...] | None, known: dict[str, Any], remarks: tuple[Remark, ...]
) -> Iterator[Source]:
    """MPEG or H.264 inside of DICOM: a film file in its fragments, the times being those of DICOM."""
    with reading(path):
        dataset = pydicom.dcmread(path, force=True)
        film = b"".join(generate_frames(dataset.PixelData, number_of_frames=1))

    with open_film(lambda: container_of(io.BytesIO(film), path), path) as inner:
        told = inner.info.frames
        if told != count:
            remarks = (*remarks, Remark(f"the header says {count} frames, and the film has {told}, which are taken"))
            times = None
        yield Source(
            info=replace(inner.info, **(known if times else {**known, "rate": inner.info.rate})),
            frames=(
                Raw(raw.number + 1, times[raw.number] if times else raw.time_s, raw.pixels) for raw in inner.frames
            ),
            numbers=range(1, (told or 0) + 1),
            time_base=clock_of(times) if times else inner.time_base,
            remarks=remarks if times else (*remarks, *inner.remarks),
            files=(path,),
        )


@contextmanager
def _of_folder(path: Path) -> Iterator[Source]:
    """A file for each frame, in the order of instance numbers."""
    headers = {file: header_of(file) for file in _files(path)}
    with reading(path):
        ordered = _ordered(path, headers)
        files, first_header = list(ordered.values()), headers[next(iter(ordered.values()))]
        times, remarks = times_of_files([headers[file] for file in files])
        spacing, more = spacing_of(first_header)
    if lacking := no_decoder(syntax_of(first_header)):
        raise ClipFileError(path, lacking)
    yield Source(
        info=info_of(
            next(_pixels(files[0], first_header, 1)),
            frames=len(files),
            rate=rate_of(times) if times else None,
            spacing_mm=spacing,
        ),
        frames=(
            Raw(number, times[index] if times else None, next(_pixels(file, headers[file], 1)))
            for index, (number, file) in enumerate(ordered.items())
        ),
        numbers=tuple(ordered),
        time_base=clock_of(times) if times else None,
        remarks=(*remarks, *more),
        files=tuple(files),
    )


def _ordered(path: Path, headers: dict[Path, Dataset]) -> dict[int, Path]:
    """Files by instance number.

    Raises:
        ClipFileError: if they are of several series, not of one place, or not numbered.
    """
    series = {str(header.get("SeriesInstanceUID")) for header in headers.values()}
    if len(series) > 1:
        raise ClipFileError(path, f"holds DICOM files of {len(series)} series; give a folder with one film")
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers.values()):
        if len(headers) == 1:
            raise ClipFileError(path, f"holds one film; give the file {next(iter(headers)).name} itself")
        raise ClipFileError(path, "holds several films; give one of the files")
    places = {tuple(map(float, header.get("ImagePositionPatient") or ())) for header in headers.values()}
    if len(places) > 1:
        raise ClipFileError(path, f"is a stack of slices at {len(places)} places and no film; a film is of one place")
    numbers: dict[int, Path] = {}
    for file, header in headers.items():
        number = header.get("InstanceNumber")
        if number is None or int(number) in numbers:
            raise ClipFileError(path, f"frames are in the order of InstanceNumber, which {file.name} lacks or repeats")
        numbers[int(number)] = file
    return dict(sorted(numbers.items()))


DICOM = ClipFormat(name="DICOM", suffixes=(".dcm",), recognises=_recognises, open=_open, masks="dicom")
