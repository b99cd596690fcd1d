"""Learned positions of Vision Mamba for an image of another size than they were learned for.

References:
    Zhu et al.'s code, fine-tuning at another size, after DeiT (Touvron et al., 2021): bicubic interpolation of the grid
    of patches. There the class token's row is taken for the first one, which it is not if it is in the middle; here it
    is kept, and all others keep their places.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch.nn.functional as F  # noqa: N812  (the name everybody knows)

from medmamba.networks._vim import ClassTokens, token_places
from medmamba.networks.published._system import Config, UpstreamError, Weights

log = logging.getLogger(__name__)


def fit_positions(config: Config, state_dict: Weights) -> tuple[Config, Weights]:
    """Configuration and weights whose sizes of images agree: that of the configuration, if it has one.

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
    tokens = class_tokens(config)
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
    places = token_places(tokens, count)
    log.warning(
        "positions of %d x %d patches are interpolated to %d x %d, for img_size %s, patch_size %s and stride %s",
        *(side, side, *grid, list(size), list(patch), list(stride)),
    )
    kept = positions[:, list(places)]
    learned = positions[:, [place for place in range(positions.shape[1]) if place not in places]]
    maps = learned.mT.unflatten(2, (side, side)).float()
    resized = F.interpolate(maps, grid, mode="bicubic", align_corners=False).flatten(2).mT.to(positions.dtype)
    places = token_places(tokens, resized.shape[1])
    whole = resized.new_empty(1, resized.shape[1] + len(places), resized.shape[2])
    whole[:, list(places)] = kept
    whole[:, [place for place in range(whole.shape[1]) if place not in places]] = resized
    return config, {**state_dict, "pos_embed": whole}


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


def class_tokens(config: Config) -> ClassTokens:
    """Where the class tokens stand among the patches."""
    if not config.get("if_cls_token", False):
        return "none"
    if config.get("use_double_cls_token", False):
        return "ends"
    return "middle" if config.get("use_middle_cls_token", False) else "first"
