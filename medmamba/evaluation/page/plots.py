"""Plots as SVG that takes its colours from the page: sharp on paper, readable in dark and light, each point a link."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from markupsafe import Markup

#: Of a plot, in units of its own: the page scales it to the room there is.
WIDTH = 480
#: More points than these stand so close that a row shows no more; those at both ends are always drawn.
MOST_POINTS = 400
#: From so many values on quartiles mean something.
MINIMUM_FOR_BOX = 5
#: Of a point; smaller ones where a row has many.
RADIUS, CROWDED = 3.2, 80


@dataclass(frozen=True, slots=True)
class Point:
    """One value: ``title`` is told when it is pointed at, ``target`` the anchor it leads to."""

    value: float
    title: str
    target: str


#: Letters that are narrower or wider than others.
_WIDTHS = (("ijl.,;:'!|I ", 4.5), ("ftr()[]-/", 6.0), ("mwMW@%", 13.5), ("<>=+~ABCDGHKNOQRSUVXYZ_&", 11.0))
#: At most so wide is a name; labels of lines in a plane lie so close at least.
NAME_WIDTH, LINE_HEIGHT = 190.0, 13.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of a plane; as `Point`. ``kind`` is a class of the style sheet."""

    x: float
    y: float
    title: str
    target: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a plot: a label, or a model's share in it.

    Args:
        name: at its left, in one line or two.
        colour: which of the page's colours.
        points: its values.
        mean: marked; NaN where there is none.
        interval: around the mean; None where there is none.
        words: at its right.
    """

    name: str
    colour: int
    points: tuple[Point, ...] = ()
    mean: float = math.nan
    interval: tuple[float, float] | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places along one axis; infinite values have a place of their own behind the others."""

    low: float
    high: float
    start: float
    stop: float
    infinite: float

    def __call__(self, value: float) -> float:
        """The place of a value, rounded to what can be seen."""
        if math.isinf(value):
            return self.infinite
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values from end to end."""
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def _step(span: float) -> float:
    """The round number of which about four fit."""
    size = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size * 5 >= span)


def _scale(values: Iterable[float], start: float, stop: float, *, share: bool = False, zero: bool = False) -> Scale:
    """Around all values; from 0 on, or within 0 to 1, where told."""
    every = list(values)
    finite = [value for value in every if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if zero or (share and low < 0.5):
        low = min(low, 0.0)
    if share and high > 0.5:
        high = max(high, 1.0)
    if high - low < 1e-9:
        low, high = (low - 0.05, high + 0.05) if low else (0.0, 1.0)
    step = _step(high - low)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    gutter = 26 if any(map(math.isinf, every)) else 0
    inner = stop - gutter if stop > start else stop + gutter
    return Scale(low, high, start, inner, stop)


def figure(value: float, decimals: int | None = None) -> str:
    """A number for people: three digits that count, unless told how many decimals; words for what is no number."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is None:
        decimals = next((digits for most, digits in ((1.0005, 3), (10, 2), (100, 1)) if abs(value) < most), 0)
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _svg(height: float, title: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="group" aria-label="{}" class="plot">{}</svg>').format(
        WIDTH, round(height), title, Markup("").join(parts)
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, words)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _linked(shape: Markup, title: str, target: str) -> Markup:
    # Not in the order of the tab key, where hundreds of points would stand before the next table, which has them all.
    return Markup('<a href="#{}" tabindex="-1">{}<title>{}</title></a>').format(target, shape, title)


def _short(name: str) -> str:
    """The name, or as much of its beginning as there is room for."""
    widths = list(accumulate(map(_letter_width, name)))
    if not widths or widths[-1] <= NAME_WIDTH:
        return name
    return f"{name[: sum(width <= NAME_WIDTH - _letter_width('…') for width in widths)]}…"


def _bottom_axis(scale: Scale, top: float, bottom: float, label: str) -> list[Markup]:
    parts = []
    for tick in scale.ticks:
        parts += [_line(scale(tick), top, scale(tick), bottom, "grid")]
        parts += [_text(scale(tick), bottom + 15, _tick(tick), "tick", "middle")]
    if scale.infinite != scale.stop:
        parts += [_line(scale.infinite, top, scale.infinite, bottom, "grid gutter")]
        parts += [_text(scale.infinite, bottom + 15, "∞", "tick", "middle")]
    return [*parts, _text((scale.start + scale.stop) / 2, bottom + 32, label, "axis", "middle")]


