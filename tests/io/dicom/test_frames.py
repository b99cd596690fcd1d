"""Frames come one at a time as pydicom has them all at once, whatever their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from medmamba.io.dicom.frames import frames_of
from tests.dicom_factory import series


def of_bits(folder: Path, shape: tuple[int, int], frames: int = 11) -> tuple[Dataset, NDArray[np.uint8]]:
    """An object of bits, and what they are."""
    dataset = pydicom.dcmread(series(folder, slices=1, shape=shape).files[0])
    bits = np.random.default_rng(shape[1]).integers(0, 2, (frames, *shape), dtype=np.uint8)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.NumberOfFrames = frames
    dataset.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    return dataset, bits


@pytest.mark.parametrize("columns", range(8, 16))
def test_bits_are_found_whatever_part_of_a_byte_a_frame_begins_in(columns: int, tmp_path: Path) -> None:
    dataset, bits = of_bits(tmp_path, (5, columns))
    found = np.stack(list(frames_of(dataset)))
    np.testing.assert_array_equal(found, bits)
    np.testing.assert_array_equal(found, dataset.pixel_array)


def test_too_few_bits_are_an_error(tmp_path: Path) -> None:
    dataset, _ = of_bits(tmp_path, (5, 7))
    dataset.PixelData = dataset.PixelData[:-2]
    with pytest.raises(ValueError, match="reshape"):
        list(frames_of(dataset))


def test_whole_numbers_are_those_of_pydicom(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(series(tmp_path, slices=3, enhanced=True).files[0])
    np.testing.assert_array_equal(np.stack(list(frames_of(dataset))), dataset.pixel_array)
