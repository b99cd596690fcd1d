"""A trained network on whole images: what it is shown of them, and where its field lies."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medmamba.io import open_pairs
from medmamba.networks import Registration
from medmamba.plans.plan import Plan
from medmamba.plans.workspace import plan_dataset
from medmamba.registration.model import Model
from tests.pairs_factory import write_subjects


class Watched(nn.Module):
    """Remembers what it was shown; its field points along the last axis by the place along the first one."""

    def forward(self, moving: Tensor, fixed: Tensor) -> Registration:
        self.shown = moving, fixed
        field = torch.zeros(1, 3, *fixed.shape[2:])
        field[:, 2] = torch.arange(fixed.shape[2]).reshape(-1, 1, 1).float()
        return Registration(moving, field, field, None)


def planned(folder: Path) -> Plan:
    plan = plan_dataset(open_pairs(write_subjects(folder / "subjects", 4)), "mambamorph", work=folder / "work").plan
    for key, value in {
        "topology.features": [4, 4, 8],
        "topology.strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "topology.kernel_sizes": [[3, 3, 3]] * 3,
        "topology.patch_size": [16, 16, 16],
    }.items():
        plan = plan.override(key, value)
    return plan


def test_the_network_sees_what_is_not_background_and_its_field_goes_on_beyond(tmp_path: Path) -> None:
    network = Watched()
    model = Model(planned(tmp_path), network, torch.device("cpu"))
    images = [torch.zeros(1, 1, 48, 32, 12) for _ in range(2)]
    images[0][..., 20:40, 4:9, 2:9] = 0.5
    images[1][..., 22:38, 2:6, 3:10] = 0.7
    field = model.displacement(*images)
    moving, fixed = network.shown
    assert moving.shape[2:] == (20, 16, 12)  # rounded up to strides, as in training, all there is
    assert torch.equal(moving, images[0][..., 20:40, 0:16, :])
    assert torch.equal(fixed, images[1][..., 20:40, 0:16, :])
    assert field.shape == (1, 3, 48, 32, 12)
    along = field[0, 2, :, 30, 11]
    assert along[:21].tolist() == [0.0] * 21
    assert along[20:40].tolist() == list(range(20))
    assert along[39:].tolist() == [19.0] * 9


def test_an_empty_pair_is_seen_as_a_whole(tmp_path: Path) -> None:
    network = Watched()
    Model(planned(tmp_path), network, torch.device("cpu")).displacement(*[torch.zeros(1, 1, 16, 24, 16)] * 2)
    assert network.shown[0].shape[2:] == (16, 24, 16)
