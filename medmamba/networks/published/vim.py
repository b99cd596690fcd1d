"""The authors' ``VisionMamba`` as a `Vim`, and the Mamba block of their fork.

Class tokens may be in the middle, first, or at both ends; without one, logits are read as ``final_pool_type`` says.
Positions learned for another ``img_size`` are interpolated. Of ``bimamba_type``, "v2" is the published block, which
``if_divide_out`` makes a mean; "v1" the ablation "bidirectional SSM", where the directions share all but A; "none"
reads forwards only. ``init_layer_scale`` says that there is a factor for each channel.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.kernels import FORWARD, bidirectional
from medmamba.networks._ssm import GridMamba
from medmamba.networks._vim import ClassTokens, Column, insert_tokens, split_tokens, token_places
from medmamba.networks.published._blocks import (
    BLOCK,
    PLACE,
    START_AND_SPEED,
    grid_mamba,
    mixer_options,
    tell_block,
)
from medmamba.networks.published._names import Shapes, renamed
from medmamba.networks.published._system import (
    Config,
    System,
    UpstreamError,
    Weights,
    arguments,
    check_kinds,
    check_known,
)
from medmamba.networks.vim import TOKENS, Pooling, Vim

log = logging.getLogger(__name__)

_POOLINGS: dict[str, Pooling] = {"none": "last", "mean": "mean", "max": "max", "all": "all"}
_NAMES = (
    (r"^cls_token$", "column.class_token"),
    (r"^patch_embed\.proj\.", "column.patches."),
    (r"^layers\.", "column.blocks."),
    (r"^norm_f\.", "norm."),
)


def _make(config: Config, weights: Weights) -> tuple[Vim, Weights]:
    if config.get("flip_img_sequences_ratio", -1) > 0:
        raise UpstreamError("only Vim with a flip_img_sequences_ratio of at most 0 is known here: it reads one way")
    config, weights = _fit_positions(config, weights)
    size = config.get("img_size", 224)
    kind = "v1" if config.get("if_bimamba", False) else config["bimamba_type"]
    suffixes = _suffixes(kind)
    ssm = config.get("ssm_cfg") or {}
    check_known("Mamba block", ssm, ("d_model", *BLOCK, *START_AND_SPEED))
    check_kinds("ssm_cfg", ssm, BLOCK)
    options = mixer_options({"d_state": config.get("d_state", 16), **ssm})
    network = Vim(
        config.get("channels", 3),
        config.get("num_classes", 1000),
        (size, size) if isinstance(size, int) else tuple(size),
        width=config.get("embed_dim", 192),
        depth=config.get("depth", 24),
        patch=config.get("patch_size", 16),
        stride=config.get("stride", 16),
        pooling=_pooling(config),
        positions=config["if_abs_pos_embed"],
        norm="rms" if config["rms_norm"] else "layer",
        eps=config.get("norm_epsilon", 1e-5),
        block=partial(_mixer, kind=kind, config=config, options=options),
        drop_path=config.get("drop_path_rate", 0.1),
    )
    tensors = renamed(grid_mamba(weights, suffixes, shared=kind == "v1"), _NAMES)
    if {"cls_token_head", "cls_token_tail"} <= tensors.keys():
        ends = (tensors.pop("cls_token_head"), tensors.pop("cls_token_tail"))
        tensors["column.class_token"] = torch.cat(ends, dim=1)
    positions = tensors.pop("pos_embed", None)
    if positions is not None:
        tensors |= _positions(network.column, positions)
    return network, tensors


def _fit_positions(config: Config, state_dict: Weights) -> tuple[Config, Weights]:
    """Configuration and weights whose sizes of images agree: that of the configuration, if it has one.

    In the authors' code, as in DeiT (Touvron et al., 2021), the grid of patches is interpolated, too, but the first row
    is taken for the class token's, which it is not if that is in the middle; here it is kept where it is.

    Args:
        config: arguments of the authors' ``VisionMamba``; without ``img_size``, it is that of the weights if those are
            of a square image.
        state_dict: its tensors, ``pos_embed`` (1, L, d) among them.

    Raises:
        UpstreamError: if the positions are of a grid that cannot be told, because it is not square; or if they are as
            many as another ``stride`` has on such an image, and the configuration has none.
    """
    positions = state_dict.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return config, state_dict
    patch, stride = _pair(config.get("patch_size", 16)), _pair(config.get("stride", 16))
    tokens = _class_tokens(config)
    count = positions.shape[1] - len(token_places(tokens, 0))
    side = math.isqrt(max(count, 0))
    size = _pair(config.get("img_size", 224))
    if "stride" not in config and (own_stride := _stride(size, patch, count)) not in (None, stride[0]):
        raise UpstreamError(
            f"pos_embed has {count} positions of patches, which an img_size of {list(size)} has with stride "
            f"{own_stride}: the configuration must have a stride; the authors' code takes {stride[0]} without"
        )
    if "img_size" not in config and side and side**2 == count:
        own = [(side - 1) * step + edge for step, edge in zip(stride, patch, strict=True)]
        return {**config, "img_size": own}, state_dict
    grid = [max(0, (n - edge) // step + 1) for n, edge, step in zip(size, patch, stride, strict=True)]
    if math.prod(grid) in (count, 0):
        return config, state_dict  # as they are; what does not fit is named by what goes on from here
    if side**2 != count or not side:
        raise UpstreamError(
            f"pos_embed has {count} positions of patches, and an img_size of {list(size)} has {math.prod(grid)}; of a "
            "grid that is not square, img_size must be the one that the weights were trained for"
        )
    log.warning(
        "positions of %d x %d patches are interpolated to %d x %d, for img_size %s, patch_size %s and stride %s",
        *(side, side, *grid, list(size), list(patch), list(stride)),
    )
    learned, kept = split_tokens(tokens, positions)
    maps = learned.mT.unflatten(2, (side, side)).float()
    resized = F.interpolate(maps, grid, mode="bicubic", align_corners=False).flatten(2).mT.to(positions.dtype)
    return config, {**state_dict, "pos_embed": insert_tokens(tokens, resized, kept)}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _stride(size: tuple[int, int], patch: tuple[int, int], count: int) -> int | None:
    """The stride with which so many patches, side by side or overlapping, cover an image; None: there is none."""
    spans = [n - edge for n, edge in zip(size, patch, strict=True)]
    for stride in range(min(patch), 0, -1):
        covers = not any(span % stride for span in spans)
        if covers and math.prod(span // stride + 1 for span in spans) == count:
            return stride
    return None


def _class_tokens(config: Config) -> ClassTokens:
    """Where the class tokens stand among the patches."""
    if not config.get("if_cls_token", False):
        return "none"
    if config.get("use_double_cls_token", False):
        return "ends"
    return "middle" if config.get("use_middle_cls_token", False) else "first"


def _pooling(config: Config) -> Pooling:
    """What the logits are read from, by the authors' arguments."""
    pooled = config.get("final_pool_type", "none")
    if pooled not in _POOLINGS:
        raise UpstreamError(f"final_pool_type must be one of {', '.join(_POOLINGS)} to be known here, got {pooled!r}")
    tokens = _class_tokens(config)
    if tokens == "none":
        return _POOLINGS[pooled]
    if pooled == "max":  # which the authors' code then takes over the classes
        raise UpstreamError("Vim with a class token and final_pool_type='max' has no logits of classes")
    return next(pooling for pooling, kind in TOKENS.items() if kind == tokens)


