"""What is written is what is read, in the same place; what cannot be read is refused with the reason."""

from __future__ import annotations

import gzip
import logging
import os
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.case import Case
from medmamba.io.formats.itk import lps_to_ras
from medmamba.volume import Geometry, Volume

OBLIQUE = np.array([[-0.7, 0.3, 0.2, 11.5], [0.25, -0.9, 0.3, -7.25], [0.1, 0.2, 2.5, 3.0], [0, 0, 0, 1]])
ROTATION = np.linalg.qr(OBLIQUE[:3, :3])[0]
RIGID = np.eye(4)
RIGID[:3, :3] = ROTATION * (0.5, 0.8, 3.0)
RIGID[:3, 3] = (4.0, -100.5, 33.25)


def volume(affine: np.ndarray = RIGID, channels: int = 1, dtype: type = np.float32) -> Volume:
    """Distinct voxels on a grid."""
    shape = (5, 6, 7)
    array = np.arange(channels * 210).reshape(channels, *shape).astype(dtype)
    return Volume(array, Geometry(shape, affine))


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = RIGID, **fields: object) -> Path:
    """Write a NIfTI file with nibabel, header fields set by hand."""
    image = nibabel.Nifti1Image(array, affine)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", io.suffixes())
@pytest.mark.parametrize("channels", [1, 3])
def test_written_image_is_read_again(suffix: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / f"an image; $(echo) ü{suffix}"
    io.write(volume(channels=channels), path)
    again = io.read(path)
    np.testing.assert_array_equal(again.array, volume(channels=channels).array)
    assert again.geometry.allclose(volume().geometry, 1e-4)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("suffix", io.suffixes())
@pytest.mark.parametrize("place", ["name", "folder"])
def test_names_that_are_no_utf8_work(suffix: str, place: str, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    path = tmp_path / f"{odd}{suffix}" if place == "name" else tmp_path / odd / f"image{suffix}"
    path.parent.mkdir(exist_ok=True)
    if suffix in (".mhd", ".nhdr") and place == "name":  # names its file of voxels within itself, as text
        with pytest.raises(io.ImageFileError, match=r"UTF-8.*rename"):
            io.write(volume(), path)
        return
    io.write(volume(), path)
    np.testing.assert_array_equal(io.read(path).array, volume().array)
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith((".zraw", ".raw.gz"))] == [path.name]


def test_folder_to_write_into_must_exist(tmp_path: Path) -> None:
    for suffix in io.suffixes():
        with pytest.raises(FileNotFoundError, match="no such folder to write"):
            io.write(volume(), tmp_path / "absent" / f"image{suffix}")


def test_left_and_posterior_are_minus_right_and_minus_anterior() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    assert (lps_to_ras(affine) @ (1, 1, 1, 1)).tolist() == [-12, -23, 34, 1]
    np.testing.assert_array_equal(lps_to_ras(lps_to_ras(RIGID)), RIGID)


@pytest.mark.parametrize("suffix", io.suffixes())
def test_labels_take_the_smallest_type_that_holds_them(suffix: str, tmp_path: Path) -> None:
    for largest, dtype in ((3, np.uint8), (300, np.uint16), (2**31, np.uint32), (2**40, np.uint64)):
        label = Volume(np.where(volume().array > 100, largest, 0), volume().geometry)
        io.write(label, tmp_path / f"label{suffix}")
        again = io.read_label(tmp_path / f"label{suffix}")
        np.testing.assert_array_equal(again.array, label.array)
        assert again.array.dtype == dtype


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_geometry_is_copied_bit_for_bit(suffix: str, kind: type, endianness: str, tmp_path: Path) -> None:
    header = kind(endianness=endianness)
    header.set_sform(OBLIQUE, code=3)
    header.set_qform(RIGID, code=2)
    header.set_xyzt_units("mm", "msec")
    header["pixdim"][4:] = (2.5, 1.5, 0.5, 7.0)
    header["descrip"] = b"scanner text"
    image = nibabel.Nifti1Image if kind is nibabel.Nifti1Header else nibabel.Nifti2Image
    header.set_data_dtype(np.float32)
    source = tmp_path / f"source{suffix}"
    nibabel.save(image(volume().array[0], None, header), source)
    read = io.read(source)
    io.write(Volume((read.array > 50).astype(np.uint8), read.geometry), tmp_path / f"copy{suffix}", like=source)
    before, after = (nibabel.load(path).header for path in (source, tmp_path / f"copy{suffix}"))
    fields = ["sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z"]
    for field in [*fields, *(f"quatern_{x}" for x in "bcd"), *(f"qoffset_{x}" for x in "xyz")]:
        assert np.array_equal(before[field], after[field]), field
    assert bytes(after["descrip"].tobytes()).strip(b"\0") == b""
    np.testing.assert_array_equal(io.read_label(tmp_path / f"copy{suffix}").array, read.array > 50)


def test_label_of_a_file_with_channels_keeps_even_unused_voxel_sizes(tmp_path: Path) -> None:
    source = save(tmp_path / "4d.nii", np.zeros((5, 6, 7, 2), np.float32))
    data = bytearray(source.read_bytes())
    data[76:108] = np.array([-1, 0.5, 0.8, 3, 2.5, 1.5, 0.5, 7], "<f4").tobytes()  # nibabel would not write these
    source.write_bytes(data)
    io.write(Volume(np.ones((1, 5, 6, 7), np.uint8), io.read_geometry(source)), tmp_path / "label.nii", like=source)
    written = (tmp_path / "label.nii").read_bytes()
    assert written[76:108] == data[76:108]
    assert written[252:328] == data[252:328]  # codes, quaternion, offsets and rows
    assert np.frombuffer(written[40:56], "<i2")[:4].tolist() == [3, 5, 6, 7]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_geometry_is_copied_exactly(suffix: str, tmp_path: Path) -> None:
    source, copy = tmp_path / f"source{suffix}", tmp_path / f"copy{suffix}"
    image = sitk.GetImageFromArray(np.zeros((7, 6, 5), np.int16))
    image.SetSpacing((0.1 + 0.2, 1 / 3, 3.3))
    image.SetOrigin((0.1, -1 / 7, 1e3))
    image.SetDirection(ROTATION.ravel().tolist())
    sitk.WriteImage(image, str(source))
    io.write(Volume(np.ones((1, 5, 6, 7), np.uint8), io.read_geometry(source)), copy, like=source)
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(copy))
    assert before.GetSpacing() == after.GetSpacing()
    assert before.GetOrigin() == after.GetOrigin()
    assert before.GetDirection() == after.GetDirection()


