"""Tensors by the originals' names, drawn when they are first asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Weights:
    """A state dict that fills as a forward pass goes through it.

    Args:
        given: tensors to compute with; None: draw them.
        seed: of what is drawn, in float32, so that a file can hold it exactly.
    """

    def __init__(self, given: Mapping[str, Tensor] | None = None, seed: int = 0) -> None:
        self.tensors: dict[str, Tensor] = {} if given is None else dict(given)
        self.used: set[str] = set()
        self._draws = None if given is not None else torch.Generator().manual_seed(seed)
        self._prefix = ""

    def under(self, prefix: str) -> Weights:
        """The same weights, with a prefix before every name."""
        view = Weights(())
        view.tensors, view.used, view._draws = self.tensors, self.used, self._draws
        view._prefix = self._prefix + prefix
        return view

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self.tensors

    def __call__(self, name: str, *shape: int, around: float | Tensor = 0.0, spread: float | None = None) -> Tensor:
        """A tensor of this shape; if it is to be drawn, normal around a value."""
        key = self._prefix + name
        if self._draws is not None and key not in self.tensors:
            width = (1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.2) if spread is None else spread
            drawn = torch.randn(shape, generator=self._draws) * width + torch.as_tensor(around).float()
            self.tensors[key] = drawn.double()
        self.used.add(key)
        found = self.tensors[key]
        assert tuple(found.shape) == shape, f"{key} is {tuple(found.shape)}, not {shape}"
        return found

    def norm(self, name: str, width: int, *, bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a norm."""
        weight = self(f"{name}.weight", width, around=1.0)
        return weight, self(f"{name}.bias", width) if bias else None

    def layer(self, name: str, *shape: int, bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a linear layer or convolution, outputs first."""
        return self(f"{name}.weight", *shape), self(f"{name}.bias", shape[0]) if bias else None
