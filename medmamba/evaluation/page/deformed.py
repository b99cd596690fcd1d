"""Pictures of a registered pair, all of one size so that one can be held against the other.

Both images, before and after, chequered, the deformed grid and the Jacobian map, each in the same slices.
"""

from __future__ import annotations

import base64
import io as streams
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medmamba import io
from medmamba.evaluation.deformation import jacobian
from medmamba.evaluation.display import View, most_of_largest, ras_axes, reordered, slice_name, views_of, window_of
from medmamba.evaluation.page.layers import LAYERS, Layers
from medmamba.evaluation.registered import before_fields, counted_of
from medmamba.evaluation.registered_folder import RegisteredPair
from medmamba.io.formats.transforms import read_transform
from medmamba.transform import Transform, resample, voxels_of_field
from medmamba.volume import Geometry, Volume

Plane = NDArray[np.float32]
Shades = NDArray[np.uint8]

#: The most that a picture is wide and a view in it high, in pixels.
WIDTH, HEIGHT, GAP = 1080, 420, 6
#: Squares, and lines of the grid, along the longest side of a view.
SQUARES, LINES = 9, 22
#: Colours that people with any colour vision can tell apart: of what shrinks, grows and folds, and of the grid.
SHRUNK, GROWN, FOLDED, GRID = (33, 102, 172), (178, 24, 43), (240, 228, 66), (86, 180, 233)
#: Halved and doubled volumes, and beyond, have the full colour.
FULL_LOG2 = 1.0


def draw(pair: RegisteredPair) -> Layers:
    """Read a pair and draw it through the middle of what counts of the fixed image.

    Raises:
        DataError: if a file cannot be read any more.
        OSError: if one is not there.
    """
    fixed, moving, whole = io.read(pair.fixed.image), io.read(pair.moving.image), read_transform(pair.transform)
    order, flips = ras_axes(fixed.geometry)
    ground = reordered(counted_of(pair, fixed)[None], order, flips)[0]
    at, views = most_of_largest(ground), views_of(ground.shape)
    size_mm = [count * fixed.geometry.spacing_mm[axis] for count, axis in zip(ground.shape, order, strict=True)]
    scale = min(
        (WIDTH - GAP * (len(views) - 1)) / sum(size_mm[view.across] for view in views),
        HEIGHT / max(size_mm[view.up] for view in views),
    )
    windows = window_of(fixed.array[0]), window_of(moving.array[0])
    panels: dict[str, list[Image.Image]] = {name: [] for name in LAYERS}
    for view in views:
        size = (max(1, round(size_mm[view.across] * scale)), max(1, round(size_mm[view.up] * scale)))
        cut = _Cut.through(fixed.geometry, view, at[view.through], size)
        for name, picture in cut.pictures(fixed, moving, whole, windows).items():
            panels[name].append(picture)
    joined = {name: _beside(parts) for name, parts in panels.items()}
    whole_px = joined["fixed"].width
    starts = [0, *np.cumsum([panel.width + GAP for panel in panels["fixed"]]).tolist()]
    shares = tuple(
        (start / whole_px, (start + panel.width) / whole_px)
        for start, panel in zip(starts, panels["fixed"], strict=False)
    )
    names = (f"{view.name} {slice_name(fixed.geometry, view.through, at[view.through])}" for view in views)
    return Layers(
        sources={name: _data_url(picture) for name, picture in joined.items()},
        width=whole_px,
        height=joined["fixed"].height,
        slices=", ".join(names).replace(" = ", "\u00a0=\u00a0"),
        panels=shares,
    )


