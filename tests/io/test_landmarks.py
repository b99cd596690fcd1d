"""Which landmarks of two files belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba.io.errors import PointsFileError
from medmamba.io.landmarks import Matched, matched_points
from medmamba.io.points import Points, write_points


def matched(folder: Path, fixed: str, moving: str) -> Matched:
    """Of files with points of these names; a fixed point has its place for x, and a moving one that and 100."""
    for name, names, more in (("fixed", fixed.split(), 0), ("moving", moving.split(), 100)):
        mm = np.arange(len(names))[:, None] * [1.0, 0, 0] + [more, 0, 0]
        write_points(Points(tuple(names), mm), folder / f"{name}.csv")
    return matched_points(folder / "fixed.csv", folder / "moving.csv")


@pytest.mark.parametrize(
    ("fixed", "moving", "names", "places", "left_out"),
    [
        ("a b c", "c a b", "a b c", [1, 2, 0], ""),
        ("a b c", "x y z", "a b c", [0, 1, 2], ""),
        ("a b c d", "d b", "b d", [1, 0], "a, c in fixed.csv"),
        ("a b", "b c d", "b", [0], "a in fixed.csv, c, d in moving.csv"),
        ("1 2 3 4", "1 2 4", "1 2 4", [0, 1, 2], "3 in fixed.csv"),
        ("1 2 3", "3 2 1", "1 2 3", [2, 1, 0], ""),
        ("a b x x", "b a", "a b", [1, 0], "x, x in fixed.csv"),
    ],
)
def test_names_match_points_and_order_does_where_no_name_is_shared(
    tmp_path: Path, fixed: str, moving: str, names: str, places: list[int], left_out: str
) -> None:
    found = matched(tmp_path, fixed, moving)
    assert found.fixed.names == found.moving.names == tuple(names.split())
    assert [fixed.split()[int(x)] for x in found.fixed.mm[:, 0]] == names.split()
    assert found.moving.mm[:, 0].tolist() == [100 + place for place in places]
    said = (f"landmarks whose names are in one file alone are left out: {left_out}",) if left_out else ()
    assert found.remarks == said


@pytest.mark.parametrize(
    ("fixed", "moving", "words"),
    [
        ("a b c", "x y", "it holds 2 points and .*fixed.csv 3, and they cannot be matched: no name tells"),
        ("a b a", "b a", "the name 'a' occurs twice; name each point"),
        ("1 2 3 4", "1 2 3", "no name tells which"),  # numbers that a file without names gets, of any of the four
    ],
)
def test_what_nothing_can_match_is_refused(tmp_path: Path, fixed: str, moving: str, words: str) -> None:
    with pytest.raises(PointsFileError, match=words):
        matched(tmp_path, fixed, moving)
