"""NRRD headers that ITK does not understand are read as what they say."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.volume import Volume

CHANNELS = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)
ORIGIN = (10.0, 20.0, 30.0)
#: Direction signs in RAS of each space.
SIGNS = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
}
SHORT = {"right-anterior-superior": "RAS", "left-anterior-superior": "LAS", "left-posterior-superior": "LPS"}


def expected(signs: tuple[int, ...] = (-1, -1, 1), scale: float = 1.0) -> np.ndarray:
    """Affine of voxels of 2 x 3 x 4 along the axes of a space."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = ORIGIN
    return np.asarray(np.diag([*(sign * scale for sign in signs), 1.0]) @ affine)


def write(
    path: Path, *fields: str, array: np.ndarray = CHANNELS[0], encoding: str = "raw", newline: str = "\n"
) -> Path:
    """A file with its voxels behind the header, axes as in the array."""
    lines = (
        "NRRD0005",
        "# a comment: which is none of the fields",
        "type: uint8",
        f"dimension: {array.ndim}",
        f"sizes: {' '.join(map(str, array.shape))}",
        *fields,
        f"encoding: {encoding}",
        "program:=space: nowhere",
    )
    data = array.tobytes(order="F")
    path.write_bytes(
        (newline.join(lines) + 2 * newline).encode() + (gzip.compress(data) if encoding == "gzip" else data)
    )
    return path


def steps(*places: str) -> str:
    """Directions of 2, 3 and 4 along the axes of a space, with something before or after them."""
    return "space directions: " + " ".join(places).replace("xyz", "(2,0,0) (0,3,0) (0,0,4)").replace(
        "xyt", "(2,0,0,0) (0,3,0,0) (0,0,4,0)"
    )


THREE, FOUR = "space origin: (10,20,30)", "space origin: (10,20,30,7)"


@pytest.mark.parametrize("space", SIGNS)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_space_with_time_has_the_axes_of_the_one_without(space: str, encoding: str, tmp_path: Path) -> None:
    plain = write(tmp_path / "3d.nrrd", f"space: {space}", steps("xyz"), THREE, encoding=encoding)
    for name in (f"{space}-time", f"{SHORT[space]}T", space.replace("-", " ").title() + " Time"):
        timed = write(
            tmp_path / "4d.nrrd",
            f"space: {name}",
            steps("xyt", "(0,0,0,1.5)"),
            FOUR,
            array=np.moveaxis(CHANNELS, 0, -1),
            encoding=encoding,
        )
        read = io.read(timed)
        np.testing.assert_array_equal(read.geometry.affine, expected(SIGNS[space]))
        assert read.geometry == io.read(plain).geometry == io.read_geometry(timed)
        np.testing.assert_array_equal(read.array, CHANNELS)
        assert io.read_channels(timed) == 2