@dataclass(frozen=True, eq=False)
class _Cut:
    """One slice of the fixed grid, as a view shows it.

    Args:
        plane: the slice as a grid of its own.
        view: which way it is looked at.
        size: of the picture, in pixels.
    """

    plane: Geometry
    view: View
    size: tuple[int, int]

    @classmethod
    def through(cls, grid: Geometry, view: View, at: int, size: tuple[int, int]) -> _Cut:
        """The slice at a place along a RAS axis."""
        order, flips = ras_axes(grid)
        own = order[view.through]
        place = grid.shape[own] - 1 - at if flips[view.through] else at
        start, stop = [0, 0, 0], list(grid.shape)
        start[own], stop[own] = place, place + 1
        return cls(grid.cropped(start, stop), view, size)

    def pictures(
        self, fixed: Volume, moving: Volume, whole: Transform, windows: tuple[tuple[float, float], tuple[float, float]]
    ) -> dict[str, Image.Image]:
        """One for each of `LAYERS`."""
        one = Volume(fixed.array[:1], fixed.geometry)
        other = Volume(moving.array[:1], moving.geometry)
        low = float(other.array.min())
        there = _shades(self._seen(resample(one, Transform(), self.plane).array[0]), windows[0])
        before, after = (
            _shades(self._seen(resample(other, each, self.plane, outside=low).array[0]), windows[1])
            for each in (before_fields(whole), whole)
        )
        made = {
            name: Image.fromarray(shades).resize(self.size, Image.Resampling.BICUBIC).convert("RGB")
            for name, shades in (("fixed", there), ("before", before), ("after", after))
        }
        # The squares have sharp borders, wherever voxels lie.
        sharp = Image.fromarray((255 * _squares(self.size[::-1])).astype(np.uint8))
        made["checkerboard"] = Image.composite(made["fixed"], made["after"], sharp)
        return made | {"grid": self._grid(made["fixed"], whole), "Jacobian": self._jacobian(made["fixed"], whole)}

    def _seen(self, array: NDArray[np.floating]) -> Plane:
        """(rows, columns) of values on the plane."""
        order, flips = ras_axes(self.plane)
        return np.asarray(self.view.slice(reordered(array[None], order, flips)[0], 0), dtype=np.float32)

    def _grid(self, ground: Image.Image, whole: Transform) -> Image.Image:
        """Lines of the fixed grid where the fields take them, in the plane."""
        order, flips = ras_axes(self.plane)
        voxels = voxels_of_field(of_fields(whole).displacement(self.plane))
        picture = Image.blend(ground, Image.new("RGB", ground.size), 0.35)
        pen = ImageDraw.Draw(picture)
        # Rows go down and columns to the right as the RAS axes go up and to the left.
        moves = [
            -(-1 if flips[axis] else 1) * self._seen(voxels[order[axis]]) for axis in (self.view.up, self.view.across)
        ]
        rows, columns = moves[0].shape
        steps = self.size[1] / rows, self.size[0] / columns
        y = (np.arange(rows)[:, None] + 0.5 + moves[0]) * steps[0]
        x = (np.arange(columns)[None] + 0.5 + moves[1]) * steps[1]
        step_px = max(self.size) / LINES
        for row in range(0, rows, max(1, round(step_px / steps[0]))):
            pen.line(list(zip(x[row].tolist(), y[row].tolist(), strict=True)), fill=GRID, width=2)
        for column in range(0, columns, max(1, round(step_px / steps[1]))):
            pen.line(list(zip(x[:, column].tolist(), y[:, column].tolist(), strict=True)), fill=GRID, width=2)
        return picture

    def _jacobian(self, ground: Image.Image, whole: Transform) -> Image.Image:
        """Colours over the image, the stronger the more a volume changes."""
        found = self._seen(jacobian(whole, self.plane))
        strength = np.log2(found.clip(1e-3)).clip(-FULL_LOG2, FULL_LOG2) / FULL_LOG2
        colour = np.where(strength[..., None] < 0, SHRUNK, GROWN)
        cover = np.abs(strength) ** 0.7
        colour[found <= 0], cover[found <= 0] = FOLDED, 1
        paint = Image.fromarray(colour.astype(np.uint8)).resize(self.size, Image.Resampling.NEAREST)
        veil = Image.fromarray((220 * cover).astype(np.uint8)).resize(self.size, Image.Resampling.BILINEAR)
        return Image.composite(paint, ground, veil)


def of_fields(whole: Transform) -> Transform:
    """What the fields do, in the fixed image's space: the transform, and then its affine maps taken back."""
    affine = before_fields(whole)
    return Transform((*whole.steps, *affine.inverse().transform.steps))


def _shades(plane: Plane, window: tuple[float, float]) -> Shades:
    low, high = window
    return ((plane - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def _squares(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    edge = max(1.0, max(shape) / SQUARES)
    rows, columns = (np.floor(np.arange(size) / edge).astype(int) for size in shape)
    return np.asarray((rows[:, None] + columns) % 2 == 0)


def _beside(panels: list[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    height = max(panel.height for panel in panels)
    picture, left = Image.new("RGB", (width, height)), 0
    for panel in panels:
        picture.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + GAP
    return picture


def _data_url(picture: Image.Image) -> str:
    buffer = streams.BytesIO()
    picture.save(buffer, "WEBP", quality=78, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
