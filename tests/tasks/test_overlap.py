"""Losses that know structures, against indicator images warped one by one and against the formula written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medmamba.tasks.overlap import contrastive_features, dice_of_warped
from medmamba.warp import warp

SIZES = [(9, 8), (6, 7, 8)]
STRUCTURES = (1, 3, 7, 200)


def labels(size: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor([0, 1, 3, 4, 7])[torch.randint(0, 5, (2, *size), generator=generator)].to(torch.uint8)


def by_indicators(moving: torch.Tensor, fixed: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """The same from an indicator image for each structure; 200 is in no image, so it is left out."""
    entries = []
    for b in range(len(moving)):
        dice = []
        for value in STRUCTURES[:-1]:
            warped = warp((moving[b : b + 1, None] == value).to(field.dtype), field[b : b + 1])
            own = (fixed[b : b + 1, None] == value).to(field.dtype)
            dice.append(2 * (warped * own).sum() / (warped.sum() + own.sum()))
        entries.append(1 - torch.stack(dice).mean())
    return torch.stack(entries).mean()


@pytest.mark.parametrize("size", SIZES, ids=["2D", "3D"])
def test_dice_is_that_of_warped_indicator_images_and_so_is_its_gradient(size: tuple[int, ...]) -> None:
    field = torch.randn(2, len(size), *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    field.requires_grad_()
    moving, fixed = labels(size, 2), labels(size, 3)
    found, expected = dice_of_warped(moving, fixed, field, STRUCTURES), by_indicators(moving, fixed, field)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    gradients = [torch.autograd.grad(loss, field)[0] for loss in (found, expected)]
    assert float(gradients[1].abs().max()) > 0
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-12


def test_dice_of_a_label_map_that_is_not_moved_is_perfect_and_of_none_nothing() -> None:
    moving = labels((6, 6), 0)
    field = torch.zeros(2, 2, 6, 6)
    assert float(dice_of_warped(moving, moving, field, STRUCTURES)) == pytest.approx(0, abs=1e-6)
    assert float(dice_of_warped(moving, moving, field, (200,))) == 0
    assert float(dice_of_warped(moving, torch.zeros_like(moving), field, (1,))) == 1


def test_label_map_and_field_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        dice_of_warped(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), torch.zeros(1, 2, 4, 5), (1,))


def test_contrast_of_perfect_features_is_that_of_the_formula() -> None:
    # Each structure has a direction of its own, the same in both images: cosine 1 to its mean and 0 to the other's.
    values = torch.tensor([0, 1, 1, 3]).repeat(8, 2)[None]
    direction = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
    features = direction[values].movedim(-1, 1) * 5
    loss = contrastive_features(torch.cat([features, features], dim=1), values, values, (1, 3))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-4)), abs=1e-6)  # goes to 0 with the temperature
    cold = contrastive_features(torch.cat([features, features], dim=1), values, values, (1, 3), temperature=0.01)
    assert float(cold) < 1e-6  # the published code stays at log 2


def test_contrast_is_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(1, 6, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    moving, fixed = (torch.randint(0, 4, (1, 8, 8), generator=generator) for _ in range(2))
    sides = []
    for side, values in zip(features[0].chunk(2), (moving, fixed), strict=True):
        small = values[0, ::2, ::2].flatten()  # voxel 2 i, on which a convolution of stride 2 is centred
        sides.append((F.normalize(side.flatten(1).T, dim=1), small))
    anchors = F.normalize(
        torch.stack([sum(f[v == k].mean(0) for f, v in sides) for k in (1, 2, 3)]),
        dim=1,  # type: ignore[misc]
    )
    costs = []
    for unit, small in sides:
        for feature, value in zip(unit, small, strict=True):
            if value:
                likeness = torch.exp(anchors @ feature / 0.25)
                costs.append(-torch.log(likeness[value - 1] / likeness.sum()))
    expected = torch.stack(costs).mean()
    found = contrastive_features(features, moving, fixed, (1, 2, 3))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (found, expected)]
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-6


def test_contrast_samples_the_same_voxels_each_time_unless_told_how() -> None:
    features = torch.randn(1, 6, 16, 16, generator=torch.Generator().manual_seed(5))
    values = labels((16, 16), 6)[:1]
    few = [float(contrastive_features(features, values, values, (1, 3), samples=20)) for _ in range(2)]
    other = contrastive_features(
        features, values, values, (1, 3), samples=20, generator=torch.Generator().manual_seed(1)
    )
    assert few[0] == few[1] != float(other)


def test_contrast_without_two_structures_is_nothing() -> None:
    features = torch.randn(1, 6, 4, 4, requires_grad=True)
    values = torch.ones(1, 4, 4, dtype=torch.int64)
    for structures in ((1,), (1, 3), (5, 6)):
        loss = contrastive_features(features, values, values, structures)
        loss.backward()
        assert float(loss.detach()) == 0
