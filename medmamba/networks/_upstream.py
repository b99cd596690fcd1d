"""Networks with published weights: from the upstream constructor's arguments and state dict to a module of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medmamba.networks import (
    language,
    mamba,
    mambabyte,
    mambamorph,
    moe,
    segmamba,
    umamba,
    unet,
    vim,
    vivim,
    vmamba,
)
from medmamba.networks._convert import UpstreamError
from medmamba.networks._kinds import check_kinds


@dataclass(frozen=True, slots=True)
class System:
    """One kind of module that there are, or could be, published weights of.

    Args:
        convert: makes ours from the arguments of the upstream constructor and a state dict.
        needs: arguments that the configuration must hold.
        takes: those that it may hold; where missing, they are as upstream's constructor has them.
    """

    convert: Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


def from_upstream(system: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Build a network as its authors' code would and give it their weights.

    Args:
        system: one of `SYSTEMS`.
        config: arguments of the upstream constructor, by its names: which ones, `SYSTEMS` says for each system. For
            U-Mamba those are values of its plan: ``patch``, ``strides``, ``kernels`` (a row for each stage),
            ``features_per_stage``, and the numbers of channels ``in_ch`` and of classes with background ``ncls``. None
            is passed over: one that is not known here, or has a value that this network has nothing for, is refused.
        state_dict: the checkpoint's tensors by upstream's names.

    Returns:
        The network, in float32.

    Raises:
        ValueError: for an unknown system, naming those there are.
        UpstreamError: if an argument is missing, or has a value of another kind or one that is not known here; if keys
            are missing, left over or of another shape, naming them; if the weights are of another version; or if no
            network can be made of arguments that contradict each other.

    Examples:
        >>> block = mamba.MambaBlock(8)
        >>> network = from_upstream("mamba", {"d_model": 8}, block.state_dict())
    """
    if system not in SYSTEMS:
        raise ValueError(f"no weights of {system!r} are known; choose one of {', '.join(SYSTEMS)}")
    known = SYSTEMS[system]
    if missing := [name for name in known.needs if name not in config]:
        raise UpstreamError(
            f"the configuration of {system} lacks {', '.join(missing)}; it must have {', '.join(known.needs)}"
            f"{' and may have ' if known.takes else ''}{', '.join(known.takes)}, as the authors' code names them"
        )
    check_kinds(system, {name: value for name, value in config.items() if name in known.needs + known.takes})
    try:
        return known.convert(config, state_dict)
    except UpstreamError:
        raise
    except ValueError as error:  # of the network itself, which knows nothing of a configuration
        raise UpstreamError(f"no {system} can be made of this configuration: {error}") from error


_UMAMBA = ("patch", "strides", "kernels", "features_per_stage", "in_ch", "ncls")
_BLOCK = ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias")
_MAMBAMORPH = ("embed_dim", "depths", "reg_head_chan", "d_state", "d_conv", "expand", "img_size")
_VIM = (
    *("img_size", "patch_size", "stride", "channels", "num_classes", "embed_dim", "depth", "d_state", "ssm_cfg"),
    *("norm_epsilon", "if_bimamba", "init_layer_scale", "if_cls_token", "use_middle_cls_token"),
    *("use_double_cls_token", "final_pool_type", "drop_path_rate"),
)
_VSS = ("ssm_d_state", "ssm_ratio", "ssm_dt_rank", "ssm_conv", "ssm_conv_bias", "mlp_ratio")

#: What can be loaded, and the arguments that each system's configuration needs and takes.
SYSTEMS: dict[str, System] = {
    "unet": System(
        unet.convert,
        ("input_channels", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "num_classes"),
        ("n_conv_per_stage_decoder", "deep_supervision"),
    ),
    "umamba_bot": System(umamba.convert_bot, _UMAMBA, umamba.TAKES),
    "umamba_enc": System(umamba.convert_enc, _UMAMBA, umamba.TAKES),
    "mamba": System(mamba.convert, ("d_model",), _BLOCK),
    "mamba_lm": System(
        language.convert,
        (),
        ("d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm", "tie_embeddings", "pad_vocab_size_multiple"),
    ),
    "mambabyte": System(
        mambabyte.convert_stack,
        ("dim", "depth"),
        ("d_state", "expand_factor", "d_conv", "dt_rank", "conv_bias", "bias"),
    ),
    "mambabyte_lm": System(mambabyte.convert, ("d_model", "n_layer")),
    "moe_mamba_lm": System(
        moe.convert,
        ("vocab", "dmodel", "n_blocks", "n_experts", "expert_size", "max_length"),
        ("capacity_factor", "mamba_expand", "norm", "load_balancing_loss_weight", "zloss_weight"),
    ),
    "moe_switch_ff": System(
        moe.convert_layer,
        ("dmodel", "n_experts", "expert_size", "capacity_factor"),
        ("load_balancing_loss_weight", "zloss_weight"),
    ),
    "mambamorph": System(mambamorph.convert, (), _MAMBAMORPH),
    "mambamorph_feat": System(mambamorph.convert_feat, (), _MAMBAMORPH),
    "mambamorph_ori": System(mambamorph.convert_ori, (), _MAMBAMORPH),
    "mambamorph_layer": System(mambamorph.convert_layer, ("dim",), ("d_state", "d_conv", "expand", "downsample")),
    "segmamba": System(
        segmamba.convert, (), ("in_chans", "out_chans", "depths", "feat_size", "hidden_size", "num_slices")
    ),
    "segmamba_gsc": System(segmamba.convert_gsc, ("in_channles",)),
    "segmamba_layer": System(segmamba.convert_layer, ("dim", "num_slices"), ("d_state", "d_conv", "expand")),
    "segmamba_mixer": System(segmamba.convert_mixer, ("d_model",), ("bimamba_type", "nslices", *_BLOCK)),
    "vivim": System(vivim.convert, (), ("out_chans", "with_edge", "segformer", "nframes")),
    "vivim_layer": System(vivim.convert_layer, ("dim",), ("d_state", "d_conv", "expand", "mlp_ratio", "nframes")),
    "vivim_mixer": System(vivim.convert_mixer, ("d_model",), ("bimamba_type", "nframes", *_BLOCK)),
    "vim": System(
        vim.convert,
        ("bimamba_type", "rms_norm", "if_abs_pos_embed", "if_divide_out"),
        _VIM,
    ),
    "vim_mamba": System(vim.convert_mixer, ("d_model", "bimamba_type"), ("if_divide_out", "init_layer_scale", *_BLOCK)),
    "vmamba": System(
        vmamba.convert,
        ("forward_type",),
        (
            *("in_chans", "num_classes", "dims", "depths", "norm_layer", "patchembed_version", "downsample_version"),
            *("drop_path_rate", "use_checkpoint", *_VSS),
        ),
    ),
    "vmamba_block": System(vmamba.convert_block, ("hidden_dim", "forward_type"), _VSS),
    "vmamba_ss2d": System(
        vmamba.convert_mixer,
        ("d_model", "forward_type"),
        ("d_state", "ssm_ratio", "dt_rank", "d_conv", "conv_bias", "bias"),
    ),
}
