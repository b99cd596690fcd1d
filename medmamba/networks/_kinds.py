"""Of what kind the arguments of upstream's constructors are: who writes a configuration may quote a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medmamba.networks._convert import UpstreamError


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_row(value: Any, least: int = 1) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return is_list and all(_is_count(item, least) for item in value)


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_is_row(row) for row in value)


def _is_size(value: Any) -> bool:
    return _is_count(value) or (_is_row(value) and len(value) in (2, 3))


#: Names, what their values are, and how one says that.
_KINDS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        (
            *("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple", "dim", "depth", "d_state", "d_conv"),
            *("vocab", "dmodel", "n_blocks", "n_experts", "expert_size", "max_length", "embed_dim", "reg_head_chan"),
            *("in_chans", "out_chans", "hidden_size", "in_channles", "nslices", "nframes", "channels", "hidden_dim"),
            *("ssm_d_state", "in_ch", "ncls", "num_hidden_layers", "state_size", "conv_kernel", "intermediate_size"),
            *("ssm_conv", "input_channels", "base", "mx"),
        ),
        _is_count,
        "a whole number of at least 1",
    ),
    (("num_classes",), lambda value: _is_count(value, 0), "a whole number of at least 0"),
    (
        (
            *("expand", "expand_factor", "mamba_expand", "ssm_ratio", "mlp_ratio", "capacity_factor", "norm_epsilon"),
            *("layer_norm_epsilon", "drop_path_rate", "load_balancing_loss_weight", "zloss_weight"),
        ),
        _is_number,
        "a number of at least 0",
    ),
    (
        (
            *("conv_bias", "bias", "rms_norm", "tie_embeddings", "residual_in_fp32", "with_edge", "ssm_conv_bias"),
            *("use_bias", "use_conv_bias", "tie_word_embeddings", "downsample", "if_bimamba", "use_checkpoint"),
            *("if_abs_pos_embed", "if_divide_out", "if_cls_token", "use_middle_cls_token", "deep_supervision"),
            "use_double_cls_token",
        ),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    (
        (
            *("forward_type", "bimamba_type", "final_pool_type", "patchembed_version", "downsample_version"),
            *("norm", "norm_layer"),
        ),
        lambda value: isinstance(value, str),
        "a word in quotes",
    ),
    (("depths",), lambda value: _is_row(value, 0), "a list of whole numbers of at least 0"),
    (("feat_size", "features_per_stage", "patch"), _is_row, "a list of whole numbers of at least 1"),
    (("img_size", "patch_size", "stride"), _is_size, "a whole number of at least 1, or one for each axis"),
    (
        (
            *("dims", "n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_encoder"),
            *("n_conv_per_stage_decoder", "ne", "nd"),
        ),
        lambda value: _is_count(value) or _is_row(value),
        "a whole number of at least 1, or a list of such",
    ),
    (
        ("num_slices",),
        lambda value: value is None or _is_count(value) or _is_row(value),
        "a whole number of at least 1, a list of such, or null",
    ),
    (("strides", "kernels", "kernel_sizes"), _is_table, "a list of lists of whole numbers of at least 1"),
    (
        ("time_step_rank",),  # by the authors' names, blocks see to it themselves
        lambda value: value == "auto" or _is_count(value),
        "a whole number of at least 1, or 'auto'",
    ),
    (("ssm_cfg", "segformer"), lambda value: value is None or isinstance(value, Mapping), "an object"),
)
_BY_NAME = {name: (right, words) for names, right, words in _KINDS for name in names}


def check_kinds(system: str, config: Mapping[str, Any]) -> None:
    """Refuse values that cannot be meant.

    Args:
        system: that they are arguments of.
        config: the arguments.

    Raises:
        UpstreamError: naming the first such argument, its value, and what it must be.
    """
    for name, value in config.items():
        if name in _BY_NAME and not _BY_NAME[name][0](value):
            raise UpstreamError(f"{name} of {system} must be {_BY_NAME[name][1]}, got {value!r}")
