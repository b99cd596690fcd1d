"""VMamba: the originals' numbers, sizes, layouts, and what it refuses; as a segmentation network see the contract."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medmamba import networks
from medmamba.networks import from_upstream
from medmamba.networks._vss import SS2D, PatchMerging, VSSBlock
from medmamba.networks.vmamba import VMamba, VMambaUNet
from medmamba.plans.plan import Topology

SMALL: dict[str, Any] = {"widths": (4, 6, 8, 10), "depths": (1, 1, 2, 1)}
TOPOLOGY = Topology(
    patch_size=(16, 24),
    strides=((1, 1), (2, 2), (1, 2), (2, 2)),
    kernel_sizes=((3, 3), (3, 3), (1, 3), (3, 3)),
    features=(4, 6, 8, 10),
)
#: Upstream's settings of the two published kinds, small.
VANILLA: dict[str, Any] = {
    "dims": [4, 6, 8, 10],
    "depths": [1, 1, 2, 1],
    "forward_type": "v0",
    "mlp_ratio": 0.0,
    "downsample_version": "v1",
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("kind", ["plain", "gated", "with an MLP"])
def test_block_of_upstream_equals_its_parts(kind: str) -> None:
    torch.manual_seed(0)
    config = {"hidden_dim": 6, "mlp_ratio": 4.0 * (kind == "with an MLP"), "ssm_d_state": 3, "ssm_conv_bias": False}
    config["forward_type"] = "v05" if kind == "gated" else "v05_noz"
    source = VSSBlock(6, SS2D(6, states=3, ratio=2, gate=kind == "gated"), mlp_ratio=config["mlp_ratio"])
    names = {"norm1": "norm", "mixer": "op", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    mixer = {"op.conv.": "op.conv2d.", "op.A_log": "op.A_logs", "op.D": "op.Ds", "op.x_proj": "op.x_proj_weight"}
    mixer |= {"op.step_weight": "op.dt_projs_weight", "op.step_bias": "op.dt_projs_bias"}
    theirs = {}
    for key, tensor in source.state_dict().items():
        for ours, upstream in (names | mixer).items():
            key = key.replace(ours, upstream)
        theirs[key] = tensor.flatten(0, 1) if key in ("op.A_logs", "op.Ds") else tensor
        if key.endswith("proj.weight"):
            theirs[key] = tensor[..., None, None]  # as checkpoints of 1x1 convolutions have them
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(from_upstream("vmamba_block", config, theirs)(x), source(x))


def test_names_of_old_checkpoints_are_known() -> None:
    network = VMamba(3, 10, **SMALL, ssm_ratio=2, states=16, mlp_ratio=0, gate=True, conv_bias=True, stem="plain",
                     downsampling="merge")  # fmt: skip
    renames = {"entries.0.0.conv.": "patch_embed.proj.", "entries.0.0.norm.": "patch_embed.norm."}
    for stage in range(4):
        renames[f"entries.{stage + 1}."] = f"layers.{stage}.downsample."
        for block in range(2):
            renames[f"stages.{stage}.{block}."] = f"layers.{stage}.blocks.{block}."
    renames |= {".norm1.": ".ln_1.", ".mixer.conv.": ".mixer.conv2d.", ".mixer.x_proj": ".mixer.x_proj_weight"}
    renames |= {".mixer.step_weight": ".mixer.dt_projs_weight", ".mixer.step_bias": ".mixer.dt_projs_bias"}
    renames |= {".mixer.A_log": ".mixer.A_logs", ".mixer.D": ".mixer.Ds", ".mixer.": ".self_attention."}
    theirs = {}
    for key, tensor in network.state_dict().items():
        for ours, upstream in renames.items():
            key = key.replace(ours, upstream)
        theirs[key] = tensor.flatten(0, 1) if key.endswith(("A_logs", "Ds")) else tensor
    loaded = from_upstream("vmamba", VANILLA | {"num_classes": 10}, theirs)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), network.eval()(x))


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("vmamba", VANILLA | {"forward_type": "v052d"}, "forward_type of v0, .* v3 is known here, .* got 'v052d'"),
        ("vmamba", VANILLA | {"downsample_version": "v4"}, "downsample_version one of v1, v2, v3"),
        ("vmamba", VANILLA | {"posembed": True}, "only VMamba with posembed=False"),
        ("vmamba", VANILLA, "missing .*entries.0.0.conv.bias"),
        ("vmamba_block", {"hidden_dim": 4, "forward_type": "v0", "gmlp": True}, "gmlp=False"),
        ("vmamba_ss2d", {"d_model": 4}, "lacks forward_type"),
    ],
)
def test_other_versions_are_refused(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream(system, config, {})


@pytest.mark.parametrize(
    ("widths", "depths", "ratio", "expected"),
    [
        ((96, 192, 384, 768), (2, 2, 8, 2), 1, 30_249_064),
        ((96, 192, 384, 768), (2, 2, 20, 2), 1, 49_012_840),
        ((128, 256, 512, 1024), (2, 2, 20, 2), 1, 86_614_504),
        ((96, 192, 384, 768), (2, 2, 5, 2), 2, 30_705_832),
        ((96, 192, 384, 768), (2, 2, 15, 2), 2, 50_147_752),
        ((128, 256, 512, 1024), (2, 2, 15, 2), 2, 88_557_800),
    ],
)
def test_full_size_network_has_published_size(
    widths: tuple[int, ...], depths: tuple[int, ...], ratio: int, expected: int
) -> None:
    with torch.device("meta"):
        assert count(VMamba(widths=widths, depths=depths, ssm_ratio=ratio)) == expected


@pytest.mark.parametrize(
    ("width", "depth", "expected"), [(96, 9, 22_893_448), (96, 27, 44_417_416), (128, 27, 76_254_056)]
)
def test_first_version_has_published_size(width: int, depth: int, expected: int) -> None:
    with torch.device("meta"):
        network = VMamba(
            widths=[width * 2**stage for stage in range(4)],
            depths=(2, 2, depth, 2),
            ssm_ratio=2,
            states=16,
            mlp_ratio=0,
            gate=True,
            conv_bias=True,
            stem="plain",
            downsampling="merge",
        )
    assert count(network) == expected


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("stem", "downsampling"), [("deep", "conv"), ("plain", "merge")])
def test_features_are_a_pyramid_of_any_size(dims: int, stem: Any, downsampling: Any) -> None:
    network = VMamba(2, 3, dims=dims, **SMALL, stem=stem, downsampling=downsampling)
    size = (37, 50, 33)[:dims]
    x = torch.randn(1, 2, *size)
    maps = network.features(x)
    for level, channels, stride in zip(maps, network.pyramid.channels, network.pyramid.strides, strict=True):
        exact = [n / s for n, s in zip(size, stride, strict=True)]
        assert level.shape[:2] == (1, channels)
        assert all(abs(n - e) < 1 for n, e in zip(level.shape[2:], exact, strict=True))
    assert network(x).shape == (1, 3)


def test_merging_joins_neighbours_in_the_authors_order() -> None:
    merging = PatchMerging(1, 4, 2)
    merging.norm = nn.Identity()  # type: ignore[assignment]  # to see what it joins
    merging.reduction = nn.Identity()  # type: ignore[assignment]
    x = torch.arange(8.0).reshape(1, 2, 4, 1)
    assert merging(x)[0, 0].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]


def test_a_last_odd_row_is_merged_with_zeros() -> None:
    merging = PatchMerging(1, 4, 2)
    merging.norm = nn.Identity()  # type: ignore[assignment]  # to see what it joins
    merging.reduction = nn.Identity()  # type: ignore[assignment]
    x = torch.arange(1.0, 16).reshape(1, 3, 5, 1)
    assert merging(x)[0].tolist() == [
        [[1, 6, 2, 7], [3, 8, 4, 9], [5, 10, 0, 0]],
        [[11, 0, 12, 0], [13, 0, 14, 0], [15, 0, 0, 0]],
    ]


def test_one_token_is_merged_with_zeros_in_3d() -> None:
    merging = PatchMerging(2, 4, 3)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    assert merging(torch.ones(1, 1, 1, 1, 2)).flatten().tolist() == [1, 1, *[0] * 14]


def test_a_mirrored_map_is_scanned_by_the_other_orders() -> None:
    """Each order has its own weights, so orders swapped with their reverses see a rotated map as before."""
    torch.manual_seed(0)
    mixer, other = SS2D(6, states=2), SS2D(6, states=2)
    state = mixer.state_dict()
    for name in ("x_proj", "step_weight", "step_bias", "A_log", "D"):
        state[name] = state[name].roll(2, 0)
    state["conv.weight"] = state["conv.weight"].flip(-1, -2)
    other.load_state_dict(state)
    x = torch.randn(1, 3, 5, 6)
    with torch.no_grad():
        assert (other(x.flip(1, 2)).flip(1, 2) - mixer(x)).abs().max() < 1e-5 * mixer(x).abs().max()


def test_each_axis_has_orders_of_its_own_in_3d() -> None:
    mixer = SS2D(4, dims=3)
    assert mixer.x_proj.shape[0] == 6
    assert mixer(torch.randn(1, 2, 3, 4, 4)).shape == (1, 2, 3, 4, 4)


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    network = VMamba(3, 10, widths=(64, 64), depths=(1, 1), states=4)
    mixer = cast(VSSBlock, cast(nn.ModuleList, network.stages[0])[0]).mixer
    step = F.softplus(mixer.step_bias)
    assert ((step > 0.9e-3) & (step < 0.11)).all()
    assert torch.allclose(mixer.A_log.exp()[2, 5], torch.arange(1.0, 5))
    assert (mixer.D == 1).all()
    for layer in (mixer.in_proj, mixer.out_proj, network.head):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert mixer.x_proj.abs().max() <= 64**-0.5


def test_parameters_of_the_recurrence_stay_float32() -> None:
    mixer = SS2D(4).to(torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in mixer.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {"A_log", "D", "step_bias"}


def test_recomputed_blocks_give_the_same_gradients() -> None:
    x = torch.randn(1, 2, 16, 24)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = VMambaUNet(2, 3, TOPOLOGY, checkpointing=checkpointing)
        torch.autograd.backward(sum(output.pow(2).sum() for output in network(x)))
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)


@pytest.mark.parametrize("decoder", ["unet", "upernet"])
def test_segmentation_network_takes_any_divisible_size(decoder: str) -> None:
    network = networks.create("vmamba", 2, 3, TOPOLOGY, decoder=decoder, gate=True, conv_levels=1)
    outputs = network(torch.randn(1, 2, 12, 40))
    assert [tuple(output.shape[2:]) for output in outputs] == [(12, 40), (6, 20), (6, 10)]


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_convolutions_stand_in_the_first_levels(asked: int, expected: int) -> None:
    network = VMambaUNet(2, 3, TOPOLOGY, conv_levels=asked)
    assert (len(network.conv_stages), len(network.stages)) == (expected, 4 - expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: VMamba(1, 2, widths=(4, 8), depths=(1,)), "one for each stage"),
        (lambda: VMamba(1, 2, **SMALL, stem="wide"), "stem must be 'plain' or 'deep', got 'wide'"),
        (
            lambda: VMamba(1, 2, **SMALL, downsampling="pool"),
            "downsampling must be one of merge, patch, conv, got 'pool'",
        ),
        (lambda: VMamba(1, 2, **SMALL, drop_path=1.0), "drop_path must be at least 0 and less than 1"),
        (lambda: VMamba(1, 2, **SMALL, stem="plain")(torch.zeros(1, 1, 9, 3)), r"\(9, 3\) must be at least 4 along"),
        (lambda: VMamba(1, 2, **SMALL, downsampling="patch")(torch.zeros(1, 1, 9, 3)), r"must be at least 29 along"),
        (lambda: VMamba(1, 2, **SMALL)(torch.zeros(1, 3, 64, 64)), "1 channels, H, W"),
        (lambda: VMambaUNet(1, 2, TOPOLOGY, conv_levels=0), "conv_levels must be at least 1, got 0"),
        (lambda: VMambaUNet(1, 2, TOPOLOGY, decoder="fpn"), "decoder must be 'unet' or 'upernet', got 'fpn'"),
    ],
)
def test_refusals_name_the_rule(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_without_classes_it_gives_what_a_head_would_read() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"widths": (8, 16), "depths": (1, 1)}
    whole = VMamba(1, 3, **options)
    backbone = VMamba(1, 0, **options)
    backbone.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("head.")})
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(whole.head(backbone(x)), whole(x))
        assert backbone(x).shape == (2, 16)
