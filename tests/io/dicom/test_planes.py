"""A mask comes back onto the slices that its scan was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba.io.dicom.instances import dicom_files
from medmamba.io.dicom.planes import masks_on_planes
from medmamba.io.dicom.series import Choice, explore, settled
from medmamba.io.dicom.stack import geometry_of
from medmamba.volume import Geometry, Volume
from tests import dicom_factory as factory

GOING_ON = Choice(uneven="resample", tilt="resample")


@pytest.mark.parametrize("plane", sorted(factory.PLANES))
def test_mask_on_an_even_stack_is_itself_slice_by_slice(tmp_path: Path, plane: str) -> None:
    made = factory.series(tmp_path, plane=plane, order="shuffled", shape=(16, 12), slices=5)
    [series] = explore(dicom_files(tmp_path)).series
    mask = np.random.default_rng(0).integers(0, 4, (12, 16, 5), dtype=np.uint8)
    on_planes = masks_on_planes(Volume(mask[None], geometry_of(series.planes)), series.planes)
    assert on_planes.dtype == np.uint8
    np.testing.assert_array_equal(on_planes, mask.transpose(2, 1, 0))
    assert [plane.instance_uid for plane in series.planes] == [each.instance_uid for each in made.slices]


def test_mask_of_a_tilted_uneven_stack_lies_on_each_slice_where_the_structure_is(tmp_path: Path) -> None:
    ball = factory.Ellipsoid(centre_mm=(2, -1, 15), radii_mm=(9, 9, 9), value=1)
    made = factory.series(tmp_path, heights_mm=(0, 2, 5, 7, 9, 12, 15, 17, 20), tilt_deg=15, shape=(40, 40))
    [found] = explore(dicom_files(tmp_path)).series
    planes = settled(found, GOING_ON).planes
    grid = geometry_of(planes)
    index = np.indices(grid.shape).reshape(3, -1)
    places = (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).T * (-1, -1, 1)
    mask = Volume(ball.inside(places).reshape(1, *grid.shape).astype(np.uint8), grid)
    on_planes = masks_on_planes(mask, planes)
    truth = np.stack([ball.inside(made.points(each)) for each in made.slices])
    dice = 2 * (on_planes & truth).sum() / (on_planes.sum() + truth.sum())
    assert dice > 0.9
    for ours, theirs in zip(on_planes, truth, strict=True):
        if theirs.sum() > 40:  # pixels of 1.4 x 1.8 mm
            shift = np.subtract(*(np.argwhere(each).mean(axis=0) for each in (ours, theirs)))
            assert np.abs(shift).max() <= 0.5


def test_pixels_outside_of_the_mask_are_background(tmp_path: Path) -> None:
    factory.series(tmp_path, shape=(10, 10), slices=2)
    [series] = explore(dicom_files(tmp_path)).series
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 1000
    assert not masks_on_planes(Volume(np.ones((1, 4, 4, 4), int), Geometry((4, 4, 4), elsewhere)), series.planes).any()


def test_mask_of_several_channels_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    factory.series(tmp_path, shape=(10, 10), slices=2)
    [series] = explore(dicom_files(tmp_path)).series
    with pytest.raises(ValueError, match="one channel"):
        masks_on_planes(Volume(np.ones((2, 4, 4, 4), int), Geometry((4, 4, 4), np.eye(4))), series.planes)
