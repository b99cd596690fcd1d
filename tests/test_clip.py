"""What a clip is, and what is none."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from medmamba.clip import Clip, ClipInfo, Frame, ends_of, rate_of


def frames_of(count: int, times: bool = True) -> list[Frame]:
    return [
        Frame(
            index=k,
            number=3 * k + 1,
            time_s=Fraction(k, 25) if times else None,
            pixels=np.full((2, 3, 1), k, np.uint8),
        )
        for k in range(count)
    ]


@pytest.mark.parametrize("times", [True, False])
def test_frames_gathered_come_back_as_they_were(times: bool) -> None:
    info = ClipInfo(size=(2, 3), channels=1)
    frames = frames_of(4, times)
    clip = Clip.of(frames, info)
    assert len(clip) == clip.info.frames == 4
    assert (clip.times_s is None) == (not times)
    for frame, again in zip(frames, clip, strict=True):
        assert (frame.index, frame.number, frame.time_s) == (again.index, again.number, again.time_s)
        assert np.array_equal(frame.pixels, again.pixels)


def test_no_frame_is_no_clip() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        Clip.of([], ClipInfo(size=(2, 3)))


def test_times_must_go_on() -> None:
    first, second = frames_of(2)
    with pytest.raises(ValueError, match="later than the one before"):
        Clip.of([second, first], ClipInfo(size=(2, 3), channels=1))


@pytest.mark.parametrize(
    "wrong", [{"channels": 2}, {"spacing_mm": (0.0, 1.0)}, {"rate": Fraction(0)}, {"size": (0, 3)}, {"dtype": "int8"}]
)
def test_info_refuses_what_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        ClipInfo(**({"size": (2, 3)} | wrong))  # type: ignore[arg-type]


def test_rate_is_that_of_the_middle_step_and_none_of_one_frame() -> None:
    assert rate_of([Fraction(0)]) is None
    assert rate_of([Fraction(k * k, 100) for k in range(4)]) == Fraction(100, 3)


def test_last_frame_stays_as_long_as_the_one_before() -> None:
    assert ends_of([]) == ()
    assert ends_of([Fraction(2)]) == (Fraction(3),)
    assert ends_of([Fraction(0), Fraction(1, 4)]) == (Fraction(1, 4), Fraction(1, 2))
