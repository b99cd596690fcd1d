"""``medmamba warp`` on a registered pair: each direction, what is decided, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.io.formats.transforms import write_transform
from medmamba.io.points import Points, read_points, write_points
from medmamba.transform import Transform, resample
from medmamba.volume import Geometry, Volume
from tests import dicom_factory as factory
from tests.cli.remedies import run
from tests.transform_factory import oblique, smooth_field, tilt

FIXED = oblique((24, 26, 13), 3, axes="jiK")
MOVING = oblique((25, 22, 20), 2, axes="kIj")
LABEL = ("--interpolation", "label")
WHOLE = Transform((smooth_field(oblique((14, 15, 14), 5, spacing=4), 4, mm=4), tilt()))


def blob(geometry: Geometry) -> np.ndarray:
    """A ball of 1 in one of 2, around the origin."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
    radius = np.linalg.norm(index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3], axis=-1)
    return (np.digitize(radius, [0, 8, 14]) % 3)[None]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Folder with fixed.nii.gz, moving.nii.gz, labels.nii.gz of the moving image, t.h5."""
    rng = np.random.default_rng(0)
    io.write(Volume(rng.uniform(-1000, 500, (1, *FIXED.shape)).astype(np.float32), FIXED), tmp_path / "fixed.nii.gz")
    io.write(Volume(rng.uniform(-1000, 500, (1, *MOVING.shape)).astype(np.float32), MOVING), tmp_path / "moving.nii.gz")
    io.write(Volume(blob(MOVING).astype(np.uint8), MOVING), tmp_path / "labels.nii.gz")
    write_transform(WHOLE, tmp_path / "t.h5")
    return tmp_path


def warp(pair: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and words of the command with the pair's transform, on files of its folder."""
    return run("warp", "-t", pair / "t.h5", *(pair / each if "." in each else each for each in arguments))


def test_a_moving_image_comes_onto_the_fixed_grid_as_by_simpleitk(pair: Path) -> None:
    code, said = warp(pair, "-i", "moving.nii.gz", "--like", "fixed.nii.gz", "-o", "o.nii.gz")
    assert code == 0, said
    moving, fixed = (sitk.ReadImage(str(pair / f"{name}.nii.gz")) for name in ("moving", "fixed"))
    low = float(sitk.GetArrayFromImage(moving).min())
    theirs = sitk.Resample(moving, fixed, sitk.ReadTransform(str(pair / "t.h5")), sitk.sitkLinear, low)
    ours = sitk.ReadImage(str(pair / "o.nii.gz"))
    assert ours.GetDirection() == fixed.GetDirection()
    np.testing.assert_allclose(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs), atol=0.05)
    assert "linear interpolation (taken for an image)" in said
    assert f"from within {pair / 'moving.nii.gz'}, {low:g} in the others" in said


def test_label_maps_are_taken_for_such_and_keep_their_values(pair: Path) -> None:
    arguments = ("warp", "-t", pair / "t.h5", "-i", pair / "labels.nii.gz", "--like", pair / "fixed.nii.gz")
    code, said = run(*arguments, "-o", pair / "o.nii.gz")
    assert code == 0, said
    assert "label interpolation (whole numbers that neighbours share, taken for labels)" in said
    smooth = io.read_label(pair / "o.nii.gz").array
    assert np.unique(smooth).tolist() == [0, 1, 2]
    assert run(*arguments, "-o", pair / "n.nii.gz", "--interpolation", "nearest")[0] == 0
    nearest = io.read_label(pair / "n.nii.gz").array
    assert 0 < (smooth != nearest).mean() < 0.05
    code, said = run(*arguments, "-o", pair / "l.nii.gz", "--interpolation", "linear")
    assert code == 0
    assert not np.isin(io.read(pair / "l.nii.gz").array, [0, 1, 2]).all()


