"""Files of transforms, judged by the software that they are for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba.io.errors import TransformFileError
from medmamba.io.formats.transforms import read_transform, write_transform
from medmamba.transform import Affine, Field, Transform
from medmamba.volume import Geometry, Volume
from tests.transform_factory import FLIP, oblique, sitk_transform, smooth_field, tilt, to_sitk

FIELD = smooth_field(oblique((12, 13, 11), 5, axes="kIj", spacing=3), 4)
WHOLE = Transform((FIELD, tilt()))
ALONE = {
    ".h5": WHOLE,
    ".hdf5": WHOLE,
    ".tfm": WHOLE,
    ".txt": WHOLE,
    ".mat": Transform((tilt(),)),
    ".nii.gz": Transform((FIELD,)),
    ".nii": Transform((FIELD,)),
}
PLACES = np.random.default_rng(0).uniform(-14, 14, (300, 3))


@pytest.mark.parametrize("suffix", ALONE)
def test_what_is_written_is_read_as_the_same_here_and_by_simpleitk(tmp_path: Path, suffix: str) -> None:
    path, transform = tmp_path / f"it's ünïcode{suffix}", ALONE[suffix]
    write_transform(transform, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again = read_transform(path)
    assert [type(step) for step in again.steps] == [type(step) for step in transform.steps]
    np.testing.assert_allclose(again.points(PLACES), transform.points(PLACES), atol=1e-5)
    if suffix.startswith(".nii"):
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    else:
        theirs = sitk.ReadTransform(str(path))
    there = [FLIP @ theirs.TransformPoint((FLIP @ place).tolist()) for place in PLACES]
    np.testing.assert_allclose(there, transform.points(PLACES), atol=1e-5)


@pytest.mark.parametrize(
    "steps", [(), (tilt(),), (FIELD,), (FIELD, tilt(), FIELD)], ids=["none", "one", "field", "three"]
)
@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_all_steps_come_back_in_order(tmp_path: Path, steps: tuple[Affine | Field, ...], suffix: str) -> None:
    write_transform(Transform(steps), tmp_path / f"t{suffix}")
    again = read_transform(tmp_path / f"t{suffix}")
    assert [type(step) for step in again.steps] == [type(step) for step in steps or (tilt(),)]
    np.testing.assert_allclose(again.points(PLACES), Transform(steps).points(PLACES), atol=1e-9)


@pytest.mark.parametrize(
    "theirs",
    [
        sitk.Euler3DTransform((3.0, 4.0, 5.0), 0.1, 0.2, 0.3, (1.0, 2.0, 3.0)),
        sitk.VersorRigid3DTransform((0.0, 0.0, 1.0), 0.3, (1.0, 2.0, 3.0), (5.0, 0.0, 0.0)),
        sitk.Similarity3DTransform(1.2, (0.0, 1.0, 0.0), 0.2, (1.0, 2.0, 3.0)),
        sitk.ScaleTransform(3, (1.0, 1.1, 1.2)),
        sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda theirs: str(theirs.GetName()),
)
def test_linear_transforms_of_all_kinds_are_read(tmp_path: Path, theirs: Any) -> None:
    sitk.WriteTransform(theirs, str(tmp_path / "t.tfm"))
    there = [FLIP @ theirs.TransformPoint((FLIP @ place).tolist()) for place in PLACES]
    np.testing.assert_allclose(read_transform(tmp_path / "t.tfm").points(PLACES), there, atol=1e-9)


CENTRED = """Transform: CenteredAffineTransform_double_3_3
Parameters: 0.9 0.2 0 -0.1 1.1 0.1 0 0 1.05 5 6 7 1 2 3
FixedParameters: 0 0 0
"""


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (CENTRED, 1),
        (
            f"Transform: CompositeTransform_double_3_3\n#Transform 1\n{CENTRED}#Transform 2\n"
            "Transform: TranslationTransform_double_3_3\nParameters: 4 5 6\nFixedParameters:\n",
            2,
        ),
    ],
    ids=["alone", "in a composite"],
)
def test_linear_transforms_that_simpleitk_has_no_class_for_are_read(tmp_path: Path, text: str, steps: int) -> None:
    (tmp_path / "t.tfm").write_text(f"#Insight Transform File V1.0\n#Transform 0\n{text}")
    read = read_transform(tmp_path / "t.tfm")
    assert len(read.steps) == steps
    matrix, centre = np.array([[0.9, 0.2, 0], [-0.1, 1.1, 0.1], [0, 0, 1.05]]), np.array([5, 6, 7])
    first = np.array([4, 5, 6]) if steps == 2 else 0
    there = (PLACES @ FLIP + first - centre) @ matrix.T + centre + [1, 2, 3]
    np.testing.assert_allclose(read.points(PLACES), there @ FLIP, atol=1e-9)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_fields_as_images_of_itk_are_read(tmp_path: Path, suffix: str) -> None:
    image = to_sitk(Volume(np.einsum("xy,yijk->xijk", FLIP, FIELD.vectors_mm), FIELD.geometry))
    sitk.WriteImage(image, str(tmp_path / f"f{suffix}"))
    np.testing.assert_allclose(read_transform(tmp_path / f"f{suffix}").points(PLACES), FIELD.points(PLACES), atol=1e-5)


# Where a field is read wrongly by those who take its numbers as they are.


def write_nifti(path: Path, vectors: np.ndarray, geometry: Geometry, intent: int) -> None:
    """A field as other software writes it: vectors (3, I, J, K) as they are."""
    image = nibabel.Nifti1Image(np.moveaxis(vectors, 0, -1)[:, :, :, None].astype(np.float32), geometry.affine)
    image.header["intent_code"] = intent
    nibabel.save(image, path)


def by_itk(path: Path) -> np.ndarray:
    """Where the places go by a file, in RAS."""
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return np.array([FLIP @ theirs.TransformPoint((FLIP @ place).tolist()) for place in PLACES])


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).max())


@pytest.mark.parametrize("intent", [1006, 1007])
def test_vectors_of_intent_1006_are_ras_and_those_of_1007_lps_as_itk_has_it(tmp_path: Path, intent: int) -> None:
    """The same numbers move elsewhere by the other intent."""
    path, other = tmp_path / "f.nii.gz", tmp_path / "other.nii.gz"
    write_nifti(path, FIELD.vectors_mm, FIELD.geometry, intent)
    write_nifti(other, FIELD.vectors_mm, FIELD.geometry, 1006 + 1007 - intent)
    np.testing.assert_allclose(read_transform(path).points(PLACES), by_itk(path), atol=1e-5)
    assert far(by_itk(path), by_itk(other)) > 10


def test_components_are_along_the_patients_axes_and_not_the_arrays(tmp_path: Path) -> None:
    """On a grid whose axes run z, x, y, vectors in voxels of the array, or in mm along its axes, are others."""
    path = tmp_path / "f.nii.gz"
    write_transform(Transform((FIELD,)), path)
    stored = np.moveaxis(nibabel.load(path).get_fdata()[:, :, :, 0], -1, 0)
    np.testing.assert_allclose(stored, np.einsum("xy,yijk->xijk", FLIP, FIELD.vectors_mm), atol=1e-6)
    for taken_as in (
        np.einsum("xa,aijk->xijk", FIELD.geometry.affine[:3, :3], stored),  # voxels
        np.einsum("xa,aijk->xijk", FIELD.geometry.direction, stored),  # mm along the array's axes
        np.einsum("xy,yijk->xijk", FLIP, stored[::-1]),  # z, y, x
    ):
        naive = Field(taken_as.astype(np.float32), FIELD.geometry).points(PLACES)
        assert far(naive, by_itk(path)) > 5
    np.testing.assert_allclose(read_transform(path).points(PLACES), by_itk(path), atol=1e-5)


def test_the_first_axis_of_a_file_is_the_arrays_first(tmp_path: Path) -> None:
    """Rows and columns exchanged, as where an array of SimpleITK is taken for one of NiBabel."""
    cube = smooth_field(oblique((12, 12, 12), 5, spacing=3), 4)
    path = tmp_path / "f.nii.gz"
    write_transform(Transform((cube,)), path)
    turned = Field(np.ascontiguousarray(cube.vectors_mm.transpose(0, 3, 2, 1)), cube.geometry)
    assert far(turned.points(PLACES), by_itk(path)) > 2
    np.testing.assert_allclose(read_transform(path).points(PLACES), by_itk(path), atol=1e-5)


def test_a_field_counts_on_its_own_grid_and_not_on_the_images(tmp_path: Path) -> None:
    path = tmp_path / "f.nii.gz"
    write_transform(Transform((FIELD,)), path)
    elsewhere = Field(FIELD.vectors_mm, Geometry(FIELD.geometry.shape, oblique((12, 13, 11), 9).affine))
    assert far(elsewhere.points(PLACES), by_itk(path)) > 2
    np.testing.assert_allclose(read_transform(path).points(PLACES), by_itk(path), atol=1e-5)


# What cannot be read or written.


def bspline(path: Path) -> None:
    image = to_sitk(Volume(np.zeros((1, 20, 20, 20), np.uint8), Geometry((20, 20, 20), np.eye(4))))
    composite = sitk.CompositeTransform(3)
    composite.AddTransform(sitk.AffineTransform(3))
    composite.AddTransform(sitk.BSplineTransformInitializer(image, [3, 3, 3]))
    sitk.WriteTransform(composite, str(path))


def two_at_once(path: Path) -> None:
    one = "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 1 2 3\nFixedParameters: 0 0 0\n"
    path.write_text(f"#Insight Transform File V1.0\n#Transform 0\n{one}#Transform 1\n{one}")


def nifti(shape: tuple[int, ...], intent: int, value: float = 0.0) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = nibabel.Nifti1Image(np.full(shape, value, np.float32), np.eye(4))
        image.header["intent_code"] = intent
        nibabel.save(image, path)

    return write


def ras_nrrd(path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3), str(path))
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior"))


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "B-spline": ("t.h5", bspline, "BSplineTransform, which has no inverse in closed form; make a field of it"),
    "several transforms": ("t.tfm", two_at_once, "several transforms that are not joined"),
    "of two dimensions": ("t.tfm", lambda path: sitk.WriteTransform(sitk.AffineTransform(2), str(path)), "2D images"),
    "singular": (
        "t.tfm",
        lambda path: sitk.WriteTransform(sitk.ScaleTransform(3, (1.0, 0.0, 1.0)), str(path)),
        "cannot be inverted",
    ),
    "no text of ITK": ("t.tfm", lambda path: path.write_text("hello"), "ITK cannot read it as a transform"),
    "no HDF5": ("t.h5", lambda path: path.write_text("hello"), "ITK cannot read it as a transform"),
    "empty": ("t.h5", lambda path: path.write_bytes(b""), "ITK cannot read it as a transform"),
    "four axes": ("t.nii.gz", nifti((4, 4, 4, 3), 1007), "five-dimensional"),
    "no intent": ("t.nii.gz", nifti((4, 4, 4, 1, 3), 0), "intent 1007 .LPS. or 1006 .RAS., but this is .* intent 0"),
    "of FSL": ("t.nii.gz", nifti((4, 4, 4, 3), 2006), "a warp of FSL"),
    "an image": ("t.nii.gz", nifti((4, 4, 4), 0), "five-dimensional"),
    "not finite": ("t.nii.gz", nifti((4, 4, 4, 1, 3), 1007, np.nan), "NaN or infinite"),
    "NRRD in RAS": ("t.nrrd", ras_nrrd, "the space of this field is right-anterior-superior"),
    "a scalar NRRD": ("t.nrrd", lambda path: sitk.WriteImage(sitk.Image(4, 4, 4, 1), str(path)), "three components"),
    "of another kind": ("t.lta", lambda path: path.write_text("type = 1"), "transforms end in .h5"),
}


@pytest.mark.parametrize(("name", "write", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_usable_transform_is_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], object], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / name)
    capfd.readouterr()
    with pytest.raises(TransformFileError, match=words):
        read_transform(tmp_path / name)
    assert capfd.readouterr().err == ""  # ITK's own warnings are no words to the user


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file of a transform"):
        read_transform(tmp_path / "t.h5")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_transform(WHOLE, tmp_path / "no" / "t.h5")


def test_damage_in_a_field_is_told(tmp_path: Path) -> None:
    write_transform(Transform((FIELD,)), tmp_path / "f.nii.gz")
    whole = (tmp_path / "f.nii.gz").read_bytes()
    (tmp_path / "f.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TransformFileError, match="cut short"):
        read_transform(tmp_path / "f.nii.gz")


SHEARED = Geometry((9, 9, 9), np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))


@pytest.mark.parametrize(
    ("transform", "name", "words"),
    [
        (WHOLE, "t.nii.gz", "one field, not a composite"),
        (Transform((tilt(),)), "t.nii", "one field, not a composite"),
        (WHOLE, "t.mat", "one affine map only"),
        (WHOLE, "t.xfm", "transforms end in"),
        (Transform((smooth_field(SHEARED, 1),)), "t.nii.gz", "a grid with shear"),
    ],
)
def test_what_a_file_cannot_hold_is_not_written(tmp_path: Path, transform: Transform, name: str, words: str) -> None:
    (tmp_path / name).write_text("what was there before")
    with pytest.raises(TransformFileError, match=words):
        write_transform(transform, tmp_path / name)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what was there before"]


def test_a_file_that_simpleitk_reads_otherwise_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sitk.WriteTransform
    moved = Transform((FIELD, Affine(np.diag([1.001, 1, 1, 1]) @ tilt().matrix)))
    monkeypatch.setattr(sitk, "WriteTransform", lambda _, name: write(sitk_transform(moved), name))
    with pytest.raises(TransformFileError, match=r"takes points up to .* mm elsewhere"):
        write_transform(WHOLE, tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_: object) -> None:
        raise RuntimeError("HDF5 error")

    monkeypatch.setattr(sitk, "WriteTransform", refuse)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_transform(WHOLE, tmp_path / "t.h5")
    assert caught.value.filename == str(tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())
