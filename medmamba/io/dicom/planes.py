"""Slices and frames where they truly lie, and the series that they are of.

Positions are DICOM's: LPS millimetres, x to the patient's left, y to the back, z to the head. Nothing here says whose
images these are: no names, dates of birth, accession numbers or times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmamba.volume import FloatArray, Volume

Triple = tuple[float, float, float]
#: What keeps the slices of a series from being one stack of even, right-angled layers.
Kind = Literal[
    "duplicate",
    "repeated",
    "overlap",
    "missing",
    "uneven",
    "tilt",
    "orientation",
    "size",
    "position",
    "lost",
    "pixels",
    "identity",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One slice of a series, a file or a frame of a multi-frame one.

    Args:
        file: where it lies; of a zip, where it was unpacked.
        frame: number in a multi-frame file, from 0; None in a classic one.
        instance_uid: SOP instance UID of the file.
        position_mm: of the centre of the first pixel, LPS.
        row: unit vector along a row, from one column to the next, LPS.
        column: unit vector down a column, from one row to the next, LPS.
        spacing_mm: between rows and between columns, in the order of PixelSpacing.
        shape: rows, columns.
        thickness_mm: by the header, for a slice that has no neighbours; 1 where it is not told.
    """

    file: Path
    frame: int | None
    instance_uid: str
    position_mm: Triple
    row: Triple
    column: Triple
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float = 1.0

    @property
    def normal(self) -> FloatArray:
        """Unit vector across the plane, (3,), LPS: row x column."""
        return np.cross(self.row, self.column)

    @property
    def depth_mm(self) -> float:
        """Place along the normal, by which slices are sorted."""
        return float(np.dot(self.normal, self.position_mm))

    @property
    def steps_mm(self) -> FloatArray:
        """(3, 2) LPS millimetres from one pixel to the next: along a row (column index), down a column (row index)."""
        between_rows, between_columns = self.spacing_mm
        return np.column_stack([np.multiply(self.row, between_columns), np.multiply(self.column, between_rows)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a series is not read as it lies, or what is to be known of it.

    Args:
        kind: what it is.
        message: in words, with positions in mm.
        option: of ``medmamba predict``, with which one goes on; empty where there is none.
        is_remark: the series is read all the same.
    """

    kind: Kind
    message: str
    option: str = ""
    is_remark: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One of several stacks that lie at the same positions: a time point, an echo, a b-value.

    Args:
        name: what tells it from the others, such as ``echo time 20``; empty where there is but one.
        planes: sorted by depth.
        lacks: in words, which part of the positions of the series it has; empty where it has all.
    """

    name: str
    planes: tuple[Plane, ...]
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Slices that belong together, in the order along their normal.

    Args:
        uid: series instance UID.
        study_uid: study instance UID.
        frame_of_reference_uid: of the coordinates; empty where none is told.
        modality: ``CT``, ``MR``, ...
        description: series description, for rules and tables.
        sequence: names of protocol and sequence, for rules.
        number: series number; None where there is none.
        part: 1, 2, ... of a series that holds several stacks; 0 for a whole one.
        phases: what lies at the same positions, in the order of ``--phase``; one for most series, none for slices
            without positions.
        problems: why it is not read as it lies; empty for a sound stack.
        transfer_syntax: how its pixels are stored, UID.
        patient: 1, 2, ... of the patients of an export, in the order of its files.
        study: the same of studies.
        is_shared: its UID is that of series of other studies as well, as careless anonymisers leave it.
        sources: its files and those of its other parts, also what has no place in space.
    """

    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str = ""
    sequence: str = ""
    number: int | None = None
    part: int = 0
    phases: tuple[Phase, ...] = ()
    problems: tuple[Problem, ...] = ()
    transfer_syntax: str = ""
    patient: int = 1
    study: int = 1
    is_shared: bool = False
    sources: tuple[Path, ...] = ()

    @property
    def whole_id(self) -> str:
        """The UID, and behind ``@`` the study where others have that UID, too."""
        return f"{self.uid}@{self.study}" if self.is_shared else self.uid

    @property
    def id(self) -> str:
        """What ``--series`` takes: `whole_id`, and behind ``#`` the part."""
        return f"{self.whole_id}#{self.part}" if self.part else self.whole_id

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Those of all phases, one phase after the other; of one that is read, its slices sorted by depth."""
        return tuple(plane for phase in self.phases for plane in phase.planes)

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, once each, in the order of the planes."""
        return tuple(dict.fromkeys(plane.file for plane in self.planes))


def masks_on_planes(mask: Volume, planes: Sequence[Plane]) -> NDArray[Any]:
    """What a mask says at the centre of each pixel of the planes, by the nearest of its voxels.

    Args:
        mask: one channel, on any grid.
        planes: of one size.

    Returns:
        (planes, rows, columns) of the mask's type; 0 outside of its grid.

    Raises:
        ValueError: if the mask has several channels or planes differ in size.
    """
    if mask.channels != 1 or len({plane.shape for plane in planes}) != 1:
        raise ValueError(f"one channel and planes of one size are needed, got {mask.channels} channels")
    world_to_index = np.linalg.inv(mask.geometry.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS
    out = np.zeros((len(planes), *planes[0].shape), mask.array.dtype)
    for layer, plane in zip(out, planes, strict=True):
        first = world_to_index[:3, :3] @ plane.position_mm + world_to_index[:3, 3]
        step = world_to_index[:3, :3] @ plane.steps_mm
        rows, columns = np.ogrid[: plane.shape[0], : plane.shape[1]]
        index = [np.rint(first[i] + step[i, 0] * columns + step[i, 1] * rows).astype(np.int64) for i in range(3)]
        inside = np.logical_and.reduce([(at >= 0) & (at < n) for at, n in zip(index, mask.geometry.shape, strict=True)])
        layer[inside] = mask.array[0][tuple(at[inside] for at in index)]
    return out