def test_points_go_with_the_image_by_the_inverse_and_back_by_the_transform(pair: Path) -> None:
    on_fixed = Points(("a", "b"), np.array([[3.0, -4.0, 5.0], [-6.0, 2.0, 1.0]]), "LPS")
    write_points(on_fixed, pair / "fixed.csv")
    code, said = warp(pair, "-i", "fixed.csv", "-o", "moving.csv")
    assert code == 0, said
    assert "2 points taken from the fixed to the moving image, in LPS mm" in said
    on_moving = read_points(pair / "moving.csv")
    np.testing.assert_allclose(on_moving.mm, WHOLE.points(on_fixed.mm), atol=1e-4)
    code, said = warp(pair, "-i", "moving.csv", "-o", "back.fcsv", "--inverse")
    assert code == 0, said
    assert "from the moving to the fixed image" in said
    np.testing.assert_allclose(read_points(pair / "back.fcsv").mm, on_fixed.mm, atol=1e-3)
    # And so goes the image: a dot at the point in the moving one is where the inverse has taken the point.
    dot = np.zeros((1, *MOVING.shape), np.float32)
    voxel = (12, 11, 10)
    dot[(0, *voxel)] = 1000
    io.write(Volume(dot, MOVING), pair / "dot.nii.gz")
    write_points(Points(("dot",), (MOVING.affine @ (*voxel, 1))[None, :3]), pair / "dot.csv")
    warp(pair, "-i", "dot.csv", "-o", "dot_on_fixed.csv", "--inverse")
    code, said = warp(pair, "-i", "dot.nii.gz", "--like", "fixed.nii.gz", "-o", "d.nii.gz")
    assert code == 0, said
    seen = io.read(pair / "d.nii.gz").array[0]
    centre = np.average(np.argwhere(seen > 0), axis=0, weights=seen[seen > 0])
    place = (FIXED.affine @ (*centre, 1))[:3]
    assert np.linalg.norm(place - read_points(pair / "dot_on_fixed.csv").mm[0]) < max(FIXED.spacing_mm) / 2


def test_the_fixed_image_goes_onto_the_moving_one_by_inverse(pair: Path) -> None:
    io.write(Volume(blob(FIXED).astype(np.float32) * 100, FIXED), pair / "ball.nii.gz")
    linear = ("--interpolation", "linear")
    there = ("-i", "ball.nii.gz", "--like", "moving.nii.gz", "-o", "there.nii.gz", "--inverse")
    for arguments in (there, ("-i", "there.nii.gz", "--like", "fixed.nii.gz", "-o", "back.nii.gz")):
        code, said = warp(pair, *arguments, *linear)
        assert code == 0, said
    back, ball = io.read(pair / "back.nii.gz").array[0], blob(FIXED)[0] * 100.0
    inside = np.zeros(FIXED.shape, bool)
    inside[5:-5, 5:-5, 3:-3] = True
    naive = resample(Volume(ball[None], FIXED), Transform((tilt(),)), FIXED).array[0]
    assert np.corrcoef(back[inside], ball[inside])[0, 1] > 0.9 > np.corrcoef(naive[inside], ball[inside])[0, 1]


def test_several_transforms_act_in_the_order_of_ants(pair: Path) -> None:
    """The field is listed first and acts first on points of the fixed image."""
    write_transform(Transform(WHOLE.steps[:1]), pair / "1Warp.nii.gz")
    write_transform(Transform(WHOLE.steps[1:]), pair / "0GenericAffine.mat")
    write_points(Points(("a",), np.array([[3.0, -4.0, 5.0]])), pair / "p.csv")
    listed = ("-t", pair / "1Warp.nii.gz", "-t", pair / "0GenericAffine.mat")
    assert run("warp", *listed, "-i", pair / "p.csv", "-o", pair / "q.csv")[0] == 0
    np.testing.assert_allclose(read_points(pair / "q.csv").mm, WHOLE.points(read_points(pair / "p.csv").mm), atol=1e-4)


@pytest.mark.parametrize("written", ["moving.nii.gz", "fixed.nii.gz", "t.h5"])
def test_nothing_that_is_read_is_written_over(pair: Path, written: str) -> None:
    before = (pair / written).read_bytes()
    code, said = warp(pair, "-i", "moving.nii.gz", "--like", "fixed.nii.gz", "-o", written)
    assert code == 2, said
    assert written in said
    assert (pair / written).read_bytes() == before


def test_a_folder_for_the_result_is_made(pair: Path) -> None:
    code, said = warp(pair, "-i", "moving.nii.gz", "--like", "fixed.nii.gz", "-o", "new/o.nii.gz")
    assert code == 0, said
    write_points(Points(("a",), np.zeros((1, 3)), "LPS"), pair / "p.csv")
    code, said = warp(pair, "-i", "p.csv", "-o", "newer/p.csv")
    assert code == 0, said


