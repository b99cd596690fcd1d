"""Draw the picture of registration.md: what goes which way through the transform of a registration.

``python -m docs.draw_registration``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

PICTURE = Path(__file__).parent / "registration.svg"

#: The picture's size, and where the middle of each image lies in it.
SIZE = (860, 400)
FIXED, MOVING, HALF = (170.0, 205.0), (695.0, 205.0), 120.0
LINES, STEPS = 8, 24
#: A point of the fixed image, from the middle of it in units of half its width.
POINT = (0.28, -0.3)
Place = tuple[float, float]

STYLE = """
text { font: 14px system-ui, sans-serif; fill: #18202b } .h { font-weight: 650; font-size: 16px } .s { fill: #556070 }
.p { fill: none; stroke: #aab4c2; stroke-width: 1 } .b { fill: #dfe7f1; stroke: #556070; stroke-width: 1.5 }
.t { fill: none; stroke: #0b5a9c; stroke-width: 2.5 } .i { fill: none; stroke: #a33a00; stroke-width: 2.5 }
.tt { fill: #0b5a9c } .it { fill: #a33a00 }
@media (prefers-color-scheme: dark) {
text { fill: #e5eaf1 } .s { fill: #a0abb9 } .p { stroke: #4a5666 } .b { fill: #202834; stroke: #a0abb9 }
.t { stroke: #83bdf2 } .i { stroke: #ff9c63 } .tt { fill: #83bdf2 } .it { fill: #ff9c63 } }
"""


def transform(x: float, y: float) -> Place:
    """Where a point of the fixed image lies in the moving one: a field, and then a turn."""
    x, y = x + 0.10 * math.sin(2.4 * y + 0.4), y + 0.12 * math.sin(2.6 * x)
    turn = 0.2
    return math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y


def same(x: float, y: float) -> Place:
    """Where it lies in the fixed image."""
    return x, y


def draw() -> str:
    """The picture as SVG."""
    parts = [
        *_image("fixed image", FIXED, same),
        *_image("moving image", MOVING, transform),
        *_arrow("t", FIXED, same, MOVING, transform, -150),
        *_arrow("i", MOVING, transform, FIXED, same, 150),
        _text(_middle(), 58, "transform.h5", "h tt"),
        _text(_middle(), 79, "points: fixed to moving, x to T(x)", "s"),
        _text(_middle(), 280, "inverse.h5", "h it"),
        _text(_middle(), 301, "points: moving to fixed", "s"),
        _text(FIXED[0], 372, "warped(x) = moving(T(x)):", "s"),
        _text(FIXED[0], 390, "a voxel here asks for its value there", "s"),
        _text(MOVING[0], 390, "the fixed image's grid, where T takes it", "s"),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img"'
    words = "The transform takes a point of the fixed image to the moving image, the inverse takes it back"
    tips = "".join(
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" class="{kind}t"/></marker>'
        for kind in "ti"
    )
    body = "\n".join(parts)
    return f'{head} aria-label="{words}">\n<style>{STYLE}</style>\n<defs>{tips}</defs>\n{body}\n</svg>\n'


def _middle() -> float:
    return (FIXED[0] + MOVING[0]) / 2


def _image(name: str, middle: Place, moved: Callable[[float, float], Place]) -> Iterable[str]:
    """A body, and the lines of the fixed grid in it."""
    steps = [2 * step / STEPS - 1 for step in range(STEPS + 1)]
    body = [_at(middle, *moved(0.72 * math.cos(turn), 0.85 * math.sin(turn))) for turn in _turns()]
    yield f'<path d="{_path(body)}z" class="b"/>'
    for number in range(LINES + 1):
        line = 2 * number / LINES - 1
        for points in ([(line, step) for step in steps], [(step, line) for step in steps]):
            yield f'<path d="{_path([_at(middle, *moved(*point)) for point in points])}" class="p"/>'
    yield _text(middle[0], 24, name, "h")


def _turns() -> list[float]:
    return [math.tau * number / 48 for number in range(48)]


def _arrow(
    kind: str,
    start: Place,
    there: Callable[[float, float], Place],
    end: Place,
    then: Callable[[float, float], Place],
    bend: float,
) -> Iterable[str]:
    """From a point in one image to the same in the other."""
    (x0, y0), (x1, y1) = _at(start, *there(*POINT)), _at(end, *then(*POINT))
    yield f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="4.5" class="{kind}t"/>'
    way = 1 if x1 > x0 else -1
    middle = (x0 + x1) / 2, (y0 + y1) / 2 + bend
    near = x1 - 7 * way, y1 + math.copysign(6, bend)
    yield (
        f'<path d="M{x0:.1f} {y0:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {near[0]:.1f} {near[1]:.1f}" class="{kind}" '
        f'marker-end="url(#{kind})"/>'
    )


def _at(middle: Place, x: float, y: float) -> Place:
    return middle[0] + HALF * x, middle[1] + HALF * y


def _path(points: list[Place]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="middle">{words}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
