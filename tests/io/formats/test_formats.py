"""A format is known by what is in a file or folder, and a new one is a class and a line in the table."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.io import images
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import FORMATS, Format, Header, Stored
from medmamba.io.remarks import Remark
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.8, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
GRID = Geometry((3, 4, 5), AFFINE)
VOLUME = Volume(np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5), GRID)
NAMES = {suffix: known.name for known in FORMATS for suffix in known.suffixes if suffix in io.suffixes()}


@pytest.mark.parametrize("content", [suffix for suffix in NAMES if suffix not in (".nhdr", ".mhd")])
@pytest.mark.parametrize("name", NAMES)
def test_file_under_the_name_of_another_format_is_read_and_told(
    content: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    io.write(VOLUME, tmp_path / f"a{content}")
    path = (tmp_path / f"a{content}").rename(tmp_path / f"b{name}")
    read = io.read(path)
    np.testing.assert_array_equal(read.array, VOLUME.array)
    assert (read.geometry.allclose(GRID), io.read_channels(path), io.files(path)) == (True, 1, (path,))
    told = [record.getMessage() for record in caplog.records]
    if NAMES[content] == NAMES[name]:
        assert not [text for text in told if "its name is of" in text]
    else:
        assert told == [f"{path}: the file is {NAMES[content]}, but its name is of {NAMES[name]}; read by its content"]


@pytest.mark.parametrize("content", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_file_without_an_ending_is_read(content: str, tmp_path: Path) -> None:
    io.write(VOLUME, tmp_path / f"a{content}")
    path = (tmp_path / f"a{content}").rename(tmp_path / "IM0001")
    np.testing.assert_array_equal(io.read(path).array, VOLUME.array)


@pytest.mark.parametrize("suffix", NAMES)
@pytest.mark.parametrize("content", [".nii.gz", ".nrrd", ".mha"])
def test_segmentation_of_a_misnamed_image_lies_on_it(content: str, suffix: str, tmp_path: Path) -> None:
    io.write(VOLUME, tmp_path / f"a{content}")
    source = (tmp_path / f"a{content}").rename(tmp_path / "a.nrrd")
    io.write(VOLUME.with_array(VOLUME.array > 9), tmp_path / f"out{suffix}", like=source)
    assert io.read_geometry(tmp_path / f"out{suffix}").allclose(GRID)


def test_remarks_are_values_and_logged_by_read_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    io.write(Volume(VOLUME.array, Geometry((3, 4, 5), np.diag([0.001, 0.001, 0.001, 1]))), tmp_path / "a.nrrd")
    path = (tmp_path / "a.nrrd").rename(tmp_path / "a.mha")
    expected = (
        Remark("the file is NRRD, but its name is of MetaImage; read by its content"),
        Remark("voxels of 0.001 x 0.001 x 0.001 mm look like metres; check the header"),
    )
    for read in (images.read_with_remarks, images.read_label_with_remarks):
        assert read(path)[1] == expected
    assert not caplog.records
    for log in (io.read, io.read_label):
        caplog.clear()
        log(path)
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.WARNING, f"{path}: {remark.message}") for remark in expected
        ]


@pytest.mark.parametrize("suffix", [suffix for suffix in NAMES if suffix != ".nii"])
def test_damaged_byte_of_compressed_voxels_is_noticed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    noise = Volume(np.random.default_rng(0).normal(size=(1, 8, 9, 10)), Geometry((8, 9, 10), AFFINE))
    io.write(noise.with_array(noise.array.round()), path)
    voxels = io.files(path)[-1]
    whole = voxels.read_bytes()
    for place in (len(whole) // 2, len(whole) - 100, len(whole) - 3):
        voxels.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(ImageFileError, match="the compressed data is damaged or cut short"):
            io.read(path)
    voxels.write_bytes(whole)
    np.testing.assert_array_equal(io.read(path).array, noise.array.round())


class Slices:
    """A toy: a folder with an array for each slice, and the names of labels."""

    name = "slices"
    suffixes = (".slices",)

    def recognises(self, path: Path, start: bytes) -> bool:
        return path.is_dir() and (path / "names.txt").is_file()

    def files(self, path: Path) -> tuple[Path, ...]:
        return tuple(sorted(path.iterdir()))

    def read_header(self, path: Path) -> Header:
        stored = self.read(path, max_voxels=images.MAX_VOXELS)
        return Header(stored.geometry, len(stored.array))

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        array = np.stack([np.load(file) for file in sorted(path.glob("*.npy"))], axis=-1)[None]
        return Stored(array, Geometry(array.shape[1:], np.eye(4)), ())

    def why_not_integer(self, path: Path) -> str | None:
        return None

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        if labels is None:
            raise ImageFileError(path, "slices hold the names of labels; give them")
        path.mkdir()
        (path / "names.txt").write_text(" ".join(label.name for label in labels.foreground))
        for number, plane in enumerate(np.moveaxis(volume.array[0], -1, 0)):
            np.save(path / f"{number:03d}.npy", plane)


def test_format_that_is_a_folder_and_keeps_names_of_labels_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats: tuple[Format, ...] = (*FORMATS, Slices())
    monkeypatch.setattr(images, "FORMATS", formats)
    label = Volume((VOLUME.array > 9).astype(np.uint8), Geometry((3, 4, 5), np.eye(4)))
    path = tmp_path / "a.slices"
    with pytest.raises(ImageFileError, match="names of labels; give them"):
        io.write(label, path)
    io.write(label, path, labels=Labels(foreground=(Label(name="cube", values=(1,)),)))
    read = io.read_label(path.rename(tmp_path / "series 1"))
    np.testing.assert_array_equal(read.array, label.array)
    assert io.read_geometry(tmp_path / "series 1") == label.geometry
    assert [file.name for file in io.files(tmp_path / "series 1")][-1] == "names.txt"
    assert io.suffixes()[-1] == ".slices"
    with pytest.raises(ImageFileError, match="this is a folder"):
        io.read(tmp_path)


def test_writing_that_fails_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in NAMES:
        io.write(VOLUME, tmp_path / f"a{suffix}")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    for suffix in NAMES:
        with pytest.raises(KeyboardInterrupt):
            io.write(VOLUME.with_array(VOLUME.array + 1), tmp_path / f"a{suffix}")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
