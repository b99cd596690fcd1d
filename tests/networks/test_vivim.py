"""Vivim: any number of frames, the original's numbers, and weights from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from medmamba import kernels, networks
from medmamba.networks import _segformer as segformer
from medmamba.networks.published.vivim import load_segformer
from medmamba.networks.vivim import MambaLayer, Vivim, published_topology
from medmamba.plans.plan import Topology
from tests import golden

SMALL = Topology(patch_size=(16, 24), strides=((4, 4), (2, 2)), kernel_sizes=((7, 7), (3, 3)), features=(6, 8))
OPTIONS: dict[str, Any] = {"depths": (1, 2), "heads": (2, 2), "decoder_width": 10, "mamba_layers": 1}


def build(seed: int = 0, **options: Any) -> Vivim:
    """A small network, the same for the same seed."""
    torch.manual_seed(seed)
    network = networks.create("vivim", 2, 3, SMALL, **(OPTIONS | options))
    assert isinstance(network, Vivim)
    return network


def clip(batch: int = 2, frames: int = 3, size: tuple[int, int] = (16, 24)) -> Tensor:
    """Noise."""
    return torch.randn(batch, frames, 2, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("path", golden.parameters("vivim"))
def test_all_but_what_the_authors_never_use_is_loaded(path: Path) -> None:
    file = golden.load(path)
    weights = file.group("param/")
    network = networks.from_upstream("vivim", file.facts["config"], weights).eval()
    unused = [
        key for key in weights if key.startswith(("encoder.downsample_layers.layer_norm.", "decoder.classifier."))
    ]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + sum(weights[key].numel() for key in unused) == file.facts["param_count"]


@pytest.mark.parametrize(("edge_head", "published"), [(False, 59_620_439), (True, 59_620_504)])
def test_full_size_network_has_published_size(edge_head: bool, published: int) -> None:
    with torch.device("meta"):
        network = Vivim(3, 1, published_topology(), edge_head=edge_head)
    unused = 117_398  # of the published number: norms after stages and a classifier that nothing reads
    assert sum(parameter.numel() for parameter in network.parameters()) == published - unused


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("size", [(16, 24), (24, 8)])
def test_any_number_of_frames_and_any_divisible_size_is_taken(frames: int, size: tuple[int, int]) -> None:
    logits, edges = build(edge_head=True)(clip(frames=frames, size=size))
    assert logits.shape == (2, frames, 3, *size)
    assert edges.shape == (2, frames, 1, *size)


def test_third_order_runs_through_time() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(6)
    fixed = layer.mamba.orders[:2] + kernels.interleaved(5)[2:]
    x = torch.randn(2, 5, 3, 4, 6)
    with torch.no_grad():
        expected = layer(x)
        layer.mamba.orders = fixed
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("shape", [(2, 2, 16, 24), (1, 3, 3, 16, 24), (1, 0, 2, 16, 24)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, frames, 2 channels, height, width\).*" + re.escape(str(shape))):
        build()(torch.zeros(shape))


def test_frames_of_any_size_are_taken_where_that_is_asked_for() -> None:
    network, strict = build(any_size=True).eval(), build().eval()
    odd = torch.randn(1, 3, 2, 19, 21)
    with torch.no_grad():
        assert network(odd).shape == (1, 3, 3, 19, 21)
        assert torch.equal(network(clip()), strict(clip()))


def test_indivisible_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 20\) must be divisible by the product of strides \(8, 8\)"):
        build()(clip(size=(16, 20)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"depths": (1,)}, r"depths must be positive numbers, one for each of the 2 stages.*\(1,\)"),
        ({"depths": 2}, r"depths must be positive numbers, .* but are 2$"),
        ({"depths": ()}, "depths must be positive numbers"),
        ({"heads": (1, 2, 3)}, r"heads must be .* are \(1, 2, 3\)"),
        ({"reductions": (1, 0)}, "reductions must be positive"),
        ({"heads": (4, 4)}, "4 do not divide 6"),
        ({"step_start": "log"}, "one of mamba, linear, zero, but got 'log'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build(**options)


def test_gradient_reaches_every_parameter() -> None:
    network = build(edge_head=True).train()
    torch.autograd.backward([(output**2).mean() for output in network(clip())])
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # A bias of the keys shifts all scores of a query alike: attention does not see it.
        if not key.endswith("key.bias"):
            assert parameter.grad.abs().max() > 0, key


def test_every_frame_sees_the_whole_clip_and_no_other() -> None:
    network = build().eval()
    x = clip().requires_grad_()
    network(x)[0, 0].square().sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().amax(dim=(2, 3, 4))
    assert (reached[0] > 0).all()
    assert (reached[1] == 0).all()


@pytest.mark.parametrize("backend", kernels.backends("cpu"))
def test_every_scan_backend_gives_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build().eval()
    with torch.no_grad():
        chosen = network(clip())
        monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
        assert (network(clip()) - chosen).abs().max() < 1e-4 * chosen.abs().max()


def test_weights_survive_a_file(tmp_path: Path) -> None:
    network, other = build().eval(), build(seed=1).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(network(clip()), other(clip()))


def test_bfloat16_autocast_gives_finite_gradients() -> None:
    network = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(100 * clip())
    logits.float().square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        network = build(checkpointing=checkpointing, drop_path=0.5)
        torch.manual_seed(1)
        network(clip()).square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in network.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert torch.equal(gradient, cast(Tensor, gradients[1][key])), key


def test_keys_and_values_are_read_at_the_resolution_of_the_last_stage() -> None:
    with torch.device("meta"):
        network = Vivim(3, 1, published_topology())
    attentions = [network.get_submodule(f"stages.{stage}.blocks.0.attention") for stage in range(4)]
    reductions = [tuple(attention.sr.stride) if attention.sr is not None else None for attention in attentions]
    assert reductions == [(8, 8), (4, 4), (2, 2), None]
    assert [attention.heads for attention in attentions] == [1, 2, 5, 8]


@pytest.mark.parametrize("step_start", ["zero", "mamba"])
def test_steps_begin_as_asked_for(step_start: str) -> None:
    mixer = "stages.1.mamba_layers.0.mamba."
    network = build(step_start=step_start)
    steps = F.softplus(network.get_parameter(f"{mixer}step_bias"))
    if step_start == "zero":
        assert torch.equal(steps, torch.full_like(steps, 2.0).log())
    else:
        assert ((steps > 0.9e-3) & (steps < 0.11)).all()
    for name in ("x_proj", "in_proj.weight", "out_proj.weight"):
        assert network.get_parameter(mixer + name).std().item() == pytest.approx(0.02, rel=0.3), name


def transformers_name(key: str) -> str:
    """What the transformers library calls one of our parameters that SegFormer has too."""
    for pattern, name in (
        (r"^stages\.(\d+)\.embed\.", r"segformer.encoder.patch_embeddings.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"segformer.encoder.block.\1."),
        (r"\.attention\.dense\.", ".attention.output.dense."),
        (r"\.attention\.(?!output)", ".attention.self."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"\.dwconv\.", ".dwconv.dwconv."),
        (r"^decoder\.linear_c\.(\d+)\.", r"decode_head.linear_c.\1.proj."),
        (r"^decoder\.", "decode_head."),
    ):
        key = re.sub(pattern, name, key)
    return key


def segformer_weights(network: Vivim) -> dict[str, Tensor]:
    """The part of a network that is a SegFormer, by the names of the transformers library, with what that has more."""
    shared = {
        transformers_name(key): tensor
        for key, tensor in network.state_dict().items()
        if ".mamba_layers." not in key and not key.startswith(("decoder.out.", "edge_head."))
    }
    return shared | {
        "segformer.encoder.layer_norm.0.weight": torch.ones(6),
        "decode_head.classifier.bias": torch.ones(5),
    }


def test_weights_of_a_segformer_are_taken_and_the_rest_is_left() -> None:
    network, other = build(edge_head=True), build(seed=1, edge_head=True)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    load_segformer(other, segformer_weights(network))
    for key, tensor in other.state_dict().items():
        own = ".mamba_layers." in key or key.startswith(("decoder.out.", "edge_head."))
        assert torch.equal(tensor, before[key] if own else network.state_dict()[key]), key


def test_weights_of_a_segformer_for_classification_fill_the_backbone() -> None:
    network, other = build(), build(seed=1)
    before = other.state_dict()["decoder.linear_fuse.weight"].clone()
    weights = {key: value for key, value in segformer_weights(network).items() if not key.startswith("decode_head.")}
    load_segformer(other, weights | {"classifier.weight": torch.ones(1000, 8)})
    assert torch.equal(other.state_dict()["decoder.linear_fuse.weight"], before)
    key = "stages.1.blocks.1.mlp.fc2.weight"
    assert torch.equal(other.state_dict()[key], network.state_dict()[key])


def authors_name(key: str) -> str:
    """What SegFormer's own authors call a parameter, by the name of the transformers library."""
    for pattern, name in (
        (r"^segformer\.encoder\.(\w+)\.(\d+)\.", lambda m: f"backbone.{m[1]}{int(m[2]) + 1}."),
        (r"patch_embeddings", "patch_embed"),
        (r"^(backbone\.patch_embed\d)\.layer_norm\.", r"\1.norm."),
        (r"^backbone\.layer_norm(\d)", r"backbone.norm\1"),
        (r"\.layer_norm_(\d)\.", r".norm\1."),
        (r"\.attention\.self\.query\.", ".attn.q."),
        (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.attention\.self\.", ".attn."),
        (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
        (r"^decode_head\.linear_c\.(\d)\.", lambda m: f"decode_head.linear_c{int(m[1]) + 1}."),
        (r"^decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
        (r"^decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
        (r"^decode_head\.classifier\.", "decode_head.linear_pred."),
    ):
        key = re.sub(pattern, name, key)
    return key


def authors_weights(network: Vivim) -> dict[str, Tensor]:
    """As `segformer_weights`, by the names of SegFormer's own authors, whose keys and values are one layer."""
    named = {authors_name(key): tensor for key, tensor in segformer_weights(network).items()}
    joined = {
        key.replace(".key.", ".kv."): torch.cat([tensor, named[key.replace(".key.", ".value.")]])
        for key, tensor in named.items()
        if ".key." in key
    }
    rest = {key: tensor for key, tensor in named.items() if not re.search(r"\.(key|value)\.", key)}
    return rest | joined | {"decode_head.conv_seg.weight": torch.ones(5, 10, 1, 1)}


def test_weights_by_the_names_of_segformers_authors_are_the_same() -> None:
    network, one, other = build(), build(seed=1), build(seed=1)
    weights = authors_weights(network)
    assert {"backbone.patch_embed1.norm.weight", "backbone.block2.1.attn.kv.bias", "backbone.norm1.weight"} < set(
        weights
    )
    load_segformer(one, segformer_weights(network))
    load_segformer(other, weights)
    for key, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
    only = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    load_segformer(other, only | {"head.weight": torch.ones(1000, 8)})


def test_grey_frames_are_read_as_if_they_had_three_equal_channels() -> None:
    torch.manual_seed(0)
    colour = networks.create("vivim", 3, 3, SMALL, **OPTIONS).eval()
    grey = networks.create("vivim", 1, 3, SMALL, **OPTIONS).eval()
    assert isinstance(colour, Vivim)
    assert isinstance(grey, Vivim)
    load_segformer(grey, segformer_weights(colour))
    x = clip()[:, 0, :1]
    with torch.no_grad():
        expected = colour.stages[0].embed(x.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey.stages[0].embed(x), expected, rtol=1e-4, atol=1e-5)


def test_weights_that_a_segformer_lacks_are_named() -> None:
    weights = segformer_weights(build())
    del weights["segformer.encoder.block.1.0.mlp.dense1.bias"]
    with pytest.raises(networks.UpstreamError, match=r"missing stages\.1\.blocks\.0\.mlp\.fc1\.bias; unexpected none"):
        load_segformer(build(seed=1), weights)


@pytest.mark.parametrize("path", golden.parameters("vivim"))
def test_checkpoint_of_the_authors_trainer_is_taken(path: Path) -> None:
    file = golden.load(path)
    saved = {f"model.{key}": tensor for key, tensor in file.group("param/").items()}
    saved["criterion.inverse_distance.fc.weight"] = torch.ones(4)
    network = networks.from_upstream("vivim", file.facts["config"], saved)
    assert torch.equal(network.get_parameter("decoder.out.bias"), file.tensors["param/out.bias"])


@pytest.mark.parametrize("path", golden.parameters("vivim"))
def test_weights_that_are_missing_are_named(path: Path) -> None:
    file = golden.load(path)
    weights = file.group("param/")
    del weights["encoder.stages.2.1.0.mamba.D_s"]
    with pytest.raises(networks.UpstreamError, match=r"lack encoder\.stages\.2\.1\.0\.mamba\.D_s;"):
        networks.from_upstream("vivim", file.facts["config"], weights)


def test_joining_maps_before_or_after_interpolation_is_the_same() -> None:
    torch.manual_seed(0)
    decoder = segformer.Decoder((4, 6), 5, 2, dropout=0.1).eval().double()
    maps = [torch.randn(1, 8, 8, 4, dtype=torch.float64), torch.randn(1, 4, 4, 6, dtype=torch.float64)]
    wide = [
        segformer.resize(linear(x).movedim(-1, 1), (8, 8)) for linear, x in zip(decoder.linear_c, maps, strict=True)
    ]
    joined = F.relu(decoder.batch_norm(decoder.linear_fuse(torch.cat(wide[::-1], dim=1))))
    expected = segformer.resize(decoder.out(joined), (32, 32))
    assert torch.allclose(decoder(maps, (32, 32)), expected, rtol=1e-12, atol=1e-12)
