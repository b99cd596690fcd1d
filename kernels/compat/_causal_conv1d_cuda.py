"""`causal_conv1d_cuda` and `causal_conv1d.cpp_functions`: the compiled half of `causal_conv1d` in all its forms.

The compiled functions took ever more arguments from release to release, none of them by name, so their number tells
which release a caller was written for.

Letters: B batch, D channels, L length, W taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor

from . import _convolution
from ._convolution import causal_conv1d_fn

#: Names of the arguments of each release, oldest first.
_FORWARD = (
    ("x", "weight", "bias", "silu"),
    ("x", "weight", "bias", "seq_idx", "silu"),
    ("x", "weight", "bias", "seq_idx", "initial_states", "final_states_out", "silu"),
    ("x", "weight", "bias", "seq_idx", "initial_states", "out", "final_states_out", "silu"),
)
_BACKWARD = (
    ("x", "weight", "bias", "dout", "dx", "silu"),
    ("x", "weight", "bias", "dout", "seq_idx", "dx", "silu"),
    (
        "x", "weight", "bias", "dout", "seq_idx", "initial_states", "dfinal_states", "dx", "return_dinitial_states",
        "silu",
    ),
    (
        "x", "weight", "bias", "dout", "seq_idx", "initial_states", "dfinal_states", "dx", "dweight", "dbias",
        "dinitial_states", "silu",
    ),
)  # fmt: skip
_UPDATE = (
    ("x", "conv_state", "weight", "bias", "silu"),
    ("x", "conv_state", "weight", "bias", "silu", "cache_seqlens"),
    ("x", "conv_state", "weight", "bias", "silu", "cache_seqlens", "conv_state_indices"),
    ("x", "conv_state", "weight", "bias", "out", "silu", "cache_seqlens", "conv_state_indices"),
)


def _named(function: str, forms: Sequence[Sequence[str]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    for names in forms:
        if len(names) == len(arguments):
            return dict(zip(names, arguments, strict=True))
    counts = ", ".join(str(len(names)) for names in forms)
    raise TypeError(f"{function}: takes {counts} arguments, by the release of causal_conv1d, but got {len(arguments)}")


def causal_conv1d_fwd(*arguments: Any) -> Tensor | None:
    """The convolution of `causal_conv1d_fn`; in the last form it is written to ``out``, in the others returned."""
    given = _named("causal_conv1d_fwd", _FORWARD, arguments)
    final = given.get("final_states_out")
    with torch.no_grad():
        y = causal_conv1d_fn(
            given["x"], given["weight"], given["bias"], given.get("seq_idx"), given.get("initial_states"),
            return_final_states=final is not None, final_states_out=final, activation=bool(given["silu"]),
        )  # fmt: skip
    y = y if isinstance(y, Tensor) else y[0]
    if "out" not in given:
        return y
    given["out"].copy_(y)
    return None


def causal_conv1d_bwd(*arguments: Any) -> list[Tensor | None] | None:
    """Gradients of x, weight and bias, and of the initial states in those forms that have them.

    That of x is written to ``dx`` where it is given. In the last form all are written to what is given, those of weight
    and bias added to it, and nothing is returned.
    """
    given = _named("causal_conv1d_bwd", _BACKWARD, arguments)
    names = ("x", "weight", "bias", "initial_states")
    leaves = {name: given[name].detach().requires_grad_() for name in names if given.get(name) is not None}
    d_final = given.get("dfinal_states")
    with torch.enable_grad():
        y = causal_conv1d_fn(
            leaves["x"], leaves["weight"], leaves.get("bias"), given.get("seq_idx"), leaves.get("initial_states"),
            return_final_states=d_final is not None, activation=bool(given["silu"]),
        )  # fmt: skip
        results = [y] if isinstance(y, Tensor) else list(y)
        upstream = [g.to(r.dtype) for g, r in zip((given["dout"], d_final), results, strict=False)]
        found = torch.autograd.grad(results, list(leaves.values()), upstream)
    grads: dict[str, Tensor | None] = dict.fromkeys(names) | dict(zip(leaves, found, strict=True))
    if given["dx"] is not None:
        given["dx"].copy_(grads["x"])
        grads["x"] = given["dx"]
    if "dweight" in given:
        for name, target in (("weight", given["dweight"]), ("bias", given["dbias"])):
            if target is not None and grads[name] is not None:
                target.add_(grads[name])
        if given["dinitial_states"] is not None:
            given["dinitial_states"].copy_(grads["initial_states"])
        return None
    results_of = names if "return_dinitial_states" in given else names[:3]
    if not given.get("return_dinitial_states", True):
        grads["initial_states"] = None
    return [grads[name] for name in results_of]


def causal_conv1d_update(*arguments: Any) -> Tensor | None:
    """One step or more of `causal_conv1d_update`; in the last form it is written to ``out``, else returned."""
    given = _named("causal_conv1d_update", _UPDATE, arguments)
    with torch.no_grad():
        y = _convolution.causal_conv1d_update(
            given["x"], given["conv_state"], given["weight"], given["bias"], bool(given["silu"]),
            given.get("cache_seqlens"), given.get("conv_state_indices"),
        )  # fmt: skip
    if "out" not in given:
        return y
    given["out"].copy_(y)
    return None


def _by_name(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """A compiled function, its arguments by place or by name, as in the release in which these are their names."""
    names = ["silu_activation" if name == "silu" else name for name in names]
    form = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def call(*arguments: Any, **named: Any) -> Any:
        result = function(*form.bind(*arguments, **named).args)
        return tuple(result) if isinstance(result, list) else result

    return call


causal_conv1d_fwd_function = _by_name(causal_conv1d_fwd, _FORWARD[2])
causal_conv1d_bwd_function = _by_name(causal_conv1d_bwd, _BACKWARD[2])
causal_conv1d_update_function = _by_name(causal_conv1d_update, _UPDATE[2])
