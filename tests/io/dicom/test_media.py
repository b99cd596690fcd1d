"""Exports come as folders, media and zips, which may want to lead elsewhere."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pydicom
import pytest

from medmamba.io.dicom import find_series
from medmamba.io.dicom.media import is_medium, opened
from medmamba.io.errors import ImageFileError
from tests import dicom_factory as factory


def test_series_is_found_in_a_tree_a_medium_a_zip_and_without_endings(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "export" / "deep" / "er", slices=3, file_name="{:d}")
    medium = factory.medium(tmp_path / "cd", made.files)
    archive = factory.zipped(tmp_path / "export", tmp_path / "export.zip")
    for path in (tmp_path / "export", made.folder, medium, medium.parent, archive):
        assert is_medium(path)
        [series] = find_series(path)
        assert (series.uid, len(series.planes)) == (made.uid, 3)
    assert len(find_series(made.files[0])[0].planes) == 1


def test_file_without_preamble_is_recognised(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=3)
    for file in made.files:
        file.write_bytes(file.read_bytes()[132:])
    assert [len(each.planes) for each in find_series(tmp_path)] == [3]


def test_files_of_a_zip_are_there_until_the_block_ends(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "export", slices=3)
    with opened(factory.zipped(made.folder, tmp_path / "a.zip")) as files:
        assert len(files) == 3
        assert all(file.is_file() for file in files)
    assert not any(file.parent.exists() for file in files)


@pytest.mark.parametrize("name", ["/etc/scan", "../scan", "a/../../scan", "..\\scan", "C:\\scan", "\\\\host\\scan"])
def test_zip_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    made = factory.series(tmp_path / "export", slices=1)
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr(zipfile.ZipInfo(name), made.files[0].read_bytes())
    with pytest.raises(ImageFileError, match="out of its folder"), opened(archive):
        pass


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("scan")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as written:
        written.writestr(entry, "/etc/passwd")
    with pytest.raises(ImageFileError, match="is a link"), opened(tmp_path / "bad.zip"):
        pass


def test_zip_that_grows_out_of_all_proportion_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medmamba.io.dicom.media._BOMB_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("scan", bytes(10**7))
    with pytest.raises(ImageFileError, match="no export of images"), opened(tmp_path / "bomb.zip"):
        pass


def test_damaged_zip_is_refused(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "export", slices=3)
    archive = factory.zipped(made.folder, tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(content)
    with pytest.raises(ImageFileError, match="damaged"), opened(archive):
        pass


def test_medium_that_names_files_outside_of_its_folder_is_refused(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "secret", slices=2, file_name="IM{}")
    medium = factory.medium(tmp_path / "cd", made.files)
    directory = pydicom.dcmread(medium)
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "secret", made.files[0].name]
    directory.save_as(medium)
    with pytest.raises(ImageFileError, match=r"outside of its folder|cannot be read"), opened(medium):
        pass


def test_folder_without_dicom_is_no_medium(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty").touch()
    assert not is_medium(tmp_path)
    assert find_series(tmp_path) == ()
