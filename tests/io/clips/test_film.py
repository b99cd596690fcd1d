"""Film files: frame k is the k-th that is decoded, when it is shown and which way up; what is damaged is told."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba.errors import MachineError
from medmamba.io.clips import is_clip, open_clip, read_clip
from medmamba.io.errors import ClipEndsEarlyError, ClipFileError
from tests import clip_factory as factory

pytest.importorskip("av", reason='PyAV is not installed; pip install "medmamba[video]"')

UNEVEN = tuple(Fraction(k, 1000) for k in (0, 40, 100, 500, 540, 1000, 1040, 1300, 1301, 1400, 1500, 2000))
LATE = tuple(time + Fraction(1, 2) for time in UNEVEN)
B_FRAMES = {"bf": "3", "g": "12"}
RAW = {"bf": "0", "g": "4"}


@pytest.mark.parametrize(
    ("name", "settings", "times"),
    [
        ("plain.mp4", {"options": RAW}, factory.TIMES),
        ("b_frames.mp4", {"options": B_FRAMES}, factory.TIMES),
        ("b_frames.mkv", {"options": B_FRAMES}, factory.TIMES),
        ("b_frames.mov", {"options": B_FRAMES, "movflags": "+faststart"}, factory.TIMES),
        ("fragmented.mp4", {"options": B_FRAMES, "movflags": "frag_keyframe+empty_moov"}, factory.TIMES),
        ("no_edit_list.mp4", {"options": B_FRAMES, "movflags": "negative_cts_offsets"}, factory.TIMES),
        ("uneven.mp4", {"options": B_FRAMES, "times": UNEVEN}, UNEVEN),
        ("uneven.mkv", {"options": B_FRAMES, "times": UNEVEN}, UNEVEN),
        ("late.mkv", {"options": B_FRAMES, "times": LATE}, UNEVEN),
        ("plain.avi", {"codec": "mpeg4", "options": {"qmin": "1", "qmax": "2"}}, factory.TIMES),
        ("jpegs.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, factory.TIMES),
        ("b_frames.ts", {"options": B_FRAMES}, factory.TIMES),
    ],
)
def test_frames_come_in_order_with_their_times(
    tmp_path: Path, name: str, settings: dict[str, Any], times: tuple[Fraction, ...]
) -> None:
    path = factory.write_film(tmp_path / name, factory.frames(), **settings)
    clip = read_clip(path)
    assert factory.indices_of(clip.pixels) == list(range(12))
    assert clip.numbers == tuple(range(12))
    assert clip.times_s is not None
    assert [float(time) for time in clip.times_s] == pytest.approx([float(time) for time in times], abs=1e-3)
    assert clip.info.frames == 12
    assert float(clip.info.rate or 0) == pytest.approx(25, rel=0.05) or times == UNEVEN


def test_times_that_go_back_are_not_believed_and_frames_keep_their_order(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "b_frames.avi", factory.frames(), options=B_FRAMES)
    with open_clip(path) as reader:
        found = list(reader)
        assert any("does not tell when" in remark.message for remark in reader.remarks)
    assert factory.indices_of(np.stack([frame.pixels for frame in found])) == list(range(12))
    assert [frame.time_s for frame in found] == [Fraction(k, 25) for k in range(12)]


MATRICES = {
    "90": ((0, 1, -1, 0), lambda p: np.rot90(p, -1, (1, 2))),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2, (1, 2))),
    "270": ((0, -1, 1, 0), lambda p: np.rot90(p, 1, (1, 2))),
    "mirror": ((-1, 0, 0, 1), lambda p: p[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(1, 2)),
}


@pytest.mark.parametrize("way", MATRICES)
def test_frames_are_turned_as_players_show_them(tmp_path: Path, way: str) -> None:
    matrix, shown = MATRICES[way]
    stored = factory.write_film(tmp_path / "film.mp4", factory.frames(3))
    plain = read_clip(stored).pixels
    assert factory.corner_is_at_top_left(plain)
    clip = read_clip(factory.turn(stored, matrix))
    assert np.array_equal(clip.pixels, shown(plain))
    assert clip.info.size == shown(plain).shape[1:3]


def remarks_on(path: Path) -> list[str]:
    with open_clip(path) as reader:
        return [remark.message for remark in reader.remarks]


def test_turns_by_odd_angles_are_left_with_a_word(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames(3))
    plain = read_clip(path).pixels
    factory.turn(path, (1, 1, -1, 1))
    assert np.array_equal(read_clip(path).pixels, plain)
    assert any("turned by" in remark for remark in remarks_on(path))


def test_pixels_that_are_not_square_and_alternating_rows_are_remarked(tmp_path: Path) -> None:
    wide = factory.write_film(tmp_path / "wide.mp4", factory.frames(3), aspect=Fraction(2))
    assert any("2 times as wide as high" in remark for remark in remarks_on(wide))
    pixels = factory.frames(3, (64, 64))
    rows = factory.write_film(tmp_path / "rows.mp4", pixels, options={**RAW, "x264-params": "tff=1"})
    assert any("interlaced" in remark for remark in remarks_on(rows))
    assert not remarks_on(factory.write_film(tmp_path / "plain.mp4", factory.frames(3)))


@pytest.mark.parametrize(("codec", "pix_fmt", "name"), [("ffv1", "bgr0", "odd.mkv"), ("libx264", "yuv444p", "odd.mp4")])
def test_odd_sizes_are_kept(tmp_path: Path, codec: str, pix_fmt: str, name: str) -> None:
    path = factory.write_film(tmp_path / name, factory.frames(4, (51, 67)), codec=codec, pix_fmt=pix_fmt)
    clip = read_clip(path)
    assert clip.info.size == (51, 67)
    assert factory.indices_of(clip.pixels) == [0, 1, 2, 3]


def test_grey_of_16_bit_is_read_to_the_last_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (3, 48, 64, 1), dtype=np.uint16)
    path = factory.write_film(tmp_path / "deep.mkv", pixels, codec="ffv1", pix_fmt="gray16le")
    clip = read_clip(path)
    assert clip.info.dtype == "uint16"
    assert clip.info.channels == 1
    assert np.array_equal(clip.pixels, pixels)


def test_ten_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    pixels = factory.frames(4)
    path = factory.write_film(tmp_path / "deep.mp4", pixels, pix_fmt="yuv420p10le")
    clip = read_clip(path)
    assert clip.info.dtype == "uint16"
    assert factory.indices_of(clip.pixels) == [0, 1, 2, 3]


def test_a_single_frame_is_a_film(tmp_path: Path) -> None:
    clip = read_clip(factory.write_film(tmp_path / "one.mp4", factory.frames(1)))
    assert len(clip) == 1
    assert clip.times_s == (Fraction(0),)


def test_changing_resolution_is_refused_with_the_frame(tmp_path: Path) -> None:
    parts = [
        factory.write_film(tmp_path / f"{k}.h264", factory.frames(5, size), options=RAW, form="h264").read_bytes()
        for k, size in enumerate([(48, 64), (64, 96)])
    ]
    path = tmp_path / "changing.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(ClipFileError, match=r"frame 5.*64 x 96.*first has 48 x 64"):
        read_clip(path)


def test_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClipFileError, match="damaged, cut off"), open_clip(path):
        pass


@pytest.mark.parametrize("movflags", ["+faststart", "frag_keyframe+empty_moov"])
def test_good_frames_before_the_damage_are_given_and_then_it_is_told(tmp_path: Path, movflags: str) -> None:
    noise = np.random.default_rng(0).integers(-20, 20, (12, 48, 64, 3))
    pixels = (factory.frames().astype(int) + noise).clip(0, 255).astype(np.uint8)
    path = factory.write_film(tmp_path / "film.mp4", pixels, options=RAW, movflags=movflags)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    with open_clip(path) as reader:
        frames, error = factory.read_until_the_end(reader)
        assert error is not None
        assert "cut off or damaged behind its first" in str(error)
        assert 0 < len(frames) == error.frames == reader.info.frames == len(reader.numbers or ()) < 12
    assert factory.indices_of(np.stack(frames)) == list(range(len(frames)))


def test_a_film_cut_off_is_no_clip_in_memory(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames(), options=RAW, movflags="+faststart")
    data = path.read_bytes()
    path.write_bytes(data[:-60])
    with pytest.raises(ClipEndsEarlyError):
        read_clip(path)


def test_an_avi_stops_at_the_first_corrupt_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), np.uint8)
    path = factory.write_film(tmp_path / "film.avi", noise, codec="mpeg4")
    data = path.read_bytes()
    with open_clip(path) as reader:
        whole = [frame.pixels for frame in reader]
    path.write_bytes(data[: len(data) // 2])
    with open_clip(path) as reader:
        frames, error = factory.read_until_the_end(reader)
        # Without an error it was cut between frames.
        assert error is not None or any("is it cut off" in remark.message for remark in reader.remarks)
    assert 0 < len(frames) < 12
    assert all(np.array_equal(one, other) for one, other in zip(frames, whole, strict=False))


def test_a_matroska_that_was_cut_off_is_remarked_or_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), np.uint8)
    path = factory.write_film(tmp_path / "film.mkv", noise, options=RAW)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_clip(path) as reader:
        remarks = [remark.message for remark in reader.remarks]
        frames, error = factory.read_until_the_end(reader)
    assert 0 < len(frames) < 50
    assert error is not None or any("is it cut off" in remark for remark in remarks)


@pytest.mark.parametrize("content", [b"", b"no film at all"])
def test_files_that_are_no_films_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipFileError, match="damaged, cut off or none"):
        read_clip(path)


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(ClipFileError, match="holds no film"):
        read_clip(path)


def test_a_list_of_other_files_is_not_followed(tmp_path: Path) -> None:
    secret = factory.write_film(tmp_path / "secret.mp4", factory.frames(2))
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    with pytest.raises(ClipFileError):
        read_clip(path)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ClipFileError):
        read_clip(path)
    with pytest.raises(ClipFileError), path.open("rb") as file, open_clip(file) as reader:
        list(reader)


@pytest.mark.parametrize(("name", "movflags"), [("film.mkv", ""), ("film.mp4", "frag_keyframe+empty_moov")])
def test_a_pipe_gives_frames_as_a_file_does(tmp_path: Path, name: str, movflags: str) -> None:
    path = factory.write_film(tmp_path / name, factory.frames(), UNEVEN, options=B_FRAMES, movflags=movflags)
    whole = read_clip(path)
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as writing:
        writing.write(path.read_bytes())  # less than a pipe holds
    with os.fdopen(read_end, "rb") as reading, open_clip(reading) as reader:
        assert reader.numbers is None
        assert reader.info.frames is None
        found = list(reader)
    assert tuple(frame.time_s for frame in found) == whole.times_s
    assert np.array_equal(np.stack([frame.pixels for frame in found]), whole.pixels)


def test_a_pipe_of_an_mp4_with_its_index_at_the_end_says_what_to_do() -> None:
    class Pipe(io.RawIOBase):
        """What cannot be sought in, and gives an index last."""

        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self._data.read(size)

    head = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + (6_000_008).to_bytes(4, "big") + b"mdat"
    with pytest.raises(ClipFileError, match="faststart"), open_clip(Pipe(head + bytes(6_000_000))):  # type: ignore[arg-type]
        pass


def test_frames_are_given_once(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames(2))
    with open_clip(path) as reader:
        assert len(list(reader)) == 2
        with pytest.raises(RuntimeError, match="read already"):
            list(reader)


def test_without_pyav_a_film_is_known_and_the_remedy_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames(2))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert is_clip(path)
    with pytest.raises(MachineError, match=r'pip install "medmamba\[video\]"'):
        read_clip(path)


def test_one_frame_is_in_memory_at_a_time(tmp_path: Path) -> None:
    path = factory.write_film(tmp_path / "film.mp4", factory.frames(), UNEVEN, options=B_FRAMES)
    with open_clip(path) as reader:
        assert factory.most_in_memory(reader) <= 2
