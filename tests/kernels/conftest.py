"""Arguments of a scan, and its results with all gradients; and new memory that is full of NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from medmamba.kernels import compat, selective_scan

Arguments = dict[str, Tensor | None]


def make_arguments(
    batch: int,
    channels: int,
    states: int,
    length: int,
    *,
    groups: tuple[int | None, int | None] = (1, 1),
    optional: bool = True,
    kind: torch.dtype = torch.float32,
    seed: int = 0,
) -> Arguments:
    """Random arguments; groups None: constant, 1: per token, more: grouped."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(kind)

    def projection(count: int | None) -> Tensor:
        if count is None:
            return draw(channels, states)
        return draw(batch, states, length) if count == 1 else draw(batch, count, states, length)

    return {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length) - 1,
        "A": -draw(channels, states).exp(),
        "B": projection(groups[0]),
        "C": projection(groups[1]),
        "D": draw(channels) if optional else None,
        "z": draw(batch, channels, length) if optional else None,
        "delta_bias": draw(channels) if optional else None,
        "initial_state": draw(batch, channels, states) if optional else None,
    }


def run_scan(arguments: Arguments, backend: str, *, softplus: bool = True, exact: bool = False) -> dict[str, Tensor]:
    """y, last_state and ``grad/<name>`` for fixed random gradients of both results."""
    leaves = {
        k: None if v is None else (v.double() if exact else v).detach().requires_grad_() for k, v in arguments.items()
    }
    y, state = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    g = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in (y, state)]
    results = [(t, w.to(t.dtype)) for t, w in zip((y, state), upstream, strict=True) if t.requires_grad]
    torch.autograd.backward([t for t, _ in results], [w for _, w in results])
    grads = {f"grad/{k}": v.grad for k, v in leaves.items() if v is not None}
    none = {f"grad/{k}": torch.zeros_like(v) for k, v in leaves.items() if v is not None}  # of what plays no part
    return {"y": y.detach(), "last_state": state.detach(), **none, **{k: g for k, g in grads.items() if g is not None}}


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """What a kernel reads before it writes it becomes NaN in the results: PyTorch then fills what it hands out."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # some of PyTorch's own are not, on a GPU
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def installed() -> Iterator[None]:
    """The names of mamba_ssm and its kin stood in for."""
    compat.install()
    yield
    compat.uninstall()


@pytest.fixture
def arguments() -> Callable[..., Arguments]:
    return make_arguments


@pytest.fixture
def scan() -> Callable[..., dict[str, Tensor]]:
    return run_scan
