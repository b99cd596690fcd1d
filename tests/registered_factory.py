"""A folder of registrations as `medmamba register` leaves it, of made-up brains whose deformations are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.io.formats.transforms import write_transform
from medmamba.io.points import Points, write_points
from medmamba.transform import Affine, Field, Transform
from medmamba.volume import FloatArray, Geometry, Volume
from tests.transform_factory import oblique

FIXED = oblique((26, 28, 20), 3, axes="jiK", spacing=1.6)
MOVING = oblique((28, 26, 24), 2, axes="kIj", spacing=1.5)
#: Where fields are stored: around both, coarser.
WORKING = oblique((24, 24, 22), 5, spacing=2.2)
NAMES = {"cortex": 1, "nucleus": 2, "ventricle": 3}
#: In millimetres from the middle: structures of the made-up brain.
LANDMARKS = np.array([[0.0, 0, 0], [10, 4, -3], [-8, 9, 5], [3, -11, 6]])
SHIFT = Affine(np.array([[1.0, 0.05, 0, 1.5], [-0.05, 1.0, 0, -1], [0, 0, 1.02, 0.5], [0, 0, 0, 1]]))


def places(grid: Geometry) -> FloatArray:
    """(N, 3) where voxels lie in millimetres."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def field(strength_mm: float, seed: int = 0) -> Field:
    """Slow waves that fade to nothing at the border of the working grid."""
    mm = places(WORKING)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    fade = np.exp(-((np.linalg.norm(mm, axis=1) / 22) ** 4))
    waves = [np.sin(0.16 * mm[:, (axis + 1) % 3] + phase[axis]) * fade for axis in range(3)]
    return Field((strength_mm * np.stack(waves)).reshape(3, *WORKING.shape).astype(np.float32), WORKING)


def brain(mm: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Grey value and label at places (N, 3) of the fixed image's space."""
    radius = np.linalg.norm(mm / (1.0, 1.15, 0.95), axis=1)
    nucleus = np.linalg.norm(mm - (6, 2, 1), axis=1) < 5
    ventricle = np.linalg.norm((mm - (-4, -1, 0)) / (1, 2, 1), axis=1) < 3.5
    label = np.select([ventricle, nucleus, radius < 16], [3, 2, 1], 0).astype(np.uint8)
    grey = np.array([0.0, 90, 140, 30], np.float32)[label] + 12 * np.sin(0.9 * mm).sum(1) * (label > 0)
    return grey.astype(np.float32), label


def write_case(folder: Path, name: str, grid: Geometry, mm: FloatArray, landmarks: FloatArray) -> dict[str, str]:
    """Image, label map and landmarks of one side; ``mm`` tells where in the fixed space each voxel is from."""
    folder.mkdir(parents=True, exist_ok=True)
    grey, label = brain(mm)
    made = {"id": name, **{kind: str(folder / f"{name}_{kind}") for kind in ("image", "label", "points")}}
    made |= {"image": f"{made['image']}.nii.gz", "label": f"{made['label']}.nii.gz", "points": f"{made['points']}.csv"}
    io.write(Volume(grey.reshape(1, *grid.shape), grid), Path(made["image"]))
    io.write(Volume(label.reshape(1, *grid.shape), grid), Path(made["label"]))
    write_points(Points(tuple("abcd"), landmarks, "LPS"), Path(made["points"]))
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, **NAMES}, "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    return made


def write_pair(
    out: Path, cases: Path, name: str, *, truth_mm: float = 3.0, found: float = 1.0, seed: int = 0, **record: Any
) -> Transform:
    """A pair that a wave deforms, and a registration that found a share of it; the transform that was written."""
    truth = Transform((field(truth_mm, seed), SHIFT))
    fixed = write_case(cases, f"{name}_fixed", FIXED, places(FIXED), LANDMARKS)
    moving = write_case(
        cases, f"{name}_moving", MOVING, truth.points_back(places(MOVING)), truth.points(LANDMARKS)
    )  # fmt: skip
    transform = Transform((field(truth_mm * found, seed), SHIFT))
    place = out / name
    place.mkdir(parents=True)
    write_transform(transform, place / "transform.h5")
    write_transform(transform.inverse().transform, place / "inverse.h5")
    facts = {
        "pair": name,
        "fixed": fixed,
        "moving": moving,
        "seconds": {"alignment": 1.5, "refinement": 8.0 + seed},
        "peak_bytes": 2**30,
        "decisions": {"alignment": "affine", "network": "none", "refinement": "50 steps"},
        "warnings": [],
        **record,
    }
    (place / "run.json").write_text(json.dumps(facts))
    return transform


def write_folder(out: Path, cases: Path, count: int = 2, *, failed: tuple[str, ...] = (), **pair: Any) -> Path:
    """A folder of some pairs, named p0, p1, ...; ``failed`` ones have no transform."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"p{number}" for number in range(count)]
    for number, name in enumerate(names):
        write_pair(out, cases, name, seed=number, **pair)
    pairs = {name: {"pair": name, "status": "done", "message": ""} for name in names}
    pairs |= {name: {"pair": name, "status": "failed", "message": "no overlap"} for name in failed}
    (out / "registration.json").write_text(json.dumps({"medmamba": "0.1.0", "pairs": pairs}))
    return out
