"""MambaMorph: the original's numbers, sizes, and what is refused."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks import from_upstream
from medmamba.networks._mambamorph import PatchMerging, position_code
from medmamba.networks.mambamorph import MambaMorph
from medmamba.plans.plan import Topology

CONFIG: dict[str, Any] = {"embed_dim": 12, "reg_head_chan": 4, "d_state": 3}
FEAT_CONFIG = CONFIG | {"img_size": [16, 32, 16], "depths": [1, 1, 1]}


def topology(*features: int, dims: int = 3) -> Topology:
    """Strides of 2 after the first level."""
    levels = len(features)
    return Topology(
        patch_size=(2 ** (levels - 1),) * dims,
        strides=((1,) * dims, *((2,) * dims,) * (levels - 1)),
        kernel_sizes=((3,) * dims,) * levels,
        features=features,
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    """The same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def upstream_weights(network: nn.Module) -> dict[str, Tensor]:
    """Its weights, with the authors' names and order of merged patches."""
    renames = (
        (r"^trunk\.patches\.", "transformer.patch_embed.proj."),
        (r"^trunk\.patch_norm\.", "transformer.patch_embed.norm."),
        (r"^trunk\.norms\.", "transformer.norm"),
        (r"^trunk\.", "transformer."),
        (r"^(feature_extractor\.(?:en|de)coder\.\d\.0)\.", r"\1.main."),
        (r"^((?:feature_extractor\.remaining|read_out_head)\.\d)\.0\.", r"\1.main."),
        (r"^skips\.0\.", "c2."),
        (r"^skips\.1\.", "c1."),
        (r"^head\.", "reg_head.0."),
    )
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    ours = list(product(range(2), repeat=3))
    theirs = {}
    for key, tensor in network.state_dict().items():
        if ".downsample." in key:
            parts = dict(zip(ours, tensor.chunk(8, dim=-1), strict=True))
            tensor = torch.cat([parts[corner] for corner in corners], dim=-1)
        name = re.sub(r"^ups\.(\d)\.(\d)\.", lambda m: f"up{int(m[1]) + 1}.conv{int(m[2]) + 1}.", key)
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        theirs[name] = tensor
    return theirs


def network_of(config: dict[str, Any], **options: Any) -> MambaMorph:
    """Ours, as the conversion makes it of a configuration."""
    torch.manual_seed(0)
    width = config["embed_dim"]
    features = (config["reg_head_chan"], width // 2, width, 2 * width, 4 * width)
    network = MambaMorph(1, topology(*features), states=config["d_state"], **options)
    nn.init.normal_(cast(Tensor, network.head.weight), std=0.1)
    return network


def test_position_code_counts_along_each_axis_at_falling_frequencies() -> None:
    code = position_code((3, 4, 5), 14, torch.device("cpu"))
    assert code.shape == (3, 4, 5, 14)
    for place, axis, wave in product(product(range(3), range(4), range(5)), range(3), range(3)):
        angle = place[axis] / 10_000 ** (2 * wave / 6)
        for part, value in ((6 * axis + wave, math.sin(angle)), (6 * axis + 3 + wave, math.cos(angle))):
            if part < 14:  # three times six are four too many
                assert code[(*place, part)].item() == pytest.approx(value, abs=1e-6)
    assert position_code((3, 4), 8, torch.device("cpu")).shape == (3, 4, 8)


def test_merged_patch_holds_the_tokens_of_its_box_row_by_row() -> None:
    merging = PatchMerging(1, 6, (1, 2, 3))
    nn.init.eye_(merging.reduction.weight)
    merging.norm = nn.LayerNorm(6, elementwise_affine=False, eps=0)
    x = torch.arange(24.0).view(1, 2, 2, 6, 1)
    merged = merging(x)
    assert merged.shape == (1, 2, 1, 2, 6)
    box = x[0, 1, 0:2, 3:6].flatten()
    assert torch.allclose(merged[0, 1, 0, 1], (box - box.mean()) / box.std(correction=0), atol=1e-5)


def test_patches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 6\) must be divisible by the product of strides \(1, 2, 3\)"):
        PatchMerging(1, 6, (1, 2, 3))(torch.zeros(1, 2, 3, 6, 1))


@pytest.mark.parametrize("features", [(4, 6, 8), (4, 6, 8, 10, 12, 14)])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_number_of_mamba_layers_will_do(features: tuple[int, ...], dims: int) -> None:
    network = MambaMorph(1, topology(*features, dims=dims), states=2)
    size = (2 ** (len(features) - 1) if dims == 3 else 2 ** len(features),) * dims
    images = noise(2, 1, 1, *size)
    assert network(*images).displacement.shape == (1, dims, *size)
    assert len(network.trunk.layers) == len(features) - 2


