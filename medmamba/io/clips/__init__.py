"""Films: frame folders, film files, TIFF, DICOM and NIfTI, one module each, all of them in one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from medmamba.clip import Clip
from medmamba.io.clips.dicom import DICOM
from medmamba.io.clips.film import FILM, open_stream
from medmamba.io.clips.film_writer import FilmWriter, film_writer
from medmamba.io.clips.frame_folder import FRAME_FOLDER
from medmamba.io.clips.mask_writers import MaskWriter, mask_writer
from medmamba.io.clips.masks import ClipMasks, open_clip_masks, read_clip_masks
from medmamba.io.clips.nifti import NIFTI
from medmamba.io.clips.overlay import ContactSheet, painted
from medmamba.io.clips.reader import ClipFormat, ClipReader
from medmamba.io.clips.tiff import TIFF
from medmamba.io.errors import ClipFileError

__all__ = [
    "CLIP_FORMATS",
    "ClipFormat",
    "ClipMasks",
    "ClipReader",
    "ContactSheet",
    "FilmWriter",
    "MaskWriter",
    "clip_suffixes",
    "film_writer",
    "is_clip",
    "mask_writer",
    "open_clip",
    "open_clip_masks",
    "painted",
    "read_clip",
    "read_clip_masks",
]

#: The first that recognises a file or folder reads it.
CLIP_FORMATS: tuple[ClipFormat, ...] = (NIFTI, TIFF, DICOM, FRAME_FOLDER, FILM)
#: So many bytes tell what a file is.
_START_BYTES = 132


def clip_suffixes() -> tuple[str, ...]:
    """Endings of files that are films, as far as a name tells: DICOM, TIFF and NIfTI may be other things."""
    return tuple(suffix for form in CLIP_FORMATS for suffix in form.suffixes)


def is_clip(path: Path) -> bool:
    """Whether a file or folder is a film, by what is in it; it may still be damaged.

    Raises:
        OSError: if it is there and cannot be read.
    """
    return _form(path) is not None


def _form(path: Path) -> ClipFormat | None:
    if not path.exists():
        return None
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    return next((form for form in CLIP_FORMATS if form.recognises(path, start)), None)


@contextmanager
def open_clip(path: Path | BinaryIO, *, rate: Fraction | None = None) -> Iterator[ClipReader]:
    """A film to be read frame by frame, until the block ends.

    Args:
        path: of the film, or an open pipe such as ``sys.stdin.buffer`` that gives a film file.
        rate: frames a second, by which the frames' numbers become times where the source gives none.

    Raises:
        ClipFileError: if it is none, is damaged from the start, or its frames differ in size.
        MachineError: if it is a film file and PyAV is not installed.
        FileNotFoundError: if there is nothing.
    """
    if not isinstance(path, Path):
        with open_stream(path) as source:
            yield ClipReader(Path("<stream>"), FILM, source, rate)
        return
    form = _form(path)
    if form is None:
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        raise ClipFileError(path, _no_clip(path))
    with form.open(path) as source:
        yield ClipReader(path, form, source, rate)


def _no_clip(path: Path) -> str:
    if path.is_dir():
        return "the folder holds no frames; a clip has at least one, as a PNG, JPEG, TIFF or DICOM file in the folder"
    if not path.stat().st_size:
        return "the file is empty; a clip has at least one frame"
    return f"no film that is known here; films are {', '.join(form.name for form in CLIP_FORMATS)}"


def read_clip(path: Path, *, rate: Fraction | None = None) -> Clip:
    """A whole film in memory.

    Raises:
        ClipEndsEarlyError: if it is cut off.
        ClipFileError, MachineError, FileNotFoundError: as `open_clip`.
    """
    with open_clip(path, rate=rate) as reader:
        return Clip.of(reader, reader.info)
