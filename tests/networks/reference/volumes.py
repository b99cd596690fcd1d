"""U-Mamba, SegMamba and their layers: segmentation in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.networks.reference.scan import layer_norm, mamba, three_ways
from tests.networks.reference.weights import Weights

CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Each channel of each image by itself, over space."""
    axes = tuple(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)
    if weight is None or bias is None:
        return y
    shape = (-1, *(1,) * len(axes))
    return y * weight.view(shape) + bias.view(shape)


def leaky(x: Tensor, slope: float = 0.01) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def conv(
    w: Weights,
    name: str,
    x: Tensor,
    out: int,
    kernel: Sequence[int],
    stride: Sequence[int] | int = 1,
    bias: bool = True,
) -> Tensor:
    """Padded by half of the kernel."""
    weight, offset = w.layer(name, out, x.shape[1], *kernel, bias=bias)
    step = tuple(stride) if not isinstance(stride, int) else stride
    return CONV[len(kernel)](x, weight, offset, stride=step, padding=tuple(edge // 2 for edge in kernel))


def umamba(w: Weights, x: Tensor, config: Mapping[str, Any], placement: str) -> dict[str, Tensor]:
    """U-Mamba Bot or Enc: logits of each decoder stage, finest first."""
    features, kernels, strides = config["features_per_stage"], config["kernels"], config["strides"]
    stages, dims = len(features), len(kernels[0])
    encoder, decoder = blocks_of(config, stages)
    point = (1,) * dims
    x = _residual_stage(w.under("encoder.stem."), x, features[0], kernels[0], 1, encoder[0])
    size, skips = list(config["patch"]), []
    for stage in range(stages):
        size = [n // s for n, s in zip(size, strides[stage], strict=True)]
        place = w.under(f"encoder.stages.{stage}.")
        x = _residual_stage(place, x, features[stage], kernels[stage], strides[stage], encoder[stage])
        if placement == "encoder" and (dims == 3 or (stage % 2 == 1) != (stages % 2 == 1)):
            channels = math.prod(size) <= features[stage]
            x = umamba_layer(w.under(f"encoder.mamba_layers.{stage}."), x, channels_are_tokens=channels)
        skips.append(x)
    if placement == "bottleneck":
        x = umamba_layer(w.under("mamba_layer."), x, channels_are_tokens=False)
    logits = []
    for index in range(stages - 1):
        stage = stages - 2 - index
        factors = tuple(float(step) for step in strides[stage + 1])
        x = F.interpolate(x, scale_factor=factors, mode="nearest")
        x = conv(w, f"decoder.upsample_layers.{index}.conv", x, features[stage], point)
        if stage > 0 or dims == 3:
            x = torch.cat([x, skips[stage]], dim=1)
        place = w.under(f"decoder.stages.{index}.")
        x = _residual_stage(place, x, features[stage], kernels[stage], 1, decoder[index])
        logits.append(conv(w, f"decoder.seg_layers.{index}", x, config["ncls"], point))
    if not config.get("deep_supervision", True):
        return {"out": logits[-1]}
    return {str(index): output for index, output in enumerate(reversed(logits))}


def blocks_of(config: Mapping[str, Any], stages: int) -> tuple[list[int], list[int]]:
    """Of encoder and decoder stages: one each in the coarser half, whatever the plan says."""
    encoder, decoder = list(config["ne"]), list(config["nd"])
    encoder[math.ceil(stages / 2) :] = [1] * (stages - math.ceil(stages / 2))
    kept = math.ceil((stages - 1) / 2 + 0.5)
    decoder[kept:] = [1] * (stages - 1 - kept)
    return encoder, decoder


def umamba_layer(w: Weights, x: Tensor, *, channels_are_tokens: bool) -> Tensor:
    tokens = x.flatten(2) if channels_are_tokens else x.flatten(2).mT
    width = tokens.shape[2]
    y = mamba(w.under("mamba."), layer_norm(tokens, *w.norm("norm", width)), {"d_model": width})
    return (y if channels_are_tokens else y.mT).reshape(x.shape)


def _residual_stage(
    w: Weights, x: Tensor, width: int, kernel: Sequence[int], stride: Sequence[int] | int, count: int
) -> Tensor:
    first = w.under("0.")
    y = leaky(instance_norm(conv(first, "conv1", x, width, kernel, stride), *first.norm("norm1", width)))
    y = instance_norm(conv(first, "conv2", y, width, kernel), *first.norm("norm2", width))
    x = leaky(y + conv(first, "conv3", x, width, (1,) * len(kernel), stride))
    for index in range(1, count):
        block = w.under(f"{index}.")
        y = leaky(instance_norm(conv(block, "conv1.conv", x, width, kernel), *block.norm("conv1.norm", width)))
        y = instance_norm(conv(block, "conv2.conv", y, width, kernel), *block.norm("conv2.norm", width))
        x = leaky(y + x)
    return x


def segmamba(w: Weights, x: Tensor, config: Mapping[str, Any], slices: Sequence[int]) -> dict[str, Tensor]:
    """SegMamba: logits."""
    widths = list(config["feat_size"])
    maps, y = [x], x
    for stage, width in enumerate(widths):
        if stage == 0:
            y = conv(w, "vit.downsample_layers.0.0", y, width, (7, 7, 7), 2)
        else:
            weight, bias = w.layer(f"vit.downsample_layers.{stage}.1", width, widths[stage - 1], 2, 2, 2)
            y = F.conv3d(instance_norm(y), weight, bias, stride=2)
        y = gsc(w.under(f"vit.gscs.{stage}."), y)
        for index in range(config["depths"][stage]):
            y = segmamba_layer(w.under(f"vit.stages.{stage}.{index}."), y, {"dim": width}, slices[stage])
        side = F.gelu(conv(w, f"vit.mlps.{stage}.fc1", instance_norm(y), 2 * width, (1, 1, 1)))
        maps.append(conv(w, f"vit.mlps.{stage}.fc2", side, width, (1, 1, 1)))
    outs = [*widths, config["hidden_size"]]
    skips = [_unet_block(w.under(f"encoder{i + 1}.layer."), m, outs[i]) for i, m in enumerate(maps)]
    y = skips[-1]
    for stage in reversed(range(len(widths))):
        place = w.under(f"decoder{stage + 2}.")
        weight = place("transp_conv.conv.weight", outs[stage + 1], outs[stage], 2, 2, 2)
        y = F.conv_transpose3d(y, weight, stride=2)
        y = _unet_block(place.under("conv_block."), torch.cat([y, skips[stage]], dim=1), outs[stage])
    y = _unet_block(w.under("decoder1.layer."), y, outs[0])
    return {"out": conv(w, "out.conv.conv", y, config["out_chans"], (1, 1, 1))}


def gsc(w: Weights, x: Tensor) -> Tensor:
    width = x.shape[1]
    one = F.relu(instance_norm(conv(w, "proj", x, width, (3, 3, 3))))
    one = F.relu(instance_norm(conv(w, "proj2", one, width, (3, 3, 3))))
    two = F.relu(instance_norm(conv(w, "proj3", x, width, (1, 1, 1))))
    return x + F.relu(instance_norm(conv(w, "proj4", one + two, width, (1, 1, 1))))


def segmamba_layer(w: Weights, x: Tensor, options: Mapping[str, Any], slices: int) -> Tensor:
    width = options["dim"]
    tokens = x.flatten(2).mT
    block = {"d_model": width, **{name: value for name, value in options.items() if name.startswith(("d_", "expand"))}}
    y = mamba(w.under("mamba."), layer_norm(tokens, *w.norm("norm", width)), block, three_ways(tokens.shape[1], slices))
    return x + y.mT.reshape(x.shape)


def _unet_block(w: Weights, x: Tensor, width: int) -> Tensor:
    y = leaky(instance_norm(conv(w, "conv1.conv", x, width, (3, 3, 3), bias=False)))
    y = instance_norm(conv(w, "conv2.conv", y, width, (3, 3, 3), bias=False))
    if x.shape[1] != width:
        x = instance_norm(conv(w, "conv3.conv", x, width, (1, 1, 1), bias=False))
    return leaky(y + x)


def vivim_layer(w: Weights, x: Tensor, options: Mapping[str, Any], frames: int) -> Tensor:
    """(B, C, T, H, W) to the same."""
    width = options["dim"]
    hidden = int(options.get("mlp_ratio", 4) * width)
    tokens = x.flatten(2).mT
    block = {"d_model": width, "d_state": options.get("d_state", 16)}
    orders = three_ways(tokens.shape[1], frames)
    y = tokens + mamba(w.under("mamba."), layer_norm(tokens, *w.norm("norm1", width)), block, orders, scale=1 / 3)
    z = F.linear(layer_norm(y, *w.norm("norm2", width)), *w.layer("mlp.fc1", hidden, width)).mT
    weight, bias = w.layer("mlp.dwconv.dwconv", hidden, 1, 3, 3, 3)
    z = F.conv3d(z.reshape(x.shape[0], hidden, *x.shape[2:]), weight, bias, padding=1, groups=hidden)
    y = y + F.linear(F.gelu(z).flatten(2).mT, *w.layer("mlp.fc2", width, hidden))
    return y.mT.reshape(x.shape)
