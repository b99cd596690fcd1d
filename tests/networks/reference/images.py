"""Vim and VMamba: classifiers of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.networks.reference.scan import both_ways, layer_norm, mamba, rms_norm, ss2d
from tests.networks.reference.weights import Weights


def vim(w: Weights, x: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``VisionMamba``: logits, and what the head reads."""
    d, patch, stride = config.get("embed_dim", 192), config.get("patch_size", 16), config.get("stride", 16)
    x = F.conv2d(x, *w.layer("patch_embed.proj", d, config.get("channels", 3), patch, patch), stride=stride)
    x = x.flatten(2).mT
    count = x.shape[1]
    places: list[int] = []
    if config.get("if_cls_token", False):
        batch = (x.shape[0], -1, -1)
        if config.get("use_double_cls_token", False):
            ends = (w("cls_token_head", 1, 1, d), w("cls_token_tail", 1, 1, d))
            x = torch.cat([ends[0].expand(batch), x, ends[1].expand(batch)], dim=1)
            places = [0, count + 1]
        else:
            places = [count // 2 if config.get("use_middle_cls_token", False) else 0]
            token = w("cls_token", 1, 1, d).expand(batch)
            x = torch.cat([x[:, : places[0]], token, x[:, places[0] :]], dim=1)
    if config.get("if_abs_pos_embed", False):
        x = x + w("pos_embed", 1, x.shape[1], d)
    eps = config.get("norm_epsilon", 1e-5)

    def norm(name: str, y: Tensor) -> Tensor:
        if config.get("rms_norm", False):
            return rms_norm(y, w(f"{name}.weight", d, around=1.0), eps=eps)
        return layer_norm(y, *w.norm(name, d), eps=eps)

    options = {"d_model": d, "d_state": config.get("d_state", 16), **(config.get("ssm_cfg") or {})}
    options |= {"init_layer_scale": config.get("init_layer_scale"), "bimamba_type": config["bimamba_type"]}
    for index in range(config.get("depth", 24)):
        x = x + vim_mixer(w.under(f"layers.{index}.mixer."), norm(f"layers.{index}.norm", x), options | {
            "if_divide_out": config.get("if_divide_out", False)
        })  # fmt: skip
    x = norm("norm_f", x)
    if places:
        features = sum(x[:, place] for place in places) / len(places)
    else:
        pooled = config.get("final_pool_type", "none")
        features = {"none": x[:, -1], "mean": x.mean(1), "max": x, "all": x}[pooled]
    logits = F.linear(features, *w.layer("head", config.get("num_classes", 1000), d))
    if not places and config.get("final_pool_type") == "max":
        logits = logits.amax(1)
    return {"out": logits, "features": features}


def vim_mixer(w: Weights, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The Mamba block of Vim's fork, of every type."""
    kind = options.get("bimamba_type", "none")
    orders = both_ways(x.shape[1]) if kind in ("v1", "v2") else [("", None)]
    halved = kind == "v2" and options.get("if_divide_out", False)
    return mamba(w, x, options, orders, scale=0.5 if halved else 1.0)


def vmamba(w: Weights, x: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``VSSM``: logits, and each stage with the downsampling that it ends with."""
    depths, dims = config["depths"], config["dims"]
    widths = [dims * 2**stage for stage in range(len(depths))] if isinstance(dims, int) else list(dims)
    x = _stem(w, x, config.get("in_chans", 3), widths[0], config.get("patchembed_version", "v1"))
    first_channels = config.get("norm_layer", "ln").lower() == "ln2d"
    outputs = {}
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for index in range(depth):
            x = _block(w.under(f"layers.{stage}.blocks.{index}."), x, width, config)
        if stage + 1 < len(widths):
            down = w.under(f"layers.{stage}.downsample.")
            x = _down(down, x, width, widths[stage + 1], config.get("downsample_version", "v2"))
        outputs[f"layer{stage}"] = x.movedim(-1, 1) if first_channels else x
    x = layer_norm(x, *w.norm("classifier.norm", widths[-1])).flatten(1, 2).mean(1)
    return {"out": F.linear(x, *w.layer("classifier.head", config.get("num_classes", 1000), widths[-1])), **outputs}


def _stem(w: Weights, x: Tensor, channels: int, width: int, version: str) -> Tensor:
    """An image, channels first, to a map, channels last."""
    if version == "v1":
        x = F.conv2d(x, *w.layer("patch_embed.0", width, channels, 4, 4), stride=4).movedim(1, -1)
        return layer_norm(x, *w.norm("patch_embed.2", width))
    x = F.conv2d(x, *w.layer("patch_embed.0", width // 2, channels, 3, 3), stride=2, padding=1).movedim(1, -1)
    x = F.gelu(layer_norm(x, *w.norm("patch_embed.2", width // 2))).movedim(-1, 1)
    x = F.conv2d(x, *w.layer("patch_embed.5", width, width // 2, 3, 3), stride=2, padding=1).movedim(1, -1)
    return layer_norm(x, *w.norm("patch_embed.7", width))


def _block(w: Weights, x: Tensor, width: int, config: Mapping[str, Any]) -> Tensor:
    if config.get("ssm_ratio", 2.0):
        options = {"d_model": width, "forward_type": config["forward_type"], "ssm_ratio": config.get("ssm_ratio", 2.0)}
        options |= {"d_state": config.get("ssm_d_state", 16), "dt_rank": config.get("ssm_dt_rank", "auto")}
        options |= {"conv_bias": config.get("ssm_conv_bias", True), "d_conv": config.get("ssm_conv", 3)}
        x = x + ss2d(w.under("op."), layer_norm(x, *w.norm("norm", width)), options)
    hidden = int(config.get("mlp_ratio", 4.0) * width)
    if hidden:
        y = F.gelu(F.linear(layer_norm(x, *w.norm("norm2", width)), *w.layer("mlp.fc1", hidden, width)))
        x = x + F.linear(y, *w.layer("mlp.fc2", width, hidden))
    return x


def _down(w: Weights, x: Tensor, width: int, wider: int, version: str) -> Tensor:
    if version == "v1":
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))  # zeros below and to the right of odd maps
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        x = layer_norm(x, *w.norm("1", 4 * width))
        return F.linear(x, w("2.weight", wider, 4 * width))
    edge, padding = (2, 0) if version == "v2" else (3, 1)
    x = F.conv2d(x.movedim(-1, 1), *w.layer("1", wider, width, edge, edge), stride=2, padding=padding)
    return layer_norm(x.movedim(1, -1), *w.norm("3", wider))
