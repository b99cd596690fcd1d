"""``medmamba tre``: errors that are known by construction, and landmarks that are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.io.formats.transforms import write_transform
from medmamba.io.points import Points, Space, write_points
from medmamba.transform import Transform
from medmamba.volume import FloatArray, Volume
from tests.cli.remedies import run
from tests.transform_factory import oblique, smooth_field, tilt

#: Far from the world's origin, as a scan of a leg: another space does not lie in it by chance.
GRID = oblique((24, 26, 13), 3, axes="jiK")
WHOLE = Transform((smooth_field(oblique((14, 15, 14), 5, spacing=4), 4, mm=4), tilt()))
FIXED = np.array([[0.0, 1, 2], [9, -7, 3], [-8, 6, -5], [4, 4, 4]])
OFF = np.array([[3.0, 0, 4], [0, 0, 0], [0, 1, 0], [0, 0, 2]])
NAMES = ("a", "b", "c", "d")


def points(path: Path, mm: FloatArray, space: Space = "RAS", names: tuple[str, ...] = NAMES) -> Path:
    write_points(Points(names, mm, space), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Folder with fixed.csv (RAS), moving.csv (LPS, in another order), t.h5: errors are 5, 0, 1 and 2 mm."""
    points(tmp_path / "fixed.csv", FIXED)
    moving = WHOLE.points(FIXED) + OFF
    points(tmp_path / "moving.csv", moving[::-1], "LPS", NAMES[::-1])
    write_transform(WHOLE, tmp_path / "t.h5")
    return tmp_path


def tre(files: Path, *more: object) -> tuple[int, str]:
    return run("tre", files / "fixed.csv", files / "moving.csv", *more)


def test_errors_are_told_of_each_landmark_and_in_sum_before_and_after(files: Path) -> None:
    code, said = tre(files, "-t", files / "t.h5", "-o", files / "errors.csv", "--json")
    assert code == 0, said
    data = json.loads(said[: said.rindex("}") + 1])
    after = [row["after_mm"] for row in data["landmarks"]]
    np.testing.assert_allclose(after, [5, 0, 1, 2], atol=1e-3)  # the file holds the field in single precision
    before = [row["before_mm"] for row in data["landmarks"]]
    np.testing.assert_allclose(before, np.linalg.norm(WHOLE.points(FIXED) + OFF - FIXED, axis=1), atol=1e-5)
    sums = data["after_mm"]
    expected = {"n": 4, "mean": 2.0, "median": 1.5, "sd": np.std([5, 0, 1, 2], ddof=1), "max": 5.0, "p95": 4.55}
    assert sums == {key: pytest.approx(value, abs=1e-3) for key, value in expected.items()}
    rows = (files / "errors.csv").read_text().splitlines()
    assert rows[0] == "name,before_mm,after_mm"
    assert [row[:2] for row in rows[1:]] == ["a,", "b,", "c,", "d,"]


def test_without_a_transform_it_is_the_error_before(files: Path) -> None:
    code, said = tre(files)
    assert code == 0, said
    assert "before (mm)" in said
    assert "after (mm)" not in said


def test_the_wrong_way_round_is_told(files: Path) -> None:
    write_transform(WHOLE.inverse().transform, files / "inverse.h5")
    code, said = tre(files, "-t", files / "inverse.h5")
    assert code == 0, said
    assert "larger than before: see that the transform leads from the fixed to the moving image" in said


def test_what_one_file_lacks_is_left_out_and_told_and_nothing_in_common_is_refused(files: Path) -> None:
    points(files / "moving.csv", FIXED[:3], names=NAMES[:3])
    code, said = tre(files, "--json")
    assert code == 0, said
    data = json.loads(said[: said.rindex("}") + 1])
    assert [row["name"] for row in data["landmarks"]] == ["a", "b", "c"]
    assert data["notes"] == ["landmarks whose names are in one file alone are left out: d in fixed.csv"]
    points(files / "moving.csv", FIXED[:3], names=("x", "y", "z"))
    code, said = tre(files)
    assert code == 3
    assert "holds 3 points" in said
    assert "no name tells which belong together" in said


def test_a_landmark_that_is_no_number_is_refused(files: Path) -> None:
    (files / "moving.csv").write_text("name,x_ras,y_ras,z_ras\na,1,2,nan\n")
    code, said = tre(files)
    assert code == 3
    assert "point 1 should be three numbers of millimetres" in said


def leg(files: Path) -> Path:
    """An image 200 mm off the origin."""
    affine = GRID.affine.copy()
    affine[:3, 3] += 200
    path = files / "leg.nii.gz"
    io.write(Volume(np.zeros((1, *GRID.shape), np.float32), type(GRID)(GRID.shape, affine)), path)
    return path


@pytest.mark.parametrize(("reading", "told"), [("RAS", "lie in it in RAS"), ("voxels", "would fit as voxels")])
def test_landmarks_outside_of_their_image_are_refused_with_what_they_seem_to_be(
    files: Path, reading: str, told: str
) -> None:
    image = leg(files)
    voxels = np.array([[3.0, 4, 5], [10, 11, 6], [20, 15, 2], [2, 20, 9]])
    if reading == "voxels":
        points(files / "fixed.csv", voxels)
    else:  # RAS millimetres, under a header that says LPS
        grid = io.read_geometry(image)
        text = points(files / "fixed.csv", voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]).read_text()
        (files / "fixed.csv").write_text(text.replace("_ras", "_lps"))
    code, said = tre(files, "--fixed-image", image)
    assert code == 3
    assert "4 of 4 points lie outside of the fixed image" in said
    assert told in said


def test_few_landmarks_outside_are_told_and_counted(files: Path) -> None:
    io.write(Volume(np.zeros((1, *GRID.shape), np.float32), GRID), files / "fixed.nii.gz")
    far = FIXED.copy()
    far[2] = 300, 0, 0
    points(files / "fixed.csv", far)
    code, said = tre(files, "--fixed-image", files / "fixed.nii.gz")
    assert code == 0, said
    assert "landmarks of fixed.csv outside of the fixed image: c" in said


def test_one_file_in_the_other_space_than_it_says_is_noticed(files: Path) -> None:
    away = FIXED + np.array([60.0, 40, 10])
    points(files / "fixed.csv", away)
    text = points(files / "moving.csv", away + 1).read_text()
    (files / "moving.csv").write_text(text.replace("_ras", "_lps"))
    code, said = tre(files)
    assert code == 0, said
    assert "see whether one is LPS and the other RAS" in said


def test_landmarks_that_the_transform_knows_nothing_of_are_refused(files: Path) -> None:
    points(files / "fixed.csv", FIXED + 500)
    code, said = tre(files, "-t", files / "t.h5")
    assert code == 3
    assert "none of the 4 landmarks lies where the transform says anything" in said


def test_an_input_is_not_overwritten(files: Path) -> None:
    code, said = tre(files, "-o", files / "moving.csv")
    assert code == 2, said
    assert "is an input of this command" in said
