"""What stands for "no data" is told from measurements."""

from __future__ import annotations

import numpy as np
import pytest

from medmamba.intensity import NoData, measured, no_data, unusable


def scan(low: float = -1000.0, high: float = 3000.0) -> np.ndarray:
    """A thousand evenly spread intensities."""
    return np.linspace(low, high, 1000, dtype=np.float32).reshape(10, 10, 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.finfo(np.float32).min, 9.96921e36, 1e30, -1e20, 1e15])
def test_numbers_that_no_scanner_measures_are_told_with_their_share(value: float) -> None:
    image = scan()
    image[0] = value
    assert not measured(image)[0].any()
    assert measured(image)[1:].all()
    assert unusable(image).startswith("100 of 1000 intensities (10 %) are ")
    assert ("NaN or infinite" in unusable(image)) == (not np.isfinite(value))
    assert f"{value:.6g}" in unusable(image) or not np.isfinite(value)


def test_share_near_all_voxels_is_no_power_of_ten() -> None:
    image = np.full(1000, np.nan, np.float32)
    assert "1000 of 1000 intensities (100 %)" in unusable(image)
    image[:4] = 1
    assert "996 of 1000 intensities (99.6 %)" in unusable(image)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_units_do_not_matter(scale: float) -> None:
    image = scan() * np.float32(scale)
    assert measured(image).all()
    assert unusable(image) == ""
    assert no_data(image) is None
    image[:2] = -32768 * scale
    assert no_data(image) == NoData(float(np.float32(-32768 * scale)), 200)


@pytest.mark.parametrize("value", [-32768.0, -9999.0, 65535.0, 1e10])
def test_lone_value_far_from_all_others_is_no_data_even_in_one_voxel(value: float) -> None:
    image = scan()
    image[5, 5, 5] = value
    assert no_data(image) == NoData(value, 1)


def test_what_is_usual_is_no_sentinel() -> None:
    padded = scan()
    padded[0] = -2048  # around the field of view of a CT
    stripped = scan(1000, 1100)
    stripped[:5] = 0  # around a brain
    bright = scan()
    bright[0, 0, :3] = (4000, 6000, 9000)
    levels = np.zeros((4, 4, 4), np.float32)
    levels[0], levels[1] = 1, 1000
    for image in (padded, stripped, bright, levels, np.full((3, 3, 3), -32768.0, np.float32)):
        assert no_data(image) is None
