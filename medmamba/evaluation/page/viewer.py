"""Volumes for the page's viewer, a byte a voxel and gzipped, and NiiVue out of an installed package."""

from __future__ import annotations

import base64
import gzip
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import MachineError
from medmamba.evaluation.display import ras_axes
from medmamba.evaluation.page.scene import Map, Scene

#: The package that NiiVue's build is taken from, by the extra ``medmamba[viewer]``.
PACKAGE = "ipyniivue"
#: By so many voxels along each axis an image is thinned out at most to fit; masks never are.
COARSEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """A case for the viewer, in RAS order with the first axis running fastest; volumes are gzip in base64.

    Args:
        shape: voxels along the RAS axes.
        spacing_mm: likewise.
        order: the file's axis along each RAS axis.
        flips: whether it runs the other way.
        file_shape: voxels along the file's axes.
        start: where the box begins along the RAS axes.
        reference: each voxel's place among the labels' allowed values.
        predictions: likewise, one per report; None where there is none.
        image: grey values; None where there is none, or none fits.
        step: every how manieth voxel along each axis the image holds.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    order: list[int]
    flips: list[bool]
    file_shape: tuple[int, ...]
    start: tuple[int, ...]
    reference: str
    predictions: tuple[str | None, ...]
    image: str | None
    step: int

    def to_json(self) -> dict[str, Any]:
        """For the page's script."""
        return asdict(self)


def pack(scene: Scene, most_bytes: int) -> Volumes | None:
    """The volumes of a case, with as much of the image as fits; none where not even the masks do."""
    reference = _packed(scene.reference)
    predictions = tuple(None if part is None else _packed(part) for part in scene.predictions)
    left = most_bytes - len(reference) - sum(len(part) for part in predictions if part is not None)
    if left < 0:
        return None
    image, step = None, 1
    if scene.image is not None:
        for step in range(1, COARSEST + 1):
            packed = _packed(_thinned(scene.image, step))
            if len(packed) <= left:
                image = packed
                break
    order, flips = ras_axes(scene.geometry)
    return Volumes(
        shape=scene.reference.shape,
        spacing_mm=tuple(round(step_mm, 6) for step_mm in scene.spacing_mm),
        order=order,
        flips=flips,
        file_shape=scene.geometry.shape,
        start=tuple(side.start for side in scene.box),
        reference=reference,
        predictions=predictions,
        image=image,
        step=step,
    )


def _thinned(image: Map, step: int) -> Map:
    """Means over blocks, at the border over what there is of them, in 64 shades: finer ones are noise, and cost."""
    if step > 1:
        starts = [np.arange(0, size, step) for size in image.shape]
        total: NDArray[np.float64] = image.astype(np.float64)
        for axis, start in enumerate(starts):
            counts = np.diff(np.append(start, image.shape[axis]))
            shape = [-1 if other == axis else 1 for other in range(3)]
            total = np.add.reduceat(total, start, axis=axis) / counts.reshape(shape)
        image = total.round().astype(np.uint8)
    return (image & 0xFC).astype(np.uint8)


def _packed(array: Map) -> str:
    return base64.b64encode(gzip.compress(array.tobytes(order="F"), 6, mtime=0)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """NiiVue's build.

    Args:
        version: of the package it is from.
        script: the module, gzip in base64.
    """

    version: str
    script: str


def bundle(viewer: Literal["auto", "slices", "3d"]) -> Bundle | None:
    """NiiVue where it is wanted: for ``3d``, and for ``auto`` where it is installed.

    Raises:
        MachineError: if it must be there and is not.
    """
    found = None if viewer == "slices" else niivue()
    if viewer == "3d" and found is None:
        raise MachineError(
            f'a view in 3D needs the package {PACKAGE}, which is not installed; run pip install "medmamba[viewer]", or '
            "leave the viewer at auto or slices"
        )
    return found


@cache
def niivue() -> Bundle | None:
    """NiiVue as the installed package brings it, which is not imported; None where there is no such package."""
    found = util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    script = Path(found.origin).parent / "static" / "widget.js"
    if not script.is_file():
        return None
    return Bundle(
        version=metadata.version(PACKAGE),
        script=base64.b64encode(gzip.compress(script.read_bytes(), 9, mtime=0)).decode(),
    )
