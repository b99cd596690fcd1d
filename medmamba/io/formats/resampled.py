"""What SimpleITK makes of an image by a transform in a file: the judge of what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medmamba.io.formats.itk import lps_to_ras
from medmamba.io.formats.transforms import ITK_SUFFIXES
from medmamba.volume import Geometry, Volume


def resampled_by_simpleitk(volume: Volume, transform: Path, onto: Geometry, outside: float) -> NDArray[Any]:
    """An image of one channel brought onto a grid by the transform that SimpleITK reads from a file, linearly.

    Args:
        volume: (1, I, J, K), on perpendicular axes.
        transform: .h5, .tfm or .mat of ITK, or a field as an image.
        onto: grid of the result, on perpendicular axes.
        outside: the value of voxels that come from beyond the image.

    Returns:
        (I, J, K) of the grid.
    """
    reference = sitk.Image(list(onto.shape), sitk.sitkUInt8)
    _place(reference, onto)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].T))
    _place(image, volume.geometry)
    found = sitk.Resample(image, reference, _read(transform), sitk.sitkLinear, outside, sitk.sitkFloat32)
    return np.asarray(sitk.GetArrayFromImage(found).T)


def _read(path: Path) -> Any:
    if path.name.lower().endswith(ITK_SUFFIXES):
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def _place(image: Any, geometry: Geometry) -> None:
    affine = lps_to_ras(geometry.affine)  # its own inverse
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(geometry.spacing_mm)).ravel().tolist())
