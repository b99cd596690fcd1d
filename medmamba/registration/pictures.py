"""Pictures of a registered pair: both images in one chequered, and what they differ by, before and after.

How volumes are looked at says `medmamba.evaluation.display`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medmamba.evaluation.display import ras_axes, reordered, slice_name, views_of
from medmamba.files import replacing
from medmamba.volume import Volume

Picture = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]

#: Squares along the longer side of a picture.
SQUARES = 9
_INK, _PAPER = "#e8e8e8", "#141414"


def checkerboard(fixed: Volume, before: Volume, after: Volume, path: Path, *, title: str) -> None:
    """Draw squares of the fixed and of the moving image in turn; where they fit, edges go through.

    Args:
        fixed: (1, I, J, K), 0 to 1.
        before: the moving image on the same grid, where the headers have it.
        after: the same, registered.
        path: PNG to write.
        title: above it.
    """

    def chequered(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
        edge = max(2, round(max(ours.shape) / SQUARES))
        rows, columns = (np.arange(size) // edge for size in ours.shape)
        return np.where((rows[:, None] + columns) % 2 == 0, ours, theirs)

    _draw(fixed, before, after, path, title, chequered, ("gray", 0.0, 1.0), "squares: fixed and moving image in turn")


def difference(fixed: Volume, before: Volume, after: Volume, path: Path, *, title: str) -> None:
    """Draw the moving less the fixed image; arguments as of `checkerboard`."""
    words = "moving less fixed image, each from 0 to 1: blue darker, red brighter than the fixed one"
    _draw(fixed, before, after, path, title, lambda ours, theirs: theirs - ours, ("RdBu_r", -1.0, 1.0), words)


def _draw(
    fixed: Volume,
    before: Volume,
    after: Volume,
    path: Path,
    title: str,
    picture: Picture,
    colours: tuple[str, float, float],
    words: str,
) -> None:
    order, flips = ras_axes(fixed.geometry)
    spacing = [fixed.geometry.spacing_mm[axis] for axis in order]
    ground, *shown = (reordered(volume.array, order, flips)[0] for volume in (fixed, before, after))
    views = views_of(ground.shape)
    middle = [_middle(ground, axis) for axis in range(3)]
    sizes = [ground.shape[view.across] * spacing[view.across] for view in views]
    height = max(ground.shape[view.up] * spacing[view.up] for view in views)
    width = 11.0
    row = width / sum(sizes) * height
    figure = Figure(figsize=(width, 2 * row + 1.1), facecolor=_PAPER, layout="constrained")
    axes = figure.subplots(2, len(views), squeeze=False, width_ratios=sizes)
    name, low, high = colours
    for line, (moving, when) in enumerate(zip(shown, ("before", "after"), strict=True)):
        for place, view in enumerate(views):
            at = middle[view.through]
            drawn = picture(view.slice(ground, at), view.slice(moving, at))
            panel = axes[line, place]
            aspect = spacing[view.up] / spacing[view.across]
            panel.imshow(drawn, cmap=name, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
            panel.set_axis_off()
            told = slice_name(fixed.geometry, view.through, at)
            panel.set_title(f"{when}: {view.name}, {told}", color=_INK, fontsize=9)
    figure.suptitle(title, color=_INK, fontsize=11)
    figure.supxlabel(words, color=_INK, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor=_PAPER)


def _middle(array: NDArray[np.float32], axis: int) -> int:
    """The slice that halves what is bright."""
    along = array.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64).cumsum()
    return int(np.searchsorted(along, along[-1] / 2)) if along[-1] > 0 else array.shape[axis] // 2