def test_a_series_in_dicom_comes_along(tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    factory.series(scan, modality="CT", slices=8)
    write_transform(Transform(), tmp_path / "nothing.tfm")
    code, said = run("warp", "-t", tmp_path / "nothing.tfm", "-i", scan, "--like", scan, "-o", tmp_path / "o.nii.gz")
    assert code == 0, said
    np.testing.assert_allclose(io.read(tmp_path / "o.nii.gz").array, io.read(scan).array, atol=1e-2)


def test_every_channel_and_a_single_slice_come_along(pair: Path) -> None:
    four = np.random.default_rng(0).uniform(0, 1, (3, *MOVING.shape)).astype(np.float32)
    io.write(Volume(four, MOVING), pair / "four.nii.gz")
    code, said = warp(pair, "-i", "four.nii.gz", "--like", "fixed.nii.gz", "-o", "o.nii.gz")
    assert code == 0, said
    assert io.read(pair / "o.nii.gz").array.shape == (3, *FIXED.shape)
    slice_ = Geometry((*FIXED.shape[:2], 1), FIXED.cropped((0, 0, 6), (*FIXED.shape[:2], 7)).affine)
    io.write(Volume(np.ones((1, *slice_.shape), np.float32), slice_), pair / "slice.nii.gz")
    code, said = warp(pair, "-i", "four.nii.gz", "--like", "slice.nii.gz", "-o", "s.nii.gz")
    assert code == 0, said
    np.testing.assert_allclose(
        io.read(pair / "s.nii.gz").array[..., 0], io.read(pair / "o.nii.gz").array[..., 6], atol=1e-3
    )


def test_what_does_not_overlap_is_told(pair: Path) -> None:
    far = FIXED.affine.copy()
    far[:3, 3] += 1000
    io.write(Volume(np.ones((1, *FIXED.shape), np.float32), Geometry(FIXED.shape, far)), pair / "far.nii.gz")
    code, said = warp(pair, "-i", "moving.nii.gz", "--like", "far.nii.gz", "-o", "o.nii.gz")
    assert code == 0
    assert "0.0% of the voxels" in said
    assert "these images do not overlap by this transform" in said


def test_points_outside_are_told_and_those_that_are_all_elsewhere_refused(pair: Path) -> None:
    write_points(Points(("in", "out"), np.array([[0.0, 0, 0], [500.0, 0, 0]])), pair / "p.csv")
    code, said = warp(pair, "-i", "p.csv", "-o", "q.csv", "--like", "moving.nii.gz")
    assert code == 0
    assert "beyond the field, which does not move them: out (1 of 2 points)" in said
    assert f"outside of {pair / 'moving.nii.gz'}: out (1 of 2 points)" in said
    write_points(Points(("out",), np.array([[500.0, 0, 0]])), pair / "p.csv")
    code, said = warp(pair, "-i", "p.csv", "-o", "r.csv")
    assert code == 3
    assert "none of the 1 points lies where the transform says anything" in said
    assert not (pair / "r.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-i", "moving.nii.gz", "-o", "o.nii.gz"), 2, "name an image that has it by --like"),
        (("-i", "moving.nii.gz", "-o", "o.jpg", "--like", "fixed.nii.gz"), 2, "images end in"),
        (
            ("-i", "moving.nii.gz", "-o", "o.nii.gz", "--like", "fixed.nii.gz", "--interpolation", "label"),
            3,
            "integers",
        ),
        (("-i", "labels.nii.gz", "-o", "o.nii.gz", "--like", "fixed.nii.gz", "--outside", "-1"), 2, "cannot be -1"),
        (("-i", "none.csv", "-o", "o.csv"), 3, "no such file of points"),
        (("-t", "none.h5", "-i", "none.csv", "-o", "o.csv"), 3, "no such file of a transform"),
    ],
)
def test_what_cannot_be_done_is_refused(
    pair: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(pair)
    ended, said = run("warp", "-t", "t.h5", *arguments)
    assert (ended, words in said) == (code, True), said
    assert not [file for file in pair.iterdir() if file.name.startswith("o.")]
