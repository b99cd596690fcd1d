"""A picture of a segmentation on its image: three slices through the largest structure.

How it is displayed says `medmamba.evaluation.display`; the angle of an oblique grid is written below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medmamba.errors import DataError
from medmamba.evaluation.display import (
    COLOURS,
    View,
    box_around,
    most_of_largest,
    obliqueness_degrees,
    ras_axes,
    reordered,
    slice_name,
    views_of,
    window_of,
)
from medmamba.files import replacing
from medmamba.labels import Labels
from medmamba.volume import Volume

FloatArray = NDArray[np.float64]

#: The segmentation of this name is drawn as outlines, so that the other one shows below it.
REFERENCE = "reference"


def overlay(
    image: Volume,
    segmentations: dict[str, Volume],
    labels: Labels,
    path: Path,
    *,
    title: str = "",
    channel_names: Sequence[str] = (),
    channels: Sequence[int] = (),
    window: tuple[float, float] | None = None,
) -> Path:
    """Draw slices of an image with one or two segmentations on it.

    Args:
        image: what was segmented.
        segmentations: label maps by name, on the image's grid. The one called ``reference`` is outlined, the other one
            filled.
        labels: what the values mean; a structure is drawn over those before it, so regions come largest first.
        path: PNG to write.
        title: above the picture, such as the id of the case.
        channel_names: names of the image's channels.
        channels: channels to show, a row each; the first two by default.
        window: values shown as black and white; by default the 1st and 99.5th percentile of each channel.

    Returns:
        ``path``.

    Raises:
        DataError: if a segmentation lies on another grid.
        ValueError: if there are more than the reference and one other.
    """
    filled = [name for name in segmentations if name != REFERENCE]
    if len(filled) > 1:
        raise ValueError(f"one segmentation can be filled besides the {REFERENCE}, got {', '.join(filled)}")
    for name, volume in segmentations.items():
        if apart := volume.geometry.apart(image.geometry):
            raise DataError(f"the {name} lies on another grid than the image of {title or 'the case'}: {apart}")
    shown = tuple(channels) or tuple(range(min(2, image.channels)))
    scene = _Scene(image, segmentations, labels)
    figure = _draw(scene, shown, channel_names, window, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor=figure.get_facecolor())
    return path


class _Scene:
    """Image and segmentations in RAS order, cut to where there is something to see."""

    def __init__(self, image: Volume, segmentations: dict[str, Volume], labels: Labels) -> None:
        self.labels = labels
        self.geometry = image.geometry
        order, flips = ras_axes(image.geometry)
        self.spacing_mm = tuple(image.geometry.spacing_mm[axis] for axis in order)
        pixels = reordered(image.array, order, flips)
        maps = {name: reordered(volume.array[:1], order, flips)[0] for name, volume in segmentations.items()}
        drawn = np.logical_or.reduce([np.isin(part, labels.values[1:]) for part in maps.values()])
        marked = np.isin(maps[REFERENCE] if REFERENCE in maps else next(iter(maps.values())), labels.values[1:])
        # What is drawn outside of the body must be seen as well: it is wrong.
        box = box_around((pixels != 0).any(axis=0) | drawn)
        self.pixels = pixels[:, *box]
        self.maps = {name: part[box] for name, part in maps.items()}
        self.centre = most_of_largest((marked if marked.any() else drawn)[box])
        self.slice_names = [slice_name(image.geometry, axis, box[axis].start + self.centre[axis]) for axis in range(3)]

    @property
    def views(self) -> tuple[View, ...]:
        """Those in which there is more than a line to see."""
        return views_of(self.pixels.shape[1:])

    def size_mm(self, axis: int) -> float:
        """How far the scene reaches along a RAS axis."""
        return float(self.pixels.shape[1 + axis] * self.spacing_mm[axis])


def _draw(
    scene: _Scene,
    channels: tuple[int, ...],
    channel_names: Sequence[str],
    window: tuple[float, float] | None,
    title: str,
) -> Figure:
    widths = [scene.size_mm(view.across) for view in scene.views]
    height = max(scene.size_mm(view.up) for view in scene.views)
    # About 11 inches for all views side by side, and room for the words.
    inches = 11 / sum(widths)
    figure = Figure(figsize=(11.6, len(channels) * height * inches + 1.25), facecolor="black")
    grid = figure.subplots(len(channels), len(widths), squeeze=False, width_ratios=widths)
    total = float(figure.get_figheight())
    figure.subplots_adjust(0.03, 0.85 / total, 0.99, 1 - 0.4 / total, wspace=0.02, hspace=0.02)
    for row, channel in enumerate(channels):
        low, high = window or window_of(scene.pixels[channel])
        for view, axes in zip(scene.views, grid[row], strict=True):
            picture = view.slice(scene.pixels[channel], scene.centre[view.through])
            _show(axes, scene, view, picture, (low, high))
            if row == 0:
                axes.set_title(f"{view.name}, {scene.slice_names[view.through]}", color="0.8", fontsize=9, pad=3)
        name = channel_names[channel] if channel < len(channel_names) else f"channel {channel}"
        grid[row][0].text(-0.03, 0.5, name, transform=grid[row][0].transAxes, rotation=90, **_WORDS)
    figure.suptitle(title, color="white", fontsize=12, y=1 - 0.06 / total, va="top")
    _legend(figure, scene, total)
    return figure


_WORDS: dict[str, Any] = {"color": "0.8", "fontsize": 9, "ha": "center", "va": "center"}


def _show(axes: Axes, scene: _Scene, view: View, picture: NDArray[Any], window: tuple[float, float]) -> None:
    aspect = scene.spacing_mm[view.up] / scene.spacing_mm[view.across]
    axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bilinear")
    axes.set_axis_off()
    axes.set_anchor("C")
    for name in sorted(scene.maps, key=REFERENCE.__eq__):  # outlines over what is filled
        plane = view.slice(scene.maps[name], scene.centre[view.through])
        if name == REFERENCE:
            _outline(axes, plane, scene.labels)
        else:
            axes.imshow(_paint(plane, scene.labels), aspect=aspect, interpolation="nearest")
    for letter, (x, y) in zip(view.borders, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98)), strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, **_WORDS)


def _paint(plane: NDArray[Any], labels: Labels) -> FloatArray:
    """(rows, columns, RGBA) half transparent colours, later structures over earlier ones."""
    colours = np.zeros((*plane.shape, 4))
    for number, label in enumerate(labels.foreground):
        colours[np.isin(plane, label.values)] = to_rgba(COLOURS[number % len(COLOURS)], 0.5)
    return colours


def _outline(axes: Axes, plane: NDArray[Any], labels: Labels) -> None:
    # A margin, or structures that touch the border of the picture would have open outlines.
    rows, columns = (np.arange(-1, size + 1) for size in plane.shape)
    for number, label in enumerate(labels.foreground):
        mask = np.pad(np.isin(plane, label.values), 1)
        if mask.any():
            colour = COLOURS[number % len(COLOURS)]
            lines = axes.contour(columns, rows, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.4)
            lines.set_path_effects([withStroke(linewidth=2.6, foreground="black")])
    axes.set_xlim(-0.5, plane.shape[1] - 0.5)
    axes.set_ylim(plane.shape[0] - 0.5, -0.5)


def _legend(figure: Figure, scene: _Scene, total: float) -> None:
    entries: list[Any] = [
        Patch(color=COLOURS[number % len(COLOURS)], label=label.name.replace("_", " "))
        for number, label in enumerate(scene.labels.foreground[: 2 * len(COLOURS)])
    ]
    for name in scene.maps:
        if name == REFERENCE:
            entries.append(Line2D([], [], color="0.9", linewidth=1.6, label=f"{name} (line)"))
        else:
            entries.append(Patch(facecolor="0.5", label=f"{name} (filled)"))
    figure.legend(
        handles=entries,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.28 / total),
        ncols=min(len(entries), 8),
        frameon=False,
        labelcolor="0.9",
        fontsize=9,
    )
    notes = "radiological display: the patient's right is on the left"
    angle = obliqueness_degrees(scene.geometry)
    if angle > 2:
        notes += f"; slices follow the scan, {angle:.0f}° off the body axes"
    figure.text(0.5, 0.15 / total, notes, **_WORDS | {"fontsize": 8})
