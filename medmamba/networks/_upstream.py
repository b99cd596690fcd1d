"""Networks with published weights: from the upstream constructor's arguments and state dict to a module of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from medmamba.networks import language, mambabyte, mambamorph, moe, segmamba, vivim
from medmamba.networks._convert import UpstreamError, load_upstream
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.umamba import Placement, UMamba
from medmamba.networks.vim import bimamba_from_upstream, vim_from_upstream
from medmamba.networks.vmamba import ss2d_from_upstream, vmamba_from_upstream, vss_block_from_upstream
from medmamba.plans.plan import Topology


def from_upstream(system: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Build a network as its authors' code would and give it their weights.

    Args:
        system: one of `SYSTEMS`.
        config: arguments of the upstream constructor; for U-Mamba those of its plan: ``patch``, ``strides``,
            ``kernels``, ``features_per_stage``, ``in_ch``, ``ncls``, ``deep_supervision``; for Mamba ``d_model``, ...
        state_dict: the checkpoint's tensors by upstream's names.

    Returns:
        The network, in float32.

    Raises:
        ValueError: for an unknown system, naming those there are.
        UpstreamError: if keys are missing, left over or of another shape, naming them, or the weights are of another
            version.
    """
    if system not in SYSTEMS:
        raise ValueError(f"no weights of {system!r} are known; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[system](config, state_dict)


def _umamba(placement: Placement) -> Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]:
    def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
        if _is_first_version(state_dict):
            raise UpstreamError(
                "these are weights of U-Mamba's first version (January 2024), another network: plain stem, transposed "
                "convolutions, no channel tokens. Weights trained with the code since March 2024 can be loaded"
            )
        topology = Topology(
            patch_size=tuple(config["patch"]),
            strides=tuple(tuple(row) for row in config["strides"]),
            kernel_sizes=tuple(tuple(row) for row in config["kernels"]),
            features=tuple(config["features_per_stage"]),
        )
        network = UMamba(
            config["in_ch"],
            config["ncls"],
            topology,
            placement=placement,
            deep_supervision=config.get("deep_supervision", True),
        )
        # The published decoder holds the encoder, and each block's layers a second time in a list.
        aliases = ("decoder.encoder.", "all_modules.")
        return load_upstream(network, {k: v for k, v in state_dict.items() if not any(alias in k for alias in aliases)})

    return build


def _is_first_version(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of U-Mamba as it was before March 2024."""
    bottleneck = any(key.startswith(("ln.", "mamba.")) for key in state_dict)
    encoder = any(key.startswith("decoder.transpconvs.") for key in state_dict) and any(
        ".mamba." in key for key in state_dict
    )
    return bottleneck or encoder


def _mamba(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    known = ("d_model", "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias")
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise UpstreamError(f"a Mamba block with {', '.join(unknown)} is not known here; known are {', '.join(known)}")
    return load_upstream(MambaBlock(**config), state_dict)


#: What can be loaded.
SYSTEMS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]] = {
    "umamba_bot": _umamba("bottleneck"),
    "umamba_enc": _umamba("encoder"),
    "mamba": _mamba,
    "mamba_lm": language.convert,
    "mambabyte": mambabyte.convert_stack,
    "mambabyte_lm": mambabyte.convert,
    "moe_mamba_lm": moe.convert,
    "moe_switch_ff": moe.convert_layer,
    "mambamorph": mambamorph.convert,
    "mambamorph_feat": mambamorph.convert_feat,
    "mambamorph_ori": mambamorph.convert_ori,
    "mambamorph_layer": mambamorph.convert_layer,
    "segmamba": segmamba.convert,
    "segmamba_gsc": segmamba.convert_gsc,
    "segmamba_layer": segmamba.convert_layer,
    "segmamba_mixer": segmamba.convert_mixer,
    "vivim": vivim.convert,
    "vivim_layer": vivim.convert_layer,
    "vivim_mixer": vivim.convert_mixer,
    "vim": vim_from_upstream,
    "vim_mamba": bimamba_from_upstream,
    "vmamba": vmamba_from_upstream,
    "vmamba_block": vss_block_from_upstream,
    "vmamba_ss2d": ss2d_from_upstream,
}
