"""One pair, askew in every way, through the transforms that we write: by us, SimpleITK, ANTs and NiTransforms.

``pip install antspyx nitransforms``; each is asked where it can be imported, and nothing of ours depends on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.io.formats.transforms import read_transform, write_transform
from medmamba.transform import Transform, is_inside, resample, voxel_positions
from medmamba.volume import FloatArray, Geometry, Volume
from tests.transform_factory import FLIP, oblique, smooth_field, tilt

FIXED = oblique((30, 34, 17), 3, axes="jiK", spacing=1.6)
MOVING = oblique((29, 33, 25), 2, axes="kIj", spacing=1.7)
#: On another grid than either image, which reaches beyond both.
FIELD = smooth_field(oblique((20, 17, 15), 5, axes="Jki", spacing=4.5), 4, mm=5)
WHOLE = Transform((FIELD, tilt()))
OUTSIDE = -1000.0


def smooth(geometry: Geometry) -> Volume:
    """Slow waves of 1000 from peak to peak, of which a tenth of a voxel makes a difference of many."""
    places = positions(geometry)
    wave = (
        np.sin(places @ (0.12, 0.05, -0.04)) + np.cos(places @ (-0.03, 0.1, 0.06)) + np.sin(places @ (0.02, 0.03, 0.14))
    )
    return Volume((wave * 170).reshape(1, *geometry.shape).astype(np.float32), geometry)


def positions(geometry: Geometry) -> FloatArray:
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


def well_inside() -> np.ndarray:
    """Voxels of the fixed grid that come from at least a voxel inside the moving image."""
    there = voxel_positions(MOVING, WHOLE.points(positions(FIXED)))
    inside = ((there >= 1) & (there <= np.array(MOVING.shape) - 2)).all(axis=1)
    assert is_inside(voxel_positions(FIELD.geometry, positions(FIXED)), FIELD.geometry).all()
    assert 0.4 < inside.mean() < 1
    return np.asarray(inside.reshape(FIXED.shape))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    io.write(smooth(FIXED), folder / "fixed.nii.gz")
    io.write(smooth(MOVING), folder / "moving.nii.gz")
    for name in ("whole.h5", "whole.tfm"):
        write_transform(WHOLE, folder / name)
    for step, names in zip(WHOLE.steps, (("field.nii.gz", "field.h5"), ("affine.mat", "affine.tfm")), strict=True):
        for name in names:
            write_transform(Transform((step,)), folder / name)
    # NiTransforms bends fields by cubic splines between their voxels, and so agrees at those only.
    write_transform(Transform((WHOLE.displacement(FIXED),)), folder / "whole_at_voxels.nii.gz")
    write_transform(Transform((Transform((FIELD,)).displacement(FIXED),)), folder / "field_at_voxels.nii.gz")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> np.ndarray:
    return resample(io.read(folder / "moving.nii.gz"), WHOLE, FIXED, outside=OUTSIDE).array[0]


def check(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Interpolation noise: the worst voxel inside differs by less than a hundredth of a percent of the range."""
    inside = well_inside()
    worst = float(np.abs(ours - theirs)[inside].max())
    print(f"worst voxel inside: {worst:.3g} of a range of {np.ptp(ours[inside]):.0f}, {inside.sum()} voxels")
    assert worst < 0.1
    assert np.ptp(ours[inside]) > 800


@pytest.mark.parametrize("name", ["whole.h5", "whole.tfm", "whole_at_voxels.nii.gz"])
def test_simpleitk_makes_the_same_image(folder: Path, ours: np.ndarray, name: str) -> None:
    moving, fixed = (sitk.ReadImage(str(folder / f"{each}.nii.gz")) for each in ("moving", "fixed"))
    if name.endswith(".nii.gz"):
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))
    else:
        transform = sitk.ReadTransform(str(folder / name))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, OUTSIDE)).transpose(
        2, 1, 0
    )
    check(ours, theirs)
    assert ((ours == OUTSIDE) == (theirs == OUTSIDE)).mean() > 0.999


