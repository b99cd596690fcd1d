"""Film files (MP4, AVI, MKV, MOV and others) and streams of them, read by PyAV.

Frame k is the k-th that the decoder gives; nothing is sought, and nothing numbered by time. What headers say of counts,
rates and lengths is wrong in one container or another, so a file is decoded once without pixels to see what it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medmamba.io.clips._av import pyav
from medmamba.io.clips.reader import ClipFormat, Raw, Source, check_alike, info_of
from medmamba.io.errors import ClipEndsEarlyError, ClipFileError
from medmamba.io.remarks import Remark

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".ts", ".m2ts", ".h264", ".264"),
    *(".gif", ".apng", ".ogv", ".flv"),
)
#: By which protocols a container may be read, of files and of bytes that are here: one that names other files or
#: addresses must not lead anywhere.
_OF_FILES, _OF_BYTES = {"protocol_whitelist": "file"}, {"protocol_whitelist": "none"}
_NO_FILMS = ("hls", "concat", "dash", "image2", "sdp")
#: A rate above is that of a clock and not of pictures.
_MOST_RATE = 1000
#: A header that promises so much more time than there are frames tells of a file that was cut off.
_MISSING_S = 0.25
_REMEDY = "copy or export it again"
_OF_PIPES = (
    "an MP4 that has its index at the end is none through a pipe: give the file, or remux it with ffmpeg -c copy "
    "-movflags +faststart"
)


def _recognises(path: Path, start: bytes) -> bool:
    if not path.is_file():
        return False
    known = start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3" or (start[:4] == b"RIFF" and start[8:11] == b"AVI")
    return known or path.name.lower().endswith(SUFFIXES)


@dataclass(slots=True)
class Survey:
    """What decoding a film once tells of it, in memory that does not grow with its length.

    Args:
        count: of good frames.
        first: the first frame's pixels.
        has_times: whether each frame has one, later than the one before.
        steps: how often which ticks lie between frames.
        end_s: time of the last frame, as stored.
        damage: what ended it early.
        marks: what is unusual about frames.
    """

    count: int = 0
    first: NDArray[Any] | None = None
    has_times: bool = True
    steps: Counter[Fraction] = field(default_factory=Counter)
    start_s: Fraction | None = None
    end_s: Fraction | None = None
    damage: ClipEndsEarlyError | None = None
    marks: set[str] = field(default_factory=set)

    def add(self, path: Path, frame: Any) -> None:
        """Look at the next frame."""
        time = time_of(frame)
        if self.first is None:
            self.first, self.start_s = pixels_of(frame), time
            self.marks |= _marks(frame)
        else:
            shape = (*_shown_size(frame), self.first.shape[2])
            check_alike(path, self.count, time, shape, self.first.dtype.name, info_of(self.first))
        if time is None or (self.end_s is not None and time <= self.end_s):
            self.has_times = False
        elif self.end_s is not None:
            self.steps[time - self.end_s] += 1
        self.end_s = time if time is not None else self.end_s
        self.count += 1

    @property
    def rate(self) -> Fraction | None:
        """By the step in the middle."""
        half, seen = self.steps.total() // 2, 0
        for step in sorted(self.steps):
            seen += self.steps[step]
            if seen > half:
                return 1 / step
        return None


def time_of(frame: Any) -> Fraction | None:
    """When a frame is, as stored, in seconds."""
    return None if frame.pts is None or frame.time_base is None else Fraction(frame.pts * frame.time_base)


def _turn(frame: Any) -> tuple[bool, int, int]:
    """How a frame is shown: whether rows become columns, and the steps along the new rows and columns (1 or -1).

    `frame.rotation` knows nothing of mirrors, so the matrix itself is read; turns by odd angles are none here.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return False, 1, 1
    matrix = np.frombuffer(bytes(found), "<i4").reshape(3, 3)[:2, :2].astype(np.int64)
    sign = np.sign(matrix) * (abs(matrix) > 1 << 15)
    if np.abs(sign).sum() != 2 or abs(round(float(np.linalg.det(sign)))) != 1:
        return False, 1, 1
    if sign[0, 0] == 0:
        return True, int(sign[0, 1]), int(sign[1, 0])
    return False, int(sign[1, 1]), int(sign[0, 0])


