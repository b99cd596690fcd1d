"""Augmentation keeps image and label together and is a function of its seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medmamba.data.augment import Augmentation, RandRotateScaled
from medmamba.data.preprocess import OUTSIDE
from tests.data.factory import channel, make_plan

SIZE = (16, 20, 24)


def patch(augment: Augmentation, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose intensity says what its label is."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(augment.initial_patch, dtype=torch.int16)
    label[tuple(slice(n // 4, 3 * n // 4) for n in augment.initial_patch)] = 1
    image = 4.0 * label[None].float() + 0.01 * torch.randn(1, *augment.initial_patch, generator=generator)
    return image, label


@pytest.mark.parametrize("size", [SIZE, SIZE[1:]], ids=["3d", "2d"])
def test_same_seed_same_result_whatever_was_before(size: tuple[int, ...]) -> None:
    augment = Augmentation(make_plan(patch=size, spacing=(1.0,) * len(size)))
    image, label = patch(augment)
    first = [augment(image, label, seed) for seed in range(20)]
    np.random.seed(3)
    torch.manual_seed(3)
    for seed in reversed(range(20)):
        again = augment(image, label, seed)
        assert torch.equal(first[seed][0], again[0])
        assert torch.equal(first[seed][1], again[1])
    # Now and then nothing happens to a patch but mirroring.
    assert len({tuple(image.flatten()[:5].tolist()) for image, _ in first}) > 10


def test_input_is_left_alone_and_output_is_finite() -> None:
    augment = Augmentation(make_plan(patch=SIZE))
    image, label = patch(augment)
    before = image.clone(), label.clone()
    for seed in range(60):
        out, target = augment(image, label, seed)
        assert out.shape == (1, *SIZE)
        assert target.shape == SIZE
        assert target.dtype == torch.int16
        assert torch.isfinite(out).all()
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_label_follows_the_image() -> None:
    augment = Augmentation(make_plan(patch=SIZE))
    image, label = patch(augment)
    agreements = []
    for seed in range(40):
        out, target = augment(image, label, seed)
        middle = (out.max() + out.min()) / 2
        agreements.append(((out[0] > middle) == (target > 0)).float().mean().item())
    assert np.mean(agreements) > 0.97


def test_rotation_and_scaling_have_nnunets_probabilities() -> None:
    transform = RandRotateScaled(SIZE, 0.5, in_plane=False)
    transform.set_random_state(0)
    drawn = []
    for _ in range(2000):
        transform.randomize()
        drawn.append((transform.angles.any(), transform.zoom != 1.0, transform.zoom))
    rotated, scaled, zooms = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    assert abs(rotated.mean() - 0.2) < 0.03
    assert abs(scaled.mean() - 0.2) < 0.03
    assert zooms.min() >= 0.7
    assert zooms.max() <= 1.4
    assert abs((zooms[scaled > 0] < 1).mean() - 0.5) < 0.1


def test_in_plane_augmentation_leaves_slices_apart() -> None:
    plan = make_plan(patch=SIZE, in_plane_augmentation=True, mirror_axes=())
    augment = Augmentation(plan)
    assert augment.initial_patch[0] == SIZE[0]
    image = torch.arange(SIZE[0], dtype=torch.float32)[:, None, None].expand(augment.initial_patch)[None].contiguous()
    transform = RandRotateScaled(SIZE, 3.0, in_plane=True)
    for seed in range(30):
        transform.set_random_state(seed)
        out = transform({"image": image, "label": image})["label"][0]
        for number, plane in enumerate(out):
            assert set(plane.unique().tolist()) <= {0.0, float(number)}


def test_outside_stays_zero_in_masked_channels_and_leaves_the_label() -> None:
    plan = make_plan(patch=SIZE, channels=(channel(use_mask=True), channel()))
    augment = Augmentation(plan)
    image = torch.ones(2, *augment.initial_patch)
    label = torch.full(augment.initial_patch, OUTSIDE, dtype=torch.int16)
    for seed in range(30):
        out, target = augment(image, label, seed)
        if target.numel() and (out[1] == 1).all():
            assert (out[0] == 0).all()
        assert target.min() >= 0
