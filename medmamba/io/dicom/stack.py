"""From slices to voxels: read as they lie, or brought to a right-angled grid by their true positions.

Letters: I along rows (column index), J down columns (row index), K along the normal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels

from medmamba.io.dicom.instances import DAMAGED, damage, dataset_of, is_of_system, no_decoder, syntax_of
from medmamba.io.dicom.order import EVEN_SHARE, UPRIGHT_PIXELS, base_step, is_even, shifts_pixels
from medmamba.io.dicom.planes import Plane, Series
from medmamba.io.dicom.slices import functional_groups, scaling_of
from medmamba.io.errors import ImageFileError
from medmamba.volume import FloatArray, Geometry

#: From LPS to RAS millimetres, and back.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class _Grid:
    """A right-angled grid for slices in their own plane's coordinates.

    Args:
        first_pixels: column and row of its first pixel, in those of the first slice.
        size: I, J, K.
        step_mm: along the normal.
    """

    first_pixels: tuple[int, int]
    size: tuple[int, int, int]
    step_mm: float


def geometry_of(planes: Sequence[Plane]) -> Geometry:
    """The grid that planes of one phase are read on: their own where they are even and upright, else one around them.

    Args:
        planes: sorted by depth, none at the position of another.

    Returns:
        (I, J, K) in RAS; K along the normal, spaced as most slices are. Where they are tilted, I and J are as large as
        all of them together.
    """
    grid, first = _grid(planes), planes[0]
    affine = np.eye(4)
    affine[:3, :2] = first.steps_mm
    affine[:3, 2] = first.normal * grid.step_mm
    affine[:3, 3] = first.position_mm + first.steps_mm @ np.array(grid.first_pixels, dtype=float)
    return Geometry(grid.size, _FLIP @ affine)


def _grid(planes: Sequence[Plane]) -> _Grid:
    rows, columns = planes[0].shape
    shifts = _shifts(planes)
    low, high = np.floor(shifts.min(axis=0) + 1e-6).astype(int), np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    depths = np.array([plane.depth_mm for plane in planes])
    count, step = 1, planes[0].thickness_mm
    if len(planes) > 1:
        length, steps = depths[-1] - depths[0], np.diff(depths)
        # From the first slice to the last one, as close to the usual step as that allows.
        layers = len(steps) if is_even(steps) else int(np.rint(length / base_step(steps)[0]))
        count, step = layers + 1, length / layers
    size = (columns + int(high[0] - low[0]), rows + int(high[1] - low[1]), count)
    return _Grid((int(low[0]), int(low[1])), size, float(step))


def _shifts(planes: Sequence[Plane]) -> FloatArray:
    """`shifts_pixels`, zero where slices count as upright."""
    shifts = shifts_pixels(planes)
    return shifts if np.abs(shifts).max() > UPRIGHT_PIXELS else np.zeros_like(shifts)


def voxels_of(planes: Sequence[Plane]) -> NDArray[Any]:
    """The voxels on the grid of `geometry_of`.

    Returns:
        (I, J, K): of the type they are stored in where nothing is to be scaled or resampled, else float32. Scaled by
        each slice's own slope and intercept. MONOCHROME1 is read as it is stored: it says how pixels are to be shown
        (PS3.3 C.7.6.3.1.2), and a complement would no longer be in Hounsfield units. Between slices of which one does
        not reach so far, and beyond them, there is the least value of all.

    Raises:
        ImageFileError: if a file is damaged, holds colours, or is compressed in a way that nothing here decodes.
        OSError: if a file cannot be read.
    """
    grid = _grid(planes)
    slices: list[NDArray[Any]] = [np.empty(0)] * len(planes)
    scalings = [(1.0, 0.0)] * len(planes)
    for number, values, scaling in _decoded(planes):
        slices[number], scalings[number] = values, scaling
    if set(scalings) != {(1.0, 0.0)}:
        for number, (slope, intercept) in enumerate(scalings):
            slices[number] = _scaled(slices[number], slope, intercept, planes[number].file)
    depths = np.array([plane.depth_mm for plane in planes])
    if _lies_so(planes, grid):
        return np.stack(slices).transpose(2, 1, 0)
    return _resampled(slices, depths, _shifts(planes), grid)


def _scaled(values: NDArray[Any], slope: float, intercept: float, path: Path) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        scaled = (values * np.float64(slope) + intercept).astype(np.float32)
    if np.isinf(scaled).any():
        raise ImageFileError(
            path,
            f"rescale slope {slope:g} and intercept {intercept:g} make numbers that are too large; the header is "
            "damaged, export the series again",
        )
    return scaled


def _lies_so(planes: Sequence[Plane], grid: _Grid) -> bool:
    """Whether slices are the layers of the grid, so that nothing is resampled."""
    depths = np.array([plane.depth_mm for plane in planes])
    is_upright = grid.size[:2] == planes[0].shape[::-1]
    return is_upright and (len(planes) == 1 or is_even(np.diff(depths)))


def _resampled(slices: list[NDArray[Any]], depths: FloatArray, shifts: FloatArray, grid: _Grid) -> NDArray[np.float32]:
    """Linear between the two slices around each layer, each brought to its true place in the plane before."""
    columns, rows, layers = grid.size
    out = np.empty((layers, rows, columns), np.float32)
    placed: dict[int, NDArray[np.float32]] = {}
    for layer in range(layers):
        place = np.clip((depths[0] + layer * grid.step_mm), depths[0], depths[-1])
        after = int(np.clip(np.searchsorted(depths, place), 1, len(depths) - 1))
        share = float((place - depths[after - 1]) / (depths[after] - depths[after - 1]))
        placed = {
            number: placed[number] if number in placed else _placed(slices[number], shifts[number], grid)
            for number in (after - 1, after)
        }
        below, above = placed[after - 1], placed[after]
        out[layer] = (
            below if share < EVEN_SHARE else above if share > 1 - EVEN_SHARE else below + share * (above - below)
        )
    out[np.isnan(out)] = min(float(values.min()) for values in slices)
    return out.transpose(2, 1, 0)


def _placed(values: NDArray[Any], shift: FloatArray, grid: _Grid) -> NDArray[np.float32]:
    """A slice on the grid's rows and columns, NaN where it is not."""
    from scipy import ndimage  # late: few series are resampled

    offset = (grid.first_pixels[1] - shift[1], grid.first_pixels[0] - shift[0])
    placed: NDArray[np.float32] = ndimage.affine_transform(
        values.astype(np.float32), (1, 1), offset, grid.size[1::-1], order=1, mode="constant", cval=np.nan
    )
    return placed


