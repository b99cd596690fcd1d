"""Two looks at one body, of which one is deformed by a known smooth map: on oblique grids, of one contrast or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.io.points import Points, write_points
from medmamba.volume import Geometry, Volume
from tests.transform_factory import oblique

#: Balls in the body: centre and radius in mm (RAS), and brightness. No symmetry.
BALLS = (((14, 8, 6), 11, 60.0), ((-15, 10, -4), 9, 95.0), ((2, -18, 8), 8, 20.0), ((-6, -6, 18), 7, 75.0))
RADII = np.array([42.0, 48.0, 36.0])

FIXED = oblique((38, 32, 22), 3, axes="jiK", spacing=2.6)
MOVING = oblique((30, 40, 36), 2, axes="kIj", spacing=2.4)


def truth(mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where points (N, 3) of the fixed image lie in the moving one: turned, moved, and up to 5 mm pulled."""
    angle = np.deg2rad(5)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    pulls = [
        np.exp(-((mm - centre) ** 2).sum(-1, keepdims=True) / (2 * 16.0**2)) * np.array(way)
        for centre, way in (((14, 8, 6), (4.0, -2.0, 1.5)), ((-13, 2, 0), (-2.0, 4.0, 2.0)))
    ]
    return np.asarray((mm + sum(pulls)) @ turn.T + np.array([6.0, -5.0, 4.0]))


def back(mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `truth`."""
    found = mm.copy()
    for _ in range(40):
        found -= 0.8 * (truth(found) - mm)
    return found


def body(mm: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Brightness at points (N, 3), with soft edges and a texture, and which ball each lies in (0: none)."""
    soft = 1 / (1 + np.exp(4 * (np.linalg.norm(mm / RADII, axis=-1) - 1) * 9))
    values, labels = 45 * soft, np.zeros(len(mm), dtype=np.int64)
    for label, (centre, radius, bright) in enumerate(BALLS, start=1):
        away = np.linalg.norm(mm - centre, axis=-1) - radius
        values += (bright - 45) / (1 + np.exp(away)) * soft
        labels[away < 0] = label
    texture = sum(np.sin(mm @ np.array(wave)) for wave in ((0.5, 0.2, 0.0), (-0.1, 0.45, 0.3), (0.2, -0.3, 0.5)))
    return values + 4 * texture * soft, labels


def other_contrast(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """As of another modality, in Hounsfield units: what is bright there is dark here, air included."""
    return np.asarray(np.where(values < 15, -1000.0, 300.0 - 4 * values))


def places(geometry: Geometry) -> NDArray[np.float64]:
    """Centres of all voxels, (N, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


def looks(*, ct: bool = False) -> tuple[Volume, Volume, Volume, Volume]:
    """Fixed image, its labels, moving image, its labels."""
    volumes = []
    for geometry, way in ((FIXED, None), (MOVING, back)):
        mm = places(geometry)
        values, labels = body(mm if way is None else way(mm))
        if way is not None and ct:
            values = other_contrast(values)
        noise = np.random.default_rng(geometry.shape[0]).normal(0, 0.5, len(values))
        volumes += [
            Volume((values + noise).astype(np.float32).reshape(1, *geometry.shape), geometry),
            Volume(labels.astype(np.uint8).reshape(1, *geometry.shape), geometry),
        ]
    return volumes[0], volumes[1], volumes[2], volumes[3]


def write_pair(folder: Path, *, ct: bool = False) -> Path:
    """fixed_t1, moving_t1 (or moving_ct), labels of both, and landmarks of both in different spaces, below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fixed, fixed_label, moving, moving_label = looks(ct=ct)
    io.write(fixed, folder / "fixed_t1.nii.gz")
    io.write(moving, folder / f"moving_{'ct' if ct else 't1'}.nii.gz")
    io.write(fixed_label, folder / "fixed_label.nii.gz")
    io.write(moving_label, folder / "moving_label.nii.gz")
    mm = np.array([centre for centre, _, _ in BALLS], dtype=np.float64)
    names = tuple("abcd")
    write_points(Points(names, mm, "LPS"), folder / "fixed_points.csv")
    write_points(Points(names[::-1], truth(mm)[::-1], "RAS"), folder / "moving_points.csv")
    return folder
