"""One pair, from its files to those of its registration, judged by a known deformation and by SimpleITK."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from medmamba import io
from medmamba.case import Case, Pair
from medmamba.errors import DataError
from medmamba.evaluation.registered import evaluate_registrations
from medmamba.io.points import Points, read_points, write_points
from medmamba.plans.plan import ChannelPlan, IntensityStatistics
from medmamba.registration import pair as pair_module
from medmamba.registration.measures import Annotations
from medmamba.registration.pair import SelfCheckError, register_pair
from medmamba.registration.records import Asked, PairRecord
from medmamba.registration.register import MOST_VOXELS, Settings, automatic_spacing, register
from medmamba.transform import Affine, Transform
from medmamba.volume import Geometry, Volume
from tests.registration_factory import BALLS, looks, truth, write_pair

QUICK = Asked(refine=8)


def of_files(folder: Path, moving: str = "moving_t1", **beside: str) -> Pair:
    """The pair in a folder, with files of either side by what they are called after fixed_ and moving_."""
    sides = [
        Case(
            id=name.partition("_")[0],
            images=(folder / f"{name}.nii.gz",),
            **{kind: folder / f"{name.partition('_')[0]}_{kind}{end}" for kind, end in beside.items()},  # type: ignore[arg-type]
        )
        for name in ("fixed_t1", moving)
    ]
    return Pair(id="moving_to_fixed", fixed=sides[0], moving=sides[1])


def registered(tmp_path: Path, pair: Pair, asked: Asked = QUICK, **more: Any) -> PairRecord:
    (tmp_path / "out").mkdir()
    return register_pair(pair, tmp_path / "out", asked, **more)


def test_the_record_and_the_evaluation_measure_the_same_voxels(tmp_path: Path) -> None:
    write_pair(tmp_path)
    place = tmp_path / "folder" / "moving_to_fixed"
    place.mkdir(parents=True)
    measures = register_pair(of_files(tmp_path), place, QUICK).measures
    (tmp_path / "folder" / "registration.json").write_text('{"pairs": {"moving_to_fixed": {"status": "done"}}}')
    figures = evaluate_registrations(tmp_path / "folder")[0].cases[0].figures
    assert measures["sd_log_jacobian"] == pytest.approx(figures["sd_log_jacobian"], rel=1e-4)
    assert measures["min_jacobian"] == pytest.approx(figures["min_jacobian"], rel=1e-4)
    assert measures["folding_percent"] == figures["folding"]


@pytest.mark.parametrize("moving", ["moving_t1", "moving_ct"])
def test_a_known_deformation_is_found_and_every_file_brings_the_image_there_by_simpleitk(
    tmp_path: Path, moving: str
) -> None:
    write_pair(tmp_path, ct=moving == "moving_ct")
    pair = of_files(tmp_path, moving, label=".nii.gz", points=".csv")
    record = registered(tmp_path, pair, Asked(refine=20, text=True))
    out = tmp_path / "out"
    assert record.decisions["similarity"].startswith("mind" if moving == "moving_ct" else "lncc")
    assert ("a stiff field" if moving == "moving_ct" else "a free field") in record.decisions["refinement"]
    assert record.points is not None
    assert record.overlap is not None
    before, aligned, after = (
        float(np.mean(each)) for each in (record.points.before, record.points.aligned, record.points.after)
    )
    assert before > 8
    dice = [
        np.mean(list(each.values())) for each in (record.overlap.before, record.overlap.aligned, record.overlap.after)
    ]
    if moving == "moving_t1":
        assert after < 1.35 < aligned
        assert dice[0] < dice[1] < dice[2]
        assert dice[2] > 0.85
    else:
        assert after < before / 3
        assert dice[2] > dice[0] + 0.3
    assert record.measures["folding_percent"] == 0
    assert (record.measures["inverse_consistency_mm"] or 0) < 0.4
    assert not record.warnings
    # Another program, from the files alone.
    fixed, original = (
        sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("fixed_t1", moving)
    )
    low = min(0.0, float(sitk.GetArrayViewFromImage(original).min()))
    warped = sitk.ReadImage(str(out / "warped.nii.gz"))
    assert warped.GetDirection() == fixed.GetDirection()
    assert set(record.checked) == {
        f"{name}{end}" for name in ("transform", "inverse") for end in (".h5", ".tfm")
    } | {"field.nii.gz", "inverse_field.nii.gz"}  # fmt: skip
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "field.nii.gz"), sitk.sitkVectorFloat64))
    for transform in (*(sitk.ReadTransform(str(out / f"transform{end}")) for end in (".h5", ".tfm")), field):
        theirs = sitk.Resample(original, fixed, transform, sitk.sitkLinear, low)
        apart = np.abs(sitk.GetArrayFromImage(theirs) - sitk.GetArrayFromImage(warped))
        assert np.quantile(apart, 0.9999) < 1e-3 * np.ptp(sitk.GetArrayFromImage(original))
    # Labels and landmarks of the moving image came along.
    mm = np.array([centre for centre, _, _ in BALLS], dtype=np.float64)
    moved = read_points(out / "points.csv")
    assert moved.space == "RAS"
    assert np.linalg.norm(moved.mm[::-1] - mm, axis=1).mean() < before / 3
    labels = io.read_label(out / "labels.nii.gz")
    assert np.unique(labels.array).tolist() == [0, 1, 2, 3, 4]
    assert {"checkerboard.png", "difference.png", "affine.tfm", "jacobian.nii.gz"} <= set(record.files)
    assert PairRecord.load(out) == record


def test_the_same_pair_gives_the_same_transform_again(tmp_path: Path) -> None:
    fixed, _, moving, _ = looks()
    found = [register(fixed, moving, plain(refine=3)) for _ in range(2)]
    for first, second in zip(*(each.transform.steps for each in found), strict=True):
        assert type(first) is type(second)
        name = "matrix" if isinstance(first, Affine) else "vectors_mm"
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_alignment_alone_writes_an_affine_map_and_refinement_alone_a_field(tmp_path: Path) -> None:
    fixed, _, moving, _ = looks()
    rigid = register(fixed, moving, plain(affine="rigid", refine=0))
    assert [type(step).__name__ for step in rigid.transform.steps] == ["Affine"]
    matrix = rigid.transform.steps[0].matrix[:3, :3]  # type: ignore[union-attr]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert not rigid.warnings  # no field was asked for, so none is missed
    alone = register(fixed, moving, plain(affine="none", refine=3))
    assert [type(step).__name__ for step in alone.transform.steps] == ["Field", "Affine"]
    np.testing.assert_array_equal(alone.aligned.affine.matrix, np.eye(4))


def test_a_file_that_simpleitk_reads_otherwise_fails_the_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path)
    write = pair_module.write_transform
    shift = np.eye(4)
    shift[:3, 3] = 0.3

    def elsewhere(transform: Transform, path: Path) -> None:
        write(Transform((*transform.steps, Affine(shift))) if path.name == "inverse.h5" else transform, path)

    monkeypatch.setattr(pair_module, "write_transform", elsewhere)
    with pytest.raises(SelfCheckError, match=r"inverse\.h5 of moving_to_fixed read by SimpleITK .* more than"):
        registered(tmp_path, of_files(tmp_path), Asked(refine=0))


class Fake:
    """A model that says the same of every pair."""

    strides = (2, 2, 2)

    def __init__(self, waves: float) -> None:
        self.waves = waves

    def displacement(self, moving: Tensor, fixed: Tensor) -> Tensor:
        along = torch.arange(fixed.shape[2], dtype=torch.float32).reshape(1, 1, -1, 1, 1)
        return (self.waves * torch.sin(along)).expand(1, 3, *fixed.shape[2:]).contiguous()


def plain(**more: Any) -> Settings:
    statistics = IntensityStatistics(mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1)
    channel = ChannelPlan(name="T1", normalization="percentiles", use_mask=False, intensities=statistics)
    return Settings(channels=(channel, channel), **more)


@pytest.mark.parametrize(("waves", "words"), [(4.0, "the field folds in"), (0.0, "the field is next to zero")])
def test_a_network_that_folds_or_does_nothing_is_told(waves: float, words: str) -> None:
    fixed, _, moving, _ = looks()
    found = register(fixed, moving, plain(refine=0, affine="centres"), model=Fake(waves))  # type: ignore[arg-type]
    assert any(words in warning for warning in found.warnings)


def test_a_model_is_asked_on_its_own_grid_and_refined_from_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, _, moving, _ = looks()
    settings = plain(refine=3, affine="centres", spacing_mm=(4.0, 4.0, 4.0))
    found = register(fixed, moving, settings, model=Fake(0.1))  # type: ignore[arg-type]
    grid = found.transform.steps[0].geometry  # type: ignore[union-attr]
    np.testing.assert_allclose(grid.spacing_mm, 4.0)
    assert all(n % 2 == 0 for n in grid.shape)
    assert {"network", "refine"} <= set(found.seconds)


def test_large_images_are_registered_on_a_coarser_grid_along_their_finest_axes_first() -> None:
    ct = Geometry((512, 512, 120), np.diag([-0.7, -0.7, 3.0, 1.0]))
    spacing = automatic_spacing(ct)
    extent = np.array(ct.shape) * ct.spacing_mm
    assert 0.9 * MOST_VOXELS < np.prod(extent / spacing) <= MOST_VOXELS
    assert spacing[0] == spacing[1] > 2
    assert spacing[2] == 3.0 or spacing[2] == spacing[0]
    assert automatic_spacing(Geometry((64, 64, 10), np.diag([1.0, 1.0, 5.0, 1.0]))) == (1.0, 1.0, 5.0)


# Bad input


def replaced(folder: Path, name: str, volume: Volume) -> Path:
    """A pair of which one file is another one."""
    write_pair(folder)
    io.write(volume, folder / f"{name}.nii.gz")
    return folder


def image(shape: tuple[int, int, int] = (20, 20, 20), value: float | None = None, channels: int = 1) -> Volume:
    array = np.random.default_rng(0).uniform(0, 100, (channels, *shape)).astype(np.float32)
    return Volume(array if value is None else np.full_like(array, value), Geometry(shape, np.diag([4.0, 4, 4, 1])))


SHEARED = np.array([[3.0, 1.0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (image(channels=4), "the fixed one has 4 channels or time points; write the one to register to a file"),
        (image((20, 20, 1)), "the fixed image is a single slice of 20 x 20 x 1 voxels; give the whole series"),
        (Volume(image().array, Geometry((20, 20, 20), SHEARED)), "not perpendicular"),
        (image(value=7), "the same everywhere"),
        (image(value=np.nan), r"fixed image: 8000 of 8000 intensities \(100 %\) are NaN"),
    ],
)
def test_images_that_cannot_be_registered_are_refused_in_words(tmp_path: Path, volume: Volume, words: str) -> None:
    with pytest.raises(DataError, match=words):
        registered(tmp_path, of_files(replaced(tmp_path, "fixed_t1", volume)))
    assert not any((tmp_path / "out").iterdir())


def test_images_apart_in_space_are_brought_together_and_it_is_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    moving = io.read(tmp_path / "moving_t1.nii.gz")
    affine = moving.geometry.affine.copy()
    affine[:3, 3] += [400, -300, 900]
    io.write(Volume(moving.array, Geometry(moving.geometry.shape, affine)), tmp_path / "moving_t1.nii.gz")
    record = registered(tmp_path, of_files(tmp_path), Asked(refine=0))
    assert "do not overlap in space" in record.remarks[0]
    assert record.alignment.before is None
    away = np.array(record.alignment.matrix)[:3, 3] - [400, -300, 900]
    assert np.linalg.norm(away) < 40


def test_the_same_image_twice_is_registered_and_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    case = Case(id="fixed", images=(tmp_path / "fixed_t1.nii.gz",))
    record = registered(tmp_path, Pair(id="twice", fixed=case, moving=case))
    assert "both images are the same, voxel by voxel" in record.remarks[0]
    assert (record.measures["displacement_mm"] or 0) < 0.5  # a fifth of the finest voxel edge, of noise
    np.testing.assert_allclose(record.alignment.matrix, np.eye(4), atol=0.02)


def test_a_label_map_in_the_place_of_an_image_is_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    pair = of_files(tmp_path)
    maps = replace(pair, moving=replace(pair.moving, images=(tmp_path / "moving_label.nii.gz",)))
    record = registered(tmp_path, maps, Asked(refine=0, affine="none"))
    assert any(remark.startswith("the moving image looks like a label map") for remark in record.remarks)


def test_how_the_field_may_deform_can_be_asked_for(tmp_path: Path) -> None:
    write_pair(tmp_path)
    record = registered(tmp_path, of_files(tmp_path), Asked(refine=2, affine="none", deformation="stiff"))
    assert record.decisions["refinement"] == "2 steps of a stiff field: asked for"


def test_a_header_that_is_mirrored_is_suspected(tmp_path: Path) -> None:
    write_pair(tmp_path)
    moving = io.read(tmp_path / "moving_t1.nii.gz")
    affine = np.diag([1.0, -1.0, 1.0, 1.0]) @ moving.geometry.affine
    io.write(Volume(moving.array, Geometry(moving.geometry.shape, affine)), tmp_path / "moving_t1.nii.gz")
    record = registered(tmp_path, of_files(tmp_path), Asked(refine=0, affine="rigid"))
    assert any("mirrored" in remark or "orientation" in remark for remark in record.remarks)


def test_landmarks_in_another_space_are_refused_and_those_outside_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path)
    pair = of_files(tmp_path, points=".csv")
    points = read_points(tmp_path / "moving_points.csv")
    far = points.mm + np.array([0, 0, 300])
    write_points(Points(points.names, far, "RAS"), tmp_path / "moving_points.csv")
    with pytest.raises(DataError, match="4 of 4 points lie outside of the moving image; see that they are of this"):
        registered(tmp_path, pair)
    far = np.where(np.arange(4)[:, None] == 1, far, points.mm)
    write_points(Points(points.names, far, "RAS"), tmp_path / "moving_points.csv")
    (tmp_path / "out").rmdir()
    record = registered(tmp_path, pair, Asked(refine=0))
    assert "landmarks outside of the moving image: c" in " ".join(record.remarks)


def test_landmarks_that_one_file_alone_has_are_left_out_and_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    points = read_points(tmp_path / "moving_points.csv")
    write_points(Points((*points.names[:3], "z"), points.mm), tmp_path / "moving_points.csv")
    record = registered(tmp_path, of_files(tmp_path, points=".csv"), Asked(refine=0))
    lost = points.names[3]
    assert record.points is not None
    assert set(record.points.names) == set(points.names[:3])
    told = f"in one file alone are left out: {lost} in fixed_points.csv, z in moving_points.csv"
    assert told in " ".join(record.remarks)


def test_landmarks_that_cannot_be_matched_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    points = read_points(tmp_path / "moving_points.csv")
    write_points(Points(("x", "y", "z"), points.mm[:3]), tmp_path / "moving_points.csv")
    with pytest.raises(DataError, match=r"holds 3 points and .* 4, and they cannot be matched: no name tells"):
        registered(tmp_path, of_files(tmp_path, points=".csv"))


@pytest.mark.parametrize(("change", "mm"), [("shifted", 69), ("mirrored", 60)])
def test_a_map_of_the_images_shape_that_lies_elsewhere_is_told_in_red(tmp_path: Path, change: str, mm: float) -> None:
    write_pair(tmp_path)
    for side, kind in (("fixed", "label"), ("moving", "mask")):
        image = io.read(tmp_path / f"{side}_t1.nii.gz").geometry
        affine = image.affine.copy()
        if change == "shifted":
            affine[0, 3] += mm
        else:
            affine[0] *= -1
        array = np.ones((1, *image.shape), np.uint8)
        io.write(Volume(array, Geometry(image.shape, affine)), tmp_path / f"{side}_{kind}.nii.gz")
    pair = of_files(tmp_path)
    pair = replace(
        pair,
        fixed=replace(pair.fixed, label=tmp_path / "fixed_label.nii.gz"),
        moving=replace(pair.moving, mask=tmp_path / "moving_mask.nii.gz"),
    )
    fixed, moving = (io.read_geometry(tmp_path / f"{side}_t1.nii.gz") for side in ("fixed", "moving"))
    notes = Annotations.read(pair, fixed, moving)
    far = [
        image.distance_mm(io.read_geometry(file))
        for image, file in ((fixed, pair.fixed.label), (moving, pair.moving.mask))
    ]
    assert not notes.remarks
    for what, apart, told in zip(("fixed label map", "moving mask"), far, notes.warnings, strict=True):
        assert f"the {what} has the shape of its image, but lies up to {apart:.3g} mm from it" in told
        assert ("shifted by 69 mm" if change == "shifted" else "axes point") in told
    assert far[0] >= 0.99 * mm


def test_label_maps_of_other_grids_and_structures_are_used_and_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    label = io.read_label(tmp_path / "moving_label.nii.gz")
    array = np.where(label.array == 4, 9, label.array)[:, ::2]
    affine = label.geometry.affine.copy()
    affine[:3, 0] *= 2
    coarse = Volume(array, Geometry((array.shape[1], array.shape[2], array.shape[3]), affine))
    io.write(coarse, tmp_path / "moving_label.nii.gz")
    record = registered(tmp_path, of_files(tmp_path, label=".nii.gz"), Asked(refine=0))
    assert record.overlap is not None
    assert set(record.overlap.after) == {"1", "2", "3"}
    told = " ".join(record.remarks)
    assert not record.warnings
    assert "structures in one of the label maps alone, left out of the Dice: 4, 9" in told
    assert "the moving label map has a grid of its own" in told
    assert io.read_geometry(tmp_path / "out" / "labels.nii.gz").allclose(io.read_geometry(tmp_path / "fixed_t1.nii.gz"))


def test_a_label_map_or_mask_of_something_else_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    label = io.read_label(tmp_path / "moving_label.nii.gz")
    affine = label.geometry.affine.copy()
    affine[:3, 3] += 1000
    io.write(Volume(label.array, Geometry(label.geometry.shape, affine)), tmp_path / "moving_label.nii.gz")
    with pytest.raises(DataError, match="does not lie where the moving image does"):
        registered(tmp_path, of_files(tmp_path, label=".nii.gz"))
    for side in ("fixed", "moving"):
        grid = io.read_geometry(tmp_path / f"{side}_t1.nii.gz")
        io.write(Volume(np.zeros((1, *grid.shape), np.uint8), grid), tmp_path / f"{side}_mask.nii.gz")
    (tmp_path / "out").rmdir()
    with pytest.raises(DataError, match=r"fixed_mask.nii.gz marks nothing of .*fixed_t1.nii.gz"):
        registered(tmp_path, of_files(tmp_path, mask=".nii.gz"))


def test_the_truth_of_these_tests_has_an_inverse() -> None:
    from tests.registration_factory import back

    mm = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    np.testing.assert_allclose(back(truth(mm)), mm, atol=1e-3)
