"""What every conversion of published weights shares."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class UpstreamError(ValueError):
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


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"