@pytest.mark.parametrize("suffix", io.suffixes())
def test_positions_agree_with_simpleitk(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    io.write(volume(), path)
    theirs = sitk.ReadImage(str(path))
    geometry = io.read_geometry(path)
    for index in ((0, 0, 0), (4, 0, 2), (1, 5, 6)):
        x, y, z = theirs.TransformIndexToPhysicalPoint(index)
        ours = geometry.affine @ (*index, 1)
        np.testing.assert_allclose(ours[:3], (-x, -y, z), atol=1e-3)
        assert theirs[index] == io.read(path).array[(0, *index)]


def test_scaling_is_applied_and_nonsense_scaling_is_not(tmp_path: Path) -> None:
    stored = volume(dtype=np.int16).array[0]
    for slope, intercept, expected in ((2.0, -5.0, stored * 2.0 - 5), (np.nan, 3.0, stored), (0.0, 9.0, stored)):
        image = nibabel.Nifti1Image(stored, RIGID)
        data = bytearray(image.to_bytes())
        data[112:120] = np.array([slope, intercept], "<f4").tobytes()
        (tmp_path / "scaled.nii").write_bytes(data)
        np.testing.assert_allclose(io.read(tmp_path / "scaled.nii").array[0], expected)


def remarks(path: Path, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """(level, text) of what is said when a file is read."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        io.read(path)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_odd_scaling_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "scaled.nii"
    for slope, intercept, said in (
        (1.0, 0.0, False),
        (0.0, 0.0, False),
        (2.0, 5.0, False),
        (0.0, 9.0, True),
        (np.nan, 0.0, True),
        (1.0, np.nan, True),
    ):
        data = bytearray(nibabel.Nifti1Image(volume(dtype=np.int16).array[0], RIGID).to_bytes())
        data[112:120] = np.array([slope, intercept], "<f4").tobytes()
        path.write_bytes(data)
        found = remarks(path, caplog)
        assert [level for level, _ in found] == ["INFO"] * said, (slope, intercept)
        assert all("scl_slope" in text for _, text in found)


@pytest.mark.parametrize(("unit", "word"), [("meter", "in metres"), ("micron", "in micrometres"), ("mm", None)])
def test_units_other_than_millimetres_are_told(
    unit: str, word: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = nibabel.Nifti1Image(volume().array[0], RIGID)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "unit.nii")
    found = remarks(tmp_path / "unit.nii", caplog)
    assert [word in text for _, text in found] == [True] if word else not found


def test_header_without_forms_is_read_by_voxel_sizes_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = nibabel.Nifti1Image(volume().array[0], None)
    image.header.set_zooms((1, 2, 3))
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "bare.nii")
    assert io.read_geometry(tmp_path / "bare.nii").spacing_mm == (1, 2, 3)
    assert [(level, "left and right" in text) for level, text in remarks(tmp_path / "bare.nii", caplog)] == [
        ("INFO", True)
    ]


def test_damaged_qform_does_not_spoil_a_good_sform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.nii", volume().array[0])
    data = bytearray(path.read_bytes())
    data[252:254] = np.array([1], "<i2").tobytes()
    data[256:268] = np.array([0.9, 0.9, 0.9], "<f4").tobytes()  # no rotation: the squares add up to more than 1
    path.write_bytes(data)
    assert [(level, "qform is damaged" in text) for level, text in remarks(path, caplog)] == [("WARNING", True)]
    np.testing.assert_allclose(io.read_geometry(path).affine, RIGID, atol=1e-5)


def test_channels_flat_images_and_single_volumes(tmp_path: Path) -> None:
    four = np.arange(5 * 6 * 7 * 2, dtype=np.float32).reshape(5, 6, 7, 2)
    np.testing.assert_array_equal(io.read(save(tmp_path / "4d.nii", four)).array, np.moveaxis(four, -1, 0))
    assert io.read(save(tmp_path / "one.nii", four[..., :1])).array.shape == (1, 5, 6, 7)
    assert io.read(save(tmp_path / "flat.nii", four[:, :, 0, 0])).array.shape == (1, 5, 6, 1)
    vectors = np.moveaxis(np.arange(5 * 6 * 7 * 3, dtype=np.float32).reshape(3, 5, 6, 7), 0, -1)
    read = io.read(save(tmp_path / "5d.nii", vectors[:, :, :, None, :]))
    np.testing.assert_array_equal(read.array, np.moveaxis(vectors, -1, 0))
    sitk.WriteImage(sitk.JoinSeries([sitk.Image([5, 6, 7], sitk.sitkUInt8) + n for n in (1, 2)]), tmp_path / "4d.nrrd")
    assert io.read(tmp_path / "4d.nrrd").array[:, 0, 0, 0].tolist() == [1, 2]
    flat = sitk.GetImageFromArray(np.zeros((6, 5), np.float32))
    sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
    assert io.read(tmp_path / "flat.mha").array.shape == (1, 5, 6, 1)


def test_forms_that_disagree_are_told_and_sform_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nibabel.Nifti1Image(volume().array[0], None)
    image.set_sform(OBLIQUE, 1)
    image.set_qform(RIGID, 1)
    nibabel.save(image, tmp_path / "two.nii")
    with caplog.at_level(logging.WARNING):
        geometry = io.read(tmp_path / "two.nii").geometry
    np.testing.assert_allclose(geometry.affine, OBLIQUE, atol=1e-6)
    assert len(caplog.records) == 1
    assert "sform and qform differ" in caplog.text
    assert "11.5" in caplog.text  # of both
    assert "-100.5" in caplog.text
    caplog.clear()
    io.read_geometry(tmp_path / "two.nii")
    io.write(Volume(volume().array, geometry), tmp_path / "out.nii", like=tmp_path / "two.nii")
    assert not caplog.records  # said once, when the image was read
    image.set_sform(OBLIQUE, 0)
    nibabel.save(image, tmp_path / "two.nii")
    np.testing.assert_allclose(io.read_geometry(tmp_path / "two.nii").affine, RIGID, atol=1e-5)


def test_content_counts_and_not_the_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    io.write(volume(), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    for name in ("b.nii", "c.nii.gz"):
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(io.read(tmp_path / name).array, volume().array)
        assert "read by its content" in caplog.text


def test_equal_images_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        io.write(volume(), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # where gzip keeps the time of writing


def test_metre_sized_voxels_are_remarked_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "m.nii", volume().array[0], np.diag([0.001, 0.001, 0.001, 1]))
    with caplog.at_level(logging.WARNING):
        io.read(tmp_path / "m.nii")
    assert "look like metres" in caplog.text


MHD = "ObjectType = Image\nNDims = 3\nDimSize = {n} {n} {n}\nElementType = MET_FLOAT\nElementSpacing = {s} 1 1\n"


def spoiled(kind: str, folder: Path) -> Path:
    """A file that is no usable image."""
    path = folder / "bad.nii.gz"
    array = volume().array[0]
    if kind in ("times", "pair", "offset"):
        shape = (3, 4, 5, 2, 3) if kind == "times" else (3, 4, 5)
        path = save(folder / "bad.nii", np.zeros(shape, np.float32))
        data = bytearray(path.read_bytes())
        if kind == "pair":
            data[344:348] = b"ni1\0"
        elif kind == "offset":
            data[108:112] = np.array([100], "<f4").tobytes()
        path.write_bytes(data)
    elif kind == "folder":
        path.mkdir()
    elif kind == "LFS":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "promises too much":
        header = nibabel.Nifti2Header()
        header.set_data_shape((1000, 1000, 1000))
        path.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    elif kind == "NRRD RGB":
        path = folder / "bad.nrrd"
        head = "NRRD0004\ntype: unsigned char\ndimension: 4\nsizes: 3 4 4 4\nkinds: RGB-color domain domain domain\n"
        path.write_bytes(head.encode() + b"encoding: raw\n\n" + bytes(192))
    elif kind == "NRRD complex":
        path = folder / "bad.nrrd"
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), path)
    elif kind == "NRRD times":
        path = folder / "bad.nrrd"
        sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkVectorFloat32, 3), path)
    elif kind == "MHD alone":
        path = folder / "bad.mhd"
        path.write_text(MHD.format(n=4, s=1) + "ElementDataFile = gone.raw\n")
    elif kind == "MHA promises too much":
        path = folder / "bad.mha"
        path.write_text(MHD.format(n=1000, s=1) + "ElementDataFile = LOCAL\nxx")
    elif kind == "MHA bomb":
        path = folder / "bad.mha"
        path.write_text(MHD.format(n=20000, s=1) + "CompressedData = True\nElementDataFile = LOCAL\nxx")
    elif kind == "MHA singular":
        path = folder / "bad.mha"
        path.write_text(MHD.format(n=4, s=0) + "ElementDataFile = LOCAL\n" + "x" * 256)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "web page":
        path.write_bytes(b"  <!DOCTYPE html><html></html>")
    elif kind == "cut short":
        save(path, np.random.default_rng(0).normal(size=(20, 20, 20)))
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "checksum":
        io.write(volume(), path)
        data = bytearray(path.read_bytes())
        data[-6] ^= 0xFF
        path.write_bytes(data)
    elif kind == "cut short, not compressed":
        path = save(folder / "bad.nii", array)
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "RGB":
        rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(rgb, RIGID), path)
    elif kind == "complex":
        save(path, array.astype(np.complex64))
    elif kind == "bomb":
        header = nibabel.Nifti2Header()
        header.set_data_shape((200_000, 200_000, 200_000))
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    elif kind == "singular":
        image = nibabel.Nifti1Image(array, None)
        image.header["sform_code"] = 1
        image.header["srow_x"] = (1, 0, 0, 0)
        image.header["srow_y"] = (1, 0, 0, 0)
        image.header["srow_z"] = (0, 0, 1, 0)
        path.write_bytes(gzip.compress(image.to_bytes()))
    elif kind == "NaN":
        image = nibabel.Nifti1Image(array, None)
        image.header["sform_code"] = 1
        image.header["srow_x"] = (np.nan, 0, 0, 0)
        path.write_bytes(gzip.compress(image.to_bytes()))
    elif kind == "not a NIfTI":
        path.write_bytes(b"P5 something else entirely, and long enough")
    elif kind == "damaged NRRD":
        path = folder / "bad.nrrd"
        io.write(volume(), path)
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "unknown format":
        path = folder / "bad.xyz"
        path.write_bytes(b"1234")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "0 bytes"),
        ("web page", "failed download"),
        ("cut short", "cut short"),
        ("checksum", "damaged"),
        ("cut short, not compressed", "cut short"),
        ("RGB", "RGB"),
        ("complex", "complex64"),
        ("bomb", "TB"),
        ("singular", "singular"),
        ("NaN", "NaN"),
        ("not a NIfTI", "not a NIfTI file"),
        ("damaged NRRD", "copy the file again"),
        ("unknown format", r"\.nii\.gz"),
        ("times", r"\(2, 3\); split"),
        ("pair", r"pair \.hdr and \.img"),
        ("offset", "vox_offset 100"),
        ("folder", "this is a folder"),
        ("LFS", "git lfs pull"),
        ("promises too much", "cut short"),
        ("NRRD RGB", "RGB"),
        ("NRRD complex", "complex"),
        ("NRRD times", "2 times 3; split"),
        ("MHD alone", r"gone\.raw, which is missing"),
        ("MHA promises too much", "cut short"),
        ("MHA bomb", "TB"),
        ("MHA singular", "singular"),
    ],
)
def test_unusable_file_is_refused_with_its_name_and_the_reason(kind: str, words: str, tmp_path: Path) -> None:
    path = spoiled(kind, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(io.ImageFileError, match=words) as error:
            io.read(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6  # refused before memory is asked for
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.nii"):
        io.read(tmp_path / "absent.nii")
    for name, target in (("dangling.nii", "nowhere"), ("loop.nii", "loop.nii")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(FileNotFoundError, match="leads nowhere"):
            io.read(tmp_path / name)


@pytest.mark.parametrize("suffix", io.suffixes())
def test_larger_images_are_read_when_asked_for(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    io.write(volume(dtype=np.uint8), path)
    assert io.read(path, max_voxels=210).array.size == 210
    for reader in (io.read, io.read_label):
        with pytest.raises(io.ImageFileError, match=r"5 x 6 x 7 voxels.*more than 209 voxels"):
            reader(path, max_voxels=209)


def test_labels_must_be_integers(tmp_path: Path) -> None:
    values = np.zeros((3, 3, 3), np.float32)
    values[0, 0, 0] = 1.0004
    assert io.read_label(save(tmp_path / "near.nii", values)).array.max() == 1
    values[0, 0, 1] = 0.5
    with pytest.raises(io.ImageFileError, match=r"such as 0\.5"):
        io.read_label(save(tmp_path / "far.nii", values))
    for value in (np.inf, np.nan, 1e300):
        with pytest.raises(io.ImageFileError, match="1 voxels are not"):
            io.read_label(save(tmp_path / "odd.nii", np.where(np.arange(27).reshape(3, 3, 3) == 5, value, 0.0)))
    assert io.read_label(save(tmp_path / "large.nii", np.full((3, 3, 3), 2.0**40))).array.max() == 2**40
    with pytest.raises(io.ImageFileError, match="2 channels"):
        io.read_label(save(tmp_path / "two.nii", np.zeros((3, 3, 3, 2), np.uint8)))


def test_channels_of_a_case_lie_on_one_grid(tmp_path: Path) -> None:
    paths = (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    io.write(volume(), paths[0])
    io.write(volume(), paths[1])
    assert io.read_case(Case(id="a", images=paths)).array.shape == (2, 5, 6, 7)
    moved = RIGID.copy()
    moved[0, 3] += 1
    io.write(volume(moved), paths[1])
    with pytest.raises(io.ImageFileError, match=r"a_0001.*shifted by 1 mm"):
        io.read_case(Case(id="a", images=paths))


def test_image_is_not_written_over_another_grid(tmp_path: Path) -> None:
    io.write(volume(), tmp_path / "like.nii")
    with pytest.raises(io.ImageFileError, match="another grid"):
        io.write(volume(OBLIQUE), tmp_path / "out.nii", like=tmp_path / "like.nii")
    assert not (tmp_path / "out.nii").exists()


def test_channels_with_rounded_headers_lie_on_the_grid_of_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    moved = RIGID.copy()
    moved[0, 3] += 0.1
    io.write(volume(), paths[0])
    io.write(volume(moved), paths[1])
    read = io.read_case(Case(id="a", images=paths))
    assert read.geometry == io.read_geometry(paths[0])
    np.testing.assert_array_equal(read.array, np.concatenate([io.read(path).array for path in paths]))
    assert "a_0001.nii.gz: less than half a voxel from the first channel" in caplog.text
    assert "shifted by 0.1 mm" in caplog.text


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_label_map_as_stored_is_the_same_but_for_its_place_in_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"map{suffix}"
    array = np.random.default_rng(0).integers(0, 5, (1, 4, 5, 6)).astype(np.uint8)
    io.write(Volume(array, Geometry((4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]))), path)
    usual, as_stored = (io.read_label(path, as_stored=as_it_is) for as_it_is in (False, True))
    np.testing.assert_array_equal(usual.array, as_stored.array)
    assert usual.array.dtype == as_stored.array.dtype
    assert usual.array.flags.c_contiguous
    assert as_stored.array[0].flags.f_contiguous  # the first axis runs fastest in all of these
