"""A folder with a picture for each frame, in the order of the numbers in their names, whose gaps are kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medmamba.io.clips.reader import ClipFormat, Raw, Source, as_pixels, info_of
from medmamba.io.clips.tiff import read_picture
from medmamba.io.errors import ClipFileError
from medmamba.io.remarks import Remark

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", *TIFF_SUFFIXES)
#: What of Pillow's modes becomes which; 16 bit stays.
_MODES = {"1": "L", "L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_EXIF_ORIENTATION = 0x0112


def pictures_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The pictures of a folder, hidden ones left out, in the order of names."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def numbered(folder: Path, files: Sequence[Path]) -> dict[int, Path]:
    """Files by the number in their names, ascending: 1, 2, 10 whether or not there are zeros in front.

    Of several numbers in a name it is the first that no two files have in common; of a single file the last.

    Raises:
        ClipFileError: if names hold no number, or two have the same one.
    """
    found = [[int(digits) for digits in re.findall(r"\d+", file.stem)] for file in files]
    for file, numbers in zip(files, found, strict=True):
        if not numbers:
            raise ClipFileError(folder, f"frames are in the order of the numbers in their names; {file.name} has none")
    if len(files) == 1:
        return {found[0][-1]: files[0]}
    for place in range(min(map(len, found))):
        numbers = [each[place] for each in found]
        if len(set(numbers)) == len(numbers):
            return dict(sorted(zip(numbers, files, strict=True)))
    last = [each[-1] for each in found]
    most, _ = Counter(last).most_common(1)[0]
    alike = [file.name for file, number in zip(files, last, strict=True) if number == most]
    raise ClipFileError(
        folder, f"each frame needs a number of its own, but {' and '.join(alike[:2])} have none; is this one film?"
    )


def _recognises(path: Path, start: bytes) -> bool:
    return path.is_dir() and bool(pictures_in(path))


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    files = numbered(path, pictures_in(path))
    first = next(iter(files.values()))
    remarks = [Remark(f"{first.name} is shown turned, by its Exif data, as all frames are")] * _is_turned(first)
    yield Source(
        info=info_of(read_frame(first), frames=len(files)),
        frames=(Raw(number, None, read_frame(file)) for number, file in files.items()),
        numbers=tuple(files),
        names=tuple(file.stem for file in files.values()),
        remarks=tuple(remarks),
    )


def _is_turned(path: Path) -> bool:
    if path.suffix.lower() in TIFF_SUFFIXES:
        return False
    with picture(path) as image:
        return bool(image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


@contextmanager
def picture(path: Path) -> Iterator[Image.Image]:
    """A file as Pillow opens it.

    Raises:
        ClipFileError: if it is damaged, or no picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        if isinstance(error, ClipFileError):
            raise
        raise ClipFileError(path, f"no picture that can be read ({type(error).__name__}); copy it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ClipFileError(path, "the picture is cut off or damaged; copy it again") from error


def read_frame(path: Path) -> NDArray[Any]:
    """A picture (H, W, C), grey or colour, of 8 or 16 bit; transparency is left out.

    Raises:
        ClipFileError: if it is damaged or of a kind that is none of these.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        return read_picture(path)
    if _is_deep_colour(path):
        return as_pixels(path, _by_simpleitk(path))
    with picture(path) as image:
        turned = ImageOps.exif_transpose(image)
        if turned.mode.startswith("I"):
            values = np.asarray(turned)
            if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
                raise ClipFileError(path, "grey values reach beyond 16 bit; write the frames as TIFF")
            return as_pixels(path, values.astype(np.uint16))
        if turned.mode not in _MODES:
            raise ClipFileError(path, f"pictures of the mode {turned.mode} are not read; write PNG, grey or RGB")
        return as_pixels(path, np.asarray(turned.convert(_MODES[turned.mode])))


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG holds colours of 16 bit, of which Pillow gives 8."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[:4] == b"\x89PNG" and start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x06")


def _by_simpleitk(path: Path) -> NDArray[Any]:
    import SimpleITK as sitk

    try:
        values: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise ClipFileError(path, "the picture is cut off or damaged; copy it again") from error
    return values[..., :3]


FRAME_FOLDER = ClipFormat(name="folder of frames", suffixes=(), recognises=_recognises, open=_open)
