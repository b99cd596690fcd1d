"""Kernel launches worked out once for arguments of a form, and repeated for other memory of that form.

Binding sixty arguments to a kernel, and making views of tensors to do so, takes longer than a short scan. A `Plan`
holds what depends on shapes and strides alone; to run it again only the addresses are put in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Plans that are kept; more forms of arguments than this in one program are not worth the memory.
MOST_PLANS = 256
#: Name of the memory that a plan takes while it runs.
SCRATCH = "scratch"
#: Parts of the scratch begin at multiples of so many elements, as aligned as tensors of PyTorch.
ALIGNED = 64


class Where(NamedTuple):
    """A place in a tensor, by the tensor's name and in elements from its first one."""

    tensor: str
    offset: int


class Launch:
    """A kernel, how many programs run it, and its arguments, pointers as places.

    Args:
        kernel: of Triton.
        programs: how many.
        values: at least what the kernel takes, by name.
        warps: of each program.
    """

    def __init__(self, kernel: Any, programs: int, values: Mapping[str, Any], warps: int = 1) -> None:
        self._kernel, self._grid, self._warps = kernel, (programs, 1, 1), warps
        self._values = {name: values[name] for name in kernel.arg_names}
        self._again: Callable[..., None] | None = None
        self._arguments: list[Any] = []
        self._addresses: list[tuple[int, str, int]] = []

    def __call__(self, memory: Mapping[str, Tensor], pointers: Mapping[str, int]) -> None:
        """Run it.

        Args:
            memory: tensors by name.
            pointers: their addresses.
        """
        if self._again is None:
            self._begin(memory)
            return
        arguments = self._arguments.copy()
        for index, tensor, offset in self._addresses:
            arguments[index] = pointers[tensor] + offset
        self._again(*arguments)

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        """Run it the first time, by way of Triton's compiler, and prepare the next ones."""
        given = {name: _view(memory, v) if isinstance(v, Where) else v for name, v in self._values.items()}
        options = {"num_warps": self._warps, "num_stages": 1, "enable_fp_fusion": True}
        compiled = self._kernel[self._grid](**given, **options)
        if compiled is None:  # interpreted: there is nothing to repeat
            return
        for index, value in enumerate(self._values.values()):
            if isinstance(value, Where):
                size = memory[value.tensor].element_size()
                self._addresses.append((index, value.tensor, value.offset * size))
        self._arguments = list(self._values.values())
        self._again = compiled[self._grid]


def _view(memory: Mapping[str, Tensor], where: Where) -> Tensor:
    tensor = memory[where.tensor]
    return tensor.as_strided((1,), (1,), tensor.storage_offset() + where.offset)


class Scratch:
    """Memory that launches of one plan share, float32; parts of it by name."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, *shape: int) -> Where:
        """The place of a new part."""
        begin = self.size
        self.size += -(-math.prod(shape) // ALIGNED) * ALIGNED
        return Where(SCRATCH, begin)


@dataclass(frozen=True, slots=True)
class Plan:
    """Launches one after the other.

    Args:
        launches: in their sequence.
        scratch: elements of float32 that they share.
        tables: tensors that never change.
    """

    launches: Sequence[Launch]
    scratch: int
    tables: Mapping[str, Tensor]

    def __call__(self, memory: Mapping[str, Tensor]) -> None:
        """Run them on tensors of the form that the plan was made for."""
        some = next(iter(memory.values()))
        everything = {**memory, **self.tables}
        with _on(some.device):
            if self.scratch:
                everything[SCRATCH] = torch.empty(self.scratch, dtype=torch.float32, device=some.device)
            pointers = {name: tensor.data_ptr() for name, tensor in everything.items()}
            for launch in self.launches:
                launch(everything, pointers)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    here = device.type != "cuda" or device.index == torch.cuda.current_device()
    return contextlib.nullcontext() if here else torch.cuda.device(device)


_plans: dict[Any, Plan] = {}


def plan_for(memory: Mapping[str, Tensor], settings: tuple[Any, ...], make: Callable[[], Plan]) -> Plan:
    """The plan for tensors of a form, made unless it was before.

    Args:
        memory: tensors by name.
        settings: what else the plan depends on, hashable.
        make: makes it; the plan must not hold on to the tensors.
    """
    # All else that it may depend on: names, types, shapes, strides, and whether addresses are aligned.
    form = ((name, t.dtype, t.shape, t.stride(), t.data_ptr() % 16 == 0, t.device) for name, t in memory.items())
    key = (settings, *form)
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = make()
    return plan
