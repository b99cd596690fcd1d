"""Every object is read back before it gets its name: each structure must lie where the mask has it, and be as large.

Read is by pydicom alone, frame by frame and contour by contour: nothing here knows how the objects were written.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from medmamba.io.dicom.contours import fill
from medmamba.io.dicom.derived import names_of, refusing, step_mm
from medmamba.io.dicom.frames import frames_of
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.structures import Structures
from medmamba.io.errors import ImageFileError
from medmamba.labels import Labels
from medmamba.volume import FloatArray, Volume

#: How far centroids may be apart, and by which share volumes may differ.
CENTROID_MM, VOLUME_SHARE = 0.1, 0.005
_REMEDY = "nothing is left behind. Write NIfTI instead, and tell us of it"


@dataclass(slots=True)
class Extent:
    """Where a structure is and how large: sums over its pixels.

    Args:
        volume_mm3: its volume.
        moment: (3,) volume times centroid, LPS.
    """

    volume_mm3: float
    moment: FloatArray

    @classmethod
    def nothing(cls) -> Extent:
        """Of an empty structure."""
        return cls(0.0, np.zeros(3))

    def add(self, mask: NDArray[Any], origin: FloatArray, steps: FloatArray, thickness_mm: float) -> None:
        """Add the pixels of a plane.

        Args:
            mask: (rows, columns).
            origin: (3,) centre of the first pixel, LPS mm.
            steps: (3, 2) from one column, and one row, to the next.
            thickness_mm: of the plane.
        """
        rows, columns = np.nonzero(mask)
        voxel = float(np.linalg.norm(np.cross(steps[:, 0], steps[:, 1]))) * thickness_mm
        self.volume_mm3 += voxel * len(rows)
        self.moment = self.moment + voxel * (len(rows) * origin + steps @ (float(columns.sum()), float(rows.sum())))

    def apart(self, other: Extent) -> str:
        """In words, by how much more another one is away than is allowed; empty where it is not."""
        if not self.volume_mm3 or not other.volume_mm3:
            same = self.volume_mm3 == other.volume_mm3
            return "" if same else f"{other.volume_mm3:.6g} mm³ instead of {self.volume_mm3:.6g}"
        share = abs(other.volume_mm3 / self.volume_mm3 - 1)
        away = float(np.linalg.norm(self.moment / self.volume_mm3 - other.moment / other.volume_mm3))
        if share <= VOLUME_SHARE and away <= CENTROID_MM:
            return ""
        return f"{other.volume_mm3:.6g} mm³ instead of {self.volume_mm3:.6g}, its centre {away:.3g} mm away"


def check(
    path: Path,
    target: Path,
    read: Callable[[Path, Sequence[Plane]], Mapping[str, Extent]],
    wanted: Mapping[str, Extent],
    planes: Sequence[Plane],
) -> None:
    """Refuse an object that does not say what was to be written.

    Args:
        path: where it was written.
        target: the file it is to become.
        read: `of_segmentation` or `of_structure_set`.
        wanted: what it is to hold, of `of_structures`.
        planes: of the source.

    Raises:
        ImageFileError: naming the structures.
    """
    try:
        with refusing(target):
            found = read(path, planes)
    except ImageFileError as error:
        raise ImageFileError(target, f"what was written cannot be read back: {error.reason}; {_REMEDY}") from error
    nothing = Extent.nothing()
    wrong = {name: extent.apart(found.get(name, nothing)) for name, extent in wanted.items()}
    told = [f"{name} has {words}" for name, words in wrong.items() if words]
    told += [f"{name} was not asked for" for name in found if name not in wanted]
    if told:
        raise ImageFileError(
            target,
            f"what was written is not what is read back: {'; '.join(told)}; {_REMEDY}",
        )


def of_structures(volume: Volume, structures: Structures, planes: Sequence[Plane]) -> dict[str, Extent]:
    """What an object of these structures is to hold.

    Where the volume lies on the planes' own grid, it is asked itself, by its own affine; else the masks on the planes
    are what there is.

    Args:
        volume: label values, or probabilities of each structure.
        structures: of it, on the planes.
        planes: of the source.
    """
    first, step = planes[0], step_mm(planes)
    voxel = abs(float(np.linalg.det(volume.geometry.affine)))
    same = step is not None and np.isclose(voxel, step * np.prod(first.spacing_mm), rtol=1e-3)
    foreground, names = structures.labels.foreground, names_of(structures.labels)
    if not same or volume.array[0].size != math.prod(structures.stored.shape[-3:]):
        return {
            names[label.name]: on_planes(structures.mask(number), planes) for number, label in enumerate(foreground)
        }
    if structures.are_probabilities:
        sums = [_index_sums((channel >= 0.5).view(np.uint8), 2)[1] for channel in volume.array]
    else:
        of_places = _index_sums(volume.array[0], len(structures.labels.allowed_values), structures.labels)
        sums = [of_places[list(label.values)].sum(axis=0) for label in structures.labels.numbered().foreground]
    found = {}
    for label, (size, *total) in zip(foreground, sums, strict=True):
        ras = volume.geometry.affine[:3, :3] @ total + size * volume.geometry.affine[:3, 3]
        found[names[label.name]] = Extent(voxel * float(size), voxel * ras * (-1.0, -1.0, 1.0))
    return found


def _index_sums(values: NDArray[Any], count: int, labels: Labels | None = None) -> FloatArray:
    """How many voxels have each value, and the sums of their indices, layer by layer along each axis.

    Args:
        values: (I, J, K), from 0 to ``count`` by themselves, or once ``labels`` have numbered them.
        count: of values.
        labels: None: values are numbers already.

    Returns:
        (count, 4).
    """
    along = []
    for axis in range(3):
        layers = np.moveaxis(values, axis, 0)
        numbered = layers if labels is None else (labels.number(layer) for layer in layers)
        along.append(np.stack([np.bincount(layer.ravel(), minlength=count) for layer in numbered]).astype(float))
    return np.column_stack([along[0].sum(axis=0), *(np.arange(len(layers)) @ layers for layers in along)])


def on_planes(masks: NDArray[np.bool_], planes: Sequence[Plane]) -> Extent:
    """Of a structure by its masks (planes, rows, columns), each as thick as half the way to its neighbours."""
    extent = Extent.nothing()
    for mask, plane, thickness in zip(masks, planes, _thicknesses(planes), strict=True):
        extent.add(mask, np.asarray(plane.position_mm), plane.steps_mm, thickness)
    return extent


def _thicknesses(planes: Sequence[Plane]) -> FloatArray:
    """Half the way to the plane before and to the one behind; 1 mm of a single plane."""
    if len(planes) == 1:
        return np.ones(1)
    steps = np.abs(np.diff([plane.depth_mm for plane in planes]))
    thicknesses: FloatArray = (np.append(steps[0], steps) + np.append(steps, steps[-1])) / 2
    return thicknesses


def of_segmentation(path: Path, planes: Sequence[Plane]) -> dict[str, Extent]:
    """What a SEG holds, by its own frames: of FRACTIONAL ones, where it is at least half."""
    dataset = pydicom.dcmread(path)
    names = {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in dataset.SegmentSequence}
    is_map = dataset.SegmentationType == "LABELMAP"
    found = {number: Extent.nothing() for number in names if number or not is_map}
    half = float(dataset.get("MaximumFractionalValue", 1)) / 2
    even = step_mm(planes) is not None
    depths, thicknesses = np.array([plane.depth_mm for plane in planes]), _thicknesses(planes)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, frames_of(dataset), strict=True):
        measures = _group(frame, shared, "PixelMeasuresSequence")
        axes = np.array(_group(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        origin = np.array(_group(frame, shared, "PlanePositionSequence").ImagePositionPatient, float)
        between_rows, between_columns = (float(size) for size in measures.PixelSpacing)
        steps = np.column_stack([axes[0] * between_columns, axes[1] * between_rows])
        nearest = int(np.abs(depths - planes[0].normal @ origin).argmin())
        spacing = measures.get("SpacingBetweenSlices") if even else None  # highdicom leaves it out of tilted stacks
        thickness = float(thicknesses[nearest] if spacing is None else spacing)
        if is_map:
            for value in found:
                found[value].add(pixels == value, origin, steps, thickness)
        else:
            segment = int(_group(frame, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            found[segment].add(pixels >= half, origin, steps, thickness)
    return {names[number]: extent for number, extent in found.items()}


def _group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    item: Dataset = (frame if keyword in frame else shared)[keyword].value[0]
    return item


def of_structure_set(path: Path, planes: Sequence[Plane]) -> dict[str, Extent]:
    """What an RTSTRUCT holds: its contours, each filled on the plane that it lies in."""
    dataset = pydicom.dcmread(path)
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    thicknesses = _thicknesses(planes)
    found = {}
    for roi in dataset.ROIContourSequence:
        extent, contours = Extent.nothing(), defaultdict[int, list[FloatArray]](list)
        for item in roi.get("ContourSequence", ()):
            points = np.array(item.ContourData, float).reshape(-1, 3)
            distances = [np.abs((points - plane.position_mm) @ plane.normal).max() for plane in planes]
            number = int(np.argmin(distances))
            if distances[number] <= CENTROID_MM:  # what lies in no plane is missing, as the volume then tells
                contours[number].append(_in_pixels(points, planes[number]))
        for number, outlines in contours.items():
            plane = planes[number]
            mask = fill(outlines, plane.shape)
            extent.add(mask, np.asarray(plane.position_mm), plane.steps_mm, float(thicknesses[number]))
        found[names[int(roi.ReferencedROINumber)]] = extent
    return found


def _in_pixels(points: FloatArray, plane: Plane) -> FloatArray:
    """(N, 2) rows and columns of points (N, 3) in a plane."""
    between_rows, between_columns = plane.spacing_mm
    away = points - plane.position_mm
    return np.column_stack([away @ plane.column / between_rows, away @ plane.row / between_columns])
