"""What all forms of films have in common: frames one by one, each checked against the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.clip import ClipInfo, Frame, PixelType
from medmamba.io.errors import ClipFileError
from medmamba.io.remarks import Remark

#: Of the finest clock that films are written by; what needs a finer one is rounded.
MOST_TICKS = 10**9
_KINDS: dict[str, PixelType] = {"uint8": "uint8", "uint16": "uint16"}


class Raw(NamedTuple):
    """A frame as a form gives it: what its source calls it, when it is, and (H, W, C)."""

    number: int
    time_s: Fraction | None
    pixels: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An opened film.

    Args:
        info: what is known before frames are read.
        frames: all of them, once, in their order.
        numbers: of all frames; None of a stream.
        names: of all frames, where each is a file.
        time_base: the clock in whose ticks all times are whole; None where there are no times, or no such clock.
        remarks: on what is unusual.
        files: of DICOM, which a segmentation refers to.
        header: of NIfTI, which masks take over.
    """

    info: ClipInfo
    frames: Iterable[Raw]
    numbers: Sequence[int] | None = None
    names: tuple[str, ...] = ()
    time_base: Fraction | None = None
    remarks: tuple[Remark, ...] = ()
    files: tuple[Path, ...] = ()
    header: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFormat:
    """A form that films come in.

    Args:
        name: of the form.
        suffixes: endings of such files; none of folders.
        recognises: whether a path is one, by what is in it; given are its first bytes, none of a folder.
        open: the film, until the block ends.
        masks: by which form its masks are written, see `medmamba.io.clips.mask_writer`.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], AbstractContextManager[Source]]
    masks: str = "folder"


class ClipReader:
    """A film, whose frames are given once, in order and in bounded memory.

    What is known of it stays when it has been read and closed.

    Args:
        path: of the film.
        form: of the film.
        source: as its form opened it.
        rate: frames a second, by which numbers become times where the source gives none.
    """

    def __init__(self, path: Path, form: ClipFormat, source: Source, rate: Fraction | None = None) -> None:
        self.path = path
        self.form = form
        self.info = source.info
        self.numbers = source.numbers
        self.names = source.names
        self.remarks = source.remarks
        self.time_base = source.time_base
        self.files = source.files
        self.header = source.header
        if rate is not None and source.info.rate is None:
            self.info = replace(source.info, rate=rate)
            self.time_base = Fraction(rate.denominator, rate.numerator)
        self._timed_by = rate
        self._frames: Iterable[Raw] | None = source.frames

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames, once.

        Raises:
            ClipFileError: if a frame is unlike the first.
            ClipEndsEarlyError: behind the last good frame of a damaged film.
            RuntimeError: when asked a second time.
        """
        if self._frames is None:
            raise RuntimeError(f"{self.path} was read already; open it again")
        frames, self._frames = self._frames, None
        first = None
        index = -1
        for index, raw in enumerate(frames):
            check_alike(self.path, index, raw.time_s, raw.pixels.shape, raw.pixels.dtype.name, self.info)
            time = raw.time_s
            if time is None and self._timed_by is not None:
                first = raw.number if first is None else first
                time = (raw.number - first) / self._timed_by
            yield Frame(index=index, number=raw.number, time_s=time, pixels=raw.pixels)
        if index < 0:
            raise ClipFileError(self.path, "the film has no frame; a clip has at least one")


def check_alike(
    path: Path, index: int, time_s: Fraction | None, shape: Sequence[int], dtype: str, info: ClipInfo
) -> None:
    """Refuse a frame that is unlike the first.

    Raises:
        ClipFileError: naming it.
    """
    if tuple(shape) == info.shape and dtype == info.dtype:
        return
    at = "" if time_s is None else f" at {float(time_s):.3f} s"
    raise ClipFileError(
        path,
        f"all frames of a film are of one size and kind, but frame {index}{at} has {_words(shape, dtype)} where the "
        f"first has {_words(info.shape, info.dtype)}; cut the film there, or bring all frames to one size",
    )


def _words(shape: Sequence[int], dtype: str) -> str:
    return f"{shape[0]} x {shape[1]} pixels of {shape[2]} x {dtype}"


def as_pixels(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Stored values (H, W) or (H, W, C) as pixels (H, W, C): bytes and 16 bit as they are, all others as float32.

    Raises:
        ClipFileError: if there are values that are no numbers, or as many channels as no film has.
    """
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise ClipFileError(path, f"frames are (rows, columns) of 1 or 3 channels, got an array of {array.shape}")
    if pixels.dtype == bool:
        return pixels.view(np.uint8) * np.uint8(255)
    kind = _KINDS.get(pixels.dtype.name)
    if kind is None:
        if pixels.dtype.kind not in "iuf":
            raise ClipFileError(path, f"pixels are numbers, got values of the type {pixels.dtype}")
        pixels, kind = pixels.astype(np.float32), "float32"
        if not np.isfinite(pixels).all():
            raise ClipFileError(path, "a frame holds values that are not finite; replace them by numbers")
    return np.ascontiguousarray(pixels, dtype=np.dtype(kind))


def info_of(pixels: NDArray[Any], **known: Any) -> ClipInfo:
    """What a film is like, by its first frame (H, W, C)."""
    height, width, channels = pixels.shape
    kind = _KINDS.get(pixels.dtype.name, "float32")
    return ClipInfo(size=(height, width), channels=channels, dtype=kind, **known)


def clock_of(times_s: Iterable[Fraction]) -> Fraction | None:
    """The coarsest clock in whose ticks all times are whole; None where it would be too fine for a film."""
    ticks = 1
    for time in times_s:
        ticks = math.lcm(ticks, time.denominator)
        if ticks > MOST_TICKS:
            return None
    return Fraction(1, ticks)
