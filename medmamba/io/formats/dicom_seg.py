"""DICOM segmentations (SEG) as label maps.

A segment has the value that MedMamba noted in its description, or else its number. Where one lies within another, as
regions of BraTS do, the inner one is painted over the outer; segments that overlap in part are read as a channel each,
which makes no label map.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from medmamba.files import replacing_all
from medmamba.io.dicom.check import check, of_segmentation, of_structures
from medmamba.io.dicom.derived import SEGMENTATIONS, Making, names_of, refusing, save, sop_class, source_planes
from medmamba.io.dicom.frames import frames_of
from medmamba.io.dicom.structures import Structures
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import dicom_seg_write as writing
from medmamba.io.formats.format import MAX_VOXELS, Header, Stored, check_size, check_stored
from medmamba.io.formats.itk import lps_to_ras
from medmamba.io.remarks import LAYERS, Remark
from medmamba.labels import Labels, integer_type
from medmamba.volume import FloatArray, Geometry, Volume

#: Frames may lie this share of a step, or of a pixel, away from where an even stack has them.
_UNEVEN = 0.05


@dataclass(frozen=True, slots=True)
class DicomSeg:
    """Segmentation and LABELMAP objects in a file; in a folder one for each segment.

    Args:
        kind: of what is written; probabilities are always ``fractional``.
        making: what is told of the making of what is written.
    """

    kind: writing.SegType = "binary"
    making: Making = field(default_factory=Making)
    name: str = "DICOM SEG"
    suffixes: tuple[str, ...] = (".seg.dcm",)

    def recognises(self, path: Path, start: bytes) -> bool:
        """By the SOP class, or a folder by its suffix and that of all its files."""
        if path.is_dir():
            files = self.files(path) if path.name.lower().endswith(self.suffixes) else ()
            return bool(files) and all(sop_class(file) in SEGMENTATIONS for file in files)
        return start[128:132] == b"DICM" and sop_class(path) in SEGMENTATIONS

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file, or those in the folder."""
        return tuple(sorted(path.glob("*.dcm"))) if path.is_dir() else (path,)

    def read_header(self, path: Path) -> Header:
        """Grid and channels; whether segments overlap only their pixels tell."""
        objects = [_Object(file) for file in self.files(path)]
        geometry = _grid(path, objects, MAX_VOXELS)
        simple = len(objects) == 1 and objects[0].is_flat
        return Header(geometry, 1 if simple else len(_painted(path, objects, geometry).array), is_partial=True)

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Segments as label values on the grid from the first frame to the last."""
        objects = [_Object(file) for file in self.files(path)]
        geometry = _grid(path, objects, max_voxels)
        return _painted(path, objects, geometry)

    def why_not_integer(self, path: Path) -> None:
        """Values are integers."""

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Write label values, or probabilities of each structure, as segments on the slices of the series ``like``."""
        planes = source_planes(path, like)
        structures = Structures.on(volume, planes, labels)
        kind = "fractional" if structures.are_probabilities else self.kind
        wanted = of_structures(volume, structures, planes)
        with replacing_all(path) as temporary:
            if kind == "itk":
                temporary.mkdir()
            called = names_of(structures.labels)
            for number, part in enumerate(structures.one_by_one() if kind == "itk" else [structures], start=1):
                file = temporary / f"{number:03d}.dcm" if kind == "itk" else temporary
                made = writing.segmentation(
                    path, part, planes, self.making, kind, among=structures.labels, number=number
                )
                save(made, file)
                del made
                names = [called[label.name] for label in part.labels.foreground]
                check(file, path, of_segmentation, {name: wanted[name] for name in names}, planes)


DICOM_SEG = DicomSeg()


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame's segment (None in a label map, whose pixels tell) and the place of its first pixel, LPS."""

    segment: int | None
    position: FloatArray


