"""The overlay film: as many frames as were given, at their times, in colours that every player shows alike."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from medmamba.errors import MachineError
from medmamba.io.clips import film_writer, open_clip, read_clip
from tests import clip_factory as factory

av = pytest.importorskip("av", reason='PyAV is not installed; pip install "medmamba[video]"')

UNEVEN = [Fraction(k, 1000) for k in (500, 540, 600, 1000, 1040, 1500, 1540, 1800, 1801, 1900, 2000, 2500)]


@pytest.mark.parametrize("base", [Fraction(1, 30000), Fraction(1001, 30000), Fraction(1, 10**9), Fraction(1, 7)])
def test_times_come_back_exactly_in_any_clock(tmp_path: Path, base: Fraction) -> None:
    path = tmp_path / "film.mp4"
    times = [k * (k + 1) // 2 * base for k in range(12)]
    with film_writer(path, (48, 64), time_base=base) as writer:
        for picture, time in zip(factory.frames(), times, strict=True):
            writer.write(picture, time)
    clip = read_clip(path)
    assert clip.times_s == tuple(times)
    assert factory.indices_of(clip.pixels) == list(range(12))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_a_film_is_as_long_as_its_last_frame_stays_and_begins_when_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with film_writer(path, (48, 64)) as writer:
        for picture, time in zip(factory.frames(), UNEVEN, strict=True):
            writer.write(picture, time)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.duration * stream.time_base == Fraction(5, 2)
        first = next(film.decode(stream))
        assert first.pts * first.time_base == Fraction(1, 2)
        assert stream.codec_context.has_b_frames == 0


@pytest.mark.parametrize("size", [(47, 65), (48, 65), (47, 64), (720, 1280)])
def test_colours_are_true_and_odd_sizes_end_in_a_repeated_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "film.mp4"
    colour = np.array([200, 80, 60])
    with film_writer(path, size) as writer:
        writer.write(np.broadcast_to(colour.astype(np.uint8), (*size, 3)), Fraction(0))
    clip = read_clip(path)
    assert clip.info.size == tuple(side + side % 2 for side in size)
    assert np.abs(clip.pixels.astype(int) - colour).max() <= 3
    with av.open(str(path)) as film:
        context = film.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"


def test_equal_frames_are_an_equal_file(tmp_path: Path) -> None:
    for name in ("one.mp4", "other.mp4"):
        with film_writer(tmp_path / name, (48, 64)) as writer:
            for picture, time in zip(factory.frames(), factory.TIMES, strict=True):
                writer.write(picture, time)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "other.mp4").read_bytes()


def test_nothing_is_left_of_a_film_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"as before")

    def broken() -> None:
        with film_writer(path, (48, 64)) as writer:
            writer.write(factory.frames(1)[0], Fraction(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    with pytest.raises(ValueError, match="at least one frame"), film_writer(path, (48, 64)):
        pass
    assert path.read_bytes() == b"as before"
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_frames_that_do_not_go_on_are_refused(tmp_path: Path) -> None:
    picture = factory.frames(1)[0]
    path = tmp_path / "film.mp4"
    with film_writer(path, (48, 64)) as writer:
        writer.write(picture, Fraction(1))
        with pytest.raises(ValueError, match="not later"):
            writer.write(picture, Fraction(1))
        with pytest.raises(ValueError, match="frames are"):
            writer.write(picture[:40], Fraction(2))
    assert len(read_clip(path)) == 1


def test_without_an_encoder_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(av.codec, "Codec", unknown)
    with pytest.raises(MachineError, match="no encoder libx264"), film_writer(tmp_path / "film.mp4", (48, 64)):
        pass


def test_pydicoms_ultrasound_clip_becomes_a_film_with_the_same_frames_and_times(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    source = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    path = tmp_path / "film.mp4"
    with (
        open_clip(source) as reader,
        film_writer(path, reader.info.size, time_base=reader.time_base, rate=reader.info.rate) as writer,
    ):
        frames = list(reader)
        for frame in frames:
            assert frame.time_s is not None
            writer.write(frame.pixels, frame.time_s)
    clip = read_clip(path)
    assert len(clip) == len(frames) == 30
    assert clip.times_s == tuple(frame.time_s for frame in frames)
    stored = np.stack([frame.pixels[::4, ::4] for frame in frames]).astype(int)
    written = clip.pixels[:, ::4, ::4].astype(int)
    distances = np.array([np.abs(stored - picture).mean(axis=(1, 2, 3)) for picture in written])
    # Two frames of this clip are equal to the ones before; no other comes as near as the frame itself.
    twice = [int(k) for k in np.flatnonzero((np.diff(stored, axis=0) == 0).all(axis=(1, 2, 3)))]
    assert twice == [10, 27]
    nearest = distances.argmin(axis=1)
    assert [int(k) + (int(k) in twice and int(k) + 1 == place) for place, k in enumerate(nearest)] == list(range(30))
    assert np.diag(distances).max() < 3
