"""What weights tell of their network: arguments of the upstream constructor that their shapes leave no doubt of.

Letters: d width, e inner width, N states, R rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from medmamba.networks._huggingface import authors_names

#: A block of Mamba as its authors' constructor makes it.
USUAL_BLOCK: dict[str, Any] = {
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "conv_bias": True,
    "bias": False,
}


class _Shapes:
    """The shapes in a state dict, for questions by regular expressions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    def first(self, pattern: str) -> tuple[int, ...] | None:
        """Of the first key that the whole pattern matches."""
        return next((shape for key, shape in self._shapes.items() if re.fullmatch(pattern, key)), None)

    def has(self, pattern: str) -> bool:
        return self.first(pattern) is not None

    def size(self, pattern: str, axis: int) -> int | None:
        shape = self.first(pattern)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def count(self, pattern: str) -> int:
        """How many different numbers stand where the pattern has its group."""
        return len({match[1] for key in self._shapes if (match := re.fullmatch(pattern, key))})


def told(system: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments that the weights of a system tell, as far as they are there.

    Args:
        system: of `medmamba.networks.from_upstream`.
        tensors: a state dict by upstream's names.
    """
    if system not in _TOLD:
        return {}
    arguments = _TOLD[system](_Shapes(tensors), tensors)
    return {name: value for name, value in arguments.items() if value not in (None, [])}


def _block(shapes: _Shapes, tensors: Mapping[str, Tensor], place: str = "") -> dict[str, Any]:
    """Of a Mamba block, for one order or several."""
    inner, width = shapes.size(f"{place}in_proj\\.weight", 0), shapes.size(f"{place}in_proj\\.weight", 1)
    if inner is None or width is None:
        return {}
    expand = inner / 2 / width
    rank = shapes.size(f"{place}dt_proj\\.weight", 1)
    return {
        "d_model": width,
        "d_state": shapes.size(f"{place}A_log", 1),
        "d_conv": shapes.size(f"{place}conv1d\\.weight", -1),
        "expand": int(expand) if expand == int(expand) else expand,
        "dt_rank": "auto" if rank == math.ceil(width / 16) else rank,
        "conv_bias": shapes.has(f"{place}conv1d\\.bias"),
        "bias": shapes.has(f"{place}in_proj\\.bias"),
    }


def _language(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    tensors = authors_names(tensors)
    shapes = _Shapes(tensors)
    embedding, head = tensors.get("backbone.embedding.weight"), tensors.get("lm_head.weight")
    block = _block(shapes, tensors, r"backbone\.layers\.0\.mixer\.")
    return {
        "d_model": shapes.size(r"backbone\.embedding\.weight", 1),
        "n_layer": shapes.count(r"backbone\.layers\.(\d+)\..+"),
        "vocab_size": shapes.size(r"backbone\.embedding\.weight", 0),
        "rms_norm": not shapes.has(r"backbone\.norm_f\.bias"),
        "tie_embeddings": head is None or embedding is None or torch.equal(head, embedding),
        "ssm_cfg": {name: block[name] for name in USUAL_BLOCK if block and block[name] != USUAL_BLOCK[name]},
    }


def _vim(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    patch = shapes.first(r"patch_embed\.proj\.weight")
    return {
        "embed_dim": patch and patch[0],
        "channels": patch and patch[1],
        "patch_size": patch and (patch[2] if len(set(patch[2:])) == 1 else list(patch[2:])),
        "depth": shapes.count(r"layers\.(\d+)\..+"),
        "d_state": shapes.size(r"layers\.0\.mixer\.A_log", 1),
        "num_classes": shapes.size(r"head\.weight", 0) or 0,
        "bimamba_type": _directions(shapes, r"layers\.0\.mixer\."),
        "rms_norm": not shapes.has(r"norm_f\.bias"),
        "if_abs_pos_embed": shapes.has("pos_embed"),
        "if_cls_token": shapes.has("cls_token(_head)?"),
        "use_double_cls_token": shapes.has("cls_token_head"),
    }


def _vim_mixer(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return _block(shapes, tensors) | {"bimamba_type": _directions(shapes)}


def _directions(shapes: _Shapes, place: str = "") -> str:
    if shapes.has(f"{place}conv1d_b\\.weight"):
        return "v2"
    return "v1" if shapes.has(f"{place}A_b_log") else "none"


def _vmamba(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages, norms = shapes.count(r"layers\.(\d+)\..+"), r"\.blocks\.0\.(norm|ln_1)\.weight"
    stem = r"patch_embed\.(0|proj)\.weight"
    widths = [shapes.size(rf"layers\.{stage}{norms}", 0) or 0 for stage in range(stages)] or [0]
    down = shapes.first(r"layers\.0\.downsample\.1\.weight")
    return {
        "in_chans": shapes.size(stem, 1),
        "num_classes": shapes.size(r"(classifier\.)?head\.weight", 0) or 0,
        "dims": widths[0] if widths == [widths[0] * 2**stage for stage in range(stages)] else widths,
        "depths": [shapes.count(rf"layers\.{stage}\.blocks\.(\d+)\..+") for stage in range(stages)],
        "patchembed_version": "v2" if shapes.has(r"patch_embed\.5\.weight") else "v1",
        "downsample_version": "v3" if down is not None and len(down) == 4 else "v1",
        **_vss(shapes, r"layers\.0\.blocks\.0\."),
    }


def _vss_block(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"hidden_dim": shapes.size(r"(norm|ln_1)\.weight", 0), **_vss(shapes, "")}


def _vss(shapes: _Shapes, place: str) -> dict[str, Any]:
    mixer = f"{place}(op|self_attention)\\."
    width, inner = shapes.size(f"{place}(norm|ln_1)\\.weight", 0), shapes.size(f"{mixer}conv2d\\.weight", 0)
    hidden = shapes.size(f"{place}mlp\\.fc1\\.weight", 0) or 0
    return {
        "ssm_d_state": shapes.size(f"{mixer}A_logs", 1),
        "ssm_ratio": inner / width if inner and width else None,
        "ssm_conv_bias": shapes.has(f"{mixer}conv2d\\.bias"),
        "mlp_ratio": hidden / width if width else None,
    }


def _ss2d(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, inner = shapes.size(r"in_proj\.weight", 1), shapes.size(r"conv2d\.weight", 0)
    return {
        "d_model": width,
        "d_state": shapes.size("A_logs", 1),
        "ssm_ratio": inner / width if inner and width else None,
        "conv_bias": shapes.has(r"conv2d\.bias"),
    }


def _segmamba(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = shapes.count(r"vit\.gscs\.(\d+)\..+")
    return {
        "in_chans": shapes.size(r"vit\.downsample_layers\.0\.0\.weight", 1),
        "out_chans": shapes.size(r"out\.conv\.conv\.weight", 0),
        "depths": [shapes.count(rf"vit\.stages\.{stage}\.(\d+)\..+") for stage in range(stages)],
        "feat_size": [shapes.size(rf"vit\.gscs\.{stage}\.proj\.weight", 0) for stage in range(stages)],
        "hidden_size": shapes.size(rf"encoder{stages + 1}\.layer\.conv1\.conv\.weight", 0),
    }


def _vivim(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "in_chans": shapes.size(r"encoder\.downsample_layers\.patch_embeddings\.0\.proj\.weight", 1),
        "out_chans": shapes.size(r"out\.weight", 0),
        "with_edge": shapes.has(r"edgeocr_cls_head\.weight"),
    }


def _mambamorph(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    block = _block(shapes, tensors, r"transformer\.layers\.0\.mamba\.")
    return {
        "embed_dim": shapes.size(r"transformer\.patch_embed\.proj\.weight", 0),
        "reg_head_chan": shapes.size(r"reg_head\.0\.weight", 1),
        **{name: block[name] for name in ("d_state", "d_conv", "expand") if block},
    }


def _umamba(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = shapes.count(r"encoder\.stages\.(\d+)\..+")
    first = [shapes.first(rf"encoder\.stages\.{stage}\.0\.conv1\.weight") for stage in range(stages)]
    return {
        "in_ch": shapes.size(r"encoder\.stem\.0\.conv1\.weight", 1),
        "ncls": shapes.size(r"decoder\.seg_layers\.\d+\.weight", 0),
        "features_per_stage": [shape[0] for shape in first if shape],
        "kernels": [list(shape[2:]) for shape in first if shape],
    }


def _unet(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = shapes.count(r"encoder\.stages\.(\d+)\..+")
    first = [shapes.first(rf"encoder\.stages\.{stage}\.0\.convs\.0\.conv\.weight") for stage in range(stages)]
    return {
        "input_channels": first[0][1] if first and first[0] else None,
        "num_classes": shapes.size(r"decoder\.seg_layers\.\d+\.weight", 0),
        "features_per_stage": [shape[0] for shape in first if shape],
        "kernel_sizes": [list(shape[2:]) for shape in first if shape],
        "n_conv_per_stage": [
            shapes.count(rf"encoder\.stages\.{stage}\.0\.convs\.(\d+)\..+") for stage in range(stages)
        ],
    }


def _layer(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"dim": shapes.size(r"norm1?\.weight", 0), "d_state": shapes.size(r"mamba\.A_log", 1)}


def _gated(shapes: _Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"in_channles": shapes.size(r"proj4\.weight", 0)}


_TOLD: dict[str, Callable[[_Shapes, Mapping[str, Tensor]], dict[str, Any]]] = {
    "umamba_bot": _umamba,
    "umamba_enc": _umamba,
    "unet": _unet,
    "mamba": _block,
    "mamba_lm": _language,
    "mambamorph": _mambamorph,
    "mambamorph_feat": _mambamorph,
    "mambamorph_ori": _mambamorph,
    "mambamorph_layer": _layer,
    "segmamba": _segmamba,
    "segmamba_gsc": _gated,
    "segmamba_layer": _layer,
    "segmamba_mixer": _block,
    "vivim": _vivim,
    "vivim_layer": _layer,
    "vivim_mixer": _block,
    "vim": _vim,
    "vim_mamba": _vim_mixer,
    "vmamba": _vmamba,
    "vmamba_block": _vss_block,
    "vmamba_ss2d": _ss2d,
}