def _positions(column: Column, positions: Tensor) -> dict[str, Tensor]:
    """Ours of the authors', which are added after the class tokens have come in."""
    if column.class_token is None:
        patches, ours = positions, {}
    else:
        patches, own = split_tokens(column.tokens, positions)
        ours = {"column.class_position": own}
    if patches.shape[1] == math.prod(column.grid):
        patches = patches.unflatten(1, column.grid)
    return ours | {"column.position": patches}


def _make_mixer(config: Config, weights: Weights) -> tuple[GridMamba, Weights]:
    kind = config["bimamba_type"]
    suffixes = _suffixes(kind)
    block = _mixer(config["d_model"], kind=kind, config=config, options=mixer_options(config))
    return block, grid_mamba(weights, suffixes, shared=kind == "v1")


def _suffixes(kind: str) -> tuple[str, ...]:
    """What the authors append to the names of each direction's parameters."""
    if kind not in ("none", "v1", "v2"):
        raise UpstreamError(
            f"a block of Vim must have bimamba_type 'none', 'v1' or 'v2' to be known here, got {kind!r}"
        )
    return ("",) if kind == "none" else ("", "_b")


def _mixer(width: int, *, kind: str, config: Config, options: Config) -> GridMamba:
    """A block of the authors' fork, without weights."""
    return GridMamba(
        width,
        (FORWARD,) if kind == "none" else bidirectional(),
        mean=kind == "v2" and config.get("if_divide_out", False),
        starts=("mamba", "linear") if kind == "v2" else "mamba",
        shared=kind == "v1",
        layer_scale=config.get("init_layer_scale"),
        **options,
    )


