"""Weights of the original implementations, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medmamba import networks
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.published import SYSTEMS
from medmamba.plans.plan import Topology

CONFIG: dict[str, Any] = {
    "patch": [8, 8],
    "strides": [[1, 1], [2, 2]],
    "kernels": [[3, 3], [3, 3]],
    "features_per_stage": [4, 6],
    "in_ch": 1,
    "ncls": 2,
}


TOWER = {"vocab": 9, "dmodel": 8, "n_blocks": 1, "n_experts": 3, "expert_size": 4, "max_length": 9}
SWITCH = {"dmodel": 8, "n_experts": 3, "expert_size": 4, "capacity_factor": 1.0}
SEGFORMER: dict[str, Any] = {
    **{"depths": [1, 1], "hidden_sizes": [4, 8], "decoder_hidden_size": 6, "num_attention_heads": [1, 2]},
    **{"sr_ratios": [2, 1], "patch_sizes": [7, 3]},
}
VIM: dict[str, Any] = {"bimamba_type": "v2", "rms_norm": True, "if_abs_pos_embed": True, "if_divide_out": True}
TOPOLOGY = Topology(patch_size=(8, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))


def test_tensors_that_checkpoints_hold_twice_are_dropped() -> None:
    single = dict(networks.create("umamba_bot", 1, 2, TOPOLOGY).state_dict())
    repeated = {f"decoder.{key}": tensor for key, tensor in single.items() if key.startswith("encoder.")}
    for key, tensor in single.items():
        for name, number in (("conv", 0), ("norm", 1)):
            for block in ("conv1", "conv2"):
                if f".{block}.{name}." in key:
                    repeated[key.replace(f".{block}.{name}.", f".{block}.all_modules.{number}.")] = tensor
    assert any("all_modules" in key for key in repeated)
    network = networks.from_upstream("umamba_bot", CONFIG, single | repeated)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, single[key])


@pytest.mark.parametrize(
    "keys",
    [
        ("ln.weight", "mamba.A_log", "encoder.stem.0.conv1.weight"),
        ("encoder.mamba_layers.0.mamba.A_log", "decoder.transpconvs.0.weight"),
    ],
)
def test_first_version_of_umamba_is_refused_with_the_reason(keys: tuple[str, ...]) -> None:
    with pytest.raises(networks.UpstreamError, match="first version"):
        networks.from_upstream("umamba_bot", CONFIG, {key: torch.zeros(4) for key in keys})


def test_missing_and_unexpected_weights_are_named() -> None:
    state = dict(MambaBlock(8).state_dict())
    state["extra"] = state.pop("D")
    with pytest.raises(networks.UpstreamError, match=r"missing D; unexpected extra"):
        networks.from_upstream("mamba", {"d_model": 8}, state)


def test_weights_of_another_shape_are_named() -> None:
    with pytest.raises(networks.UpstreamError, match=r"A_log \(16, 16\) instead of \(8, 16\)"):
        networks.from_upstream("mamba", {"d_model": 4}, MambaBlock(8).state_dict())


def test_arguments_about_start_and_speed_change_nothing() -> None:
    config = {"d_model": 8, "layer_idx": 3, "use_fast_path": False, "dt_min": 0.01}
    assert isinstance(networks.from_upstream("mamba", config, MambaBlock(8).state_dict()), MambaBlock)


@pytest.mark.parametrize("system", [name for name, system in SYSTEMS.items() if system.needs])
def test_missing_arguments_are_named(system: str) -> None:
    with pytest.raises(networks.UpstreamError, match=f"{system} lacks {', '.join(SYSTEMS[system].needs)};"):
        networks.from_upstream(system, {}, {})


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_argument_in_the_table_is_known(system: str) -> None:
    known = SYSTEMS[system]
    values = (1, 0.5, True, "v1", [1], [[1]], {})
    kinds = {**known.needs, **known.takes}
    config = {name: next(value for value in values if kind.fits(value)) for name, kind in kinds.items()}
    with pytest.raises((networks.UpstreamError, TypeError, ValueError)) as caught:
        networks.from_upstream(system, config, {})
    assert "is not known here; known are" not in str(caught.value)


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("mamba", {"d_model": "8"}, "d_model of mamba must be a whole number of at least 1, got '8'"),
        ("mamba", {"d_model": 8, "d_state": 0}, "d_state of mamba must be a whole number of at least 1, got 0"),
        ("mamba", {"d_model": 8.0}, "d_model of mamba must be a whole number of at least 1, got 8.0"),
        ("mamba", {"d_model": True}, "d_model of mamba must be a whole number of at least 1, got True"),
        ("mamba", {"d_model": 8, "expand": "2"}, "expand of mamba must be a number of at least 0, got '2'"),
        ("mamba", {"d_model": 8, "bias": "false"}, "bias of mamba must be true or false, got 'false'"),
        ("mamba_lm", {"ssm_cfg": [1]}, r"ssm_cfg of mamba_lm must be an object, got \[1\]"),
        (
            "segmamba",
            {"depths": "2222"},
            "depths of segmamba must be a list of whole numbers of at least 0, got '2222'",
        ),
        ("umamba_bot", CONFIG | {"strides": [1, 2]}, r"strides of umamba_bot must be a list of lists .* got \[1, 2\]"),
        ("umamba_bot", CONFIG | {"features_per_stage": []}, r"features_per_stage of umamba_bot must be .* got \[\]"),
        ("umamba_bot", CONFIG | {"ne": None}, "ne of umamba_bot must be a whole number .*, got None"),
        ("umamba_bot", CONFIG | {"mx": "32"}, "mx of U-Mamba must be a whole number of at least 1, got '32'"),
        ("vim", VIM | {"patch_size": [8]}, r"patch_size of vim must be .* one for each axis, got \[8\]"),
        ("segmamba_layer", {"dim": 4, "num_slices": "4"}, "num_slices of segmamba_layer must be .*, got '4'"),
        (
            "vivim",
            {"segformer": {"depths": [1, 1, 1, 1]}},
            "of a SegFormer lack hidden_sizes, .*, strides, .* as the",
        ),
        ("vivim", {"feat_size": 3}, "feat_size of vivim must be a list of whole numbers of at least 1, got 3"),
        ("vivim", {"segformer": SEGFORMER | {"strides": 4}}, "strides of segformer must be a list .*, got 4"),
        ("mambamorph", {"drop_path_rate": "0.3"}, "drop_path_rate of mambamorph must be a number .*, got '0.3'"),
        (
            "moe_mamba_lm",
            TOWER | {"norm": "LayerNormal 1e-5"},
            "norm 'LayerNorm' .*, got 'LayerNormal 1e-5'",
        ),
        (
            "moe_mamba_lm",
            TOWER | {"norm": "RMSNorm of 1e-5 or so"},
            "norm 'LayerNorm' .*, got 'RMSNorm of",
        ),
        ("moe_switch_ff", SWITCH | {"capacity": "many"}, "capacity of moe_switch_ff must be a number .*, got 'many'"),
        ("vmamba", {"forward_type": 5}, "forward_type of vmamba must be a word in quotes, got 5"),
        ("vmamba", {"forward_type": "v0", "num_classes": -1}, "num_classes of vmamba must be .* at least 0, got -1"),
        ("vmamba", {"forward_type": "v0", "dims": [96, "192"]}, r"dims of vmamba must be .*, got \[96, '192'\]"),
    ],
)
def test_value_of_another_kind_is_named_with_what_it_must_be(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        networks.from_upstream(system, config, {})


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("vim", VIM | {"img_size": 12, "patch_size": 8, "stride": 8}, r"vim .*\(12, 12\) must be covered by patches"),
        ("umamba_bot", CONFIG | {"strides": [[1, 1]]}, "umamba_bot .*a topology needs"),
        ("segmamba", {"depths": [1]}, "segmamba .*depths must be"),
    ],
)
def test_arguments_that_make_no_network_are_refused_as_such(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        networks.from_upstream(system, config, {})


def test_unknown_options_and_systems_are_refused() -> None:
    with pytest.raises(networks.UpstreamError, match="residual"):
        networks.from_upstream("mamba", {"d_model": 8, "residual": True}, {})
    with pytest.raises(ValueError, match="umamba_bot, umamba_enc, mamba"):
        networks.from_upstream("resnet", {}, {})
