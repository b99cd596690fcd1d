"""Grids that lie askew to one another, transforms between them, and the same for SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

from medmamba.transform import Affine, Field, Transform
from medmamba.volume import Geometry, Volume

FLIP = np.diag([-1.0, -1.0, 1.0])


def oblique(shape: tuple[int, int, int], seed: int, *, axes: str = "ijk", spacing: float = 2.0) -> Geometry:
    """A turned grid with unequal edges around the origin, its axes in another order, one of them mirrored."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.eye(3) + 0.25 * rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    turn = turn[:, ["ijk".index(axis) for axis in axes.lower()]] * [-1 if axis.isupper() else 1 for axis in axes]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing * np.array([1.0, 1.3, 1.7])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + rng.uniform(-2, 2, 3)
    return Geometry(shape, affine)


def smooth_field(geometry: Geometry, seed: int, mm: float = 6.0) -> Field:
    """Sums of slow waves, of so many millimetres at most along each axis."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
    places = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    waves = [np.sin(places @ rng.uniform(-0.06, 0.06, 3) + rng.uniform(0, 6)) for _ in range(3)]
    return Field(mm * np.stack(waves).astype(np.float32), geometry)


def tilt() -> Affine:
    return Affine(np.array([[0.98, 0.17, 0.0, 3.0], [-0.17, 1.02, 0.05, -2.0], [0.02, -0.05, 0.95, 1.5], [0, 0, 0, 1]]))


def to_sitk(volume: Volume) -> Any:
    """An image of SimpleITK, LPS; vectors where there are several channels."""
    array = volume.array.transpose(3, 2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array[..., 0] if volume.channels == 1 else array))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin((FLIP @ volume.geometry.affine[:3, 3]).tolist())
    image.SetDirection((FLIP @ volume.geometry.direction).ravel().tolist())
    return image


def sitk_transform(transform: Transform) -> Any:
    """The same for SimpleITK, which applies the last one first."""
    composite = sitk.CompositeTransform(3)
    for step in reversed(transform.steps):
        if isinstance(step, Affine):
            matrix = FLIP @ step.matrix[:3, :3] @ FLIP
            composite.AddTransform(
                sitk.AffineTransform(matrix.ravel().tolist(), (FLIP @ step.matrix[:3, 3]).tolist(), (0.0, 0.0, 0.0))
            )
        else:
            lps = np.einsum("xy,yijk->xijk", FLIP, step.vectors_mm.astype(np.float64))
            image = sitk.Cast(to_sitk(Volume(lps, step.geometry)), sitk.sitkVectorFloat64)
            composite.AddTransform(sitk.DisplacementFieldTransform(image))
    return composite
