"""A stiff field finds smooth motion between two contrasts, and stays where nothing moved."""

from __future__ import annotations

import pytest
import torch

from medmamba.registration.refine import STIFF, refine
from medmamba.registration.stiff import settle
from medmamba.warp import integrate, jacobian_determinant, warp

SPACING = (2.0, 2.0, 4.0)
SIZE = (48, 48, 20)


def body() -> torch.Tensor:
    """(1, 1, *S): air 0, fat 0.3 and, off its middle, muscle 0.6."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    image = 0.3 * ((x**2 + y**2 + 0.3 * z**2) < 0.7) + 0.3 * (((x - 0.2) ** 2 + 2 * y**2 + z**2) < 0.25)
    return image.float()[None, None]


def settled(moving: torch.Tensor, similarity: str) -> torch.Tensor:
    settings = STIFF[similarity]
    fixed = inverted(body())
    return refine(moving, fixed, spacing_mm=SPACING, similarity=similarity, steps=30, settings=settings).displacement


def inverted(image: torch.Tensor) -> torch.Tensor:
    """Fat bright, muscle darker, air black."""
    return torch.where(image > 0.1, 1.3 - image, image)


@pytest.mark.parametrize("similarity", ["mi", "mind"])
def test_a_shift_between_two_contrasts_is_found_as_far_as_borders_tell(similarity: str) -> None:
    shift = torch.zeros(1, 3, *SIZE)
    shift[:, 0] = 3.0
    found = settled(warp(body(), -shift), similarity)
    left = (found - shift)[0][:, body()[0, 0] > 0.1].norm(dim=0).mean() / 3.0
    assert left < 0.7
    assert float(jacobian_determinant(found).min()) > 0


@pytest.mark.parametrize("similarity", ["mi", "mind"])
def test_where_nothing_moved_the_field_stays_within_half_a_voxel(similarity: str) -> None:
    millimetres = settled(body(), similarity)[0] * torch.tensor(SPACING).reshape(3, 1, 1, 1)
    assert float(millimetres[:, body()[0, 0] > 0.1].norm(dim=0).mean()) < 1.0


def test_it_ends_with_the_field_before_a_similarity_that_is_no_number() -> None:
    start = integrate(0.1 * torch.ones(1, 3, *SIZE))
    values = iter((1.0, float("nan"), 0.0))
    found, losses = settle(
        start,
        body(),
        lambda moved: moved.mean() * next(values),
        spacing_mm=SPACING,
        width_mm=20.0,
        weight=1e-3,
        count=5,
        progress=lambda items, **_: items,
        title="settle",
    )
    assert len(losses) == 2
    assert torch.equal(found, start)
