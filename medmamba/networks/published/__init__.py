"""Networks with published weights: from the original's arguments and state dict to a module of ours.

A system is one file beside this one, with a table of its modules, and one word below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks.published import (
    mamba,
    mambabyte,
    mambamorph,
    moe_mamba,
    segmamba,
    umamba,
    unet,
    vim,
    vivim,
    vmamba,
)
from medmamba.networks.published._blocks import says
from medmamba.networks.published._system import Family, System, UpstreamError, load

__all__ = ["FAMILIES", "SYSTEMS", "Family", "System", "UpstreamError", "from_upstream", "says"]

_FILES = (unet, umamba, mamba, mambabyte, moe_mamba, mambamorph, segmamba, vivim, vim, vmamba)
#: What can be loaded.
SYSTEMS: dict[str, System] = {name: system for file in _FILES for name, system in file.SYSTEMS.items()}
#: Names for several systems at once, which the weights tell apart.
FAMILIES: dict[str, Family] = {"umamba": umamba.FAMILY, "mamba": mamba.FAMILY, "mambamorph": mambamorph.FAMILY}


def from_upstream(system: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Build a network as its authors' code would and give it their weights.

    Args:
        system: one of `SYSTEMS`.
        config: arguments of the original's constructor, by its names: which ones, `SYSTEMS` says for each system. For
            U-Mamba those are values of its plan: ``patch``, ``strides``, ``kernels`` (a row for each stage),
            ``features_per_stage``, and the numbers of channels ``in_ch`` and of classes with background ``ncls``. None
            is passed over: one that is not known here, or has a value that this network has nothing for, is refused.
        state_dict: the checkpoint's tensors by the original's names.

    Returns:
        The network, in float32.

    Raises:
        UsageError: for an unknown system, naming those there are.
        UpstreamError: if an argument is missing, or has a value of another kind or one that is not known here; if keys
            are missing, left over or of another shape, naming them; if the weights are of another version; or if no
            network can be made of arguments that contradict each other.

    Examples:
        >>> from medmamba.networks.mamba import MambaBlock
        >>> block = MambaBlock(8)
        >>> network = from_upstream("mamba", {"d_model": 8}, block.state_dict())
    """
    if system not in SYSTEMS:
        raise UsageError(f"no weights of {system!r} are known; choose one of {', '.join(SYSTEMS)}")
    known = SYSTEMS[system]
    config = known.translate(config)
    known.check(system, config)
    try:
        network, tensors = known.make(config, state_dict)
    except UpstreamError:
        raise
    except ValueError as error:  # of the network itself, which knows nothing of a configuration
        raise UpstreamError(f"no {system} can be made of this configuration: {error}") from error
    return load(network, tensors)
