"""Every argument of the originals' constructors has its effect here, has none there either, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medmamba.networks import UpstreamError, from_upstream, published
from medmamba.networks.published import SYSTEMS


@dataclass(frozen=True)
class Original:
    """What an original's constructor takes.

    Args:
        config: a small configuration.
        run: our module on a small input.
        changes: arguments that make another network, and a value for each that does.
        same: those that change nothing: they say how weights are drawn, where or how fast the original runs, or are
            never read.
        refused: those for which there is nothing here, and a value other than the one that is known.
    """

    config: dict[str, Any]
    run: Callable[[nn.Module], Tensor]
    changes: dict[str, Any]
    same: dict[str, Any]
    refused: dict[str, Any]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def image(*shape: int) -> Callable[[Any], Tensor]:
    """Runs a module on noise; of several outputs the first."""

    def run(module: nn.Module) -> Tensor:
        output = module(noise(*shape))
        return output if isinstance(output, Tensor) else output[0]

    return run


def levels(module: nn.Module) -> Tensor:
    """Logits of all resolutions."""
    channels = next(iter(module.parameters())).shape[1]
    outputs = module(noise(1, channels, 8, 8))
    return torch.cat([each.flatten() for each in ([outputs] if isinstance(outputs, Tensor) else outputs)])


def sequence(module: nn.Module) -> Tensor:
    return module(noise(2, 12, 8), (12,))  # type: ignore[no-any-return]


START = {"dt_min": 0.01, "dt_max": 0.5, "dt_init": "constant", "dt_scale": 2.0, "dt_init_floor": 1e-3}
PLACE = {"device": "cpu", "dtype": None}
BLOCK = {"d_model": 16, "d_state": 3, "d_conv": 2, "expand": 3, "dt_rank": 4, "conv_bias": False, "bias": True}
BLOCK_SAME = {**START, **PLACE, "use_fast_path": False, "layer_idx": 1}
SCANS = {
    **{"ssm_d_state": 3, "ssm_ratio": 1.0, "ssm_dt_rank": 3, "ssm_conv": 5, "ssm_conv_bias": False},
    **{"forward_type": "v05_noz", "mlp_ratio": 2.0},
}
SCANS_REFUSED = {
    **{"ssm_act_layer": "gelu", "ssm_drop_rate": 0.1, "mlp_act_layer": "relu", "mlp_drop_rate": 0.1, "gmlp": True},
    **{"post_norm": True, "ssm_conv": 2, "forward_type": "v052dc"},
}
PLAN: dict[str, Any] = {
    **{"patch": [8, 8], "strides": [[1, 1], [2, 2], [2, 2]], "kernels": [[3, 3]] * 3, "in_ch": 1, "ncls": 2},
    **{"features_per_stage": [4, 5, 6], "deep_supervision": False},
}
UMAMBA_CHANGES = {
    **{"strides": [[1, 1], [2, 1], [2, 2]], "kernels": [[3, 3], [3, 1], [3, 3]], "in_ch": 3},
    **{"ncls": 3, "features_per_stage": [4, 6, 6], "deep_supervision": True, "n_blocks_per_stage": [3, 1, 1]},
    **{"n_conv_per_stage": 1, "n_conv_per_stage_encoder": [1, 4, 2], "n_conv_per_stage_decoder": [5, 1]},
    **{"ne": [6, 1, 1], "nd": [1, 3]},
}
UMAMBA_REFUSED = {
    **{"conv_bias": False, "norm": "BatchNorm", "nonlin": "ReLU", "dropout_op": "Dropout2d", "stem_channels": 3},
    **{"base": 8, "mx": 5},
}
SEGFORMER = {
    **{"depths": [1, 1], "hidden_sizes": [4, 8], "decoder_hidden_size": 6, "num_attention_heads": [1, 2]},
    **{"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]},
}
VIM = {
    **{"img_size": 12, "patch_size": 4, "stride": 4, "embed_dim": 8, "depth": 2, "num_classes": 3, "channels": 2},
    **{"rms_norm": True, "bimamba_type": "v2", "if_abs_pos_embed": True, "if_divide_out": True},
    **{"if_cls_token": True, "use_middle_cls_token": True, "drop_path_rate": 0.0},
}
TOWER = {
    **{"vocab": 9, "dmodel": 8, "n_blocks": 1, "n_experts": 3, "expert_size": 4, "max_length": 9},
    **{"capacity_factor": 3.0},
}
MOE_SAME = {"init_type": "kaiming_uniform", "init_scale": 1.0, "use_einsum": True, "use_torch_bmm": True}
MOE_REFUSED = {
    **{"routing_top_k": 2, "moe_values_exp": 2.0, "detach_gate": True, "get_router_values_from": "gate_weight"},
    **{"expert_use_bias": True},
}

ORIGINALS: dict[str, Original] = {
    "vim": Original(
        VIM,
        image(4, 2, 12, 12),
        {
            **{"img_size": [12, 8], "patch_size": 8, "stride": 2, "depth": 3, "embed_dim": 16, "d_state": 4},
            **{"channels": 1, "num_classes": 4, "ssm_cfg": {"expand": 3}, "drop_path_rate": 0.9, "rms_norm": False},
            **{"norm_epsilon": 0.1, "if_abs_pos_embed": False, "if_bimamba": True},
            **{"bimamba_type": "none", "if_cls_token": False, "if_divide_out": False, "init_layer_scale": 0.5},
            **{"use_double_cls_token": True, "use_middle_cls_token": False},
        },
        {
            **{"initializer_cfg": {"initializer_range": 1}, "fused_add_norm": False, "residual_in_fp32": False},
            **{"ft_seq_len": 4, "pt_hw_seq_len": 7, **PLACE},
            "final_pool_type": "mean",  # of patches, which nobody reads beside a class token
        },
        {
            **{"drop_rate": 0.1, "if_bidirectional": True, "if_rope": True, "if_rope_residual": True},
            **{"flip_img_sequences_ratio": 0.5, "if_devide_out": True},
        },
    ),
    "vim_mamba": Original(
        {"d_model": 8, "bimamba_type": "v2"},
        sequence,
        {**BLOCK, "bimamba_type": "v1", "if_divide_out": True, "init_layer_scale": 3.0},
        BLOCK_SAME,
        {"bimamba_type": "v3", "headdim": 4},
    ),
    "vmamba": Original(
        {"dims": 8, "depths": [1, 2], "in_chans": 1, "num_classes": 3, "forward_type": "v05", "drop_path_rate": 0.0},
        image(4, 1, 12, 20),
        {
            **{"in_chans": 2, "num_classes": 4, "depths": [1, 1], "dims": [8, 12], "drop_path_rate": 0.9, **SCANS},
            **{"downsample_version": "v1", "patchembed_version": "v2"},
        },
        {"norm_layer": "LN2D", "use_checkpoint": True, "imgsize": 32, "ssm_init": "v2"},
        {"patch_size": 8, "patch_norm": False, "norm_layer": "BN", "posembed": True, **SCANS_REFUSED, "_SS2D": 1},
    ),
    "vmamba_block": Original(
        {"hidden_dim": 8, "forward_type": "v05"},
        image(4, 3, 5, 8),
        {"hidden_dim": 12, "drop_path": 0.9, **SCANS},
        {"channel_first": True, "use_checkpoint": True, "ssm_init": "v1"},
        SCANS_REFUSED,
    ),
    "vmamba_ss2d": Original(
        {"d_model": 8, "forward_type": "v05"},
        image(2, 3, 5, 8),
        {
            **{"d_model": 12, "d_state": 3, "ssm_ratio": 1.0, "dt_rank": 3, "d_conv": 5, "conv_bias": False},
            **{"bias": True, "forward_type": "v04_noz"},
        },
        {**START, "initialize": "v2", "channel_first": True},
        {"act_layer": "gelu", "dropout": 0.1, "d_conv": 1, "forward_type": "v05_oact"},
    ),
    "unet": Original(
        {
            **{"input_channels": 1, "features_per_stage": [4, 5, 6], "strides": [[1, 1], [2, 2], [2, 2]]},
            **{"kernel_sizes": [[3, 3]] * 3, "n_conv_per_stage": 2, "num_classes": 2},
        },
        levels,
        {
            **{"input_channels": 3, "features_per_stage": [4, 6, 6], "strides": [[1, 1], [2, 1], [2, 2]]},
            **{"kernel_sizes": [[3, 3], [3, 1], [3, 3]], "n_conv_per_stage": [1, 3, 4], "num_classes": 3},
            **{"n_conv_per_stage_decoder": [6, 1], "deep_supervision": True},
        },
        {
            **{"n_stages": 3, "conv_op": nn.Conv2d, "norm_op": "torch.nn.InstanceNorm2d", "nonlin": nn.LeakyReLU},
            **{"nonlin_kwargs": {"inplace": True}},
        },
        {
            **{"n_stages": 4, "conv_op": nn.Conv3d, "norm_op": "BatchNorm2d", "nonlin": nn.ReLU, "nonlin_first": True},
            **{"nonlin_kwargs": {"negative_slope": 0.2}, "norm_op_kwargs": {"eps": 1e-3}, "conv_bias": False},
            **{"dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.1}},
        },
    ),
    "umamba_bot": Original(PLAN, levels, UMAMBA_CHANGES, {"patch": [16, 8]}, UMAMBA_REFUSED),
    "umamba_enc": Original(PLAN, levels, UMAMBA_CHANGES | {"patch": [16, 8]}, {}, UMAMBA_REFUSED),
    "segmamba": Original(
        {"in_chans": 1, "out_chans": 2, "feat_size": [4, 5], "hidden_size": 6, "depths": [1, 1], "num_slices": [2, 1]},
        image(1, 1, 8, 8, 8),
        {
            **{"in_chans": 2, "out_chans": 3, "depths": [2, 1], "feat_size": [4, 6], "hidden_size": 7},
            **{"num_slices": [4, 2]},
        },
        {"drop_path_rate": 0.5, "layer_scale_init_value": 1.0, "conv_block": False},
        {"norm_name": "batch", "res_block": False, "spatial_dims": 2},
    ),
    "segmamba_layer": Original(
        {"dim": 4, "num_slices": 3},
        image(1, 4, 3, 2, 2),
        {"dim": 6, "d_state": 3, "d_conv": 2, "expand": 3, "num_slices": 2},
        {},
        {"mlp_ratio": 4},
    ),
    "segmamba_gsc": Original({"in_channles": 4}, image(1, 4, 3, 4, 2), {"in_channles": 5}, {}, {"in_channels": 4}),
    "segmamba_mixer": Original(
        {"d_model": 8, "nslices": 3, "bimamba_type": "v3"},
        sequence,
        {**BLOCK, "nslices": 4},
        BLOCK_SAME,
        {"bimamba_type": "v2"},
    ),
    "vivim": Original(
        {"segformer": SEGFORMER, "out_chans": 1, "nframes": 2},
        image(1, 2, 3, 16, 16),
        {
            **{"out_chans": 2, "with_edge": True, "nframes": 4, "segformer": SEGFORMER | {"depths": [1, 2]}},
        },
        {
            **{"in_chans": 1, "depths": [3, 3], "feat_size": [4, 8], "drop_path_rate": 0.9, "hidden_size": 5},
            **{"layer_scale_init_value": 1.0, "norm_name": "batch", "conv_block": False, "res_block": False},
            **{"spatial_dims": 3},
        },
        {"feat_size": [4, 9], "mlp_ratio": 2, "segformer": SEGFORMER | {"mlp_ratios": [2, 2]}},
    ),
    "vivim_layer": Original(
        {"dim": 4},
        image(1, 3, 2, 4, 4),
        {"dim": 6, "d_state": 3, "d_conv": 2, "expand": 3, "mlp_ratio": 2, "nframes": 2},
        {},
        {"drop": 0.1, "drop_path": 0.1, "act_layer": "relu"},
    ),
    "vivim_mixer": Original(
        {"d_model": 8, "nframes": 3, "bimamba_type": "v3"},
        sequence,
        {**BLOCK, "nframes": 4},
        BLOCK_SAME,
        {"bimamba_type": "v1"},
    ),
    "mamba": Original({"d_model": 8}, image(2, 12, 8), BLOCK, BLOCK_SAME, {"bimamba_type": "v2"}),
    "mamba_lm": Original(
        {"d_model": 8, "n_layer": 1, "vocab_size": 9},
        lambda module: module(torch.arange(8)[None]),
        {
            **{"d_model": 12, "n_layer": 2, "vocab_size": 20, "ssm_cfg": {"d_state": 4}, "rms_norm": False},
            **{"tie_embeddings": False, "pad_vocab_size_multiple": 1},
        },
        {"fused_add_norm": False, "residual_in_fp32": False, "initializer_cfg": {"initializer_range": 1}, **PLACE},
        {"d_intermediate": 4, "attn_layer_idx": [1], "attn_cfg": {"num_heads": 2}, "ssm_cfg": {"layer": "Mamba2"}},
    ),
    "mambabyte": Original(
        {"dim": 8, "depth": 1},
        image(2, 5, 8),
        {
            **{"dim": 16, "depth": 2, "dt_rank": 3, "d_state": 4, "expand_factor": 3, "d_conv": 2},
            **{"bias": True, "conv_bias": False},
        },
        {**START, "pscan": False},
        {"vocab_size": 256},
    ),
    "mambabyte_lm": Original(
        {"d_model": 8, "n_layer": 1},
        lambda module: module(torch.arange(8)[None]),
        {"d_model": 12, "n_layer": 2},
        {"fused_add_norm": False, "pad_vocab_size_multiple": 8},
        {"vocab_size": 300, "rms_norm": True, "tie_embeddings": True, "ssm_cfg": {"d_state": 4}},
    ),
    "moe_mamba_lm": Original(
        TOWER,
        lambda module: torch.cat([part.flatten() for part in module.balanced(torch.arange(8)[None])]),  # type: ignore[operator]
        {
            **{"vocab": 10, "dmodel": 12, "n_blocks": 2, "n_experts": 4, "expert_size": 5, "capacity_factor": 0.1},
            **{"mamba_expand": 3, "norm": "RMSNorm 1e-5", "zloss_weight": 0.1},
        },
        # Positions are learned if the weights have them; the balancing loss has its weight from the trainer.
        {"max_length": 20, "load_balancing_loss_weight": 0.5, **MOE_SAME},
        {**MOE_REFUSED, "norm": "BatchNorm"},
    ),
    "moe_switch_ff": Original(
        {"dmodel": 8, "n_experts": 3, "expert_size": 4, "capacity_factor": 3.0},
        lambda module: torch.cat([part.flatten() for part in module(noise(2, 5, 8))]),
        {"dmodel": 12, "n_experts": 4, "expert_size": 5, "capacity_factor": 0.1, "zloss_weight": 0.1},
        {"load_balancing_loss_weight": 0.5, "capacity": 10, **MOE_SAME},
        MOE_REFUSED,
    ),
    "mambamorph": Original(
        {"embed_dim": 8, "reg_head_chan": 4},
        lambda module: module(noise(1, 1, 16, 16, 16), noise(1, 1, 16, 16, 16)).velocity,
        {"embed_dim": 12, "reg_head_chan": 5, "d_state": 3, "d_conv": 2, "expand": 3},
        {"drop_path_rate": 0.9, "img_size": [32, 32, 32], "use_checkpoint": True, "depths": [1, 5, 2]},
        {
            **{"if_transskip": False, "if_convskip": False, "patch_size": 2, "in_chans": 4, "drop_rate": 0.1},
            **{"ape": True, "spe": False, "rpe": True, "patch_norm": False, "out_indices": [0, 1], "window_size": 3},
        },
    ),
    "mambamorph_layer": Original(
        {"dim": 4},
        image(1, 2, 2, 2, 4),
        {"dim": 6, "d_state": 3, "d_conv": 2, "expand": 3, "downsample": True},
        {},
        {"reduce_factor": 2},
    ),
}
#: The same arguments, on another network.
LIKE = {"mambamorph_feat": "mambamorph", "mambamorph_ori": "mambamorph"}


@pytest.fixture(autouse=True)
def weights_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks come as they are drawn: what is looked at is which network an argument makes."""
    monkeypatch.setattr(published, "load", lambda network, _tensors: network)


