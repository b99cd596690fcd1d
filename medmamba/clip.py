"""A film: frames one after the other, each with its number and time, all of one size.

Letters: T frames, H rows, W columns, C channels. A frame is known by its index, the how-manieth it is of those that a
reader gives, from 0: frame k of masks belongs to frame k of the film, always, and never to a time or a name. Nothing
in this file reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

#: What masks hold where nobody said what is there: left out of losses and scores, and never background.
UNLABELLED = -1
#: Types of pixels: of most films, of deep ones (values as they are stored; films of more than 8 bit over the full scale
#: of 65535), and of measured values.
PixelType = Literal["uint8", "uint16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInfo:
    """What is known of a film before its frames are read.

    Args:
        size: (H, W) in pixels, as the film is looked at.
        channels: 1 for grey, 3 for red, green, blue.
        dtype: of the pixels.
        spacing_mm: from one row, and one column, to the next; None where the source does not say.
        frames: how many; None where only reading tells, for what headers say is not believed.
        rate: frames a second; None where the source does not say.

    Raises:
        ValueError: if one of these is no such value.
    """

    size: tuple[int, int]
    channels: int = 3
    dtype: PixelType = "uint8"
    spacing_mm: tuple[float, float] | None = None
    frames: int | None = None
    rate: Fraction | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.channels not in (1, 3) or self.dtype not in get_args(PixelType):
            raise ValueError(
                f"frames have at least one pixel, 1 or 3 channels and a type of {', '.join(get_args(PixelType))}, "
                f"got {self.size}, {self.channels} and {self.dtype}"
            )
        if self.spacing_mm is not None and not all(0 < step < float("inf") for step in self.spacing_mm):
            raise ValueError(f"spacing_mm must be positive, got {self.spacing_mm}")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"a film has more than 0 frames a second, got {self.rate}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.size, self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture of a film.

    Args:
        index: the how-manieth of those that the reader gives, from 0.
        number: what the source calls it, gaps and all: the number in a file's name, of a frame in DICOM from 1; the
            index where it has none.
        time_s: since the first frame; None where the source does not say.
        pixels: (H, W, C).
    """

    index: int
    number: int
    time_s: Fraction | None
    pixels: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A film in memory.

    Args:
        pixels: (T, H, W, C).
        numbers: T, see `Frame`.
        times_s: T since the first frame, each later than the one before; None where the source does not say.
        info: as of the whole; its ``frames`` is T.

    Raises:
        ValueError: if they are not of the same frames, or time does not go on.
    """

    pixels: NDArray[Any]
    numbers: tuple[int, ...]
    times_s: tuple[Fraction, ...] | None
    info: ClipInfo

    def __post_init__(self) -> None:
        count = len(self.numbers)
        if self.pixels.shape != (count, *self.info.shape) or self.info.frames != count or not count:
            raise ValueError(f"{count} frames of {self.info.shape} do not fit an array of {self.pixels.shape}")
        if self.times_s is not None and (len(self.times_s) != count or not is_increasing(self.times_s)):
            raise ValueError(f"{count} frames need as many times, each later than the one before")

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Frame]:
        times = self.times_s or (None,) * len(self)
        for index, (number, time) in enumerate(zip(self.numbers, times, strict=True)):
            yield Frame(index=index, number=number, time_s=time, pixels=self.pixels[index])

    @classmethod
    def of(cls, frames: Iterable[Frame], info: ClipInfo) -> Clip:
        """Gather the frames of a reader.

        Raises:
            ValueError: if there is none.
        """
        pixels, numbers, times = [], [], []
        for frame in frames:
            pixels.append(frame.pixels)
            numbers.append(frame.number)
            times.append(frame.time_s)
        if not pixels:
            raise ValueError("a clip has at least one frame")
        known = tuple(time for time in times if time is not None)
        return cls(
            pixels=np.stack(pixels),
            numbers=tuple(numbers),
            times_s=known if len(known) == len(times) else None,
            info=replace(info, frames=len(pixels)),
        )


def is_increasing(times: Sequence[Fraction]) -> bool:
    """Whether each is later than the one before."""
    return all(first < second for first, second in pairwise(times))


def rate_of(times_s: Sequence[Fraction]) -> Fraction | None:
    """Frames a second by the step in the middle of all; None of a single frame.

    What headers call the average is wrong in films of a variable rate.

    >>> rate_of([Fraction(0), Fraction(1, 25), Fraction(2, 25), Fraction(1)])
    Fraction(25, 1)
    """
    steps = sorted(second - first for first, second in pairwise(times_s))
    return 1 / steps[len(steps) // 2] if steps else None


def ends_of(times_s: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """When each frame gives way to the next; the last stays as long as the one before, and a single one a second."""
    if not times_s:
        return ()
    last = times_s[-1] - times_s[-2] if len(times_s) > 1 else Fraction(1)
    return (*times_s[1:], times_s[-1] + last)
