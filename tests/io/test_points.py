"""Landmarks in the files that people have, and the space they are in."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from medmamba.io.errors import PointsFileError
from medmamba.io.points import Points, Space, is_points, read_points, write_points

POINTS = Points(("nose, tip", "apex", "3"), np.array([[1.5, -2.25, 3.0], [1e-3, 40.125, -7.0], [0.1, 0.2, 0.3]]))
SUFFIXES = (".csv", ".tsv", ".fcsv", ".mrk.json")


@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_points_come_back_from_either_space(tmp_path: Path, suffix: str, space: Space) -> None:
    path = tmp_path / f"points{suffix}"
    write_points(POINTS, path, space)
    assert is_points(path)
    again = read_points(path)
    assert (again.names, again.space) == (POINTS.names, space)
    np.testing.assert_array_equal(again.mm, POINTS.mm)
    numbers = path.read_text().partition("apex")
    assert ("-40.125" in "".join(numbers)) == (space == "LPS")


@pytest.mark.parametrize(
    "header",
    ["x_lps,y_lps,z_lps", "LPS_X,LPS_Y,LPS_Z", "x (LPS),y (LPS),z (LPS)", "x lps mm,y lps mm,z lps mm", "L,P,S"],
)
def test_headers_that_name_lps(tmp_path: Path, header: str) -> None:
    (tmp_path / "p.csv").write_text(f"{header}\n1,2,3\n")
    assert read_points(tmp_path / "p.csv").mm.tolist() == [[-1, -2, 3]]
    (tmp_path / "p.csv").write_text(
        f"{header.replace('lps', 'ras').replace('LPS', 'RAS').replace('L,P', 'R,A')}\n1,2,3\n"
    )
    assert read_points(tmp_path / "p.csv").mm.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "names", "place"),
    [
        ("z_ras;y_ras;x_ras;Label\n3;2;1;apex\n", ("apex",), [1, 2, 3]),
        ("# measured by hand\n\nid\tx_ras\ty_ras\tz_ras\tsure\n7\t1\t2\t3e0\tyes\n\n", ("7",), [1, 2, 3]),
        ("\ufeffx_ras,y_ras,z_ras\r\n 1 ,2,3\r\n", ("1",), [1, 2, 3]),
    ],
)
def test_columns_are_found_by_name_in_any_order(tmp_path: Path, text: str, names: tuple[str, ...], place: list) -> None:
    (tmp_path / "p.csv").write_text(text, encoding="utf-8", newline="")
    points = read_points(tmp_path / "p.csv")
    assert points.names == names
    assert points.mm.tolist() == [place]


@pytest.mark.parametrize(("said", "sign"), [("0", 1), ("RAS", 1), ("1", -1), ("LPS", -1)])
def test_slicers_old_lists_say_the_space_as_a_number(tmp_path: Path, said: str, sign: int) -> None:
    (tmp_path / "p.fcsv").write_text(
        f"# Markups fiducial file version = 4.6\n# CoordinateSystem = {said}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "vtkMRMLMarkupsFiducialNode_0,1.5,2.5,3.5,0,0,0,1,1,1,0,F-1,,\n"
    )
    points = read_points(tmp_path / "p.fcsv")
    assert points.names == ("F-1",)
    assert points.mm.tolist() == [[sign * 1.5, sign * 2.5, 3.5]]


def test_points_of_slicer_that_were_never_placed_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_points(POINTS, tmp_path / "p.mrk.json")
    told = json.loads((tmp_path / "p.mrk.json").read_text())
    told["markups"][0]["controlPoints"][1] |= {"positionStatus": "undefined"}
    del told["markups"][0]["controlPoints"][1]["position"]
    (tmp_path / "p.mrk.json").write_text(json.dumps(told))
    with caplog.at_level(logging.WARNING):
        assert read_points(tmp_path / "p.mrk.json").names == ("nose, tip", "3")
    assert "'apex' is not placed" in caplog.text


MARKUPS = '{"markups": [{"type": "Fiducial", %s "controlPoints": [{"label": "a", "position": [1, 2, 3]}]}]}'
REFUSED = {
    "no space": ("p.csv", "x,y,z\n1,2,3\n", "does not tell in which space .* x_lps,y_lps,z_lps .* x_ras"),
    "both spaces": ("p.csv", "x_lps,y_ras,z_lps\n1,2,3\n", "does not tell in which space"),
    "a column twice": ("p.csv", "x_lps,x_lps,y_lps,z_lps\n1,1,2,3\n", "does not tell in which space"),
    "voxels": ("p.csv", "i,j,k\n1,2,3\n", "does not tell in which space"),
    "no header": ("p.csv", "1,2,3\n4,5,6\n", "does not tell in which space"),
    "a word": (
        "p.csv",
        "x_lps,y_lps,z_lps\n1,2,3\n1,two,3\n",
        r"point 2 should be .* \['1', 'two', '3'\]",
    ),
    "not finite": ("p.csv", "x_lps,y_lps,z_lps\n1,nan,3\n", "point 1 should be three numbers"),
    "short line": ("p.csv", "x_lps,y_lps,z_lps\n1,2\n", "point 1 has 2 columns, the header 3"),
    "no points": ("p.csv", "x_lps,y_lps,z_lps\n", "there are no points in it"),
    "empty": ("p.csv", "", "empty"),
    "of another kind": ("p.txt", "point\n1\n1 2 3\n", "points are read from files that end in"),
    "not text": ("p.csv", b"\xff\xfe\x00", "no text in UTF-8"),
    "fcsv in voxels": ("p.fcsv", "# CoordinateSystem = 2\n1,1,2,3\n", "coordinate system is '2'"),
    "fcsv of no space": ("p.fcsv", "1,1,2,3\n", "names no coordinate system"),
    "fcsv short": ("p.fcsv", "# CoordinateSystem = LPS\n1,1,2\n", "point 1 should be three numbers"),
    "markups of no space": ("p.mrk.json", MARKUPS % "", "names no coordinate system"),
    "markups in voxels": ("p.mrk.json", MARKUPS % '"coordinateSystem": "IJK",', "coordinate system is 'IJK'"),
    "markups in metres": ("p.mrk.json", MARKUPS % '"coordinateSystem": "LPS", "coordinateUnits": "m",', "in mm"),
    "no markups": ("p.mrk.json", "[]", "no markups of Slicer"),
    "no JSON": ("p.mrk.json", "{", "no markups of Slicer"),
    "no lists": ("p.mrk.json", '{"markups": []}', "points must be of one space"),
}


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_files_that_leave_something_to_guess_are_refused(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PointsFileError, match=words):
        read_points(tmp_path / name)


def test_points_go_only_where_they_can(tmp_path: Path) -> None:
    with pytest.raises(PointsFileError, match=r"end in \.fcsv"):
        write_points(POINTS, tmp_path / "p.txt")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_points(POINTS, tmp_path / "no" / "p.csv")
    with pytest.raises(FileNotFoundError, match="no such file of points"):
        read_points(tmp_path / "p.csv")