def made(system: str, config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return from_upstream(system, config, {})


def output(original: Original, network: nn.Module) -> Tensor:
    """In training, so that rates of dropping show."""
    torch.manual_seed(0)
    with torch.no_grad():
        return original.run(network)


def is_same(original: Original, one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have parameters of the same shapes and give the same numbers."""
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (one, other)]
    return shapes[0] == shapes[1] and torch.equal(output(original, one), output(original, other))


def each(kind: str) -> list[Any]:
    """pytest parameters: system, argument and value of that kind."""
    return [
        pytest.param(system, name, value, id=f"{system}-{name}")
        for system, original in ORIGINALS.items()
        for name, value in getattr(original, kind).items()
    ]


def test_every_system_is_here() -> None:
    assert ORIGINALS.keys() | LIKE.keys() == SYSTEMS.keys()


@pytest.mark.parametrize("system", ORIGINALS)
def test_every_argument_of_the_table_is_tried(system: str) -> None:
    original, known = ORIGINALS[system], SYSTEMS[system]
    tried = original.config.keys() | original.changes.keys() | original.same.keys()
    assert {*known.needs, *known.takes} <= tried


@pytest.mark.parametrize(("system", "name", "value"), each("changes"))
def test_argument_makes_another_network(system: str, name: str, value: Any) -> None:
    original = ORIGINALS[system]
    assert not is_same(original, made(system, original.config), made(system, original.config | {name: value}))


@pytest.mark.parametrize(("system", "name", "value"), each("same"))
def test_argument_changes_nothing(system: str, name: str, value: Any) -> None:
    original = ORIGINALS[system]
    assert is_same(original, made(system, original.config), made(system, original.config | {name: value}))


@pytest.mark.parametrize(("system", "name", "value"), each("refused"))
def test_argument_is_refused_by_its_name(system: str, name: str, value: Any) -> None:
    # A part of a setting is named itself.
    named = next(iter({"layer", "mlp_ratios", "ssm_cfg"} & value.keys()), name) if isinstance(value, dict) else name
    with pytest.raises(UpstreamError, match="Mamba1|" + re.escape(named)):
        made(system, ORIGINALS[system].config | {name: value})


@pytest.mark.parametrize("rank", [0, -1, 2.0, True, "many"])
@pytest.mark.parametrize(
    ("system", "name"),
    [
        *((system, "dt_rank") for system, original in ORIGINALS.items() if "dt_rank" in original.changes),
        *((system, "ssm_dt_rank") for system in ("vmamba", "vmamba_block")),
        *((system, "ssm_cfg") for system in ("vim", "mamba_lm")),
    ],
)
def test_rank_is_automatic_or_a_positive_number(system: str, name: str, rank: Any) -> None:
    value = {"dt_rank": rank} if name == "ssm_cfg" else rank
    with pytest.raises(UpstreamError, match=rf"dt_rank of \w+ must be 'auto' or a positive whole number, got {rank!r}"):
        made(system, ORIGINALS[system].config | {name: value})


@pytest.mark.parametrize("system", SYSTEMS)
def test_argument_of_no_constructor_is_refused(system: str) -> None:
    with pytest.raises(UpstreamError, match="no_such_argument is not known here; known are"):
        made(system, ORIGINALS[LIKE.get(system, system)].config | {"no_such_argument": 1})