def _left_axis(scale: Scale, left: float, right: float, label: str) -> list[Markup]:
    parts = []
    for tick in scale.ticks:
        parts += [_line(left, scale(tick), right, scale(tick), "grid")]
        parts += [_text(left - 6, scale(tick) + 4, _tick(tick), "tick", "end")]
    return [*parts, _text(2, 12, label, "axis")]


def strips(rows: Sequence[Row], *, title: str, axis: str, share: bool, bare: bool = False) -> Markup:
    """Every value of each row, with quartiles, mean and its interval; ``bare`` leaves the single values out."""
    left, right, height = _name_width(rows), WIDTH - 12.0, 46
    bounds = [bound for row in rows if row.interval for bound in row.interval]
    scale = _scale(
        [point.value for row in rows for point in row.points] + bounds, left, right, share=share, zero=not share
    )
    bottom = 8 + height * len(rows)
    parts = _bottom_axis(scale, 4, bottom, axis)
    for number, row in enumerate(rows):
        middle = 8 + height * (number + 0.5)
        parts += _names(row, left - 10, middle)
        box, median = _quartiles(row, scale, middle)
        parts += [box, *([] if bare else _swarm(row, scale, middle)), median]
        parts += _mean(row, scale, middle + height / 2 - 6)
    return _svg(bottom + 38, title, parts)


def _name_width(rows: Sequence[Row]) -> float:
    lines = [_short(line) for row in rows for line in row.name.split("\n")]
    return 14 + max((sum(map(_letter_width, line)) for line in lines), default=0)


def _letter_width(letter: str) -> float:
    """At least what fonts without serifs take at the size that names have on a phone."""
    if not letter.isascii():
        return 14.5  # as wide as high, or drawn by another font
    return next((width for letters, width in _WIDTHS if letter in letters), 9.0)


def _names(row: Row, x: float, middle: float) -> list[Markup]:
    """The row's name, a line below the other, the second fainter."""
    lines = row.name.split("\n")[:2]
    top = middle + 4 - 7 * (len(lines) - 1)
    return [
        _text(x, top + 14 * number, _short(line), "axis" if number else "name", "end")
        for number, line in enumerate(lines)
    ]


def _quartiles(row: Row, scale: Scale, middle: float) -> tuple[Markup, Markup]:
    """A box between them, to lie below the points, and the median, to lie above; nothing for few values."""
    values = np.array([point.value for point in row.points if not math.isnan(point.value)])
    if np.isfinite(values).sum() < MINIMUM_FOR_BOX:
        return Markup(""), Markup("")
    # By whole values: between a finite and an infinite one there is nothing.
    low, centre, high = (scale(float(part)) for part in np.percentile(values, (25, 50, 75), method="lower"))
    box = Markup('<rect x="{}" y="{}" width="{}" height="28" class="box c{}"/>')
    return (
        box.format(low, middle - 14, round(max(high - low, 0.5), 1), row.colour),
        _line(centre, middle - 14, centre, middle + 14, f"median c{row.colour}"),
    )


def _swarm(row: Row, scale: Scale, middle: float) -> list[Markup]:
    """Points side by side where they would cover each other."""
    points = sorted((point for point in row.points if not math.isnan(point.value)), key=lambda point: point.value)
    if len(points) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
        points = [points[place] for place in kept]
    radius = RADIUS if len(points) <= CROWDED else 0.6 * RADIUS
    ends: dict[int, float] = {}
    order = sorted(range(-int(13 / (1.35 * radius)), int(13 / (1.35 * radius)) + 1), key=abs)
    shapes = []
    for point in points:
        x = scale(point.value)
        lane = next((lane for lane in order if x - ends.get(lane, -99) >= 2 * radius), 0)
        ends[lane] = x
        circle = Markup('<circle cx="{}" cy="{}" r="{}" class="dot c{}"/>')
        y = round(middle + 1.35 * radius * lane, 1)
        shapes.append(_linked(circle.format(x, y, round(radius, 1), row.colour), point.title, point.target))
    return shapes


