"""What is SegMamba's own, beside the contract of all networks."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks.published._blocks import THREE_ORDERS
from medmamba.networks.segmamba import MambaLayer, SegMamba
from medmamba.plans.plan import Topology


def topology(*features: int, dims: int = 3) -> Topology:
    """Stages of stride 2, a patch of two voxels per axis at the last one."""
    stages = len(features)
    return Topology(
        patch_size=(2**stages,) * dims,
        strides=((1,) * dims, *((2,) * dims,) * (stages - 1)),
        kernel_sizes=((3,) * dims,) * stages,
        features=features,
    )


PUBLISHED = topology(48, 96, 192, 384, 768)
CONFIG: dict[str, Any] = {
    "in_chans": 1,
    "out_chans": 2,
    "depths": [1, 0, 2],
    "feat_size": [2, 3, 4],
    "hidden_size": 5,
    "num_slices": None,
}


def noise(*shape: int) -> Tensor:
    """The same for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def upstream_weights() -> dict[str, Tensor]:
    """A state dict by the authors' names, for CONFIG."""
    state: dict[str, Tensor] = {}
    widths, last = CONFIG["feat_size"], CONFIG["hidden_size"]
    sources, all_widths = [CONFIG["in_chans"], *widths], [*widths, last]
    for stage, width in enumerate(widths):
        kernel = (7, 7, 7) if stage == 0 else (2, 2, 2)
        state[f"vit.downsample_layers.{stage}.{min(stage, 1)}.weight"] = noise(width, sources[stage], *kernel)
        state[f"vit.downsample_layers.{stage}.{min(stage, 1)}.bias"] = noise(width)
        for name, edge in (("proj", 3), ("proj2", 3), ("proj3", 1), ("proj4", 1)):
            state[f"vit.gscs.{stage}.{name}.weight"] = noise(width, width, edge, edge, edge)
            state[f"vit.gscs.{stage}.{name}.bias"] = noise(width)
        for name, (out, given) in (("fc1", (2 * width, width)), ("fc2", (width, 2 * width))):
            state[f"vit.mlps.{stage}.{name}.weight"] = noise(out, given, 1, 1, 1)
            state[f"vit.mlps.{stage}.{name}.bias"] = noise(out)
        for index in range(CONFIG["depths"][stage]):
            layer = f"vit.stages.{stage}.{index}."
            inner = 2 * width
            state |= {f"{layer}norm.weight": noise(width), f"{layer}norm.bias": noise(width)}
            state[f"{layer}mamba.in_proj.weight"] = noise(2 * inner, width)
            state[f"{layer}mamba.out_proj.weight"] = noise(width, inner)
            for number, suffix in enumerate(THREE_ORDERS):
                shapes = {
                    f"conv1d{suffix}.weight": (inner, 1, 4),
                    f"conv1d{suffix}.bias": (inner,),
                    f"x_proj{suffix}.weight": (33, inner),
                    f"dt_proj{suffix}.weight": (inner, 1),
                    f"dt_proj{suffix}.bias": (inner,),
                    f"A{suffix}_log": (inner, 16),
                    f"D{suffix}": (inner,),
                }
                state |= {f"{layer}mamba.{key}": noise(*shape) + number for key, shape in shapes.items()}
    for index, (source, width) in enumerate(zip(sources, all_widths, strict=True), start=1):
        state[f"encoder{index}.layer.conv1.conv.weight"] = noise(width, source, 3, 3, 3)
        state[f"encoder{index}.layer.conv2.conv.weight"] = noise(width, width, 3, 3, 3)
        state[f"encoder{index}.layer.conv3.conv.weight"] = noise(width, source, 1, 1, 1)
    for index, width in enumerate(widths, start=2):
        state[f"decoder{index}.transp_conv.conv.weight"] = noise(all_widths[index - 1], width, 2, 2, 2)
        state[f"decoder{index}.conv_block.conv1.conv.weight"] = noise(width, 2 * width, 3, 3, 3)
        state[f"decoder{index}.conv_block.conv2.conv.weight"] = noise(width, width, 3, 3, 3)
        state[f"decoder{index}.conv_block.conv3.conv.weight"] = noise(width, 2 * width, 1, 1, 1)
    for name in ("conv1", "conv2"):
        state[f"decoder1.layer.{name}.conv.weight"] = noise(widths[0], widths[0], 3, 3, 3)
    return state | {"out.conv.conv.weight": noise(2, widths[0], 1, 1, 1), "out.conv.conv.bias": noise(2)}


@pytest.mark.parametrize(("image", "classes", "expected"), [(4, 4, 67_416_196), (1, 13, 67_363_213)])
def test_full_size_network_has_published_size(image: int, classes: int, expected: int) -> None:
    with torch.device("meta"):
        network = SegMamba(image, classes, PUBLISHED, deep_supervision=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_checkpoint_of_a_wrapped_network_is_taken() -> None:
    network = networks.from_upstream("segmamba", CONFIG, upstream_weights())
    wrapped = networks.from_upstream("segmamba", CONFIG, {f"module.{k}": v for k, v in upstream_weights().items()})
    assert network.state_dict().keys() == wrapped.state_dict().keys()
    assert torch.equal(network(noise(1, 1, 16, 16, 16)), wrapped(noise(1, 1, 16, 16, 16)))


def test_each_order_gets_its_own_weights() -> None:
    network = networks.from_upstream("segmamba", CONFIG, upstream_weights())
    for name in ("A_log", "D", "conv_weight", "conv_bias", "x_proj", "step_weight", "step_bias"):
        parameter = network.get_parameter(f"trunk.stages.2.1.mamba.{name}")
        assert torch.allclose(parameter[1], parameter[0] + 1), name
        assert torch.allclose(parameter[2], parameter[0] + 2), name


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("vit.stages.0.0.mamba.A_s_log", "the weights lack vit.stages.0.0.mamba.A_s_log;"),
        ("vit.stages.2.1.mamba.conv1d_b.bias", "the weights lack vit.stages.2.1.mamba.conv1d_b.bias;"),
        ("encoder2.layer.conv3.conv.weight", "missing skips.1.conv3.weight"),
        ("decoder4.transp_conv.conv.weight", "missing decoder.upsample_layers.0.weight"),
    ],
)
def test_missing_weights_are_named(lost: str, named: str) -> None:
    state = upstream_weights()
    del state[lost]
    with pytest.raises(networks.UpstreamError, match=re.escape(named)):
        networks.from_upstream("segmamba", CONFIG, state)


