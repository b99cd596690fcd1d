"""The pictures of a registered pair: which there are, apart from what draws them."""

from __future__ import annotations

from dataclasses import dataclass

#: What the pictures show, in their order: name, and words.
LAYERS = {
    "fixed": "the fixed image",
    "before": "the moving image before its deformation, aligned by the affine map where there is one",
    "after": "the moving image after registration",
    "checkerboard": "squares of the fixed and of the registered image in turn: where they fit, edges go through",
    "grid": "where the field takes a regular grid of the fixed image, the affine map left out",
    "Jacobian": "how volumes change: blue shrinks, red grows, full colour at half and twice; yellow folds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Pictures of a pair.

    Args:
        sources: a data URL by name, of `LAYERS`.
        width: in pixels, of each.
        height: likewise.
        slices: what is shown, such as ``axial k = 12``.
        panels: where each view begins and ends, as shares of the width.
    """

    sources: dict[str, str]
    width: int
    height: int
    slices: str
    panels: tuple[tuple[float, float], ...]