def _decoded(planes: Sequence[Plane]) -> Iterator[tuple[int, NDArray[Any], tuple[float, float]]]:
    """Number of a plane, its (rows, columns) as stored, slope and intercept; file by file."""
    by_file = sorted(range(len(planes)), key=lambda number: (planes[number].file, planes[number].frame or 0))
    for file, group in groupby(by_file, key=lambda number: planes[number].file):
        numbers = list(group)
        dataset = dataset_of(file, pixels=True)
        if reason := no_decoder(syntax_of(dataset)):
            raise ImageFileError(file, reason)
        try:
            frames = iter_pixels(dataset, indices=[planes[number].frame or 0 for number in numbers])
            for number, values in zip(numbers, frames, strict=True):
                yield number, *_values(planes[number], dataset, values)
        except ImageFileError:
            raise
        except (*DAMAGED, RuntimeError) as error:
            if is_of_system(error):
                raise
            raise ImageFileError(file, f"the pixels cannot be read ({damage(error)}); copy the file again") from error


_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)


def is_compressed(series: Series) -> bool:
    """Whether pixels may take less room in the files than in memory."""
    return series.transfer_syntax not in _PLAIN


def syntax_name(series: Series) -> str:
    """How pixels are compressed, for people; empty where they are not."""
    return uid.UID(series.transfer_syntax).name if is_compressed(series) else ""


def _values(plane: Plane, dataset: Dataset, values: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, float]]:
    """Stored numbers of a slice, by a look-up table if there is one, and what they are scaled by."""
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if values.ndim != 2 or colours == "PALETTE COLOR":
        raise ImageFileError(
            plane.file, f"the image is in colours ({colours}), which have no intensity; export it grey"
        )
    if values.shape != plane.shape:
        raise ImageFileError(plane.file, f"{plane.shape} rows and columns by the header, {values.shape} are stored")
    if values.dtype.kind in "iu":
        values = _used_bits(values, dataset)
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(values, dataset), (1.0, 0.0)
    items = functional_groups(dataset, plane.frame) if plane.frame is not None else [dataset]
    slope, intercept = scaling_of(items) or (1.0, 0.0)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ImageFileError(plane.file, f"intensities are scaled by {slope:g} and {intercept:g}; export it again")
    return values, (slope, intercept)


def _used_bits(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """The numbers without what old files keep in the bits above them."""
    unused = values.dtype.itemsize * 8 - int(dataset.BitsStored)
    if unused <= 0:
        return values
    used: NDArray[Any] = np.right_shift(np.left_shift(values, unused), unused)
    return used


def remarks_of(series: Series) -> list[str]:
    """What was done to a series that does not lie as it is read."""
    grid, first = _grid(series.planes), series.planes[0]
    depths = np.array([plane.depth_mm for plane in series.planes])
    done = [f"{each.name} has {each.lacks} of the series; the rest is not read" for each in series.phases if each.lacks]
    if len(depths) > 1 and not is_even(np.diff(depths)):
        done.append(f"{len(depths)} uneven slices are resampled to {grid.size[2]} every {grid.step_mm:.4g} mm")
    if grid.size[:2] != first.shape[::-1]:
        done.append(f"tilted slices are moved to their true places, on {grid.size[0]} x {grid.size[1]} pixels")
    return done