def _tell(shapes: Shapes) -> dict[str, Any]:
    patch = shapes.first(r"patch_embed\.proj\.weight")
    return {
        "embed_dim": patch and patch[0],
        "channels": patch and patch[1],
        "patch_size": patch and (patch[2] if len(set(patch[2:])) == 1 else list(patch[2:])),
        "depth": shapes.count(r"layers\.(\d+)\..+"),
        "d_state": shapes.size(r"layers\.0\.mixer\.A_log", 1),
        "num_classes": shapes.size(r"head\.weight", 0) or 0,
        "bimamba_type": _tell_type(shapes, r"layers\.0\.mixer\."),
        "rms_norm": not shapes.has(r"norm_f\.bias"),
        "if_abs_pos_embed": shapes.has("pos_embed"),
        "if_cls_token": shapes.has("cls_token(_head)?"),
        "use_double_cls_token": shapes.has("cls_token_head"),
    }


def _tell_type(shapes: Shapes, place: str = "") -> str:
    if shapes.has(f"{place}conv1d_b\\.weight"):
        return "v2"
    return "v1" if shapes.has(f"{place}A_b_log") else "none"


SYSTEMS = {
    "vim": System(
        what="Vim",
        make=_make,
        needs=arguments(word="bimamba_type", truth="rms_norm if_abs_pos_embed if_divide_out"),
        takes=arguments(
            size="img_size patch_size stride",
            count="channels embed_dim depth d_state",
            classes="num_classes",
            object="ssm_cfg",
            number="norm_epsilon",
            truth="if_bimamba if_cls_token use_middle_cls_token use_double_cls_token",
            any="init_layer_scale",
            word="final_pool_type",
            rate="drop_path_rate",
        ),
        # These two count for if_rope; what concerns fusion and residuals changes the rounding of 16 bits only.
        knows=PLACE
        | arguments(
            any="ft_seq_len pt_hw_seq_len initializer_cfg fused_add_norm residual_in_fp32 flip_img_sequences_ratio"
        ),
        only={"if_rope": False, "if_rope_residual": False, "if_bidirectional": False, "drop_rate": 0.0},
        marks=(r"patch_embed\.proj\.weight", r"layers\.0\.mixer\.A(_b)?_log"),
        tell=_tell,
        family="vim",
    ),
    "vim_mamba": System(
        what="Mamba block",
        make=_make_mixer,
        needs=arguments(count="d_model", word="bimamba_type"),
        takes=arguments(truth="if_divide_out", any="init_layer_scale") | BLOCK,
        knows=START_AND_SPEED,
        marks=("A_b_log",),
        tell=lambda shapes: tell_block(shapes) | {"bimamba_type": _tell_type(shapes)},
    ),
}
