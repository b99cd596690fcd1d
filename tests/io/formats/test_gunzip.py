"""Compressed files are read to the end of their data, and what is damaged in it is told."""

from __future__ import annotations

import gzip
import logging
import zlib
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.io.formats._gunzip import Gunzip

ARRAY = np.arange(60_000, dtype=np.int16).reshape(30, 40, 50)
PLAIN = nibabel.Nifti1Image(ARRAY, np.eye(4)).to_bytes()
WHOLE = gzip.compress(PLAIN, mtime=0)


def members(*parts: bytes, between: bytes = b"") -> bytes:
    return between.join(map(gzip.compress, parts))


PADDED = members(PLAIN[:9000], PLAIN[9000:], between=bytes(512))


@pytest.mark.parametrize(
    ("stored", "trailing"),
    [
        (WHOLE, False),
        (WHOLE + b"x", True),
        (WHOLE + b"left by a proxy" * 9, True),
        (WHOLE + bytes(10_000), False),
        (WHOLE + bytes(700) + b"left by a proxy", True),
        (members(PLAIN[:5], PLAIN[5:400], PLAIN[400:]), False),
        (PADDED, False),
        (WHOLE + WHOLE, False),
    ],
    ids=["plain", "one", "text", "zeros", "zeros and text", "members", "padded members", "twice"],
)
def test_what_follows_the_compressed_data_is_passed_over(
    stored: bytes, trailing: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(stored)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(io.read_label(path).array[0], ARRAY)
    if not stored.startswith(PADDED):  # of which ITK reads the first part, and zeros
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)).T, ARRAY)
    if not trailing:
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), ARRAY)
    assert ["not compressed follow" in record.getMessage() for record in caplog.records] == [True] * trailing


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (WHOLE[:-8], "cut short"),  # all voxels are there, but nothing says that they are the right ones
        (WHOLE[:-1], "cut short"),
        (WHOLE[:-9000], "cut short"),
        (WHOLE[:2], "cut short"),
        (WHOLE[:-6] + b"zz" + WHOLE[-4:], "incorrect data check"),
        (members(PLAIN[:9000], PLAIN[9000:])[:-20], "cut short"),
        (gzip.compress(WHOLE, mtime=0), "compressed twice"),
        (gzip.compress(PLAIN[:200], mtime=0), "header is damaged"),
        (gzip.compress(PLAIN[:-100], mtime=0), "the header promises"),
    ],
)
def test_damage_is_told(stored: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(stored)
    with pytest.raises(io.ImageFileError, match=words):
        io.read(tmp_path / "a.nii.gz")


def test_pieces_of_any_size_add_up(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 4, 3_000_000, dtype=np.uint8).tobytes()
    path = tmp_path / "a.gz"
    path.write_bytes(members(content[:1_234_567], content[1_234_567:]))
    for size in (1000, 2**20, 10**7):
        with closing(Gunzip(path)) as file:
            assert b"".join(iter(lambda: bytes(file.read(size)), b"")) == content  # noqa: B023
    path.write_bytes(path.read_bytes()[:-4000])
    with closing(Gunzip(path)) as file, pytest.raises((EOFError, zlib.error)):
        file.read(10**7)
