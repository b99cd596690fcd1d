"""How operators behave under torch.func: vmap, grad and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from ._sizes import is_recorded

#: Arguments of a scan operator that begin with the batch: u, delta, z and the initial state.
_BY_ENTRY = (0, 1, 6, 8)
#: B and C do so unless they are constant, and then have the axes of A.
_PROJECTIONS, _DECAY = (3, 4), 2


def one_by_one(op: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that calls the operator for each element and stacks the results."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        results = []
        for i in range(info.batch_size):
            pairs = zip(args, in_dims, strict=True)
            results.append(op(*(a.select(dim, i) if isinstance(dim, int) else a for a, dim in pairs)))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def fold_into_batch(op: Callable[..., Sequence[Tensor]], batch_axes: Sequence[int]) -> Callable[..., Any]:
    """A rule that makes one larger batch of it, as long as the parameters are the same for all elements.

    Args:
        op: a scan operator.
        batch_axes: the axis of each result that counts entries of the batch, or something for each entry.
    """
    slow = one_by_one(op)

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        def rank(i: int) -> int:
            return int(args[i].dim()) - (in_dims[i] is not None)

        folds = [*_BY_ENTRY, *(i for i in _PROJECTIONS if rank(i) > rank(_DECAY))]
        if any(isinstance(dim, int) and i not in folds for i, dim in enumerate(in_dims)):
            return slow(info, in_dims, *args)  # type: ignore[no-any-return]  # Any in, Any out
        folded = list(args)
        for i in folds:
            if args[i] is not None:
                dim = in_dims[i]
                each = args[i].expand(info.batch_size, *args[i].shape) if dim is None else args[i].movedim(dim, 0)
                folded[i] = each.flatten(0, 1)
        results = tuple(
            result if not result.numel() and result.dim() == 1 else result.unflatten(axis, (info.batch_size, -1))
            for result, axis in zip(op(*folded), batch_axes, strict=True)
        )
        dims = tuple(None if r.dim() == 1 else axis for r, axis in zip(results, batch_axes, strict=True))
        return results, dims

    return rule


def forget(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """A ``setup_context`` for a derivative that uses nothing."""


def operator(
    name: str,
    schema: str,
    devices: str | Sequence[str],
    body: Callable[..., Any],
    shapes: Callable[..., Any],
    remember: Callable[..., None],
    gradients: Callable[..., Any],
    rule: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[..., Any]:
    """Define an operator with a derivative, to be called by the shortest way that those who look on allow.

    torch.func cannot differentiate an operator by the operator's own derivative, so a transform gets a function that it
    can. Where nobody looks on but autograd, what the operator would run is called directly: PyTorch's way to an
    operator that is written in Python takes longer than a short scan. A program that torch.jit.trace records needs the
    operator: it can say that it is called, not what a function of Python does.

    Args:
        name: after "medmamba::".
        schema: its arguments and results, as PyTorch writes them.
        devices: that it runs on.
        body: what it runs.
        shapes: makes results of the right form, with any values.
        remember: its ``setup_context``.
        gradients: its ``backward``.
        rule: makes its rule for vmap, of the operator.
    """
    op = torch.library.custom_op(f"medmamba::{name}", body, mutates_args=(), device_types=devices, schema=schema)
    op.register_fake(shapes)
    op.register_autograd(gradients, setup_context=remember)
    by_element = rule(op)
    op.register_vmap(by_element)

    class Direct(Function):
        # Without setup_context: to bind arguments for it, PyTorch inspects the signature of forward at every call.
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = body(*args)
            remember(ctx, args, output)
            return output

        backward = staticmethod(gradients)

    class Transformed(Function):
        forward = staticmethod(op)
        setup_context = staticmethod(remember)
        backward = staticmethod(gradients)
        vmap = staticmethod(by_element)

    def run(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if torch._C._are_functorch_transforms_active():
            return Transformed.apply(*args)
        if not _unwatched(args) or is_recorded():
            return op(*args)
        wanted = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        return Direct.apply(*args) if wanted else body(*args)

    return run


def _unwatched(args: Sequence[Any]) -> bool:
    """Whether no mode sees the operators that run, and no tensor is of a kind of its own."""
    return not torch._C._len_torch_dispatch_stack() and all(
        type(a) in _ORDINARY or not isinstance(a, Tensor) for a in args
    )


_ORDINARY = (Tensor, Parameter)