class _Object:
    """One file, its pixels not decoded."""

    def __init__(self, path: Path, *, pixels: bool = True) -> None:
        self.path = path
        with refusing(path):
            self.dataset = dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
            self.kind = str(dataset.SegmentationType)
            self.shape = int(dataset.Rows), int(dataset.Columns)
            count = int(dataset.get("NumberOfFrames") or 1)
            self.segments = {int(segment.SegmentNumber): segment for segment in dataset.SegmentSequence}
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
            groups = dataset.PerFrameFunctionalGroupsSequence
            if len(groups) != count:
                raise ImageFileError(path, f"of {count} frames {len(groups)} are described; copy the file again")
            if _find(groups[0], shared, "PlanePositionSequence") is None:
                raise ImageFileError(path, "its frames have no position in the patient, as those of projections have")
            self.frames = [self._frame(item, shared) for item in groups]
            axes = {tuple(_need(item, shared, "PlaneOrientationSequence").ImageOrientationPatient) for item in groups}
            if len(axes) > 1:
                raise ImageFileError(path, "its frames lie in several orientations, which is no grid; split it")
            self.axes = np.array(axes.pop(), float).reshape(2, 3)
            measures = _need(groups[0], shared, "PixelMeasuresSequence")
            self.spacing_mm = np.array(measures.PixelSpacing, float)
            self.step_mm = float(measures.get("SpacingBetweenSlices") or 0)
            self.thickness_mm = float(measures.get("SliceThickness") or 0)

    def _frame(self, item: Dataset, shared: Dataset) -> _Frame:
        segment = None
        if self.kind != "LABELMAP":
            segment = int(_need(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if segment not in self.segments:
                raise ImageFileError(self.path, f"a frame is of segment {segment}, which is not described")
        position = np.array(_need(item, shared, "PlanePositionSequence").ImagePositionPatient, float)
        return _Frame(segment, position)

    def value(self, number: int) -> int:
        """What a segment is in a label map: what MedMamba noted, or its number."""
        noted = re.fullmatch(f"{writing.VALUE_OF_SEGMENT}(\\d+)", str(self.segments[number].get("SegmentDescription")))
        return int(noted[1]) if noted else number

    @property
    def is_ours(self) -> bool:
        """Whether all its segments tell their values, and so are to be painted in their order."""
        return all(writing.VALUE_OF_SEGMENT in str(s.get("SegmentDescription")) for n, s in self.segments.items() if n)

    @property
    def is_flat(self) -> bool:
        """Whether its header says that no two segments overlap."""
        return len(self.segments) == 1 or self.dataset.get("SegmentsOverlap") == "NO" or self.kind == "LABELMAP"

    def pixels(self) -> Iterator[NDArray[Any]]:
        """Frames (rows, columns), one at a time, for all may be a thousand slices: bool, or numbers in a label map."""
        bits = int(self.dataset.BitsAllocated)
        with refusing(self.path):
            syntax = self.dataset.file_meta.TransferSyntaxUID
            if not syntax.is_compressed:
                promised = -(-bits * len(self.frames) * self.shape[0] * self.shape[1] // 8)
                check_stored(self.path, promised, len(self.dataset.PixelData), compressed=False)
        half = float(self.dataset.get("MaximumFractionalValue", 1)) / 2 if self.kind == "FRACTIONAL" else 0.5
        decoded = frames_of(self.dataset)
        for _ in self.frames:
            with refusing(self.path):
                pixels: NDArray[Any] = next(decoded).reshape(self.shape)
            yield pixels if self.kind == "LABELMAP" else pixels >= half


def names_by_value(path: Path) -> dict[int, str]:
    """Names of segments by their values; none where segments overlap, for a value is then no whole segment.

    Raises:
        ImageFileError: if it is damaged.
    """
    objects = [_Object(file, pixels=False) for file in DICOM_SEG.files(path)]
    if len(objects) != 1 or not objects[0].is_flat:
        return {}
    [one] = objects
    return {one.value(n): str(segment.get("SegmentLabel", "")).strip() for n, segment in one.segments.items() if n}


def _grid(path: Path, objects: Sequence[_Object], max_voxels: int) -> Geometry:
    """The even stack on which all frames lie.

    Raises:
        ImageFileError: if there is none, naming the positions; if it is too large.
    """
    of, positions = objects[0], [frame.position for each in objects for frame in each.frames]
    normal = np.cross(of.axes[0], of.axes[1])
    places = np.unique(np.array(positions), axis=0)
    depths = places @ normal
    places, depths = places[np.argsort(depths)], np.sort(depths)
    gaps = np.diff(depths)
    gaps = gaps[gaps > 1e-3]
    candidates = [step for step in (of.step_mm, float(gaps.min()) if gaps.size else of.thickness_mm or 1.0) if step > 0]
    for step in candidates:
        number = np.rint((depths - depths[0]) / step)
        along = (places[-1] - places[0]) / number[-1] if number[-1] else normal * step
        away = np.abs(places - places[0] - number[:, None] * along).max()
        if away <= _UNEVEN * min(step, *of.spacing_mm):
            break
    else:
        told = ", ".join(f"{depth:.6g}" for depth in depths[:8]) + (", ..." if len(depths) > 8 else "")
        raise ImageFileError(
            path,
            f"its frames do not lie on an even grid, but at {told} mm along their normal, which no label map can say; "
            "resample it, or take the label map beside it if there is one",
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = of.axes[0] * of.spacing_mm[1], of.axes[1] * of.spacing_mm[0]
    affine[:3, 2], affine[:3, 3] = along, places[0]
    shape = (of.shape[1], of.shape[0], int(number[-1]) + 1)
    check_size(path, shape, 1, max_voxels=max_voxels)
    with refusing(path):
        return Geometry(shape, lps_to_ras(affine))


@dataclass(slots=True)
class _Layer:
    """A segment's frames by their place in the stack, eight pixels in a byte."""

    name: str
    value: int
    planes: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, at: int, mask: NDArray[np.bool_]) -> None:
        bits = np.packbits(mask)
        self.planes[at] = bits | self.planes[at] if at in self.planes else bits

    @property
    def size(self) -> int:
        return sum(_bits(plane) for plane in self.planes.values())

    def common(self, other: _Layer) -> int:
        return sum(_bits(self.planes[k] & other.planes[k]) for k in self.planes.keys() & other.planes.keys())


def _bits(packed: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def _painted(path: Path, objects: Sequence[_Object], geometry: Geometry) -> Stored:
    remarks = []
    if any(each.kind == "FRACTIONAL" for each in objects):
        remarks.append(Remark("the segments are fractional; taken where they are at least 0.5", is_warning=False))
    if objects[0].kind == "LABELMAP":
        return _of_label_map(objects[0], geometry)
    layers: list[_Layer] = []
    for each in objects:
        own = {
            number: _Layer(str(segment.get("SegmentLabel", number)), each.value(number))
            for number, segment in sorted(each.segments.items())
        }
        for frame, pixels in zip(each.frames, each.pixels(), strict=True):
            assert frame.segment is not None  # only frames of label maps have none
            own[frame.segment].add(_place(frame.position, geometry), pixels)
        layers += own.values()
    if not all(each.is_ours for each in objects):
        if crossing := _crossing(layers):
            remarks.append(Remark(f"{crossing}, and each is a channel", rule=LAYERS))
            return Stored(np.stack([_array([layer], geometry) for layer in layers]), geometry, tuple(remarks), True)
        layers.sort(key=lambda layer: -layer.size)  # the outer first
    return Stored(_array(layers, geometry)[None], geometry, tuple(remarks), True)


def _crossing(layers: Sequence[_Layer]) -> str:
    """Which segments overlap although neither lies within the other, or both are the same, in words."""
    found = []
    for number, one in enumerate(layers):
        for other in layers[:number]:
            common = one.common(other)
            if common and (common < min(one.size, other.size) or one.size == other.size):
                found.append(f"{other.name} and {one.name} ({common} voxels)")
    return f"segments overlap: {', '.join(found)}" if found else ""


def _array(layers: Sequence[_Layer], geometry: Geometry) -> NDArray[Any]:
    """(I, J, K) values, later layers over earlier ones."""
    columns, rows, count = geometry.shape
    array = np.zeros((count, rows, columns), integer_type(0, max(layer.value for layer in layers)))
    for layer in layers:
        for at, bits in layer.planes.items():
            mask = np.unpackbits(bits, count=rows * columns).reshape(rows, columns).view(np.bool_)
            array[at][mask] = layer.value
    return array.transpose(2, 1, 0)


def _place(position: FloatArray, geometry: Geometry) -> int:
    affine = lps_to_ras(geometry.affine)
    return int(np.rint(np.linalg.solve(affine[:3, :3], position - affine[:3, 3])[2]))


def _of_label_map(of: _Object, geometry: Geometry) -> Stored:
    """A LABELMAP; frames that are left out are of its padding value."""
    padding = int(of.dataset.get("PixelPaddingValue", 0))
    values = {number: of.value(number) for number in of.segments if number}
    columns, rows, count = geometry.shape
    array = np.full((count, rows, columns), padding, integer_type(0, max(padding, *values.values(), *values, 0)))
    for frame, pixels in zip(of.frames, of.pixels(), strict=True):
        array[_place(frame.position, geometry)] = pixels
    if any(number != value for number, value in values.items()):
        table = np.arange(max(int(array.max()), *values) + 1)
        table[list(values)] = list(values.values())
        array = table[array].astype(integer_type(0, int(table.max())))
    message = f"voxels that it leaves out have the value {padding}, which no segment has"
    remarks = (Remark(message),) if padding and padding not in of.segments else ()
    return Stored(array.transpose(2, 1, 0)[None], geometry, remarks, True)


def _find(item: Dataset, shared: Dataset, keyword: str) -> Dataset | None:
    found = item.get(keyword) or shared.get(keyword)
    return found[0] if found else None


def _need(item: Dataset, shared: Dataset, keyword: str) -> Dataset:
    found = _find(item, shared, keyword)
    if found is None:
        raise AttributeError(f"no {keyword}")
    return found
