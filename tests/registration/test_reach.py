"""A scan that ends before the body does says nothing about where the rest of it went."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medmamba.registration.reach import Reach, reach
from medmamba.registration.register import Registered, Settings, register
from medmamba.transform import Affine
from medmamba.volume import Geometry, Volume
from tests.data.factory import channel
from tests.registered_factory import brain

SHAPE, SPACING_MM = (24, 26, 24), 2.0


def head() -> Volume:
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3)
    image, _ = brain(index @ affine[:3, :3].T + affine[:3, 3])
    return Volume(image.reshape(1, *SHAPE).astype(np.float32), Geometry(SHAPE, affine))


def slab(volume: Volume, first: int, last: int) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    i, j, _ = volume.geometry.shape
    return Volume(np.ascontiguousarray(volume.array[..., first:last]), Geometry((i, j, last - first), affine))


def registered(fixed: Volume, moving: Volume) -> Registered:
    one = channel("percentiles")
    return register(fixed, moving, Settings(channels=(one, one), affine="none", refine=20))


def errors_mm(found: Registered, where: Volume) -> np.ndarray:  # type: ignore[type-arg]
    """Of the points of a body, whose true place is where they are."""
    mm = np.argwhere(where.array[0] > 0) @ where.geometry.affine[:3, :3].T + where.geometry.affine[:3, 3]
    return np.linalg.norm(found.transform.points(mm) - mm, axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_moving", [True, False], ids=["moving", "fixed"])
def test_a_part_of_a_head_is_not_stretched_to_the_whole(is_moving: bool) -> None:
    whole = head()
    part = slab(whole, 8, 15)
    found = registered(whole, part) if is_moving else registered(part, whole)
    assert errors_mm(found, part).mean() < 0.3 < SPACING_MM
    assert errors_mm(found, part).max() < SPACING_MM
    assert any("is not there" in remark for remark in found.remarks) == is_moving


def reach_of(fixed: Volume, moving: Volume) -> Reach:
    grid = fixed.geometry
    image = torch.from_numpy(fixed.array / fixed.array.max())[None]
    there = torch.zeros_like(image)
    there[..., : moving.geometry.shape[2]] = image[..., : moving.geometry.shape[2]]
    return reach(there, image, None, (moving.geometry, grid), Affine(np.eye(4)), grid)


def test_bodies_that_end_within_their_scans_are_compared_everywhere() -> None:
    seen = reach_of(head(), head())
    assert (seen.mask, seen.reached, seen.remarks) == (None, None, ())


def test_beyond_a_scan_its_end_goes_on_and_does_not_count() -> None:
    seen = reach_of(head(), slab(head(), 0, 12))
    assert seen.reached is not None
    assert seen.mask is not None
    assert bool(seen.mask.all())
    assert seen.reached[0, 0].sum(dim=(0, 1)).tolist() == [SHAPE[0] * SHAPE[1]] * 12 + [0] * 12
    assert torch.equal(seen.moving[..., 12:], seen.moving[..., 11:12].expand(-1, -1, -1, -1, 12))
    assert seen.remarks[0].startswith("the moving image ends where the fixed one goes on: 50%")
