"""A case to be looked at: its masks and image in RAS order, cut to where there is something to see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import Case
from medmamba.errors import DataError
from medmamba.evaluation.display import box_around, ras_axes, reordered, window_of
from medmamba.labels import Labels
from medmamba.volume import Geometry, Volume

Map = NDArray[np.uint8]
#: Label maps of more values than this are not drawn: pictures tell structures apart by a byte.
MOST_VALUES = 255
#: What a voxel is: nothing, right, missed, false, or of another structure than in the reference.
NOTHING, RIGHT, MISSED, FALSE, OTHER = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A case whose files are at hand, and what to make of them.

    Args:
        id: of the case.
        reference: its label map.
        predictions: one per report; None where a report has none.
        image: what was segmented; None where it is not at hand.
        channel: of the image, to lie under the masks.
        labels: what the values mean.
        drawn: whether montages are wanted.
        volume_bytes: how much its volumes may take on the page; 0 when none are wanted.
    """

    id: str
    reference: Path
    predictions: tuple[Path | None, ...]
    image: Case | None
    channel: int
    labels: Labels
    drawn: bool
    volume_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A case in RAS order.

    Args:
        geometry: of the files.
        box: what is shown of the whole volume, along the RAS axes.
        spacing_mm: along the RAS axes.
        reference: (X, Y, Z) each voxel's place among the labels' allowed values, of those that make the same
            structures the first.
        predictions: likewise; None where there is none on the reference's grid.
        ignored: that place for voxels without annotation; None when there is none.
        image: (X, Y, Z) from black (0) to white (255); None where there is none.
    """

    geometry: Geometry
    box: tuple[slice, ...]
    spacing_mm: tuple[float, ...]
    reference: Map
    predictions: tuple[Map | None, ...]
    ignored: int | None
    image: Map | None

    def judged(self, number: int) -> Map:
        """(X, Y, Z) what each voxel of a prediction is: `RIGHT`, `MISSED`, ...; all missed where there is none."""
        prediction = self.predictions[number]
        if prediction is None:
            prediction = np.zeros_like(self.reference)
        judged = np.select(
            [
                (prediction == self.reference) & (prediction > 0),
                (self.reference > 0) & (prediction == 0),
                (self.reference == 0) & (prediction > 0),
                prediction != self.reference,
            ],
            [RIGHT, MISSED, FALSE, OTHER],
            NOTHING,
        ).astype(np.uint8)
        if self.ignored is not None:
            judged[self.reference == self.ignored] = NOTHING
        return judged


def read_scene(subject: Subject) -> Scene:
    """Read what is there of a case.

    Raises:
        DataError: if the reference cannot be read, or the labels have too many values.
        OSError: if it is not there.
    """
    if len(subject.labels.allowed_values) > MOST_VALUES:
        raise DataError(f"pictures tell up to {MOST_VALUES} values apart, got {len(subject.labels.allowed_values)}")
    reference = io.read_label(subject.reference)
    order, flips = ras_axes(reference.geometry)
    predictions = [_on_grid(path, reference) for path in subject.predictions]
    whole = [
        None if volume is None else reordered(volume.array, order, flips)[0] for volume in (reference, *predictions)
    ]
    image = _image(subject, reference, order, flips)
    seen = np.logical_or.reduce([part != 0 for part in (*whole, image) if part is not None])
    box = box_around(seen)
    expected, *predicted = (None if part is None else places_of(part[box], subject.labels) for part in whole)
    assert expected is not None
    ignore = subject.labels.ignore
    return Scene(
        geometry=reference.geometry,
        box=box,
        spacing_mm=tuple(reference.geometry.spacing_mm[axis] for axis in order),
        reference=expected,
        predictions=tuple(predicted),
        ignored=None if ignore is None else subject.labels.allowed_values.index(ignore),
        image=None if image is None else np.ascontiguousarray(image[box]),
    )


def _on_grid(path: Path | None, reference: Volume) -> Volume | None:
    """A prediction, where there is one that can be held against the reference: the report says what is wrong if not."""
    if path is None:
        return None
    try:
        prediction = io.read_label(path)
    except (DataError, OSError):
        return None
    return None if prediction.geometry.apart(reference.geometry) else prediction


def places_of(array: NDArray[Any], labels: Labels) -> Map:
    """Of any shape, each voxel's place among the allowed values; background for values that no label has."""
    known = np.array(labels.allowed_values)
    places = np.searchsorted(known, array).clip(max=len(known) - 1)
    return np.where(known[places] == array, np.array(_alike(labels))[places], 0).astype(np.uint8, order="C")


def _alike(labels: Labels) -> list[int]:
    """For each allowed value the place of the first one of the same structures: regions do not tell them apart."""
    held = [
        (value == labels.ignore, *(value in label.values for label in labels.foreground))
        for value in labels.allowed_values
    ]
    return list(map(held.index, held))


def _image(subject: Subject, reference: Volume, order: list[int], flips: list[bool]) -> Map | None:
    """(X, Y, Z) grey values of the channel; none where it cannot be laid under the masks."""
    if subject.image is None:
        return None
    try:
        image = io.read_case(subject.image)
    except (DataError, OSError):
        return None
    if image.geometry.apart(reference.geometry) or subject.channel >= image.channels:
        return None
    channel = np.nan_to_num(reordered(image.array[subject.channel, None], order, flips)[0], posinf=0, neginf=0)
    low, high = window_of(channel)
    # What is 0 in a skull-stripped image stays black, and nothing else is: the box follows from it.
    grey = np.clip((channel - low) / (high - low) * 254 + 1, 1, 255)
    return np.where(channel == 0, 0, grey).astype(np.uint8)
