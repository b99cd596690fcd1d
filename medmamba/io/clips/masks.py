"""Masks of a film: which frame each belongs to, and what its values mean.

Masks in a folder belong to frames by name, or else by number, never by rank; some frames may have none. Stacks (TIFF,
NIfTI) hold one for each frame. Those of DICOM SEG say themselves which frame they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.clip import UNLABELLED
from medmamba.io.clips import nifti, tiff
from medmamba.io.clips.frame_folder import SUFFIXES, TIFF_SUFFIXES, numbered, picture, pictures_in
from medmamba.io.clips.reader import ClipReader
from medmamba.io.clips.seg import is_seg, open_seg
from medmamba.io.errors import ClipFileError
from medmamba.io.remarks import Remark
from medmamba.labels import Labels

Colour = tuple[int, int, int]
#: Pictures that keep values exactly.
_EXACT = (".png", ".bmp", ".pgm", *TIFF_SUFFIXES)
#: Modes of Pillow in which a pixel is a value and not a colour.
_VALUES = ("1", "L", "P", "I", "I;16")
#: For each frame the stored values, (H, W), or (H, W, 3) of colours; None where there is no mask.
Stored = Iterator[NDArray[Any] | None]


class ClipMasks:
    """The masks of a film, given once, one for each frame in order.

    Args:
        path: where they lie.
        remarks: on what is unusual.
        masks: as stored.
        told: what makes label values of stored ones.
    """

    def __init__(
        self, path: Path, clip: ClipReader, masks: Stored, labels: Labels | None, colours: Mapping[Colour, int] | None
    ) -> None:
        self.path = path
        self.remarks: tuple[Remark, ...] = ()
        self._size = clip.info.size
        self._masks = masks
        self._labels = labels
        self._colours = colours

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        """Give (H, W) for each frame: label values, and `UNLABELLED` where nobody said what is there.

        Raises:
            ClipFileError: if a mask is not of the frames' size, or holds a value or colour that no label has.
        """
        for index, stored in enumerate(self._masks):
            if stored is None:
                yield np.full(self._size, UNLABELLED, np.int16)
                continue
            values = _of_colours(self.path, index, stored, self._colours)
            if values.shape != self._size:
                raise ClipFileError(
                    self.path,
                    f"masks are of the size of their frames, but that of frame {index} is {_by(values.shape)} and "
                    f"frames are {_by(self._size)}",
                )
            yield _checked(self.path, index, values, self._labels)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _of_colours(path: Path, index: int, stored: NDArray[Any], colours: Mapping[Colour, int] | None) -> NDArray[Any]:
    """Label values by a table of colours; greys that are stored as colours are values."""
    if stored.ndim == 2:
        return stored
    found, places = np.unique(stored.reshape(-1, 3), axis=0, return_inverse=True)
    if colours is None:
        if not (found == found[:, :1]).all():
            raise ClipFileError(
                path,
                f"the mask of frame {index} is in colours, such as {tuple(found[-1].tolist())}: say which label each "
                "is, or write label values",
            )
        return np.asarray(stored[..., 0])
    unknown = [tuple(colour) for colour in found.tolist() if tuple(colour) not in colours]
    if unknown:
        row, column = np.argwhere((stored == unknown[0]).all(axis=-1))[0]
        raise ClipFileError(
            path,
            f"the mask of frame {index} has the colour {unknown[0]} at row {row}, column {column}, which no label has; "
            "colours must be exact, so masks are never stored as JPEG or resized smoothly",
        )
    values = np.array([colours[tuple(colour)] for colour in found.tolist()])
    return values[places].reshape(stored.shape[:2])


def _checked(path: Path, index: int, values: NDArray[Any], labels: Labels | None) -> NDArray[np.int16]:
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    found = np.unique(values)
    if values.dtype.kind == "f" and not np.array_equal(found, np.round(found)):
        raise ClipFileError(path, f"the mask of frame {index} holds {found[0]:g} to {found[-1]:g}, not whole values")
    allowed = None if labels is None else labels.allowed_values
    strange = [int(each) for each in found if (int(each) not in allowed if allowed else not 0 <= each < 2**15)]
    if strange:
        row, column = np.argwhere(values == strange[0])[0]
        known = "0 to 32767" if allowed is None else ", ".join(map(str, allowed))
        raise ClipFileError(
            path,
            f"the mask of frame {index} has the value {strange[0]} at row {row}, column {column}; labels are {known}",
        )
    masks = values.astype(np.int16)
    if labels is not None and labels.ignore is not None:
        masks[values == labels.ignore] = UNLABELLED
    return masks


@contextmanager
def open_clip_masks(
    path: Path, clip: ClipReader, labels: Labels | None = None, colours: Mapping[Colour, int] | None = None
) -> Iterator[ClipMasks]:
    """The masks of a film, to be read one by one until the block ends.

    Args:
        path: folder of PNG (or TIFF, BMP), multi-page TIFF, 4D NIfTI or DICOM SEG.
        clip: whose masks these are; it may have been read and closed.
        labels: which values there may be; None: any up to 32767.
        colours: which label value each colour is, where masks are in colours.

    Raises:
        ClipFileError: if there is a mask that belongs to no frame, as many masks in a stack as there are no frames,
            or no masks that are known here.
        FileNotFoundError: if there is nothing.
    """
    if clip.numbers is None:
        raise ClipFileError(path, "masks belong to frames of a file; those of a stream are not known")
    with _opening(path)(path, clip) as masks:
        yield ClipMasks(path, clip, masks, labels, colours)


def _opening(path: Path) -> Callable[[Path, ClipReader], AbstractContextManager[Stored]]:
    if path.is_dir():
        return _folder
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    if is_seg(path):
        return open_seg
    name = path.name.lower()
    if name.endswith(TIFF_SUFFIXES):
        return _tiff
    if name.endswith(nifti.SUFFIXES):
        return _nifti
    raise ClipFileError(
        path,
        "masks are a folder of PNG, a multi-page TIFF, a 4D NIfTI or DICOM SEG; films lose values when compressed",
    )


def read_clip_masks(
    path: Path, clip: ClipReader, labels: Labels | None = None, colours: Mapping[Colour, int] | None = None
) -> NDArray[np.int16]:
    """All masks of a film, (T, H, W), `UNLABELLED` where there is none; see `open_clip_masks`."""
    with open_clip_masks(path, clip, labels, colours) as masks:
        return np.stack(list(masks))


@contextmanager
def _folder(path: Path, clip: ClipReader) -> Iterator[Stored]:
    found = _by_frame(path, clip)
    yield (read_mask(found[index]) if index in found else None for index in range(len(clip.numbers or ())))


def _by_frame(path: Path, clip: ClipReader) -> dict[int, Path]:
    """Masks by the index of their frame."""
    files = pictures_in(path, SUFFIXES)
    if not files:
        raise ClipFileError(path, "the folder holds no masks; give a PNG for each frame that has one")
    for file in files:
        if file.suffix.lower() not in _EXACT:
            raise ClipFileError(file, "masks must keep their values, which JPEG and WebP do not; write PNG")
    of_names = {name: index for index, name in enumerate(clip.names)}
    if of_names and all(file.stem in of_names for file in files):
        found = {of_names[file.stem]: file for file in files}
        if len(found) < len(files):
            raise ClipFileError(path, "two masks have the name of one frame, but for their endings; remove one")
        return found
    numbers = numbered(path, files)
    of_numbers = {number: index for index, number in enumerate(clip.numbers or ())}
    if not clip.names and list(numbers) == list(range(1, len(of_numbers) + 1)) and 0 in of_numbers:
        # Counted from 1 as programs export frames of films; all are there, so it can be nothing else.
        numbers = {number - 1: file for number, file in numbers.items()}
    for number, file in numbers.items():
        if number not in of_numbers:
            first, last = min(of_numbers), max(of_numbers)
            raise ClipFileError(
                file,
                f"the mask belongs to no frame: its number is {number}, and the {len(of_numbers)} frames of "
                f"{clip.path.name} are numbered {first} to {last}; a mask bears the name or number of its frame",
            )
    return {of_numbers[number]: file for number, file in numbers.items()}


def read_mask(path: Path) -> NDArray[Any]:
    """The values of a mask as they are stored: (H, W), indices of palettes, or (H, W, 3) of colours.

    Raises:
        ClipFileError: if it is damaged.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        return tiff.read_page(path)
    with picture(path) as image:
        if image.mode in _VALUES or image.mode.startswith("I"):
            return np.asarray(image)
        if image.mode == "LA":
            return np.asarray(image.getchannel("L"))
        return np.asarray(image.convert("RGB"))


@contextmanager
def _tiff(path: Path, clip: ClipReader) -> Iterator[Stored]:
    with tiff.opened(path) as file:
        count, frames = tiff.stacked(path, file)
        _check_count(path, count, clip)
        yield frames


@contextmanager
def _nifti(path: Path, clip: ClipReader) -> Iterator[Stored]:
    with nifti.series(path) as (image, frames):
        _check_count(path, image.shape[3], clip)
        yield frames


def _check_count(path: Path, count: int, clip: ClipReader) -> None:
    frames = len(clip.numbers or ())
    if count != frames:
        raise ClipFileError(
            path,
            f"a stack holds a mask for each frame, but there are {count} masks and {clip.path.name} has {frames} "
            "frames; masks for some frames go into a folder, as PNG with their frames' numbers",
        )
