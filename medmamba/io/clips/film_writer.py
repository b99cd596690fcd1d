"""The overlay film: H.264 in MP4, as every player shows it, with as many frames and the same times as the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import MachineError
from medmamba.files import replacing
from medmamba.io.clips._av import pyav

#: Ticks a second where no clock of the source's times is known; times are rounded to it.
CLOCK = Fraction(1, 90000)
#: Without B-frames, or headers say a length too short to go to the last frames; one thread, or bytes depend on how many
#: there are; a frame to go to in every second, so that players step quickly.
_OPTIONS = {"bf": "0", "crf": "18", "g": "25", "threads": "1"}
#: BT.709 by its number in H.264: untagged colours are read in one way or another depending on the size.
_BT709, _LIMITED = 1, 1


class FilmWriter:
    """Takes frames in order, each with its time.

    Args:
        av: the package.
        film: the open container.
        size: (H, W) of frames.
        time_base: the clock.
        rate: frames a second as far as known, by which the last frame stays.
    """

    def __init__(self, av: Any, film: Any, size: tuple[int, int], time_base: Fraction, rate: Fraction | None) -> None:
        self.count = 0
        self._av, self._film, self._size, self._base = av, film, size, time_base
        self._step = None if rate is None else max(1, round(1 / rate / time_base))
        self._waiting: tuple[int, NDArray[np.uint8]] | None = None
        self._durations: dict[int, int] = {}
        stream = film.add_stream("libx264", rate=_sound_rate(rate), options=_OPTIONS)
        # 4:2:0, the form that all players know, has even sizes only.
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._stream = stream

    def write(self, rgb: NDArray[np.uint8], time_s: Fraction) -> None:
        """Write the next frame, (H, W, 3).

        Raises:
            ValueError: if it is not of the film's size, or not later than the one before.
        """
        if rgb.shape != (*self._size, 3) or rgb.dtype != np.uint8:
            raise ValueError(f"frames are {self._size} pixels of 3 bytes, got {rgb.shape} of {rgb.dtype}")
        ticks = round(time_s / self._base)
        if self._waiting is not None:
            before = self._waiting[0]
            if ticks <= before:
                raise ValueError(f"frame {self.count} is at {float(time_s)} s, not later than the one before")
            self._step = ticks - before
            self._encode(self._step)
        # A frame is encoded when it is known how long it stays.
        self._waiting = ticks, np.pad(rgb, ((0, self._size[0] % 2), (0, self._size[1] % 2), (0, 0)), mode="edge")
        self.count += 1

    def finish(self) -> None:
        """Write what waits; the last frame stays as long as the one before, a single one by the rate, or a second.

        Raises:
            ValueError: if there was no frame.
        """
        if self._waiting is None:
            raise ValueError("a film has at least one frame")
        self._encode(self._step or round(1 / self._base))
        self._mux(self._stream.encode(None))

    def _encode(self, duration: int) -> None:
        assert self._waiting is not None
        ticks, picture = self._waiting
        # The conversion makes true what the tags say.
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = ticks, self._base
        self._durations[ticks] = duration
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            ticks = round(packet.pts * packet.time_base / self._base)
            packet.duration = int(self._durations.pop(ticks) * self._base / packet.time_base)
            self._film.mux(packet)


def _sound_rate(rate: Fraction | None) -> Fraction:
    """What the encoder is told, which is no more than a hint; FFmpeg has 32 bits for either part."""
    return (rate or Fraction(25)).limit_denominator(1001)


@contextmanager
def film_writer(
    path: Path, size: tuple[int, int], *, time_base: Fraction | None = None, rate: Fraction | None = None
) -> Iterator[FilmWriter]:
    """An MP4 that takes frames in order; it is there when the block ends well, and else nothing.

    Rows or columns of an odd size are made even: the last one is repeated.

    Args:
        path: ending in .mp4.
        size: (H, W) of frames.
        time_base: the clock in whose ticks times are whole, as `medmamba.io.clips.ClipReader` has it.
        rate: frames a second, as far as known.

    Raises:
        MachineError: if PyAV, or its encoder of H.264, is not installed.
        ValueError: if there is no frame.
        OSError: of the system.
    """
    av = pyav("writing a film")
    try:
        av.codec.Codec("libx264", "w")
    except av.FFmpegError as error:
        raise MachineError(_NO_ENCODER) from error
    except ValueError as error:  # what av raises of a codec that it does not know
        raise MachineError(_NO_ENCODER) from error
    with replacing(path) as temporary:
        # The name of the temporary file does not tell its form.
        options = {"movflags": "+faststart"}
        with av.open(f"file:{temporary.resolve()}", "w", format="mp4", options=options) as film:
            writer = FilmWriter(av, film, size, time_base or CLOCK, rate)
            yield writer
            writer.finish()


_NO_ENCODER = (
    "this PyAV has no encoder libx264, which films are written with; that of the package index has: uninstall av "
    'and run pip install "medmamba[video]"'
)
