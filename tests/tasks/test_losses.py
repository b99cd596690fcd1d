"""Known answers for the training loss."""

from __future__ import annotations

import math

import pytest
import torch

from medmamba.labels import Label, Labels
from medmamba.tasks import Loss
from medmamba.tasks.losses import DiceCrossEntropy, deep_supervision, region_table, region_targets

CLASSES = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
GAPS = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(4,))))
REGIONS = Labels(
    foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_order=(1, 2), ignore=3
)


def certain(target: torch.Tensor, channels: int, strength: float = 30.0) -> torch.Tensor:
    """Logits that leave no doubt about the classes in ``target``."""
    return (torch.nn.functional.one_hot(target.long(), channels).movedim(-1, 1).float() * 2 - 1) * strength


def test_perfect_answer_costs_minus_one() -> None:
    target = torch.randint(0, 3, (2, 4, 5, 6))
    loss = DiceCrossEntropy(CLASSES, batch_dice=False)(certain(target, 3), target)
    assert float(loss.total) == pytest.approx(-1.0, abs=1e-4)


def test_uniform_answer_costs_log_of_classes_minus_its_dice() -> None:
    target = torch.tensor([[[0, 1], [2, 0]]])
    loss = DiceCrossEntropy(CLASSES, batch_dice=False)(torch.zeros(1, 3, 2, 2), target)
    dice = 2 * (1 / 3) / (4 / 3 + 1)
    assert float(loss.total) == pytest.approx(math.log(3) - dice, abs=1e-4)
    assert float(loss.parts["cross_entropy"]) == pytest.approx(math.log(3), abs=1e-4)
    assert float(loss.parts["dice"]) == pytest.approx(-dice, abs=1e-4)


def test_batch_dice_sums_before_dividing() -> None:
    labels = Labels(foreground=(Label(name="a", values=(1,)),))
    target = torch.zeros(2, 2, 2, dtype=torch.int16)
    target[0] = 1  # the second image has none
    logits = certain(target, 2)
    logits[1, :, 0, 0] = torch.tensor([-30.0, 30.0])  # one false voxel of four
    entropy = 60.0 / 8
    per_image = DiceCrossEntropy(labels, batch_dice=False)(logits, target)
    together = DiceCrossEntropy(labels, batch_dice=True)(logits, target)
    assert float(per_image.total) == pytest.approx(entropy - (1 + 0) / 2, abs=1e-3)
    assert float(together.total) == pytest.approx(entropy - 8 / 9, abs=1e-3)


def test_values_with_gaps_are_classes_in_order() -> None:
    target = torch.tensor([[[0, 4], [1, 4]]])
    answer = torch.tensor([[[0, 2], [1, 2]]])
    loss = DiceCrossEntropy(GAPS, batch_dice=False)(certain(answer, 3), target)
    assert float(loss.total) == pytest.approx(-1.0, abs=1e-4)


def test_regions_overlap() -> None:
    target = torch.tensor([[[0, 1, 2, 3]]])
    masks = region_targets(target, region_table(REGIONS), REGIONS.ignore)
    assert masks[0, :, 0].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("labels", [REGIONS, Labels(foreground=CLASSES.foreground, ignore=3)])
def test_ignored_voxels_change_nothing(labels: Labels) -> None:
    torch.manual_seed(0)
    loss = DiceCrossEntropy(labels, batch_dice=False)
    target = torch.randint(0, 3, (1, 6, 6))
    target[0, :, 3:] = 3
    logits = torch.randn(1, labels.output_channels, 6, 6)
    changed = logits.clone()
    changed[..., 3:] += 5 * torch.randn(6, 3)
    assert float(loss(logits, target).total) == float(loss(changed, target).total)
    inside = logits.clone()
    inside[:, 0, :, 0] += 1
    assert float(loss(logits, target).total) != float(loss(inside, target).total)


def test_deep_supervision_halves_weights_and_leaves_out_the_coarsest() -> None:
    seen = []

    def probe(output: torch.Tensor, target: torch.Tensor) -> Loss:
        assert output.shape[2:] == target.shape[1:]
        seen.append(output.shape[-1])
        return Loss(output.mean(), {"mean": output.mean()})

    outputs = [torch.full((1, 2, n, n), value) for n, value in ((8, 3.0), (4, 6.0), (2, 99.0))]
    total, parts = deep_supervision(probe, outputs, torch.zeros(1, 8, 8, dtype=torch.int16))
    assert seen == [8, 4]
    assert float(total) == pytest.approx((3 + 0.5 * 6) / 1.5)
    assert {name: float(part) for name, part in parts.items()} == {"mean": 3.0}  # of the finest


def test_gradient_is_finite_for_an_absent_structure() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = DiceCrossEntropy(CLASSES, batch_dice=False)(logits, torch.zeros(1, 4, 4, dtype=torch.int8))
    torch.autograd.backward(loss.total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