def _mean(row: Row, scale: Scale, y: float) -> list[Markup]:
    if not math.isfinite(row.mean):
        return []
    x, parts = scale(row.mean), []
    if row.interval:
        parts = [_line(scale(row.interval[0]), y, scale(row.interval[1]), y, f"interval c{row.colour}")]
    diamond = Markup('<path d="M{} {}l4.5 4.5l-4.5 4.5l-4.5 -4.5z" class="mean c{}"/>')
    return [*parts, diamond.format(x, y - 4.5, row.colour)]


def forest(rows: Sequence[Row], *, title: str, axis: str, share: bool) -> Markup:
    """Means with their intervals, a line each."""
    left, right = _name_width(rows), WIDTH - 172.0
    height = 32 if any("\n" in row.name for row in rows) else 26
    values = [row.mean for row in rows] + [bound for row in rows if row.interval for bound in row.interval]
    scale = _scale([value for value in values if math.isfinite(value)], left, right, share=share, zero=not share)
    bottom = 8 + height * len(rows)
    parts = _bottom_axis(scale, 4, bottom, axis)
    for number, row in enumerate(rows):
        middle = 8 + height * (number + 0.5)
        parts += [*_names(row, left - 10, middle), *_mean(row, scale, middle)]
        parts += [_text(right + 14, middle + 4, row.words, "value")]
    return _svg(bottom + 38, title, parts)


def plane(
    dots: Sequence[Dot],
    *,
    title: str,
    across: str,
    up: str,
    lines: Sequence[tuple[float, str, str]] = (),
    diagonal: bool = False,
    share: bool = False,
) -> Markup:
    """Points over two axes.

    Args:
        dots: with finite coordinates.
        title: read out.
        across: name of the axis to the right.
        up: name of the other.
        lines: across the picture: height, class and words of each.
        diagonal: whether to draw where both are equal, on axes that are alike.
        share: whether values are shares.
    """
    # Words of lines stand beside the plane, where no point is.
    room = max((sum(map(_letter_width, words)) for _, _, words in lines), default=0.0)
    left, right, top, bottom = 52.0, WIDTH - 14.0 - room, 24.0, 292.0
    ups = [dot.y for dot in dots] + [height for height, _, _ in lines]
    acrosses = [dot.x for dot in dots]
    if diagonal:
        ups = acrosses = ups + acrosses
    x, y = _scale(acrosses, left, right, share=share), _scale(ups, bottom, top, share=share)
    parts = [*_bottom_axis(x, top, bottom, across), *_left_axis(y, left, right, up)]
    if diagonal:
        parts += [_line(x(x.low), y(y.low), x(x.high), y(y.high), "reference")]
    places: list[float] = []
    for height, kind, words in lines:
        parts += [_line(left, y(height), right, y(height), kind)]
        if words and all(abs(y(height) - place) >= LINE_HEIGHT for place in places):  # the caption has all
            parts += [_text(right + 5, y(height) + 4, words, "tick")]
            places.append(y(height))
    circle = Markup('<circle cx="{}" cy="{}" r="3.6" class="dot {}"/>')
    parts += [_linked(circle.format(x(dot.x), y(dot.y), dot.kind), dot.title, dot.target) for dot in dots]
    return _svg(bottom + 38, title, parts)


