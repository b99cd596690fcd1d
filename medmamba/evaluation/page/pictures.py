"""Montages: a case in three views, each through the slice with the most error, what is wrong in colours."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medmamba.evaluation.display import View, most_of_largest, slice_name, views_of
from medmamba.evaluation.page.scene import FALSE, MISSED, NOTHING, OTHER, RIGHT, Map, Scene

RGB = tuple[int, int, int]

#: The most that a montage is wide, and a view in it high, in pixels: twice what the page shows, for sharp screens.
WIDTH, HEIGHT = 1200, 460
#: Between views.
GAP = 6
#: Shades where there is no image: of nothing, and of what the reference holds in other slices, to tell where one is.
GHOST = (18, 46)
FONT_SIZE = 25
#: Out of Okabe and Ito's colours, which people with any colour vision can tell apart, and ever lighter: the order holds
#: in shades of grey as well. What is right is pale, as it is what matters least here.
PAINTS: dict[int, tuple[RGB, float]] = {
    RIGHT: ((160, 225, 185), 0.42),
    FALSE: ((213, 94, 0), 0.92),
    MISSED: ((86, 180, 233), 0.92),
    OTHER: ((240, 228, 66), 0.92),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Montage:
    """A picture for the page.

    Args:
        source: a data URL.
        width: in pixels.
        height: likewise.
        slices: what is shown, such as ``axial k = 12``.
        others: whether a structure was taken for another one somewhere in it.
    """

    source: str
    width: int
    height: int
    slices: str
    others: bool


def montage(scene: Scene, number: int) -> Montage:
    """Draw a prediction against its reference."""
    judged = scene.judged(number)
    wrong = judged > RIGHT
    size_mm = [count * step for count, step in zip(judged.shape, scene.spacing_mm, strict=True)]
    views = views_of(judged.shape)
    scale = min(
        (WIDTH - GAP * (len(views) - 1)) / sum(size_mm[view.across] for view in views),
        HEIGHT / max(size_mm[view.up] for view in views),
    )
    at = _most(wrong) if wrong.any() else most_of_largest(judged > NOTHING)
    panels = [_panel(scene, judged, view, at[view.through], scale, size_mm) for view in views]
    width, height = sum(panel.width for panel in panels) + GAP * (len(panels) - 1), max(p.height for p in panels)
    picture = Image.new("RGB", (width, height), (GHOST[0],) * 3 if scene.image is None else (0, 0, 0))
    left = 0
    for panel in panels:
        picture.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + GAP
    names = (
        f"{view.name} {slice_name(scene.geometry, view.through, scene.box[view.through].start + at[view.through])}"
        for view in views
    )
    return Montage(
        source=_data_url(picture, exact=scene.image is None),
        width=width,
        height=height,
        slices=", ".join(names).replace(" = ", "\u00a0=\u00a0"),
        others=bool((judged == OTHER).any()),
    )


def _most(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """Along each axis, the slice in which most is wrong."""
    others = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
    return tuple(int(wrong.sum(axis=across).argmax()) for across in others)


def _panel(scene: Scene, judged: Map, view: View, at: int, scale: float, size_mm: list[float]) -> Image.Image:
    size = (max(1, round(size_mm[view.across] * scale)), max(1, round(size_mm[view.up] * scale)))
    if scene.image is None:
        there = (scene.reference > 0).any(axis=view.through, keepdims=True)
        shades = _resized(view.slice(np.where(there, *GHOST[::-1]).astype(np.uint8), 0), size, Image.Resampling.NEAREST)
    else:
        shades = _resized(view.slice(scene.image, at), size, Image.Resampling.BICUBIC)
    ground = np.repeat(shades.astype(np.float64)[:, :, None], 3, axis=2)
    plane = _resized(view.slice(judged, at), size, Image.Resampling.NEAREST)
    panel = Image.fromarray(_painted(ground, plane).round().astype(np.uint8))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=FONT_SIZE)
    width, height = size
    spots = (
        ((7, height / 2), "lm"),
        ((width - 7, height / 2), "rm"),
        ((width / 2, height - 5), "mb"),
        ((width / 2, 5), "mt"),
    )
    for letter, (place, anchor) in zip(view.borders, spots, strict=True):
        draw.text(place, letter, fill=(190, 190, 190), font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return panel


def _resized(plane: Map, size: tuple[int, int], how: Image.Resampling) -> Map:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, how))


def _painted(ground: NDArray[np.float64], plane: Map) -> NDArray[np.float64]:
    """Colours over grey: errors nearly opaque, what is right as a veil with an outline."""
    painted = ground.copy()
    for kind, (colour, opacity) in PAINTS.items():
        mask = plane == kind
        painted[mask] = (1 - opacity) * ground[mask] + opacity * np.array(colour)
    right = plane == RIGHT
    edge = right & ~ndimage.binary_erosion(right, iterations=1, border_value=1)
    painted[edge] = PAINTS[RIGHT][0]
    return painted


def _data_url(picture: Image.Image, *, exact: bool) -> str:
    buffer = io.BytesIO()
    if exact:
        picture.save(buffer, "WEBP", lossless=True, quality=60, method=4)
    else:
        picture.save(buffer, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