def test_unknown_arguments_of_the_constructor_are_refused() -> None:
    with pytest.raises(networks.UpstreamError, match="dropout_rate is not known here"):
        networks.from_upstream("segmamba", CONFIG | {"dropout_rate": 0.1}, upstream_weights())


def test_third_order_follows_the_slices_of_any_map() -> None:
    torch.manual_seed(0)
    layer, fixed = MambaLayer(6, 3), MambaLayer(6, 3, slices=5)
    fixed.load_state_dict(layer.state_dict())
    with torch.no_grad():
        x = noise(2, 6, 5, 3, 7)
        assert torch.equal(layer(x), fixed(x))
        # Five pieces of a map of three slices are not slices.
        x = noise(2, 6, 3, 5, 7)
        assert not torch.allclose(layer(x), fixed(x), atol=1e-3)


def test_slices_that_do_not_divide_the_voxels_are_refused() -> None:
    network = SegMamba(1, 2, topology(4, 6, 8), slices=(4, 3))
    with pytest.raises(ValueError, match=r"a grid \(2, 2, 2\) cannot be cut in 3 equal pieces"):
        network(torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"depths": 0}, r"depths must be 2 numbers of at least 0.* but are 0$"),
        ({"slices": 4}, r"slices must be 2 numbers of at least 1.* but are 4$"),
        ({"depths": (1, 1, 1)}, r"depths must be 2 numbers of at least 0.*\(1, 1, 1\)"),
        ({"slices": (4, 0)}, r"slices must be 2 numbers of at least 1.*\(4, 0\)"),
        ({"step_start": "log"}, "one of mamba, linear, zero, but got 'log'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        networks.create("segmamba", 1, 2, topology(4, 6, 8), **options)


def test_network_takes_other_sizes_than_its_patch() -> None:
    torch.manual_seed(0)
    network = networks.create("segmamba", 1, 2, topology(4, 6, 8))
    assert [tuple(output.shape) for output in network(noise(1, 1, 12, 20, 8))] == [(1, 2, 12, 20, 8), (1, 2, 6, 10, 4)]


def test_stem_does_not_mix_slices_that_lie_far_apart() -> None:
    anisotropic = Topology(
        patch_size=(4, 8, 8),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        features=(4, 6, 8),
    )
    network = SegMamba(1, 2, anisotropic)
    assert network.get_parameter("trunk.downsample_layers.0.0.weight").shape == (4, 1, 1, 7, 7)
    assert network.get_parameter("trunk.downsample_layers.1.1.weight").shape == (6, 4, 2, 2, 2)


def test_network_without_deep_supervision_has_one_head_and_returns_a_tensor() -> None:
    torch.manual_seed(0)
    network = SegMamba(1, 2, topology(4, 6, 8), deep_supervision=False)
    output = network(noise(1, 1, 8, 8, 8))
    assert isinstance(output, Tensor)
    assert output.shape == (1, 2, 8, 8, 8)
    network.decoder.deep_supervision = True
    with pytest.raises(ValueError, match="deep_supervision=True"):
        network(noise(1, 1, 8, 8, 8))


@pytest.mark.parametrize("step_start", ["linear", "mamba"])
def test_steps_across_slices_begin_as_asked_for(step_start: str) -> None:
    network = networks.create("segmamba", 1, 2, topology(16, 24, 32), step_start=step_start)
    forward, *others = F.softplus(network.get_parameter("trunk.stages.1.0.mamba.step_bias"))
    assert ((forward > 0.9e-3) & (forward < 0.11)).all()
    for steps in others:
        small = (steps > 0.9e-3) & (steps < 0.11)
        assert small.all() if step_start == "mamba" else not small.any()


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = networks.create("segmamba", 1, 2, topology(4, 6, 8), checkpointing=checkpointing)
        torch.autograd.backward([output.square().mean() for output in network(noise(2, 1, 8, 8, 8))])
        gradients.append({key: parameter.grad for key, parameter in network.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert torch.equal(gradient, cast(Tensor, gradients[1][key])), key


def test_checkpointing_keeps_fewer_activations() -> None:
    kept = []
    for checkpointing in (False, True):
        network = networks.create("segmamba", 1, 2, topology(8, 8, 8), checkpointing=checkpointing)
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(noise(1, 1, 16, 16, 16))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_convolutions_keep_the_initialisation_of_the_framework() -> None:
    torch.manual_seed(0)
    network = networks.create("segmamba", 1, 2, topology(16, 16, 16))
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    for module in convolutions:
        bound = module.weight[0].numel() ** -0.5
        assert module.weight.abs().max() <= bound
        assert module.weight.abs().max() > 0.8 * bound


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_mamba_layer_computes_in_float32_under_autocast(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MambaLayer(6, 2)
    x = noise(2, 6, 3, 4).to(kind)
    with torch.autocast("cpu", dtype=kind):
        inside = layer(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer(x.float()))
