"""Masks of a film, written in the form of the film, frame by frame as they come."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medmamba.files import replacing, replacing_all
from medmamba.io.clips.palette import COUNT, palette
from medmamba.io.clips.reader import ClipReader
from medmamba.io.clips.seg import seg_writer
from medmamba.io.dicom.derived import Making
from medmamba.io.errors import ClipFileError
from medmamba.labels import Labels

#: Bytes of pixels in a TIFF whose places are of 32 bit.
_LARGEST_TIFF = 2**32 - 2**25
#: Takes the next mask, (H, W).
Put = Callable[[NDArray[Any]], None]


class MaskWriter:
    """Takes the masks of a film, one for each frame in order.

    Args:
        path: that is written.
        clip: whose masks these are.
        put: what writes the next one.
    """

    def __init__(self, path: Path, clip: ClipReader, dtype: np.dtype[Any], put: Put) -> None:
        self.path = path
        self.count = 0
        self._clip = clip
        self._dtype = dtype
        self._put = put
        self._ends_early = False

    def write(self, mask: NDArray[Any]) -> None:
        """Write the mask of the next frame, (H, W) label values.

        Raises:
            ValueError: if it is not of the frames' size, negative, larger than any label, or one too many.
        """
        if mask.shape != self._clip.info.size:
            raise ValueError(f"masks are of {self._clip.info.size} pixels, got {mask.shape}")
        if mask.size and not 0 <= mask.min() <= mask.max() <= np.iinfo(self._dtype).max:
            raise ValueError(
                f"masks hold label values up to {np.iinfo(self._dtype).max}, got {mask.min()} {mask.max()}"
            )
        if self._clip.numbers is not None and self.count >= len(self._clip.numbers):
            raise ValueError(f"{self._clip.path} has {self.count} frames, and a mask more was given")
        self._put(mask.astype(self._dtype))
        self.count += 1

    def ends_early(self) -> None:
        """Say that the film was cut off here, so that there are fewer masks than its header has frames."""
        self._ends_early = True

    def finish(self) -> None:
        """Refuse to be done before all frames have their masks.

        Raises:
            ValueError: if they have not.
        """
        frames = self.count if self._clip.numbers is None else len(self._clip.numbers)
        if self.count != frames and not self._ends_early:
            raise ValueError(f"{self._clip.path} has {frames} frames, and {self.count} masks were given")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskForm:
    """A form in which masks are written.

    Args:
        suffix: of the file; none of a folder.
        open: takes path, film, labels, type of values and what is told of the making; gives what takes masks.
    """

    suffix: str
    open: Callable[[Path, ClipReader, Labels, np.dtype[Any], Making], AbstractContextManager[Put]]


@contextmanager
def _folder(path: Path, clip: ClipReader, labels: Labels, dtype: np.dtype[Any], making: Making) -> Iterator[Put]:
    """PNG with the names of their frames, or their numbers; colours of DAVIS for viewers, indices for programs."""
    colours = palette().tobytes()
    with replacing_all(path) as temporary:
        temporary.mkdir()
        written = 0

        def put(mask: NDArray[Any]) -> None:
            nonlocal written
            name = clip.names[written] if clip.names else f"{clip.numbers[written] if clip.numbers else written:06d}"
            image = Image.fromarray(mask)
            if mask.dtype == np.uint8:
                image.putpalette(colours)
            image.save(temporary / f"{name}.png", format="PNG")
            written += 1

        yield put


@contextmanager
def _tiff(path: Path, clip: ClipReader, labels: Labels, dtype: np.dtype[Any], making: Making) -> Iterator[Put]:
    """One series over all frames: pages that are written one by one are one to most readers, if they lie together."""
    size = math.prod(clip.info.size) * (clip.info.frames or 0) * dtype.itemsize
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=size > _LARGEST_TIFF) as file:

        def put(mask: NDArray[Any]) -> None:
            file.write(mask, contiguous=True, photometric="minisblack")

        yield put


@contextmanager
def _nifti(path: Path, clip: ClipReader, labels: Labels, dtype: np.dtype[Any], making: Making) -> Iterator[Put]:
    """On the grid of the film, with its step in time; header first, then frame by frame."""
    header = nib.Nifti1Header() if clip.header is None else clip.header.copy()
    rows, columns = clip.info.size
    header.set_data_dtype(dtype)
    header.set_data_shape((columns, rows, 1, clip.info.frames))
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    with replacing(path) as temporary, ExitStack() as stack:
        file = cast(BinaryIO, stack.enter_context(temporary.open("wb")))
        if path.name.lower().endswith(".gz"):
            # Without name and time, so that equal masks are equal files.
            file = cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0)))
        file.write(header.binaryblock + b"\0" * (352 - len(header.binaryblock)))
        written = 0

        def put(mask: NDArray[Any]) -> None:
            nonlocal written
            file.write(np.ascontiguousarray(mask, dtype=header.get_data_dtype()).tobytes())
            written += 1

        yield put
        if written != clip.info.frames:
            raise ClipFileError(path, f"the header says {clip.info.frames} frames, and there are {written}")


@contextmanager
def _dicom(path: Path, clip: ClipReader, labels: Labels, dtype: np.dtype[Any], making: Making) -> Iterator[Put]:
    with seg_writer(path, clip, labels, making) as put:
        yield put


#: Forms of masks by the names that `medmamba.io.clips.reader.ClipFormat` gives.
MASK_FORMS = {
    "folder": MaskForm(suffix="", open=_folder),
    "tiff": MaskForm(suffix=".tif", open=_tiff),
    "nifti": MaskForm(suffix=".nii.gz", open=_nifti),
    "dicom": MaskForm(suffix=".dcm", open=_dicom),
}


def mask_name(clip: ClipReader, stem: str, form: str = "") -> str:
    """What the masks of a film are called: a folder, or a file with an ending.

    Args:
        clip: the film.
        stem: of the name.
        form: of `MASK_FORMS`; that of the film if none is given.
    """
    return stem + MASK_FORMS[form or clip.form.masks].suffix


@contextmanager
def mask_writer(
    path: Path, clip: ClipReader, labels: Labels, *, making: Making | None = None, form: str = ""
) -> Iterator[MaskWriter]:
    """Takes masks in the order of frames; the file or folder is there when the block ends well, and else nothing.

    Args:
        path: to be written, see `mask_name`.
        clip: whose masks they are.
        labels: what values mean.
        making: what DICOM tells of how they were made.
        form: of `MASK_FORMS`; that of the film if none is given.

    Raises:
        ValueError: if there are not as many masks as frames.
        OSError: of the system.
        ClipFileError: if the source is of a kind that DICOM SEG cannot refer to.
    """
    dtype = np.dtype(np.uint8 if max(labels.values) < COUNT else np.uint16)
    with MASK_FORMS[form or clip.form.masks].open(path, clip, labels, dtype, making or Making()) as put:
        writer = MaskWriter(path, clip, dtype, put)
        yield writer
        writer.finish()
