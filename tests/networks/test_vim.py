"""Vim: the originals' numbers, positions, sizes, and what it refuses; as a segmentation network see the contract."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medmamba import networks
from medmamba.kernels import bidirectional, selective_scan
from medmamba.networks import from_upstream
from medmamba.networks._ssm import GridMamba
from medmamba.networks._vim import VimBlock
from medmamba.networks.vim import Vim, VimUNet
from medmamba.plans.plan import Topology

SMALL: dict[str, Any] = {"width": 8, "depth": 4, "patch": 4, "states": 2}
TOPOLOGY = Topology(
    patch_size=(16, 24),
    strides=((1, 1), (2, 2), (1, 2), (2, 2)),
    kernel_sizes=((3, 3),) * 4,
    features=(4, 6, 8, 10),
)
UPSTREAM: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "stride": 4,
    "embed_dim": 8,
    "depth": 1,
    "num_classes": 3,
    "rms_norm": True,
    "bimamba_type": "v2",
    "if_abs_pos_embed": True,
    "if_divide_out": True,
    "if_cls_token": True,
    "use_middle_cls_token": True,
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def mixers(network: nn.Module) -> list[GridMamba]:
    return [module for module in network.modules() if isinstance(module, GridMamba)]


def test_directions_that_share_scan_the_same_values_both_ways() -> None:
    torch.manual_seed(0)
    block = GridMamba(8, bidirectional(), states=4, shared=True)
    with torch.no_grad():
        block.A_log += torch.randn_like(block.A_log)
        x = torch.randn(2, 11, 8)
        u, z = block.in_proj(x).mT.chunk(2, dim=1)
        u = F.silu(F.conv1d(F.pad(u, (3, 0)), block.conv_weight[0][:, None], block.conv_bias[0], groups=16))
        step, B, C = (block.x_proj[0] @ u).split([1, 4, 4], dim=1)
        step, total = block.step_weight[0] @ step, torch.zeros_like(u)
        for flip, A_log in (([], block.A_log[0]), ([2], block.A_log[1])):
            given = [tensor.flip(flip) for tensor in (u, step)]
            y = selective_scan(
                *given,
                -A_log.exp(),
                B.flip(flip),
                C.flip(flip),
                block.D[0],
                delta_bias=block.step_bias[0],
                delta_softplus=True,
            )
            total += y.flip(flip)
        expected = block.out_proj((total * F.silu(z)).mT)
        torch.testing.assert_close(block(x, (11,)), expected)


@pytest.mark.parametrize(
    ("width", "stride", "expected"),
    [(192, 16, 7_148_008), (384, 16, 25_796_584), (768, 16, 97_598_440), (192, 8, 7_250_344), (384, 8, 26_001_256)],
)
def test_full_size_network_has_published_size(width: int, stride: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(Vim(width=width, stride=stride)) == expected


def test_class_token_stands_in_the_middle() -> None:
    network = Vim(1, 2, (12, 12), **SMALL)
    streams: list[torch.Tensor] = []
    network.column.blocks[0].register_forward_hook(lambda _module, inputs, _output: streams.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 12, 12))
        token = cast(torch.Tensor, network.column.class_token) + cast(torch.Tensor, network.column.class_position)
    assert streams[0].shape == (1, 10, 8)
    assert torch.equal(streams[0][:, 4:5], token)


@pytest.mark.parametrize(
    ("pooling", "places"), [("class_token", [7]), ("first_token", [0]), ("end_tokens", [0, 16]), ("mean", [])]
)
def test_features_leave_the_class_tokens_out(pooling: Any, places: list[int]) -> None:
    network = Vim(1, 2, (12, 20), **SMALL, pooling=pooling)
    x = torch.randn(2, 1, 12, 20)
    maps = network.features(x)
    tokens = network.column(x, network.taps)[1]
    assert tokens.shape[1] == 15 + len(places)
    patches = [index for index in range(tokens.shape[1]) if index not in places]
    assert torch.equal(maps[1].flatten(2).mT, tokens[:, patches])
    assert [tuple(level.shape) for level in maps] == [(2, 8, 3, 5)] * 4
    assert network.pyramid.channels == (8,) * 4
    assert network.pyramid.strides == ((4, 4),) * 4


@pytest.mark.parametrize(("size", "other"), [((16, 16), (20, 12)), ((8, 12, 16), (12, 12, 12)), ((16, 16), (16, 16))])
def test_positions_are_interpolated_for_other_sizes(size: tuple[int, ...], other: tuple[int, ...]) -> None:
    network = Vim(2, 3, size, **SMALL)
    assert network(torch.randn(1, 2, *other)).shape == (1, 3)
    maps = network.features(torch.randn(1, 2, *other))
    assert tuple(maps[-1].shape[2:]) == tuple(n // 4 for n in other)


def test_patches_may_overlap() -> None:
    network = Vim(1, 2, (13, 16), width=8, depth=1, patch=(4, 6), stride=(3, 2))
    assert network.column.grid == (4, 6)
    assert network(torch.randn(1, 1, 13, 16)).shape == (1, 2)


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    network = Vim(3, 10, (64, 64), width=64, depth=4, step_start="zero")
    for mixer in mixers(network):
        forwards, backwards = mixer.step_bias
        assert ((F.softplus(forwards) > 0.9e-3) & (F.softplus(forwards) < 0.11)).all()
        assert (backwards == 0).all()
        assert mixer.out_proj.weight.abs().max() <= 128**-0.5 / 4**0.5
    assert network.column.position.std().item() == pytest.approx(0.02, rel=0.1)
    patches = cast(torch.Tensor, network.column.patches.weight)
    assert patches.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.05)
    assert (cast(torch.Tensor, network.column.patches.bias) == 0).all()


def test_backward_step_size_starts_as_the_forward_one() -> None:
    for mixer in mixers(Vim(1, 2, (8, 8), **SMALL)):
        assert (F.softplus(mixer.step_bias) < 0.11).all()


def test_stochastic_depth_rises_to_the_last_block() -> None:
    network = Vim(1, 2, (8, 8), **SMALL, drop_path=0.3)
    rates = [cast(VimBlock, block).drop.rate for block in network.column.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_recomputed_blocks_give_the_same_gradients() -> None:
    x = torch.randn(1, 2, 16, 24)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = VimUNet(2, 3, TOPOLOGY, width=8, depth=2, checkpointing=checkpointing)
        torch.autograd.backward(sum(output.pow(2).sum() for output in network(x)))
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)


@pytest.mark.parametrize(
    ("patch", "stride", "taps"), [(1, (2, 2), (4,)), (2, (2, 2), (4,)), (4, (2, 4), (2, 4)), (64, (4, 8), (1, 2, 4))]
)
def test_column_stands_at_the_coarsest_level_that_patches_allow(
    patch: int, stride: tuple[int, int], taps: tuple[int, ...]
) -> None:
    network = VimUNet(2, 3, TOPOLOGY, patch=patch, width=8, depth=4)
    assert network.column.stride == stride
    assert network.taps == taps
    maps = network.features(torch.randn(1, 2, 16, 24))
    assert [tuple(level.shape) for level in maps] == [(1, 4, 16, 24), (1, 6, 8, 12), (1, 8, 8, 6), (1, 10, 4, 3)]


@pytest.mark.parametrize("decoder", ["unet", "upernet"])
def test_segmentation_network_takes_any_divisible_size(decoder: str) -> None:
    network = networks.create("vim", 2, 3, TOPOLOGY, decoder=decoder, width=8, depth=2)
    outputs = network(torch.randn(1, 2, 12, 40))
    assert [tuple(output.shape[2:]) for output in outputs] == [(12, 40), (6, 20), (6, 10)]


def upstream_weights(network: Vim, *, token: bool) -> dict[str, torch.Tensor]:
    """By upstream's names, as its own code would have saved them."""
    theirs: dict[str, torch.Tensor] = {}
    pairs = {"conv_weight": "conv1d{}.weight", "conv_bias": "conv1d{}.bias", "x_proj": "x_proj{}.weight"}
    pairs |= {"step_weight": "dt_proj{}.weight", "step_bias": "dt_proj{}.bias", "A_log": "A{}_log", "D": "D{}"}
    for key, tensor in network.state_dict().items():
        name = key.replace("column.blocks.", "layers.").replace("column.patches.", "patch_embed.proj.")
        place, _, last = name.rpartition(".")
        if last in pairs:
            for suffix, one in zip(("", "_b"), tensor, strict=True):
                theirs[f"{place}.{pairs[last].format(suffix)}"] = one[:, None] if last == "conv_weight" else one
        elif "column" not in name:
            theirs[name.replace("norm.", "norm_f.") if name.startswith("norm.") else name] = tensor
    column = network.column
    theirs["pos_embed"] = column.position.detach().flatten(1, -2)
    if token:
        theirs["cls_token"] = cast(torch.Tensor, column.class_token).detach()
        own = cast(torch.Tensor, column.class_position).detach()
        middle = theirs["pos_embed"].shape[1] // 2
        theirs["pos_embed"] = torch.cat([theirs["pos_embed"][:, :middle], own, theirs["pos_embed"][:, middle:]], dim=1)
    return theirs


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (12, 20), (4, 4)])
@pytest.mark.parametrize("token", [True, False])
def test_upstream_weights_with_and_without_class_token_are_loaded(token: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = Vim(3, 3, size, width=8, depth=1, patch=4, pooling="class_token" if token else "mean")
    config = UPSTREAM | {"img_size": list(size)}
    config |= {} if token else {"if_cls_token": False, "final_pool_type": "mean"}
    loaded = from_upstream("vim", config, upstream_weights(network, token=token))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("vim", UPSTREAM | {"if_rope": True}, "if_rope=False"),
        ("vim", UPSTREAM | {"if_cls_token": False, "final_pool_type": "min"}, "none, mean, max, all .* got 'min'"),
        ("vim", UPSTREAM | {"final_pool_type": "max"}, "class token and final_pool_type='max'"),
        ("vim", UPSTREAM | {"flip_img_sequences_ratio": 0.5}, "flip_img_sequences_ratio of at most 0"),
        ("vim", UPSTREAM | {"if_devide_out": True}, "if_devide_out is not known here"),
        ("vim", UPSTREAM | {"ssm_cfg": {"headdim": 4}}, "headdim is not known here"),
        ("vim_mamba", {"d_model": 8, "bimamba_type": "v3"}, "'none', 'v1' or 'v2' to be known here, got 'v3'"),
    ],
)
def test_other_versions_are_refused(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream(system, config, {})


def test_missing_unexpected_and_resized_weights_are_named() -> None:
    theirs = upstream_weights(Vim(3, 3, (16, 16), width=8, depth=1, patch=4), token=True)
    with pytest.raises(networks.UpstreamError, match=r"missing head.bias; unexpected extra"):
        from_upstream("vim", UPSTREAM, {("extra" if k == "head.bias" else k): v for k, v in theirs.items()})
    with pytest.raises(
        networks.UpstreamError, match=r"column\.patches\.weight \(8, 3, 4, 4\) instead of \(8, 1, 4, 4\)"
    ):
        from_upstream("vim", UPSTREAM | {"channels": 1}, theirs)


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (12, 12), (20, 12)])
def test_positions_of_another_image_size_are_interpolated_without_the_class_token(
    size: tuple[int, int], token: bool
) -> None:
    torch.manual_seed(0)
    network = Vim(3, 3, (16, 16), width=8, depth=1, patch=4, pooling="class_token" if token else "mean")
    config = UPSTREAM if token else UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean"}
    theirs = upstream_weights(network, token=token)
    loaded = from_upstream("vim", config | {"img_size": list(size)}, theirs)
    grid = [edge // 4 for edge in size]
    learned = network.column.position.detach().movedim(-1, 1)
    expected = torch.nn.functional.interpolate(learned, grid, mode="bicubic", align_corners=False).movedim(1, -1)
    column = cast(Vim, loaded).column
    torch.testing.assert_close(column.position.detach(), expected)
    if token:
        assert torch.equal(cast(torch.Tensor, column.class_position), cast(torch.Tensor, network.column.class_position))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x))  # which interpolates on the way


