"""A trained network for registration, as it is used on whole images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medmamba.data.pairs import BACKGROUND
from medmamba.errors import UsageError
from medmamba.memory import memory_errors
from medmamba.plans.plan import Plan, RegistrationPlan
from medmamba.tasks.registration import RegistrationTask
from medmamba.training.run import Run, Weights
from medmamba.training.weights import weights_digest
from medmamba.volume import marked_box


class Model:
    """A network and the plan that it was trained with.

    Args:
        plan: for registration.
        network: trained.
        device: where it runs.

    Raises:
        UsageError: if the plan is for another task.
    """

    def __init__(self, plan: Plan, network: nn.Module, device: torch.device) -> None:
        self.plan = plan
        self.settings = _settings(plan, "the model")
        self.network = network.to(device).eval()
        self.device = device

    @classmethod
    @memory_errors()
    def of_run(cls, folder: Path, device: torch.device, weights: Weights | None = None) -> Model:
        """The network of a run.

        Raises:
            RunError: if there is no run, or it has no weights.
            UsageError: if it was trained for another task.
        """
        run = Run(folder)
        _settings(run.plan, str(folder))
        network = RegistrationTask(run.plan).network()
        run.load_weights(network, weights)
        return cls(run.plan, network, device)

    @property
    def strides(self) -> tuple[int, ...]:
        """What sizes of the working grid are divisible by."""
        return tuple(self.plan.topology.total_stride)

    @property
    def digest(self) -> str:
        """Of the plan and the weights."""
        return f"{self.plan.digest()} {weights_digest(self.network)}"

    @torch.inference_mode()
    def displacement(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The field of a pair, both (1, 1, *S) normalised as the plan says, on a working grid: (1, 3, *S) voxels.

        The network is shown what is not background, as in training; beyond, the field goes on as it is at the border.
        """
        box = self._box((torch.maximum(moving, fixed)[0, 0] > BACKGROUND).cpu().numpy())
        with memory_errors():
            found = self.network(*(image[:, :, box[0], box[1], box[2]].to(self.device) for image in (moving, fixed)))
        displacement: Tensor = found.displacement.float()
        beyond = [
            voxels
            for part, size in zip(reversed(box), reversed(moving.shape[2:]), strict=True)
            for voxels in (part.start, size - part.stop)
        ]
        return F.pad(displacement, beyond, mode="replicate")

    def _box(self, body: NDArray[np.bool_]) -> tuple[slice, ...]:
        """Around a body (*S), as large as in training or larger, of sizes that the network takes."""
        box = []
        marked = marked_box(body) or tuple(slice(0, size) for size in body.shape)
        for part, size, trained, stride in zip(
            marked, body.shape, self.plan.topology.patch_size, self.strides, strict=True
        ):
            wanted = min(size, max(trained, math.ceil((part.stop - part.start) / stride) * stride))
            start = min(max(0, (part.start + part.stop - wanted) // 2), size - wanted)
            box.append(slice(start, start + wanted))
        return tuple(box)


def _settings(plan: Plan, where: str) -> RegistrationPlan:
    if plan.registration is None:
        raise UsageError(
            f"{where} was trained for {plan.task}, not for registration; give the run of a plan that was made by "
            "`medmamba plan --task registration`"
        )
    return plan.registration