def _shown_size(frame: Any) -> tuple[int, int]:
    return (frame.width, frame.height) if _turn(frame)[0] else (frame.height, frame.width)


def pixels_of(frame: Any) -> NDArray[Any]:
    """A decoded frame as it is looked at, (H, W, C): turned, grey or colour, 8 bit or all that there are."""
    is_grey = frame.format.name.startswith(("gray", "mono"))
    is_deep = frame.format.components[0].bits > 8
    kind = {(True, False): "gray", (True, True): "gray16le", (False, False): "rgb24", (False, True): "rgb48le"}
    array = frame.to_ndarray(format=kind[is_grey, is_deep])
    picture = array[..., None] if array.ndim == 2 else array
    swap, down, right = _turn(frame)
    picture = picture.swapaxes(0, 1) if swap else picture
    return np.ascontiguousarray(picture[::down, ::right])


def _marks(frame: Any) -> set[str]:
    marks = set()
    if frame.interlaced_frame:
        marks.add("frames are interlaced: each holds two moments in alternate rows, and is taken as it is")
    if frame.side_data.get("DISPLAYMATRIX") is not None and frame.rotation % 90:
        marks.add(f"the film is to be shown turned by {frame.rotation} degrees; it is taken as it is stored")
    return marks


@contextmanager
def container_of(file: str | BinaryIO, path: Path, remedy: str = _REMEDY) -> Iterator[Any]:
    """A film as PyAV opens it.

    Args:
        file: its name as FFmpeg takes it, or bytes that come from elsewhere.
        path: for messages.
        remedy: what to do about one that cannot be opened.

    Raises:
        ClipFileError: if it cannot, or holds no film.
        MachineError: if PyAV is not installed.
    """
    av = pyav("reading film files")
    try:
        container = av.open(file, options=_OF_FILES if isinstance(file, str) else _OF_BYTES)
    except av.FFmpegError as error:
        reason = f"the film cannot be opened: it is damaged, cut off or none ({_said(error)}); {remedy}"
        raise ClipFileError(path, reason) from error
    with container:
        if any(name in _NO_FILMS for name in container.format.name.split(",")):
            raise ClipFileError(path, f"is a list of other files ({container.format.name}) and no film")
        if not container.streams.video:
            raise ClipFileError(path, "the file holds no film, only other streams")
        yield container


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", "") or type(error).__name__)


def _decoded(container: Any, path: Path) -> Iterator[Any]:
    """All good frames of a film.

    Raises:
        ClipEndsEarlyError: behind them, if there is damage.
    """
    av = pyav("reading film files")
    stream, count = container.streams.video[0], 0
    frames, cause = container.decode(stream), None
    while True:
        try:
            frame = next(frames, None)
        except av.FFmpegError as error:
            if cause is not None:
                break
            cause = error
            # Some more good frames wait in the decoder for those that never came.
            frames = iter(_rest(stream))
            continue
        if frame is None:
            break
        if frame.is_corrupt:
            raise _early(path, count, "a frame that is damaged")
        yield frame
        count += 1
    if cause is not None:
        raise _early(path, count, _said(cause)) from cause


def _rest(stream: Any) -> list[Any]:
    av = pyav("reading film files")
    try:
        return list(stream.codec_context.decode(None))
    except av.FFmpegError:
        return []  # whose cause is told by the error before


def _early(path: Path, count: int, what: str) -> ClipEndsEarlyError:
    reason = f"the film is cut off or damaged behind its first {count} frames ({what}); {_REMEDY}"
    return ClipEndsEarlyError(path, reason, count)


