"""Plots: names fit beside them, and words of lines hide nothing."""

from __future__ import annotations

import re

import pytest

from medmamba.evaluation.page import plots
from medmamba.evaluation.page.plots import Dot, Row


@pytest.mark.parametrize("name", ["W" * 60, "<b>" * 30, "日本語" * 20, "a long name of small letters in a row"])
def test_long_names_are_cut_at_their_end_and_fit(name: str) -> None:
    drawn = str(plots.forest([Row(name=name, colour=0, mean=0.5)], title="t", axis="a", share=True))
    found = re.search(r'<text x="([\d.]+)"[^>]*class="name"[^>]*>(.*?)</text>', drawn)
    assert found is not None
    shown = found[2].replace("&lt;", "<").replace("&gt;", ">")
    assert shown.endswith("…")
    assert name.startswith(shown[:-1])
    assert len(shown) > 10
    # Ends at x, and an em of the largest letters is 14 units: no letter here is wider than that.
    assert float(found[1]) >= sum({"W": 13.5, "<": 11.0, ">": 11.0, "b": 9.0}.get(letter, 4.0) for letter in shown)


def test_words_of_lines_stand_beside_the_points_and_not_on_each_other() -> None:
    dots = [Dot(float(x), float(x % 3), "t", "a", "c0") for x in range(20)]
    lines = [(0.0, "reference", ""), (1.0, "bias", "bias 1.00"), (1.01, "limit", "1.01"), (3.0, "limit", "3.00")]
    drawn = str(plots.plane(dots, title="t", across="x", up="y", lines=lines))
    words = {word: float(x) for x, word in re.findall(r'<text x="([\d.]+)"[^>]*>(bias 1.00|1.01|3.00)<', drawn)}
    assert set(words) == {"bias 1.00", "3.00"}
    assert max(float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)) + 3.6 < min(words.values())


def test_curves_over_time_have_gaps_and_a_lonely_value_is_a_point() -> None:
    drawn = str(
        plots.timeline(
            [("c0", [0.5, 1.0, None, 0.0]), ("c1 there", [None] * 4)],
            [0.0, 0.1, 0.2, 0.5],
            title="t",
            across="time (s)",
            up="Dice",
            share=True,
        )
    )
    lines = re.findall(r'<polyline points="([^"]*)" class="curve ([^"]*)"', drawn)
    assert [(len(points.split()), kind) for points, kind in lines] == [(2, "c0")]
    (x, y), (right, top) = ([float(part) for part in point.split(",")] for point in lines[0][0].split())
    assert re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn) == [
        (f"{52 + (right - x) * 5:.1f}", f"{2 * y - top:.1f}")
    ]


@pytest.mark.parametrize("values", [[0.5], [None]])
def test_curve_of_a_single_frame_is_drawn(values: list[float | None]) -> None:
    drawn = str(plots.timeline([("c0", values)], [7], title="t", across="n", up="Dice", share=True))
    assert drawn.count("<circle") == sum(value is not None for value in values)
