"""Odd NIfTI headers are read as nibabel and ITK read them, and what was taken is told."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import Match
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.8, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
ARRAY = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
NAN = float("nan")
Edit = Callable[[bytearray], None]


def floats(offset: int, *values: float) -> Edit:
    return lambda data: struct.pack_into(f"<{len(values)}f", data, offset, *values)


def codes(qform: int, sform: int) -> Edit:
    return lambda data: struct.pack_into("<2h", data, 252, qform, sform)


def unit(code: int) -> Edit:
    return lambda data: struct.pack_into("<B", data, 123, code)


#: Where fields are in the header.
QFAC, SIZE_I, SIZE_K, QUATERN_B, SROW = 76, 80, 88, 256, 280
NO_SFORM = floats(SROW, *[0] * 12)


def save(path: Path, *edits: Edit, array: np.ndarray = ARRAY, affine: np.ndarray = AFFINE) -> Path:
    """A file with equal sform and qform, then edited."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    data = bytearray(image.to_bytes())
    for edit in edits:
        edit(data)
    path.write_bytes(data)
    return path


def by_nibabel(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).affine)


def by_itk(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(np.diag([-1, -1, 1, 1]) @ affine)


BOTH, NIBABEL, ITK = (by_nibabel, by_itk), (by_nibabel,), (by_itk,)


@pytest.mark.parametrize(
    ("edits", "judges", "told"),
    [
        ([codes(1, 0)], BOTH, None),
        ([codes(0, 1)], BOTH, None),
        ([codes(1, 0), floats(QFAC, 0)], BOTH, r"qfac \(pixdim\[0\]\) is 0 in the header; taken as 1"),
        ([codes(1, 0), floats(QFAC, NAN)], BOTH, "qfac .* is nan"),
        ([codes(1, 0), floats(QFAC, 2)], BOTH, "qfac .* is 2"),
        ([codes(1, 0), floats(QFAC, -0.5)], ITK, "qfac .* is -0.5 in the header; taken as -1"),
        ([codes(1, 0), floats(SIZE_I, -0.5)], NIBABEL, r"pixdim\[1\] is -0.5 in the header; taken as 0.5"),
        ([codes(0, 1), floats(SIZE_I, -0.5)], NIBABEL, None),
        ([codes(1, 1), floats(SIZE_I, -0.5)], NIBABEL, None),
        ([codes(0, 0), floats(SIZE_I, -0.5)], NIBABEL, r"pixdim\[1\] is -0.5"),
        ([codes(1, 0), floats(SIZE_K, 0)], BOTH, r"pixdim\[3\] is 0 in the header; taken as 1"),
        ([codes(0, 0), floats(SIZE_K, 0)], NIBABEL, r"pixdim\[3\] is 0 in the header; taken as 1"),
        ([codes(1, 0), floats(SIZE_K, NAN)], ITK, r"pixdim\[3\] is nan in the header; taken as 1"),
        ([codes(1, 1), NO_SFORM], ITK, "sform .* no distinct positions; qform is used"),
        ([codes(2, 1), floats(SROW + 16, -0.5, 0, 0, 10)], ITK, "sform .* no distinct positions"),
        ([codes(1, 0), floats(QUATERN_B, 0, 1.0002, 0)], ITK, None),
        ([codes(1, 0), floats(QUATERN_B, 0, 1.004, 0)], ITK, "quaternion is 1.004 long"),
        ([codes(1, 0), unit(3)], ITK, "in micrometres .* converted, voxels measure 0.0005 x 0.0008 x 0.003 mm"),
        ([codes(1, 1), unit(1)], ITK, "in metres .* converted, voxels measure 500 x 800 x 3000 mm"),
        ([codes(1, 1), unit(2 + 8)], BOTH, None),
    ],
)
def test_grid_is_that_of_other_readers(
    edits: list[Edit],
    judges: tuple[Callable[[Path], np.ndarray], ...],
    told: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = save(tmp_path / "odd.nii", *edits)
    with caplog.at_level(logging.WARNING, logger="medmamba"):
        read = io.read(path)
    for judge in judges:
        np.testing.assert_allclose(read.geometry.affine, judge(path), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(read.array[0], ARRAY)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("medmamba")]
    assert len(messages) == (told is not None), messages
    assert told is None or re.search(told, messages[0]), messages


def test_sform_that_is_no_number_gives_way_to_the_qform(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.nii", codes(1, 1), floats(SROW, NAN))
    np.testing.assert_allclose(io.read_geometry(path).affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([codes(0, 1), NO_SFORM], "singular"),
        (
            [codes(1, 0), floats(QUATERN_B, 0.9, 0.9, 0.9)],
            r"quaternion \(0\.9, 0\.9, 0\.9\) of the qform is 1\.559 long, a rotation's is at most 1",
        ),
        ([codes(1, 0), floats(QUATERN_B, NAN)], "NaN"),
        ([codes(1, 0), floats(268, NAN)], "NaN"),
        ([floats(108, NAN)], "vox_offset nan"),
        ([floats(108, 0)], "vox_offset 0"),
    ],
)
def test_header_that_nobody_can_repair_is_refused(edits: list[Edit], words: str, tmp_path: Path) -> None:
    with pytest.raises(io.ImageFileError, match=words):
        io.read(save(tmp_path / "odd.nii", *edits))


@pytest.mark.parametrize("thickness", [0.0, NAN])
def test_slice_without_thickness_is_a_millimetre_thick(
    thickness: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edits = (codes(0, 0), floats(SIZE_K, thickness))
    path = save(tmp_path / "slice.nii", *edits, array=ARRAY[:, :, :1])
    with caplog.at_level(logging.INFO, logger="medmamba"):
        assert io.read(path).geometry.spacing_mm == pytest.approx((0.5, 0.8, 1.0))
    assert {record.levelname for record in caplog.records if record.name.startswith("medmamba")} == {"INFO"}
    flat = save(tmp_path / "flat.nii", *edits, array=ARRAY[:, :, 0])
    assert io.read(flat).geometry.spacing_mm == pytest.approx((0.5, 0.8, 1.0))


@pytest.mark.parametrize(
    "edits",
    [
        [unit(3)],
        [unit(1)],
        [codes(1, 0), floats(QFAC, 0)],
        [codes(1, 0), floats(SIZE_I, -0.5)],
        [codes(0, 0), floats(SIZE_K, -3)],
        [codes(1, 1), NO_SFORM],
        [codes(0, 0)],
    ],
)
def test_segmentation_of_an_odd_image_lies_on_it_for_everybody(edits: list[Edit], tmp_path: Path) -> None:
    source = save(tmp_path / "odd.nii", *edits)
    read = io.read(source)
    label = Volume((read.array > 50).astype(np.uint8), read.geometry)
    io.write(label, tmp_path / "same.nii.gz", like=source)
    io.write(label, tmp_path / "other.nrrd", like=source)
    assert io.read_geometry(tmp_path / "same.nii.gz") == read.geometry
    assert io.read_geometry(tmp_path / "other.nrrd").distance_mm(read.geometry) < 1e-3 * max(read.geometry.spacing_mm)
    np.testing.assert_array_equal(io.read_label(tmp_path / "other.nrrd").array, label.array)
    for judge in BOTH:
        np.testing.assert_array_equal(judge(tmp_path / "same.nii.gz"), judge(source))


def test_distances_in_a_micrometre_image_are_millimetres(tmp_path: Path) -> None:
    masks = np.zeros((2, 12, 12, 12), np.uint8)
    masks[0, 3:8, 3:8, 3:8] = masks[1, 4:9, 3:8, 3:8] = 1
    paths = [
        save(tmp_path / f"{name}.nii", unit(3), array=mask, affine=np.diag([500.0, 500.0, 500.0, 1.0]))
        for name, mask in zip(("prediction", "reference"), masks, strict=True)
    ]
    labels = Labels(foreground=(Label(name="cube", values=(1,)),))
    score = evaluate([Match(id="a", prediction=paths[0], reference=paths[1])], labels).cases[0].scores[0]
    assert score.values[1] == pytest.approx(0.5)
    assert score.reference_ml == pytest.approx(125 * 0.125 / 1000)


@pytest.mark.parametrize(
    ("slope", "intercept", "stored", "made"),
    [
        (256 / 255, 0.0, "0, 1, 2", "0, 1.00392, 2.00784"),
        (1.0, 0.5, "0, 1, 2", "0.5, 1.5, 2.5"),
    ],
)
def test_labels_that_scaling_spoils_are_told_by_its_numbers(
    slope: float, intercept: float, stored: str, made: str, tmp_path: Path
) -> None:
    path = save(
        tmp_path / "a.nii", floats(112, slope, intercept), array=np.arange(27, dtype=np.uint8).reshape(3, 3, 3) % 3
    )
    with pytest.raises(io.ImageFileError, match=f"make {made} of the stored integers {stored}: set scl_slope to 1"):
        io.read_label(path)
    save(path, floats(112, 2, -1), array=np.ones((3, 3, 3), np.uint8))
    assert io.read_label(path).array.max() == 1


def test_labels_that_nibabel_scaled_are_told_by_scl_slope(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(27).reshape(3, 3, 3).astype(np.float32) % 3, np.eye(4))
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(io.ImageFileError, match=r"scl_slope 0\.00784314 .* of the stored integers 0, 127, 255"):
        io.read_label(tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), 0.5), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(io.ImageFileError, match="probably interpolated"):
        io.read_label(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("value", [40_000, 65_535, 65_536, 2**24 + 1, 2**31, 2**40 + 1])
@pytest.mark.parametrize("suffix", io.suffixes())
def test_large_label_is_the_same_for_everybody(value: int, suffix: str, tmp_path: Path) -> None:
    label = Volume((ARRAY > 50)[None] * np.int64(value), io.read_geometry(save(tmp_path / "grid.nii")))
    path = tmp_path / f"label{suffix}"
    io.write(label, path)
    np.testing.assert_array_equal(io.read_label(path).array, label.array)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)).T, label.array[0])
    if ".nii" in suffix:
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), label.array[0])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint32", "int64", "uint64", "float32", "float64"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_stored_type_does_not_matter(dtype: str, endianness: str, tmp_path: Path) -> None:
    values = np.array([0, 1, 100, 0, 7, 2], dtype=dtype).reshape(1, 2, 3)
    image = nibabel.Nifti1Image(values, AFFINE, nibabel.Nifti1Header(endianness=endianness), dtype=dtype)
    nibabel.save(image, tmp_path / "a.nii")
    for read in (io.read, io.read_label):
        np.testing.assert_array_equal(read(tmp_path / "a.nii").array[0], values)
    assert io.read_label(tmp_path / "a.nii").array.dtype.isnative