@pytest.mark.parametrize(
    "names",
    [
        ["field.nii.gz", "affine.mat"],
        ["field.h5", "affine.tfm"],
        ["whole.h5"],
        ["whole.tfm"],
        ["whole_at_voxels.nii.gz"],
    ],
)
def test_ants_makes_the_same_image(folder: Path, ours: np.ndarray, names: list[str]) -> None:
    ants = pytest.importorskip("ants", reason="no antspyx (pip install antspyx) to ask")
    fixed, moving = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    theirs = ants.apply_transforms(
        fixed,
        moving,
        [str(folder / name) for name in names],
        interpolator="linear",
        whichtoinvert=[False] * len(names),
        defaultvalue=OUTSIDE,
    )
    check(ours, theirs.numpy())


@pytest.mark.parametrize("names", [["field_at_voxels.nii.gz", "affine.tfm"], ["whole_at_voxels.nii.gz"]])
def test_nitransforms_makes_the_same_image(folder: Path, ours: np.ndarray, names: list[str]) -> None:
    chain = by_nitransforms(folder, names)
    from nitransforms.resampling import apply

    moving = nibabel.load(folder / "moving.nii.gz")
    moved = apply(chain, moving, reference=folder / "fixed.nii.gz", order=1, mode="constant", cval=OUTSIDE)
    check(ours, np.asarray(moved.get_fdata()))


def by_nitransforms(folder: Path, names: list[str]) -> Any:
    """A chain of NiTransforms, of which the first acts first."""
    nitransforms = pytest.importorskip("nitransforms", reason="no nitransforms (pip install nitransforms) to ask")
    kinds = {".tfm": nitransforms.linear.Affine, ".gz": nitransforms.nonlinear.DenseFieldTransform}
    steps = [kinds[Path(name).suffix].from_filename(folder / name, fmt="itk") for name in names]
    return nitransforms.manip.TransformChain(steps)


def test_points_go_forwards_and_backwards_alike_in_lps_and_ras(folder: Path) -> None:
    inside = positions(FIXED)[well_inside().ravel()][::17]
    there = read_transform(folder / "whole.h5").points(inside)
    for name in ("whole.h5", "whole.tfm"):
        theirs = sitk.ReadTransform(str(folder / name))
        lps = np.array([theirs.TransformPoint(place) for place in (inside @ FLIP).tolist()])
        np.testing.assert_allclose(lps @ FLIP, there, atol=1e-9)
    np.testing.assert_allclose(WHOLE.points_back(there), inside, atol=1e-3)
    back, residual_mm = WHOLE.inverse()
    assert residual_mm < 1e-3
    write_transform(back, folder / "inverse.h5")
    theirs = sitk.ReadTransform(str(folder / "inverse.h5"))
    lps = np.array([theirs.TransformPoint(place) for place in (there @ FLIP).tolist()])
    np.testing.assert_allclose(lps @ FLIP, back.points(there), atol=1e-6)
    assert np.linalg.norm(lps @ FLIP - inside, axis=1).max() < 0.5  # between voxels of 4.5 to 7.7 mm


def test_ants_takes_points_to_the_same_places(folder: Path) -> None:
    ants = pytest.importorskip("ants", reason="no antspyx (pip install antspyx) to ask")
    import pandas

    inside = positions(FIXED)[well_inside().ravel()][::17]
    table = pandas.DataFrame(inside @ FLIP, columns=list("xyz"))
    names = [str(folder / name) for name in ("field.nii.gz", "affine.mat")]
    theirs = ants.apply_transforms_to_points(3, table, names, whichtoinvert=[False, False])
    there = theirs[["x", "y", "z"]].to_numpy() @ FLIP
    worst = float(np.linalg.norm(there - WHOLE.points(inside), axis=1).max())
    print(f"worst point: {worst:.3g} mm of {len(inside)}")
    assert worst < 1e-3


def test_nitransforms_takes_points_to_the_same_places(folder: Path) -> None:
    chain = by_nitransforms(folder, ["field_at_voxels.nii.gz", "affine.tfm"])
    inside = positions(FIXED)[well_inside().ravel()][::17]
    worst = float(np.linalg.norm(chain.map(inside) - WHOLE.points(inside), axis=1).max())
    print(f"worst point: {worst:.3g} mm of {len(inside)}")
    assert worst < 1e-3
