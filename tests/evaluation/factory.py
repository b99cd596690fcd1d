"""Small label maps in files, to be held against one another."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

BALL = Labels(foreground=(Label(name="ball", values=(1,)),))
REGIONS = Labels(foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_order=(1, 2))
AFFINE = np.diag([-3.0, -1.0, 2.0, 1.0])


def ball(radius: float = 4, shift: int = 0) -> NDArray[np.uint8]:
    index = np.indices((20, 18, 16))
    return np.asarray(((index - 8 - np.array([shift, 0, 0])[:, None, None, None]) ** 2).sum(0) < radius**2, np.uint8)


def save(array: NDArray[np.uint8], path: Path, affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def description(**labels: int | list[int]) -> str:
    regions = {"regions_class_order": [1, 2]} if any(isinstance(value, list) for value in labels.values()) else {}
    return json.dumps(
        {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **labels},
            "numTraining": 3,
            "file_ending": ".nii.gz",
            **regions,
        }
    )


def itk(array: NDArray[np.uint8], path: Path) -> None:
    """The same voxels in another format, through the project's own writer."""
    io.write(Volume(array[None], Geometry(array.shape, AFFINE)), path)


def cubes(path: Path, *sizes: int, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    """Nested cubes in one corner, value 1 outermost."""
    array = np.zeros((12, 12, 12), np.uint8)
    for size in sizes:
        array[1 : 1 + size, 1 : 1 + size, 1 : 1 + size] += 1
    return save(array, path, np.diag([*spacing, 1.0]))
