"""Draw docs/architecture.svg from the floors and the imports: ``python -m docs.draw_architecture`` in the checkout.

Floors stand as the table in tests/architecture.py has them, from the roof down. A box is a package, or the part of it
that stands on one floor; single modules of a floor share a box. An arrow says that something in one box imports
something in another. Arrows into modules that belong to no package are left out: every room uses those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import wrap

from tests.architecture import FLOORS, floor, imports, room, sources

PICTURE = Path(__file__).with_name("architecture.svg")
WIDTH, MARGIN = 1000, 20
TITLE, LINE, PADDING, BETWEEN = 18, 14, 8, 56
LETTER = 6.4  # width of a letter of the small text
COLUMNS, SLAB = 30, 145  # letters in a line of it, in a room and in a box of modules that belong to none
COLOURS = ("#4269d0", "#c07a00", "#d6336c", "#2b8a8a", "#3b8f4e", "#8a5fd3", "#9c5f3f", "#5f6b7a", "#b02a2a", "#1f6fb2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Modules that stand on one floor and belong together.

    Args:
        title: the package; nothing for modules that belong to none.
        depth: which floor, 0 for the roof.
        names: what is in it, as written in the box.
    """

    title: str
    depth: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A box on the page; pixels from the upper left corner."""

    box: Box
    left: float
    top: float
    width: float
    height: float
    lines: tuple[str, ...]

    @property
    def bottom(self) -> float:
        """Where the box ends below."""
        return self.top + self.height


def boxes(modules: Iterable[str]) -> list[Box]:
    """The boxes in the order of the table, then of the alphabet."""
    modules = set(modules)
    packages = {room(module) for module in modules if "." in module}
    inside: dict[tuple[int, str], set[str]] = {}
    for module in filter(None, modules):
        depth, package = floor(module), room(module)
        assert depth is not None, f"{module} stands on no floor"
        title = package if package in packages else ""
        names = inside.setdefault((depth, title), set())
        name = ".".join(module.split(".")[1:2]) if title else module
        names |= {name} if name and not name.startswith("_") else set()
    rows = [[room(name) for name in line.split()] for line in FLOORS]
    keys = sorted(inside, key=lambda key: (key[0], rows[key[0]].index(key[1]) if key[1] else len(rows[key[0]])))
    return [Box(title=title, depth=depth, names=tuple(sorted(inside[depth, title]))) for depth, title in keys]


def arrows(boxes: Sequence[Box]) -> list[tuple[Box, Box]]:
    """Pairs of boxes of which the first imports from the second."""
    modules = sources()
    by_key = {(box.depth, box.title): box for box in boxes if box.title}
    at = {module: by_key.get((floor(module) or 0, room(module))) for module in modules}
    pairs = {(at.get(each.source), at.get(each.target)) for each in imports(modules) if each.ours}
    found = [(source, target) for source, target in pairs if source and target and source is not target]
    return sorted(found, key=lambda pair: (_order(pair[0]), _order(pair[1])))


def _order(box: Box) -> tuple[int, str]:
    return box.depth, box.title


def place(boxes: Sequence[Box]) -> list[Placed]:
    """Boxes side by side on their floors, with air between them for the arrows that pass."""
    placed, bottom = [], 0.0
    for depth in sorted({box.depth for box in boxes}):
        row = [box for box in boxes if box.depth == depth]
        texts = [tuple(wrap(" ".join(box.names), COLUMNS if box.title else SLAB)) for box in row]
        widths = [LETTER * (COLUMNS if box.title else SLAB) + 2 * PADDING for box in row]
        top = bottom + (BETWEEN if placed and any(box.title for box in row) else MARGIN)
        height = max(
            2 * PADDING + LINE * len(text) + TITLE * bool(box.title) for box, text in zip(row, texts, strict=True)
        )
        bottom = top + height
        air = (WIDTH - sum(widths)) / (len(row) + 1)
        # A box alone below the roof steps aside, so that the arrows from above have a way past it.
        left = air if depth == 0 or len(row) > 1 or not row[0].title else 1.8 * air
        for box, width, lines in zip(row, widths, texts, strict=True):
            placed.append(Placed(box=box, left=left, top=top, width=width, height=height, lines=lines))
            left += width + air
    return placed


def draw() -> str:
    """The picture as SVG; the same sources give the same text."""
    found = boxes(sources())
    places = place(found)
    height = places[-1].bottom + MARGIN
    parts = [_element("rect", width=WIDTH, height=height, fill="#ffffff")]
    for top, bottom in sorted({(each.top, each.bottom) for each in places}):
        parts.append(_element("rect", y=top - 6, width=WIDTH, height=bottom - top + 12, fill="#f2f0ea"))
    parts += _curves(places, arrows(found))
    for each in places:
        parts += _labelled(each)
    page = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height:.0f}"}
    return _element("svg", "\n".join(["", *parts, ""]), **page, font_family="Helvetica, Arial, sans-serif") + "\n"


def _element(tag: str, content: str = "", **attributes: float | str) -> str:
    written = {key.replace("_", "-"): v if isinstance(v, str) else f"{v:.1f}" for key, v in attributes.items()}
    opened = " ".join([tag, *(f'{key}="{value}"' for key, value in written.items())])
    return f"<{opened}>{content}</{tag}>" if content else f"<{opened}/>"


def _labelled(each: Placed) -> Iterator[str]:
    edges = {"x": each.left, "y": each.top, "width": each.width, "height": each.height}
    # Not quite opaque, so that an arrow can be followed behind a box it only passes.
    yield _element("rect", **edges, rx=5, fill="#ffffff", fill_opacity=0.9, stroke="#55524a")
    x, y = each.left + each.width / 2, each.top + PADDING
    if each.box.title:
        y += TITLE
        yield _element("text", each.box.title, x=x, y=y - 5, text_anchor="middle", font_size=14, font_weight="bold")
    for number, line in enumerate(each.lines):
        yield _element("text", line, x=x, y=y + LINE * number + 10, text_anchor="middle", font_size=11)


def _curves(places: Sequence[Placed], pairs: Sequence[tuple[Box, Box]]) -> Iterator[str]:
    """Arrows from the lower edge of a box to the upper edge of another, or from side to side on one floor."""
    at = {each.box: each for each in places}
    down = [(at[source], at[target]) for source, target in pairs if source.depth != target.depth]
    starts, ends = _ports(down), _ports([(target, source) for source, target in down])
    colours = dict(zip(sorted({source for source, _ in pairs}, key=_order), cycle(COLOURS), strict=False))
    for a, b in ((at[source], at[target]) for source, target in pairs):
        if (a, b) in starts:
            x0, x1, bend = starts[a, b], ends[b, a], 0.45 * (b.top - a.bottom)
            points = [(x0, a.bottom), (x0, a.bottom + bend), (x1, b.top - bend), (x1, b.top)]
        else:
            y = (a.top + a.bottom) / 2
            x0, x1 = (a.left + a.width, b.left) if a.left < b.left else (a.left, b.left + b.width)
            points = [(x0, y), (x0, y), (x1 - math.copysign(1, x1 - x0), y), (x1, y)]
        title = _element("title", f"{a.box.title} imports {b.box.title}")
        colour = colours[a.box]
        path = "M {} C {} {} {}".format(*(f"{x:.1f},{y:.1f}" for x, y in points))
        yield _element("path", title, d=path, fill="none", stroke=colour, stroke_width=1.4)
        yield _element("polygon", points=_tip(*points[2:]), fill=colour)


def _ports(pairs: Sequence[tuple[Placed, Placed]]) -> dict[tuple[Placed, Placed], float]:
    """Where along its edge each box has the arrow to or from another; in the order of the other ends."""
    found = {}
    for box in {box for box, _ in pairs}:
        others = sorted((other for each, other in pairs if each is box), key=lambda o: (o.left + o.width / 2, o.top))
        for number, other in enumerate(others, start=1):
            found[box, other] = box.left + box.width * number / (len(others) + 1)
    return found


def _tip(before: tuple[float, float], tip: tuple[float, float]) -> str:
    """A triangle that points from one point to another."""
    length = math.dist(before, tip)
    dx, dy = ((end - start) / length for start, end in zip(before, tip, strict=True))
    x, y = tip
    corners = [(x, y), (x - 7 * dx - 3.5 * dy, y - 7 * dy + 3.5 * dx), (x - 7 * dx + 3.5 * dy, y - 7 * dy - 3.5 * dx)]
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