def test_head_of_zeros_leaves_the_image_where_it_is() -> None:
    network = network_of(CONFIG)
    nn.init.zeros_(cast(Tensor, network.head.weight))
    moving, fixed = noise(2, 1, 1, 16, 32, 16)
    result = network(moving, fixed)
    assert not result.displacement.any()
    assert torch.allclose(result.moved, moving, atol=1e-5)


def test_both_images_go_through_the_same_extractor() -> None:
    network = network_of(CONFIG)
    moving, fixed = noise(2, 1, 1, 16, 16, 32)
    there, back = network(moving, fixed).features, network(fixed, moving).features
    assert there.shape == (1, 6, 8, 8, 16)
    assert torch.allclose(there, back.roll(3, dims=1), atol=1e-6)
    assert network_of(CONFIG, feature_width=0)(moving, fixed).features is None


def test_without_integration_the_velocity_is_the_displacement() -> None:
    moving, fixed = noise(2, 1, 1, 16, 16, 32)
    network = network_of(CONFIG, integration_steps=0)
    result = network(moving, fixed)
    assert torch.equal(result.displacement, result.velocity)
    integrated = network_of(CONFIG)(moving, fixed)
    assert torch.equal(integrated.velocity, result.velocity)
    assert not torch.allclose(integrated.displacement, result.displacement, atol=1e-3)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        network = network_of(CONFIG, checkpointing=checkpointing)
        result = network(*noise(2, 1, 1, 16, 16, 16))
        torch.autograd.backward([part.square().mean() for part in result])
        gradients.append({key: parameter.grad for key, parameter in network.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert torch.equal(gradient, cast(Tensor, gradients[1][key])), key


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("mambamorph", {"feature_width": 0}),
        ("mambamorph_feat", {}),
        ("mambamorph_ori", {"feature_width": 0, "integration_steps": 0}),
    ],
)
def test_weights_of_any_image_size_are_taken(system: str, options: dict[str, Any]) -> None:
    network = network_of(CONFIG, **options)
    theirs = upstream_weights(network)
    grids = {f"{place}.grid": torch.zeros(1, 3, 8, 8, 8) for place in ("spatial_trans", "integrate.transformer")}
    moving, fixed = noise(2, 1, 1, 16, 16, 32)
    for state in (theirs | grids, {f"module.{key}": tensor for key, tensor in (theirs | grids).items()}):
        loaded = from_upstream(system, FEAT_CONFIG, state)
        for ours, original in zip(loaded(moving, fixed), network(moving, fixed), strict=True):
            assert (ours is None and original is None) or torch.equal(ours, original)


def test_missing_unexpected_and_resized_weights_are_named() -> None:
    theirs = upstream_weights(network_of(CONFIG))
    renamed = {("extra" if key == "c1.0.weight" else key): tensor for key, tensor in theirs.items()}
    with pytest.raises(networks.UpstreamError, match=r"missing skips\.1\.0\.weight; unexpected extra"):
        from_upstream("mambamorph_feat", FEAT_CONFIG, renamed)
    with pytest.raises(networks.UpstreamError, match=r"unexpected feature_extractor\."):
        from_upstream("mambamorph", FEAT_CONFIG, theirs)
    cut = theirs | {"transformer.layers.0.downsample.reduction.weight": torch.zeros(24, 95)}
    with pytest.raises(networks.UpstreamError, match=r"reduction\.weight \(24, 95\) instead of \(24, 96\)"):
        from_upstream("mambamorph_feat", FEAT_CONFIG, cut)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"spe": False}, "spe=True is known here, got False"),
        ({"patch_size": 2}, "patch_size=4 is known here, got 2"),
        ({"depths": [2, 2]}, r"three stages.*\(2, 2\)"),
        ({"window_size": 5}, "window_size is not known"),
    ],
)
def test_other_configurations_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream("mambamorph", CONFIG | config, {})


@pytest.mark.parametrize(
    ("features", "options", "words"),
    [
        ((4, 6), {}, r"at least 3 levels.*\(4, 6\)"),
        ((4, 6, 8), {"feature_width": -1}, "feature_width must be at least 0, got -1"),
        ((4, 6, 8), {"integration_steps": -2}, "integration_steps must be at least 0, got -2"),
    ],
)
def test_options_that_do_not_fit_are_refused(features: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MambaMorph(1, topology(*features), **options)


def test_registration_networks_and_others_are_not_made_alike() -> None:
    with pytest.raises(ValueError, match=r"'mambamorph' registers images.*create_registration"):
        networks.create("mambamorph", 1, 2, topology(4, 6, 8))
    with pytest.raises(ValueError, match="'unet' is for segmentation, not registration; make it with create"):
        networks.create_registration("unet", 1, topology(4, 6, 8))
    with pytest.raises(ValueError, match="no option depth; its options are: feature_width"):
        networks.create_registration("mambamorph", 1, topology(4, 6, 8), depth=3)
