"""Films of moving squares with masks, in arrays and as folders of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.evaluation.films import FilmLabels
from medmamba.evaluation.scores import Film
from medmamba.labels import Label, Labels

Values = NDArray[np.int16]
TWO = Labels(foreground=(Label(name="square", values=(1,)), Label(name="bar", values=(2,))))


def moving(frames: int = 6, shape: tuple[int, int] = (40, 48), *, step: int = 2, shift: int = 0) -> Values:
    """(T, H, W) a square that goes right and a bar that comes in the middle of the film."""
    values = np.zeros((frames, *shape), dtype=np.int16)
    for number, frame in enumerate(values):
        left = 4 + (step * number) % (shape[1] // 2) + shift
        frame[8:22, left : left + 14] = 1
        if number >= frames // 2:
            frame[shape[0] - 10 : shape[0] - 5, 6 : 30 + shift] = 2
    return values


def labels_of(values: Values, numbers: Sequence[int] = (), *, times_s: Sequence[float] | None = None) -> FilmLabels:
    film = Film(
        numbers=tuple(numbers) or tuple(range(len(values))), times_s=None if times_s is None else tuple(times_s)
    )
    return FilmLabels(values=values, film=film)


def write_masks(values: Values, folder: Path, numbers: Sequence[int] = ()) -> Path:
    """A PNG for each frame that has a mask, called by its number."""
    folder.mkdir(parents=True)
    for number, frame in zip(numbers or range(len(values)), values, strict=True):
        if (frame != UNLABELLED).any():
            Image.fromarray(frame.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def write_frames(values: Values, folder: Path, numbers: Sequence[int] = ()) -> Path:
    """Pictures in which every structure has a colour of its own."""
    folder.mkdir(parents=True)
    colours = np.array([[60, 20, 20], [220, 150, 140], [120, 200, 120]], dtype=np.uint8)
    for number, frame in zip(numbers or range(len(values)), values, strict=True):
        Image.fromarray(colours[frame.clip(0)]).save(folder / f"{number}.jpg", quality=92)
    return folder


def read_masks(clip: str, folder: Path) -> FilmLabels:
    """What `write_masks` wrote of a clip."""
    assert folder.name == clip
    files = sorted(folder.glob("*.png"), key=lambda file: int(file.stem))
    values = np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.int16)
    return labels_of(values, [int(file.stem) for file in files])