def survey(open_container: Callable[[], Any], path: Path) -> tuple[Survey, tuple[Remark, ...], Fraction | None]:
    """Decode a film once without keeping pixels: what it holds, remarks, and the rate where times lack.

    Raises:
        ClipFileError: if it has no frame, or its frames differ in size.
    """
    found = Survey()
    with open_container() as container:
        stream = container.streams.video[0]
        told, aspect = stream.average_rate, stream.sample_aspect_ratio
        length_s = None if container.duration is None else Fraction(container.duration, 1_000_000)
        try:
            for frame in _decoded(container, path):
                found.add(path, frame)
        except ClipEndsEarlyError as error:
            found.damage = error
    if not found.count:
        raise found.damage or ClipFileError(path, "the film has no frame; a clip has at least one")
    remarks = [Remark(mark) for mark in sorted(found.marks)]
    if aspect and aspect != 1:
        remarks.append(Remark(f"pixels are {float(aspect):.3g} times as wide as high; areas are in stored pixels"))
    rate = found.rate
    if not found.has_times:
        rate = Fraction(told) if told and 0 < told < _MOST_RATE else None
        words = f"frames are taken to come at {float(rate):.3f} a second" if rate else "times are unknown"
        remarks.append(Remark(f"the file does not tell when its frames are, or in no order; {words}"))
    elif found.count == 1:
        rate = Fraction(told) if told and 0 < told < _MOST_RATE else None
    if found.damage is None and found.has_times and rate and length_s and found.end_s is not None:
        missing = float(length_s - (found.end_s - (found.start_s or 0)) - 1 / rate)
        if missing > max(_MISSING_S, 2 / float(rate)):
            remarks.append(Remark(f"the header promises {missing:.2f} s more than there are frames: is it cut off?"))
    return found, tuple(remarks), rate


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    with open_film(lambda: container_of(f"file:{path.resolve()}", path), path) as source:
        yield source


@contextmanager
def open_film(open_container: Callable[[], Any], path: Path) -> Iterator[Source]:
    """A film that can be decoded twice.

    Args:
        open_container: gives a context with an opened container.
        path: for messages.

    Raises:
        ClipFileError: if it is none, see `survey`.
    """
    found, remarks, rate = survey(open_container, path)
    assert found.first is not None
    with open_container() as container:
        base = container.streams.video[0].time_base
        timing = (lambda index, time: time - found.start_s) if found.has_times else _by_rate(rate)
        yield Source(
            info=info_of(found.first, frames=found.count, rate=rate),
            frames=_frames(container, path, timing),
            numbers=range(found.count),
            time_base=base if found.has_times else rate and 1 / rate,
            remarks=remarks,
        )


def _by_rate(rate: Fraction | None) -> Callable[[int, Fraction | None], Fraction | None]:
    return lambda index, time: None if rate is None else index / rate


def _frames(container: Any, path: Path, timing: Callable[[int, Fraction | None], Fraction | None]) -> Iterator[Raw]:
    for index, frame in enumerate(_decoded(container, path)):
        yield Raw(index, timing(index, time_of(frame)), pixels_of(frame))


@contextmanager
def open_stream(file: BinaryIO, name: str = "<stream>") -> Iterator[Source]:
    """A film that comes through a pipe: frames as they arrive, nothing known of what is to come.

    Raises:
        ClipFileError: if it is none; of frames also if their times go back.
    """
    path = Path(name)
    with container_of(file, path, _OF_PIPES) as container:
        stream = container.streams.video[0]
        frames = _decoded(container, path)
        first = next(frames, None)
        if first is None:
            raise ClipFileError(path, "the film has no frame; a clip has at least one")
        told = stream.average_rate or stream.guessed_rate
        rate = Fraction(told) if told and 0 < told < _MOST_RATE else None
        start = time_of(first)
        yield Source(
            info=info_of(pixels_of(first), rate=rate),
            frames=_arriving(path, first, frames, start, rate),
            time_base=stream.time_base if start is not None else rate and 1 / rate,
            remarks=tuple(map(Remark, sorted(_marks(first)))),
        )


def _arriving(
    path: Path, first: Any, rest: Iterator[Any], start: Fraction | None, rate: Fraction | None
) -> Iterator[Raw]:
    by_rate, last = _by_rate(rate), None
    yield Raw(0, by_rate(0, None) if start is None else Fraction(0), pixels_of(first))
    last = start
    for index, frame in enumerate(rest, start=1):
        time = time_of(frame)
        if start is not None and (time is None or last is None or time <= last):
            raise ClipFileError(path, f"frame {index} of the stream has no time, or one that goes back; give a file")
        last = time
        yield Raw(index, by_rate(index, None) if start is None or time is None else time - start, pixels_of(frame))


FILM = ClipFormat(name="film", suffixes=SUFFIXES, recognises=_recognises, open=_open)