def test_image_size_is_that_of_the_weights_unless_given() -> None:
    network = Vim(3, 3, (20, 20), width=8, depth=1, patch=4, pooling="mean")
    config = UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean"}
    del config["img_size"]
    loaded = cast(Vim, from_upstream("vim", config, upstream_weights(network, token=False)))
    assert torch.equal(loaded.column.position, network.column.position)


@pytest.mark.parametrize(("patch", "stride", "edge"), [(16, 8, 64), (8, 8, 24), (16, 8, 224)])
def test_stride_that_the_positions_contradict_is_asked_for(patch: int, stride: int, edge: int) -> None:
    network = Vim(3, 3, (edge, edge), width=8, depth=1, patch=patch, stride=stride, pooling="mean")
    config = UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean", "img_size": edge, "patch_size": patch}
    del config["stride"]
    if edge == 224:  # the authors' default
        del config["img_size"]
    theirs = upstream_weights(network, token=False)
    with pytest.raises(
        networks.UpstreamError, match=rf"has with stride {stride}: the configuration must have a stride"
    ):
        from_upstream("vim", config, theirs)
    loaded = cast(Vim, from_upstream("vim", config | {"stride": stride}, theirs))
    assert torch.equal(loaded.column.position, network.column.position)


def test_stride_may_be_left_out_where_positions_are_of_another_size() -> None:
    theirs = upstream_weights(Vim(3, 3, (384, 384), width=8, depth=1, pooling="mean"), token=False)
    config = UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean", "img_size": 224, "patch_size": 16}
    del config["stride"]
    assert cast(Vim, from_upstream("vim", config, theirs)).column.grid == (14, 14)


