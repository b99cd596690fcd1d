"""A trained network for registration, as it is used on whole images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.memory import memory_errors
from medmamba.plans.plan import Plan, RegistrationPlan
from medmamba.tasks.registration import RegistrationTask
from medmamba.training.run import Run, Weights
from medmamba.training.weights import weights_digest


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
        """The field of a pair, both (1, 1, *S) normalised as the plan says, on a working grid: (1, 3, *S) voxels."""
        with memory_errors():
            found = self.network(moving.to(self.device), fixed.to(self.device))
        displacement: Tensor = found.displacement.float()
        return displacement


def _settings(plan: Plan, where: str) -> RegistrationPlan:
    if plan.registration is None:
        raise UsageError(
            f"{where} was trained for {plan.task}, not for registration; give the run of a plan that was made by "
            "`medmamba plan --task registration`"
        )
    return plan.registration
