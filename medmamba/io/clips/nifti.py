"""Cine series in NIfTI: one slice over time, axes (columns, rows, 1, time)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from numpy.typing import NDArray

from medmamba.io.clips.reader import ClipFormat, Raw, Source, as_pixels, info_of
from medmamba.io.errors import ClipEndsEarlyError, ClipFileError
from medmamba.io.remarks import Remark

SUFFIXES = (".nii.gz", ".nii")
_SECONDS = {"sec": Fraction(1), "msec": Fraction(1, 1000), "usec": Fraction(1, 10**6)}
_MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 1e-3, "unknown": 1.0}
_DAMAGED = (EOFError, zlib.error, ValueError, OSError, NibabelError)


def _recognises(path: Path, start: bytes) -> bool:
    if not path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return False
    try:
        shape = nib.load(path).shape
    except _DAMAGED:
        return False
    return len(shape) == 4


@contextmanager
def series(path: Path) -> Iterator[tuple[Any, Iterator[NDArray[Any]]]]:
    """A series as nibabel opens it, and its frames (rows, columns) one by one, read from one end to the other.

    Raises:
        ClipFileError: if it is none of one slice over time; of the frames also ClipEndsEarlyError.
    """
    try:
        image = nib.Nifti1Image.from_filename(path, keep_file_open=True)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ClipFileError(path, f"no NIfTI that can be read ({type(error).__name__}); copy it again") from error
    if len(image.shape) != 4 or image.shape[2] != 1:
        raise ClipFileError(
            path,
            f"a film is one slice over time, with axes (columns, rows, 1, time), and this is {image.shape}; "
            "take one slice out of it",
        )
    yield image, _frames(path, image)


def _frames(path: Path, image: Any) -> Iterator[NDArray[Any]]:
    for index in range(image.shape[3]):
        try:
            yield np.asarray(image.dataobj[:, :, 0, index]).T
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = f"the file is cut off or damaged behind its first {index} frames; copy it again"
            raise ClipEndsEarlyError(path, reason, index) from error


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    with series(path) as (image, frames):
        if not image.shape[3]:
            raise ClipFileError(path, "the film has no frame; a clip has at least one")
        first = as_pixels(path, next(frames))
        step_s, remarks = step_of(image.header)
        length, _ = image.header.get_xyzt_units()
        columns, rows = (abs(float(size)) * _MILLIMETRES.get(length, 1.0) for size in image.header.get_zooms()[:2])

        def all_frames() -> Iterator[Raw]:
            yield Raw(0, None if step_s is None else Fraction(0), first)
            for index, frame in enumerate(frames, start=1):
                yield Raw(index, None if step_s is None else index * step_s, as_pixels(path, frame))

        yield Source(
            info=info_of(
                first,
                frames=image.shape[3],
                rate=step_s and 1 / step_s,
                spacing_mm=(rows, columns) if rows and columns else None,
            ),
            frames=all_frames(),
            numbers=range(image.shape[3]),
            time_base=step_s,
            remarks=remarks,
            header=image.header.copy(),
        )


def step_of(header: Any) -> tuple[Fraction | None, tuple[Remark, ...]]:
    """Seconds from one frame to the next, as far as the header gives a unit."""
    unit = header.get_xyzt_units()[1]
    # float32 holds 0.04 as 0.0399999991: what was meant is the shortest number that is stored so.
    step = Fraction(str(np.float32(header["pixdim"][4])))
    if unit in _SECONDS and step > 0:
        return step * _SECONDS[unit], ()
    told = f"a step of {float(step):g} without a unit of time" if step > 0 else "no step in time"
    return None, (Remark(f"the header has {told}, so times are unknown; set its xyzt_units and pixdim"),)


NIFTI = ClipFormat(name="4D NIfTI", suffixes=SUFFIXES, recognises=_recognises, open=_open, masks="nifti")