def test_interpolation_of_positions_is_said(caplog: pytest.LogCaptureFixture) -> None:
    theirs = upstream_weights(Vim(3, 3, (16, 16), width=8, depth=1, patch=4, pooling="mean"), token=False)
    config = UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean"}
    from_upstream("vim", config, theirs)
    assert not caplog.messages
    from_upstream("vim", config | {"img_size": [24, 40]}, theirs)
    assert "positions of 4 x 4 patches are interpolated to 6 x 10, for img_size [24, 40]" in caplog.text


def test_positions_of_an_unknown_grid_are_not_guessed() -> None:
    theirs = upstream_weights(Vim(3, 3, (16, 24), width=8, depth=1, patch=4, pooling="mean"), token=False)
    config = UPSTREAM | {"if_cls_token": False, "final_pool_type": "mean"}
    with pytest.raises(networks.UpstreamError, match=r"24 positions of patches, and an img_size of \[32, 32\] has 64"):
        from_upstream("vim", config | {"img_size": 32}, theirs)
    assert from_upstream("vim", config | {"img_size": [16, 24]}, theirs) is not None


def test_weights_without_a_head_give_what_it_would_read() -> None:
    torch.manual_seed(0)
    network = Vim(3, 3, (16, 16), width=8, depth=1, patch=4)
    theirs = {k: v for k, v in upstream_weights(network, token=True).items() if not k.startswith("head.")}
    loaded = from_upstream("vim", UPSTREAM | {"num_classes": 0}, theirs)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), network.represent(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Vim(1, 2, (16, 18), **SMALL), r"\(16, 18\) must be covered by patches of \(4, 4\)"),
        (lambda: Vim(1, 2, (16, 16), **SMALL)(torch.zeros(1, 1, 16, 22)), r"\(16, 22\) must be covered"),
        (lambda: Vim(1, 2, (16, 16), **SMALL)(torch.zeros(1, 3, 16, 16)), r"1 channels, H, W\), but is \(1, 3, 16, 16"),
        (lambda: Vim(1, 2, (16, 16), **SMALL).features(torch.zeros(1, 1, 4, 4, 4)), "1 channels, H, W"),
        (lambda: Vim(1, 2, (16, 16), **SMALL | {"depth": 0}), "depth must be at least 1, got 0"),
        (lambda: Vim(1, 2, (16,), **SMALL), "must all be 2D or 3D"),
        (lambda: Vim(1, 2, (16, 16), **SMALL, pooling="sum"), "pooling must be one of class_token, .* got 'sum'"),
        (lambda: VimUNet(1, 2, TOPOLOGY, decoder="fpn"), "decoder must be 'unet' or 'upernet', got 'fpn'"),
    ],
)
def test_refusals_name_the_rule(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