def test_labels_that_float32_may_have_rounded_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for dtype, said in ((np.float32, True), (np.float64, False)):
        path = save(tmp_path / "a.nii", array=np.full((3, 3, 3), 2**24 + 1, dtype))
        caplog.clear()
        assert io.read_label(path).array.max() == 2**24 + (not said)
        assert ["stored as float32" in record.getMessage() for record in caplog.records] == [True] * said


def test_image_that_float32_flattens_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for low, said in ((1e9, True), (1e4, False)):
        caplog.clear()
        io.read(save(tmp_path / "a.nii", array=low + np.linspace(0, 1, 27).reshape(3, 3, 3)))
        assert ["rounded to float32" in record.getMessage() for record in caplog.records] == [True] * said


def test_numbers_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    grid = io.read_geometry(save(tmp_path / "grid.nii"))
    for array, words in (
        (np.full((1, 5, 6, 7), 1e300), "does not reach to 1e"),
        (np.ones((1, 5, 6, 7), "c8"), "complex64"),
    ):
        with pytest.raises(io.ImageFileError, match=words):
            io.write(Volume(array, grid), tmp_path / "a.nii")
        assert not (tmp_path / "a.nii").exists()
    io.write(Volume(np.full((1, 5, 6, 7), np.inf), grid), tmp_path / "a.nii")
    assert np.isinf(io.read(tmp_path / "a.nii").array).all()


def test_axis_that_is_too_long_for_nifti1_is_written_as_nifti2(tmp_path: Path) -> None:
    array = np.arange(40_000, dtype=np.uint16)[None, :, None, None]
    io.write(Volume(array, Geometry((40_000, 1, 1), AFFINE)), tmp_path / "a.nii")
    assert isinstance(nibabel.load(tmp_path / "a.nii"), nibabel.Nifti2Image)
    np.testing.assert_array_equal(io.read_label(tmp_path / "a.nii").array, array)


def test_header_tells_the_channels(tmp_path: Path) -> None:
    for axes, channels in (((), 1), ((1, 1), 1), ((4,), 4), ((1, 3), 3)):
        path = save(tmp_path / "a.nii", array=np.zeros((5, 6, 7, *axes), np.float32))
        assert io.read_channels(path) == io.read(path).channels == channels
