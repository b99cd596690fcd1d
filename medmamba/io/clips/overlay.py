"""Frames with their masks painted over them: for the overlay film and the contact sheet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.files import replacing
from medmamba.io.clips.palette import COUNT, palette

#: How much of a mask's colour is in its pixels.
OPACITY = 0.4
#: Pictures on a contact sheet, in a row of it, and columns of pixels that each has at most.
PICTURES, PER_ROW, MOST_COLUMNS = 20, 5, 320


def as_bytes(pixels: NDArray[Any], window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """A frame (H, W, C) as it is shown, (H, W, 3).

    Args:
        pixels: of any type.
        window: values that are black and white; None: the full scale of bytes and 16 bit, the frame's own of others.
    """
    if window is None and pixels.dtype == np.uint8:
        grey = pixels
    else:
        low, high = window or _full_scale(pixels)
        scaled = (pixels.astype(np.float32) - low) * (255 / ((high - low) or 1.0))
        grey = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return np.array(np.broadcast_to(grey, (*grey.shape[:2], 3)))  # a copy, never the frame itself


def _full_scale(pixels: NDArray[Any]) -> tuple[float, float]:
    if pixels.dtype == np.uint16:
        return 0.0, float(np.iinfo(np.uint16).max)
    return float(pixels.min()), float(pixels.max())


def painted(
    pixels: NDArray[Any],
    mask: NDArray[Any],
    *,
    colours: NDArray[np.uint8] | None = None,
    opacity: float = OPACITY,
    window: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """A frame with its mask over it, the outlines in full colour; 0 and what is not labelled stay as they are.

    Args:
        pixels: (H, W, C).
        mask: (H, W) label values.
        colours: (N, 3) of the values from 0, further ones from the start; those of DAVIS if none are given.
        opacity: of the inside, from 0 to 1.
        window: see `as_bytes`.

    Returns:
        (H, W, 3).
    """
    table = palette() if colours is None else colours
    shown = as_bytes(pixels, window)
    inside = (mask != 0) & (mask != UNLABELLED)
    if not inside.any():
        return shown
    chosen = table[mask[inside] % len(table)]
    strength = np.where(_edges(mask)[inside], 1.0, opacity)[:, None]
    shown[inside] = np.round(shown[inside] * (1 - strength) + chosen * strength).astype(np.uint8)
    return shown


def _edges(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels beside which, in a row or column, there is another value."""
    edges = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        differ = np.diff(mask, axis=axis) != 0
        before, behind = [slice(None)] * 2, [slice(None)] * 2
        before[axis], behind[axis] = slice(None, -1), slice(1, None)
        edges[tuple(before)] |= differ
        edges[tuple(behind)] |= differ
    return edges


class ContactSheet:
    """A page with some frames of a film, evenly spaced, whatever its length turns out to be.

    Args:
        most: pictures on it at most.
    """

    def __init__(self, most: int = PICTURES) -> None:
        self._most = most
        self._step = 1
        self._count = 0
        self._kept: list[NDArray[np.uint8]] = []

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Look at the next frame, (H, W, 3): every so-manieth is kept, and half of them when there are too many."""
        if self._count % self._step == 0:
            reduced = rgb[:: math.ceil(rgb.shape[1] / MOST_COLUMNS), :: math.ceil(rgb.shape[1] / MOST_COLUMNS)]
            self._kept.append(reduced.copy())
            if len(self._kept) > self._most:
                self._kept, self._step = self._kept[::2], self._step * 2
        self._count += 1

    @property
    def indices(self) -> tuple[int, ...]:
        """Of the frames that are on it, in rows from left to right."""
        return tuple(range(0, len(self._kept) * self._step, self._step))

    def write(self, path: Path) -> None:
        """Write it as PNG.

        Raises:
            ValueError: if there was no frame.
            OSError: of the system.
        """
        if not self._kept:
            raise ValueError("a contact sheet needs at least one frame")
        height, width = self._kept[0].shape[:2]
        across = min(PER_ROW, len(self._kept))
        rows = math.ceil(len(self._kept) / across)
        sheet = np.full((rows * (height + 4) + 4, across * (width + 4) + 4, 3), COUNT - 1, np.uint8)
        for place, picture in enumerate(self._kept):
            top, left = (place // across) * (height + 4) + 4, (place % across) * (width + 4) + 4
            sheet[top : top + height, left : left + width] = picture
        with replacing(path) as temporary:
            Image.fromarray(sheet).save(temporary, format="PNG")
