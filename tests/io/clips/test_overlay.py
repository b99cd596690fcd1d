"""Frames with masks over them, and a page with some of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.io.clips import ContactSheet, painted
from medmamba.io.clips.overlay import as_bytes
from tests import clip_factory as factory


def test_the_inside_is_mixed_and_the_outline_full_and_all_else_as_it_was() -> None:
    frame = np.full((10, 10, 1), 100, np.uint8)
    mask = np.zeros((10, 10), np.int16)
    mask[2:7, 2:7] = 1
    mask[9] = UNLABELLED
    shown = painted(frame, mask, opacity=0.5)
    assert shown[4, 4].tolist() == [114, 50, 50]
    assert shown[2, 2].tolist() == shown[6, 4].tolist() == [128, 0, 0]
    assert (shown[0] == 100).all()
    assert (shown[9] == 100).all()
    assert (frame == 100).all()


def test_a_frame_in_colours_is_never_painted_itself() -> None:
    frame = factory.frames(1)[0]
    before = frame.copy()
    painted(frame, np.ones((48, 64), np.int16))
    assert np.array_equal(frame, before)


def test_deep_frames_are_shown_by_a_window_or_their_full_scale() -> None:
    deep = np.array([[[0], [32768], [65535]]], np.uint16)
    assert as_bytes(deep)[0, :, 0].tolist() == [0, 128, 255]
    assert as_bytes(deep, (0, 32768))[0, :, 0].tolist() == [0, 255, 255]
    assert as_bytes(np.array([[[-1.0], [0.0], [1.0]]], np.float32))[0, :, 0].tolist() == [0, 128, 255]
    assert (as_bytes(np.zeros((2, 2, 1), np.float32)) == 0).all()


@pytest.mark.parametrize(("count", "indices"), [(1, [0]), (5, [*range(5)]), (12, [0, 4, 8]), (100, [0, 32, 64, 96])])
def test_a_contact_sheet_is_evenly_spaced_over_any_length(tmp_path: Path, count: int, indices: list[int]) -> None:
    sheet = ContactSheet(most=5)
    for k in range(count):
        sheet.add(np.full((20, 30, 3), k, np.uint8))
    assert list(sheet.indices) == indices
    sheet.write(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    assert [int(pixels[10, 4 + 34 * place, 0]) for place in range(len(indices))] == indices


def test_no_frame_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        ContactSheet().write(tmp_path / "sheet.png")