def steps(
    borders: Sequence[str],
    curves: Sequence[tuple[int, Sequence[float], Sequence[tuple[float, float] | None]]],
    notes: Sequence[str],
    *,
    title: str,
    across: str,
    up: str,
    share: bool,
) -> Markup:
    """Values over classes: a curve in a page's colour for each model, NaN where nothing is told.

    Args:
        borders: between classes, one fewer than these.
        curves: colour, and for each class a value and its interval.
        notes: of each class.
        title: read out.
        across: name of the axis to the right.
        up: name of the other.
        share: whether values lie between 0 and 1.
    """
    left, right, top, bottom = 52.0, WIDTH - 14.0, 24.0, 232.0
    known = [value for _, values, _ in curves for value in values if not math.isnan(value)]
    y = Scale(0.0, 1.0, bottom, top, top) if share else _scale([0.0, *known], bottom, top, zero=True)
    width = (right - left) / len(notes)
    parts = _left_axis(y, left, right, up)
    for number, border in enumerate(borders, 1):
        parts += [_line(left + width * number, bottom, left + width * number, bottom + 4, "grid")]
        parts += [_text(round(left + width * number, 1), bottom + 16, border, "tick", "middle")]
    for number, note in enumerate(notes):
        parts += [_text(round(left + width * (number + 0.5), 1), bottom + 32, note, "note", "middle")]
    circle = Markup('<circle cx="{}" cy="{}" r="4" class="dot c{}"/>')
    for nth, (colour, values, intervals) in enumerate(curves):
        aside = (nth - (len(curves) - 1) / 2) * 3
        for k, interval in enumerate(intervals):
            x = round(left + width * (k + 0.5) + aside, 1)
            parts += [_line(x, y(interval[0]), x, y(interval[1]), f"error c{colour}")] if interval else []
        places = [(round(left + width * (k + 0.5) + aside, 1), y(v)) for k, v in enumerate(values) if not math.isnan(v)]
        path = " ".join(f"{x},{height}" for x, height in places)
        parts += [Markup('<polyline points="{}" class="curve c{}"/>').format(path, colour)]
        parts += [circle.format(x, height, colour) for x, height in places]
    return _svg(bottom + 54, title, [*parts, _text((left + right) / 2, bottom + 50, across, "axis", "middle")])


def timeline(
    lines: Sequence[tuple[str, Sequence[float | None]]],
    times: Sequence[float],
    *,
    title: str,
    across: str,
    up: str,
    share: bool,
) -> Markup:
    """Values over the frames of a film, with gaps where there is none.

    Args:
        lines: classes of the style sheet, and a value for each frame.
        times: of each frame, or its number.
        title: read out.
        across: name of the axis to the right.
        up: name of the other.
        share: whether values lie between 0 and 1.
    """
    left, right, top, bottom = 52.0, WIDTH - 14.0, 24.0, 192.0
    known = [value for _, values in lines for value in values if value is not None]
    x = Scale(times[0], max(times[-1], times[0] + 1e-3), left, right, right)
    y = Scale(0.0, 1.0, bottom, top, top) if share else _scale([0.0, *known], bottom, top, zero=True)
    parts = [*_bottom_axis(x, top, bottom, across), *_left_axis(y, left, right, up)]
    for kind, values in lines:
        for piece in _pieces(values):
            places = [(x(times[frame]), y(value)) for frame, value in piece]
            path = " ".join(f"{across},{height}" for across, height in places)
            if len(places) > 1:
                parts += [Markup('<polyline points="{}" class="curve {}"/>').format(path, kind)]
            else:
                parts += [Markup('<circle cx="{}" cy="{}" r="2.2" class="dot {}"/>').format(*places[0], kind)]
    return _svg(bottom + 38, title, parts)


def _pieces(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Frames in a row that have a value."""
    found: list[list[tuple[int, float]]] = []
    for frame, value in enumerate(values):
        if value is None:
            continue
        if found and found[-1][-1][0] == frame - 1:
            found[-1].append((frame, value))
        else:
            found.append([(frame, value)])
    return found


def curves(lines: Sequence[tuple[int, Sequence[tuple[float, float]]]], *, title: str, across: str, up: str) -> Markup:
    """Lines through points between 0 and 1 on both axes, with the diagonal that a reliable network follows."""
    left, right, top, bottom = 52.0, WIDTH - 14.0, 24.0, 292.0
    x, y = Scale(0.0, 1.0, left, right, right), Scale(0.0, 1.0, bottom, top, top)
    parts = [*_bottom_axis(x, top, bottom, across), *_left_axis(y, left, right, up)]
    parts += [_line(x(0), y(0), x(1), y(1), "reference")]
    for colour, points in lines:
        path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        parts += [Markup('<polyline points="{}" class="curve c{}"/>').format(path, colour)]
        circle = Markup('<circle cx="{}" cy="{}" r="4" class="dot c{}"/>')
        parts += [circle.format(x(a), y(b), colour) for a, b in points]
    return _svg(bottom + 38, title, parts)
