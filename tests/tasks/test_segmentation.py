"""Segmentation as a task: what its scores mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medmamba.data.patches import Batch
from medmamba.data.preprocess import Preprocessor
from medmamba.labels import Labels
from medmamba.tasks.segmentation import Segmentation
from tests.data.factory import CLASSES, REGIONS, channel, make_plan, make_volumes

TASK = Segmentation(make_plan())


def dice(logits: Tensor, *targets: Tensor) -> dict[str, float]:
    """The scores of a network that always answers the same, over one batch a target."""
    batches = [Batch(torch.zeros(1), target) for target in targets]
    return TASK.score(lambda image: [logits], batches).values["dice"]


@pytest.fixture
def target() -> Tensor:
    values = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    values[0, :2] = 1
    values[0, 0, 0, 0] = 2
    return values


def test_structure_that_is_missed_counts_as_zero_and_one_that_is_nowhere_is_undefined(target: Tensor) -> None:
    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[:, 0] = 1.0
    assert dice(logits, target) == {"a": 0.0, "b": 0.0}
    logits[0, 1, :2] = 2.0
    # 31 of 32 predicted voxels are right, and all 31 of the reference were found.
    assert dice(logits, target) == {"a": 2 * 31 / (32 + 31), "b": 0.0}
    scores = dice(logits, target.clamp(max=1))
    assert scores["a"] == 1.0
    assert math.isnan(scores["b"])
    assert dice(logits.fill_(math.nan), target) == {"a": 0.0, "b": 0.0}


def test_voxels_are_counted_over_all_batches_together(target: Tensor) -> None:
    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[0, 1] = 1.0  # everything is a
    nothing = torch.zeros_like(target)
    assert dice(logits, target, nothing)["a"] == 2 * 31 / (2 * 64 + 31)


def test_loss_is_that_of_validation_and_names_its_parts(target: Tensor) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, 4)
    batch = Batch(torch.zeros(1), target)
    total, parts = TASK.loss(lambda image: logits, batch)
    assert TASK.score(lambda image: logits, [batch]).loss == float(total)
    assert float(total) == pytest.approx(sum(float(part) for part in parts.values()))


def test_regions_may_overlap() -> None:
    task = Segmentation(make_plan(labels=REGIONS))
    target = torch.tensor([[[[0, 1, 2, 3]]]])
    logits = torch.full((1, 3, 1, 1, 4), -1.0)
    logits[0, 0, ..., 1:] = logits[0, 1, ..., 3] = logits[0, 2, ..., 3] = 1.0
    # Both values of the core are there, one of them was found.
    assert task.count(logits, target).tolist() == [[3, 3, 3], [1, 1, 2], [1, 1, 1]]


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_certain_logits_of_a_prepared_case_become_its_own_label_map(labels: Labels) -> None:
    image, label = make_volumes()
    plan = make_plan(spacing=(0.9, 1.2, 1.0), labels=labels, channels=(channel("none"),))
    sample = Preprocessor(plan).forward(image, label)
    assert sample.label is not None
    target = torch.from_numpy(np.ascontiguousarray(sample.label))
    if labels.has_regions:
        certain = torch.stack([torch.isin(target, torch.tensor(structure.values)) for structure in labels.foreground])
    else:
        certain = torch.stack([target == value for value in labels.values])
    restored = Segmentation(plan).restore((20.0 * certain.float() - 10.0).numpy(), sample.trail)
    assert np.array_equal(restored, label.array[0])
