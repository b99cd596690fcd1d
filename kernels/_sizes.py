"""Sizes as numbers, where those who record a program see something else in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


def is_recorded() -> bool:
    """Whether torch.jit.trace records what is computed."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]  # public, but not in its stubs


def sizes_as_numbers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that reads sizes of tensors, never their values, with sizes that are integers.

    While torch.jit.trace records, sizes are tensors, so that they can become part of the program: compiled kernels
    cannot take them, and what is compared with them is compared as tensors. What the function computes is not recorded,
    so it must not make tensors of tensors.
    """

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not is_recorded():
            return function(*args, **kwargs)
        state = torch._C._get_tracing_state()
        set_state = torch._C._set_tracing_state  # type: ignore[attr-defined]  # not in its stubs
        set_state(None)
        try:
            return function(*args, **kwargs)
        finally:
            set_state(state)

    return run


def as_numbers(sizes: Sequence[Any]) -> tuple[Any, ...]:
    """Sizes that a caller read, as integers or as PyTorch's symbols for them."""
    return tuple(int(size) if isinstance(size, Tensor) else size for size in sizes)
