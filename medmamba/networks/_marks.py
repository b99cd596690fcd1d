"""By which names in a state dict each kind of module that `from_upstream` knows is found there."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNET = (r"encoder\.stages\.0\..+", r"decoder\.stages\.0\..+")
_TRANSFORMER = (r"transformer\.patch_embed\.proj\.weight", r"transformer\.layers\.0\.mamba\.A_log")

#: Patterns of upstream's names. Of each some tensor of the module is, and together they tell it from others as far as
#: names can. None is of a head, which may be lacking.
MARKS: dict[str, tuple[str, ...]] = {
    "umamba_bot": _UNET,
    "umamba_enc": _UNET,
    "unet": (r"encoder\.stages\.0\.0\.convs\.0\.conv\.weight", r"decoder\.stages\.0\.convs\.0\.conv\.weight"),
    "mamba": ("A_log", r"dt_proj\.weight"),
    "mamba_lm": (r"(backbone\.)?embeddings?\.weight", r"(backbone\.)?layers\.0\.mixer\.A_log"),
    "mambabyte": (r"layers\.0\.mixer\.A_log",),
    "mambabyte_lm": (r"(mambabyte\.token_embedding|backbone\.embedding)\.weight",),
    "moe_mamba_lm": (r"encoder\.blocks\.block_0\..+", r"embedding_layer\..+"),
    "moe_switch_ff": (r"(gating\.)?gate", r"(expert_inner_function\.)?lin1_weight"),
    "mambamorph": _TRANSFORMER,
    "mambamorph_feat": (*_TRANSFORMER, r"feature_extractor\.encoder\.0\..+"),
    "mambamorph_ori": _TRANSFORMER,
    "mambamorph_layer": (r"mamba\.A_log", r"norm\.weight"),
    "segmamba": (r"vit\.downsample_layers\.0\.0\.weight",),
    "segmamba_gsc": (r"proj4\.weight",),
    "segmamba_layer": (r"mamba\.A_s_log", r"norm\.weight"),
    "segmamba_mixer": ("A_s_log",),
    "vivim": (r"encoder\.downsample_layers\.patch_embeddings\.0\.proj\.weight",),
    "vivim_layer": (r"mamba\.A_s_log", r"norm1\.weight"),
    "vivim_mixer": ("A_s_log",),
    "vim": (r"patch_embed\.proj\.weight", r"layers\.0\.mixer\.A(_b)?_log"),
    "vim_mamba": ("A_b_log",),
    "vmamba": (r"patch_embed\..+\.weight", r"layers\.0\.blocks\.0\.(op|self_attention)\.A_logs"),
    "vmamba_block": (r"(op|self_attention)\.A_logs",),
    "vmamba_ss2d": ("A_logs",),
}


def prefixes(system: str, keys: Iterable[str]) -> list[str]:
    """What stands before a module's names in a state dict, once for each such module there.

    Args:
        system: of `medmamba.networks.from_upstream`.
        keys: of the state dict.

    Returns:
        "" for the module by itself; none, if it is not there.
    """
    found = [
        dict.fromkeys(
            match["prefix"] for key in keys if (match := re.fullmatch(rf"(?P<prefix>(?:.+?\.)??){mark}", key))
        )
        for mark in MARKS[system]
    ]
    return [prefix for prefix in found[0] if all(prefix in others for others in found)]
