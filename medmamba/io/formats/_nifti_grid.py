"""Where the voxels of a NIfTI file are: sform, qform, units, and what is made of odd ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from medmamba.io.errors import ImageFileError
from medmamba.io.formats.format import odd_spacing
from medmamba.io.remarks import Remark
from medmamba.volume import FloatArray, Geometry

#: sform and qform that differ by more are worth a word, in millimetres or in direction.
FORM_TOLERANCE = 1e-3
#: The squares of a rotation's quaternion may add up to this much more than 1; more is no rounding.
_QUATERNION_EXCESS = 0.01
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
#: Millimetres in a unit, and its name, by the lowest three bits of xyzt_units; 0 is unknown, 2 millimetres.
_OTHER_UNITS = {1: (1000.0, "metres"), 3: (0.001, "micrometres")}


def geometry(path: Path, header: Any) -> Geometry:
    """The grid in millimetres: sform if its code says it is meant, else qform, else voxel sizes alone.

    A sform that puts all voxels in one plane gives way to a qform, as in ITK; nibabel would keep it.

    Raises:
        ImageFileError: if the quaternion is no rotation's, or voxels have no distinct positions.
    """
    shape = [int(size) for size in header.get_data_shape()[:3]] + [1, 1]
    millimetres, _ = _unit(header) or (1.0, "")
    scale = np.array([[millimetres], [millimetres], [millimetres], [1.0]])
    sform, qform = _forms(header)
    try:
        if qform and not (sform and _is_invertible(header.get_sform())):
            affine = _qform(header)
        else:
            affine = _repaired(header).get_best_affine()
        return Geometry((shape[0], shape[1], shape[2]), scale * affine)
    except ValueError as error:
        raise ImageFileError(
            path, f"{error}. Set sform and voxel sizes in the header, for instance from the scanner's original"
        ) from error


def remarks(header: Any, grid: Geometry) -> list[Remark]:
    """What is odd about a header that can be used: a warning if the image may lie elsewhere than it says."""
    sform, qform = _forms(header)
    found = odd_spacing(grid)
    if unit := _unit(header):
        sizes = " x ".join(f"{size:g}" for size in grid.spacing_mm)
        found = [Remark(f"lengths are in {unit[1]} by the header; converted, voxels measure {sizes} mm")]
    if not sform and not qform:
        message = "neither sform nor qform is set, so left and right are a guess; only voxel sizes are used"
        found.append(Remark(message, is_warning=False))
    if sform and qform:
        found += _difference_of_forms(header)
    if not sform or (qform and not _is_invertible(header.get_sform())):
        found += _repairs(header, grid)
    return found


def _forms(header: Any) -> tuple[bool, bool]:
    """Whether sform and qform are meant."""
    return int(header["sform_code"]) > 0, int(header["qform_code"]) > 0


def _unit(header: Any) -> tuple[float, str] | None:
    """Millimetres in the unit of lengths, and its name; None for millimetres."""
    return _OTHER_UNITS.get(int(header["xyzt_units"]) & 7)


def _qform(header: Any) -> FloatArray:
    """The matrix of the qform.

    Raises:
        ValueError: if its quaternion is too long to be a rotation's.
    """
    length = _quaternion_length(header)
    if length**2 > 1 + _QUATERNION_EXCESS:
        parts = ", ".join(f"{float(header[part]):g}" for part in _QUATERNION)
        raise ValueError(f"the quaternion ({parts}) of the qform is {length:.4g} long, a rotation's is at most 1")
    affine: FloatArray = _repaired(header).get_qform()
    return affine


def _quaternion_length(header: Any) -> float:
    return math.hypot(*(float(header[part]) for part in _QUATERNION))


def _is_invertible(affine: FloatArray) -> bool:
    try:
        Geometry((1, 1, 1), affine)
    except ValueError:
        return False
    return True


def _repaired(header: Any) -> Any:
    """A copy with the numbers in it that nibabel and ITK take instead of impossible ones.

    qfac, which says whether the third axis is mirrored, is 1 unless it is negative (ITK; nibabel takes 1 also for
    negative numbers other than -1). Voxel sizes count without their sign (nibabel; ITK would mirror the axis) and are 1
    where they are zero or no number. A quaternion that is longer than 1 by rounding is shortened (ITK).
    """
    repaired = header.copy()
    sizes = np.abs(header["pixdim"][1:4])
    repaired["pixdim"][1:4] = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1)
    repaired["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    length = _quaternion_length(header)
    if 1 < length**2 <= 1 + _QUATERNION_EXCESS:
        for part in _QUATERNION:
            repaired[part] = header[part] / length
    return repaired


def _difference_of_forms(header: Any) -> list[Remark]:
    used = header.get_sform()
    try:
        other = _qform(header)
    except ValueError:
        other = np.full((4, 4), np.nan)
    if not _is_invertible(used):
        return [Remark(f"sform {_rows(used)} gives voxels no distinct positions; qform is used")]
    if not np.isfinite(other).all():
        return [Remark("qform is damaged; sform is used")]
    if (most := np.abs(used - other).max()) <= FORM_TOLERANCE:
        return []
    differ = f"sform and qform differ by up to {most:.4g}"
    return [Remark(f"{differ}: sform {_rows(used)} is used, qform {_rows(other)} is not")]


def _repairs(header: Any, grid: Geometry) -> list[Remark]:
    """What `_repaired` changed, where positions depend on it."""
    _, qform = _forms(header)
    before, after = header["pixdim"][:4], _repaired(header)["pixdim"][:4]
    found = []
    # The standard asks for a qfac of 1 or -1 only where there is a qform, and for the sizes of axes that there are.
    for axis in range(0 if qform else 1, 1 + min(3, len(header.get_data_shape()))):
        if before[axis] == after[axis]:
            continue
        thin = axis > 0 and grid.shape[axis - 1] == 1
        name = f"pixdim[{axis}]" if axis else "qfac (pixdim[0])"
        message = f"{name} is {before[axis]:g} in the header; taken as {after[axis]:g}, as other programs do"
        found.append(Remark(message, is_warning=not thin))
    if qform and (length := _quaternion_length(header)) > 1 + FORM_TOLERANCE:
        found.append(Remark(f"the quaternion is {length:.4g} long, a rotation's is at most 1; shortened"))
    return found


def _rows(affine: FloatArray) -> str:
    return str([[float(f"{value:.5g}") for value in row] for row in affine[:3].tolist()])
