"""What every conversion of published weights shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmamba.errors import DataError

#: `GridMamba`'s stacked parameters, and what upstream calls that of each order, with the order's suffix for {}.
_STACKED = {
    "conv_weight": "conv1d{}.weight",
    "conv_bias": "conv1d{}.bias",
    "x_proj": "x_proj{}.weight",
    "step_weight": "dt_proj{}.weight",
    "step_bias": "dt_proj{}.bias",
    "A_log": "A{}_log",
    "D": "D{}",
}


class UpstreamError(DataError):
    """The weights do not belong to the network they are said to be of."""


def load_upstream(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a network converted weights, by our names.

    Raises:
        UpstreamError: if keys are missing, left over or of another shape, naming them.
    """
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    missing, unexpected = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or unexpected:
        raise UpstreamError(
            f"the weights do not fit {type(network).__name__}: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    other = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if other:
        raise UpstreamError(
            f"the weights are of another {type(network).__name__} than the configuration: {_some(other)}"
        )
    network.load_state_dict(dict(tensors))
    return network


def check_known(what: str, config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse arguments of an upstream constructor that a conversion knows nothing of.

    Raises:
        UpstreamError: naming them, and those that are known.
    """
    if unknown := sorted(set(config) - set(known)):
        raise UpstreamError(f"a {what} with {', '.join(unknown)} is not known here; known are {', '.join(known)}")


def check_only(what: str, config: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """Refuse values of arguments for which there is nothing here.

    Raises:
        UpstreamError: naming argument, known value and the one that was given.
    """
    for name, value in only.items():
        if (given := config.get(name, value)) != value:
            raise UpstreamError(f"only {what} with {name}={value!r} is known here, got {given!r}")


#: Arguments of upstream's Mamba blocks, ours for them, and their defaults.
_BLOCK: dict[str, tuple[str, Any]] = {
    "d_state": ("states", 16),
    "d_conv": ("taps", 4),
    "expand": ("expand", 2),
    "dt_rank": ("rank", "auto"),
    "conv_bias": ("conv_bias", True),
    "bias": ("bias", False),
}


def rank_of(name: str, given: int | str) -> int:
    """The rank of a step size as our options have it: 0 for upstream's "auto".

    Raises:
        UpstreamError: for what is neither "auto" nor a positive whole number, naming the argument.
    """
    if given == "auto":
        return 0
    if type(given) is not int or given < 1:
        raise UpstreamError(f"{name} must be 'auto' or a positive whole number, got {given!r}")
    return given


#: Those that say how weights are drawn or where and how fast the block runs, which loaded weights do not show.
START_AND_SPEED = (
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "use_fast_path",
    "layer_idx",
    "device",
    "dtype",
)


def mixer_options(config: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Options of our `GridMamba` from the arguments of an upstream Mamba block.

    Args:
        config: ``d_model``, ``d_state``, ``d_conv``, ``expand``, ``dt_rank``, ``conv_bias``, ``bias``; arguments about
            initialisation and speed change nothing.
        others: arguments of this kind of block that the caller sees to.

    Raises:
        UpstreamError: for any other argument, naming it.
    """
    check_known("Mamba block", config, ("d_model", *_BLOCK, *START_AND_SPEED, *others))
    options = {ours: config.get(theirs, default) for theirs, (ours, default) in _BLOCK.items()}
    return options | {"rank": rank_of("dt_rank", options["rank"])}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A state dict without what a training wrapper put before every key; as it is, if a key lacks it."""
    if not all(key.startswith(prefix) for key in tensors):
        return dict(tensors)
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def grid_mamba(tensors: Mapping[str, Tensor], suffixes: Sequence[str], *, shared: bool = False) -> dict[str, Tensor]:
    """The weights of all blocks for several orders (bimamba v1, v2 and v3), by the names of our `GridMamba`.

    Args:
        tensors: a state dict with any number of such blocks, whatever comes before their names.
        suffixes: what upstream appends to the names of each order's own parameters, in our order of orders: "", "_b"
            for Vim's two; "", "_b", "_s" for SegMamba's and Vivim's three. In ``A_b_log`` it stands inside.
        shared: whether all but A is of all orders (v1), by the first one's names.

    Returns:
        The same dict with each block's tensors per order stacked, all others as they were.

    Raises:
        UpstreamError: if a tensor is there for some of the orders only, or of another shape, naming it.
    """
    ours = dict(tensors)
    for prefix in [key.removesuffix("A_log") for key in tensors if key.rpartition(".")[2] == "A_log"]:
        for name, pattern in _STACKED.items():
            orders = suffixes[:1] if shared and name != "A_log" else suffixes
            keys = [prefix + pattern.format(suffix) for suffix in orders]
            if not any(key in tensors for key in keys):
                continue  # a bias that the block may do without; what it needs, `load_upstream` names
            if missing := [key for key in keys if key not in tensors]:
                raise UpstreamError(f"the weights lack {_some(missing)}; a block needs its own for each scan order")
            if len(shapes := {tuple(tensors[key].shape) for key in keys}) > 1:
                raise UpstreamError(f"{', '.join(keys)} must be of one shape, but are {sorted(shapes)}")
            whole = torch.stack([ours.pop(key) for key in keys])
            ours[prefix + name] = whole.squeeze(2) if name == "conv_weight" else whole
    return ours


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"