def test_volume_in_a_space_with_time_is_a_volume(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", "space: RAST", steps("xyt"), FOUR)
    np.testing.assert_array_equal(io.read_label(path).array[0], CHANNELS[0])
    np.testing.assert_array_equal(io.read_geometry(path).affine, expected((1, 1, 1)))


@pytest.mark.parametrize("kind", ["list", "vector", "2-vector", "domain", "time", "???", None])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_axis_without_a_direction_holds_the_channels(kind: str | None, place: int, tmp_path: Path) -> None:
    directions, kinds = ["(2,0,0)", "(0,3,0)", "(0,0,4)"], ["domain"] * 3
    directions.insert(place, "none")
    kinds.insert(place, kind or "")
    fields = ["space: left-posterior-superior", f"space directions: {' '.join(directions)}", THREE]
    if kind is not None:
        fields.append(f"kinds: {' '.join(kinds)}")
    path = write(tmp_path / "a.nrrd", *fields, array=np.moveaxis(CHANNELS, 0, place))
    np.testing.assert_array_equal(io.read(path).array, CHANNELS)
    np.testing.assert_array_equal(io.read_geometry(path).affine, expected())
    assert io.read_channels(path) == 2


def test_direction_of_no_numbers_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", "space: LPS", steps("(nan,nan,nan)", "xyz"), THREE, array=CHANNELS)
    np.testing.assert_array_equal(io.read(path).array, CHANNELS)
    np.testing.assert_array_equal(io.read_geometry(path).affine, expected())


def test_time_before_space_holds_the_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", "space: LPST", steps("(0,0,0,1)", "xyt"), FOUR, array=CHANNELS)
    np.testing.assert_array_equal(io.read(path).array, CHANNELS)
    np.testing.assert_array_equal(io.read_geometry(path).affine, expected())


def messages(path: Path, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="medmamba"):
        io.read(path)
    return [(record.levelname, record.getMessage().removeprefix(f"{path}: ")) for record in caplog.records]


@pytest.mark.parametrize("name", ["um", "µm", "micrometers"])
def test_lengths_in_micrometres_are_converted_and_told(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = ["space: LPS", steps("xyz"), THREE, f'space units: "{name}" "{name}" "{name}"']
    path = write(tmp_path / "a.nrrd", *fields)
    np.testing.assert_allclose(io.read_geometry(path).affine, expected(scale=1e-3), rtol=1e-12)
    assert messages(path, caplog) == [("WARNING", f"lengths are in {name} by the header; converted to mm")]
    sizes = write(tmp_path / "b.nrrd", "spacings: 2000 3000 4000", f'units: "{name}" "{name}" "{name}"')
    assert io.read_geometry(sizes).spacing_mm == pytest.approx((2, 3, 4))
    assert not messages(write(tmp_path / "a.nrrd", *fields[:3], 'space units: "mm" "mm" "mm"'), caplog)


def test_metaimage_in_another_unit_is_converted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(
        b"ObjectType = Image\nNDims = 3\nDistanceUnits = um\nDimSize = 3 4 5\nOffset = 10000 20000 30000\n"
        b"ElementSpacing = 2000 3000 4000\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        + CHANNELS[0].tobytes(order="F")
    )
    np.testing.assert_allclose(io.read_geometry(path).affine, expected(), rtol=1e-12)
    assert messages(path, caplog) == [("WARNING", "lengths are in um by the header; converted to mm")]
    io.write(Volume(CHANNELS[:1], io.read_geometry(path)), tmp_path / "b.mha", like=path)
    np.testing.assert_allclose(io.read_geometry(tmp_path / "b.mha").affine, expected(), rtol=1e-12)


def test_spacings_in_a_space_lie_along_its_axes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.nrrd", "space: RAS", "spacings: 2 3 4", THREE)
    np.testing.assert_array_equal(io.read_geometry(path).affine, expected((1, 1, 1)))
    assert [level for level, text in messages(path, caplog) if "no directions" in text] == ["WARNING"]
    with pytest.raises(io.ImageFileError):
        io.read(write(tmp_path / "a.nrrd", "space: RAS", "spacings: 2 3 nan"))


@pytest.mark.parametrize(
    ("fields", "space"),
    [
        (("space: scanner-xyz", steps("xyz"), THREE), "scanner-xyz"),
        (("space: 3D-right-handed", steps("xyz"), THREE), "3d-right-handed"),
        (("space dimension: 3", steps("xyz"), THREE), "of no name"),
        (("spacings: 2 3 4",), "of no name"),
    ],
)
def test_space_that_does_not_know_the_patient_is_told_and_read_as_itk_does(
    fields: tuple[str, ...], space: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.nrrd", *fields)
    assert messages(path, caplog) == [
        ("INFO", f"the space is {space}, so left and right are a guess; taken as left-posterior-superior")
    ]
    theirs = sitk.ReadImage(path)
    np.testing.assert_allclose(
        io.read_geometry(path).affine[:3, 3] * (-1, -1, 1), theirs.TransformIndexToPhysicalPoint((0, 0, 0))
    )
    assert io.read_geometry(path).spacing_mm == theirs.GetSpacing() == (2, 3, 4)


@pytest.mark.parametrize("name", ["a.nhdr", os.fsdecode(b"caf\xe9.nhdr")])
def test_detached_header_in_foreign_words_finds_its_voxels(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "a b.raw").write_bytes(b"a line\n" + bytes(5) + np.moveaxis(CHANNELS, 0, -1).tobytes(order="F"))
    header = write(folder / name, "space: RAST", steps("xyt", "(0,0,0,1)"), FOUR, array=np.zeros((3, 4, 5, 2)))
    text = header.read_bytes().partition(b"\n\n")[0]
    header.write_bytes(text + b"\nline skip: 1\nbyte skip: 5\ndata file: a b.raw\n")
    np.testing.assert_array_equal(io.read(header).array, CHANNELS)
    (folder / "a b.raw").unlink()
    with pytest.raises(io.ImageFileError, match=r"a b\.raw, which is missing"):
        io.read(header)


def test_header_with_foreign_line_ends_and_of_any_length_is_understood(tmp_path: Path) -> None:
    fields = ["space: RAST", steps("xyt", "(0,0,0,1)"), FOUR, *(f"Segment{n}_ID:={'x' * 1000}" for n in range(200))]
    for newline in ("\n", "\r\n"):
        path = write(tmp_path / "a.nrrd", *fields, array=np.moveaxis(CHANNELS, 0, -1), newline=newline)
        np.testing.assert_array_equal(io.read(path).array, CHANNELS)


def test_segmentation_of_a_foreign_header_lies_on_its_image(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.nrrd", "space: RAST", steps("xyt", "(0,0,0,1)"), FOUR, array=np.moveaxis(CHANNELS, 0, -1)
    )
    read = io.read(source)
    label = Volume((read.array[:1] > 20).astype(np.uint8), read.geometry)
    for suffix in io.suffixes():
        path = tmp_path / f"label{suffix}"
        io.write(label, path, like=source)
        assert io.read_geometry(path).allclose(read.geometry)
        theirs = sitk.ReadImage(path)
        np.testing.assert_allclose(theirs.TransformIndexToPhysicalPoint((2, 1, 3)), (-14, -23, 42))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, label.array[0])


def slicer(path: Path, array: np.ndarray) -> Path:
    """A segmentation as Slicer saves it, with the layers of overlapping segments as first axis."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=array.ndim == 4)
    image.SetMetaData("Segment0_LabelValue", "1")
    image.SetMetaData("Segment0_Layer", "0")
    sitk.WriteImage(image, path, True)
    return path


def test_segmentation_of_slicer_is_a_label_map_unless_its_segments_overlap(tmp_path: Path) -> None:
    values = CHANNELS[0] % 3
    np.testing.assert_array_equal(io.read_label(slicer(tmp_path / "a.seg.nrrd", values)).array[0], values)
    with pytest.raises(io.ImageFileError, match=r"Slicer whose segments overlap, in 2 layers.*export"):
        io.read_label(slicer(tmp_path / "b.seg.nrrd", CHANNELS % 3))
