"""Small films on disk, as folders of frames: a disk and a square that move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Rows and columns; no multiples of each other, so that an exchange is seen.
SIZE = (48, 64)


def frame(at: int, size: tuple[int, int] = SIZE, *, colour: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture (H, W, 3) or (H, W), and the mask (H, W), of a place in time: a disk (1) that goes right."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = ((rows - size[0] / 2) ** 2 + (columns - 12 - at) ** 2 < 64).astype(np.uint8)
    mask[4:10, 4:10] = 2
    grey = (30 + 20 * ((rows + columns) % 3) + 120 * (mask == 1) + 60 * (mask == 2)).astype(np.uint8)
    return (np.stack([grey, grey // 2, 255 - grey], axis=-1) if colour else grey), mask


def write_clip(
    frames: Path,
    masks: Path | None,
    numbers: Sequence[int] = range(6),
    *,
    labelled: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
    colour: bool = True,
    start: int = 0,
) -> None:
    """A folder of frames that are called by their numbers, and one of masks.

    Args:
        frames: folder of the film.
        masks: folder of the masks; None for none.
        numbers: of the frames.
        labelled: numbers of the frames that have a mask; None for all.
        size: of a frame.
        colour: red, green and blue, or grey.
        start: of the disk, so that films differ.
    """
    frames.mkdir(parents=True)
    for number in numbers:
        picture, mask = frame(number + start, size, colour=colour)
        Image.fromarray(picture).save(frames / f"{number:04d}.png")
        if masks is not None and (labelled is None or number in labelled):
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(masks / f"{number:04d}.png")


def write_films(root: Path, names: Sequence[str] = ("p1_seq1", "p1_seq2", "p2_seq1", "p3_seq1"), **how: object) -> Path:
    """A data set of ``videos/`` and ``masks/``; see `write_clip` for the rest."""
    for start, name in enumerate(names):
        write_clip(root / "videos" / name, root / "masks" / name, start=start, **how)  # type: ignore[arg-type]
    return root
