"""The authors' MambaMorph ("mm"), MambaMorphFeat ("mm-feat", the network of the paper) and MambaMorphOri ("mm-ori").

Arguments are those of their configuration, as published where not given.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import Tensor

from medmamba.networks._mambamorph import MambaLayer, PatchMerging
from medmamba.networks.mambamorph import MambaMorph
from medmamba.networks.published._blocks import LAYER, layer_options, tell_block, tell_layer
from medmamba.networks.published._names import Renaming, Shapes, renamed, without_prefix
from medmamba.networks.published._system import (
    Config,
    Family,
    System,
    UpstreamError,
    Weights,
    arguments,
    halving_topology,
)

#: Of the authors' configuration, what must be so: their code runs with nothing else, or has another network then.
_ONLY: Config = {
    "if_transskip": True,
    "if_convskip": True,
    "patch_size": 4,
    "in_chans": 2,
    "drop_rate": 0,
    "ape": False,
    "spe": True,
    "rpe": False,
    "patch_norm": True,
    "out_indices": [0, 1, 2],
}
#: Their order of the eight corners of a box, by our places row by row.
_CORNERS = (0, 4, 2, 1, 6, 3, 5, 7)
_NAMES: Renaming = (
    (r"^transformer\.patch_embed\.proj\.", "trunk.patches."),
    (r"^transformer\.patch_embed\.norm\.", "trunk.patch_norm."),
    (r"^transformer\.norm(\d+)\.", r"trunk.norms.\1."),
    (r"^transformer\.", "trunk."),
    (r"\.((?:en|de)coder\.\d+)\.0\.main\.", r".\1.0."),
    (r"\.main\.", ".0."),
    (r"^c2\.", "skips.0."),
    (r"^c1\.", "skips.1."),
    (r"^reg_head\.0\.", "head."),
    (r"^up(\d)\.conv(\d)\.", lambda found: f"ups.{int(found[1]) - 1}.{int(found[2]) - 1}."),
)


def _make(
    config: Config, weights: Weights, *, feature_width: int = 0, integration_steps: int = 7
) -> tuple[MambaMorph, Weights]:
    depths = config.get("depths", (2, 2, 4))
    if len(depths) != len(_ONLY["out_indices"]):  # one layer each, whatever depths says
        raise UpstreamError(f"MambaMorph has three stages, but depths are {tuple(depths)}")
    embed = config.get("embed_dim", 96)
    features = (config.get("reg_head_chan", 16), embed // 2, embed, 2 * embed, 4 * embed)
    network = MambaMorph(
        1,
        halving_topology(features),
        feature_width=feature_width,
        integration_steps=integration_steps,
        **layer_options(config),
        checkpointing=config.get("use_checkpoint", False),
    )
    # Sampling grids, which tie a checkpoint to one size of image, are no weights.
    tensors = {key: t for key, t in without_prefix(weights, "module.").items() if not key.endswith(".grid")}
    return network, renamed(_row_by_row(tensors), _NAMES)


def _make_layer(config: Config, weights: Weights) -> tuple[MambaLayer, Weights]:
    width = config["dim"]
    downsample = PatchMerging(width, 2 * width, (2, 2, 2)) if config.get("downsample") else None
    return MambaLayer(width, downsample, **layer_options(config)), _row_by_row(weights)


def _row_by_row(tensors: Weights) -> dict[str, Tensor]:
    """The same weights with those of merged patches in our order of the corners of a box."""
    places = [_CORNERS.index(place) for place in range(len(_CORNERS))]
    merging = re.compile(r"(^|\.)downsample\.(norm|reduction)\.")
    # A width that eight corners cannot share is another network's; its shape is named where weights are loaded.
    return {
        key: tensor.unflatten(-1, (len(places), -1))[..., places, :].flatten(-2)
        if merging.search(key) and tensor.shape[-1] % len(places) == 0
        else tensor
        for key, tensor in tensors.items()
    }


def _tell(shapes: Shapes) -> dict[str, Any]:
    block = tell_block(shapes, r"transformer\.layers\.0\.mamba\.")
    return {
        "embed_dim": shapes.size(r"transformer\.patch_embed\.proj\.weight", 0),
        "reg_head_chan": shapes.size(r"reg_head\.0\.weight", 1),
        **block,
    }


def _system(marks: tuple[str, ...] = (), *, head: str = "", **options: Any) -> System:
    return System(
        what="MambaMorph",
        make=partial(_make, **options),
        takes=arguments(
            count="embed_dim reg_head_chan d_state d_conv", depths="depths", number="expand", size="img_size"
        ),
        knows=arguments(rate="drop_path_rate", truth="use_checkpoint"),
        only=_ONLY,
        marks=(r"transformer\.patch_embed\.proj\.weight", r"transformer\.layers\.0\.mamba\.A_log", *marks),
        tell=_tell,
        head=head,
        family="mambamorph",
    )


SYSTEMS = {
    "mambamorph": _system(head="reg_head."),
    "mambamorph_feat": _system((r"feature_extractor\.encoder\.0\..+",), head="reg_head.", feature_width=16),
    "mambamorph_ori": _system(integration_steps=0),
    "mambamorph_layer": System(
        what="MambaLayer",
        make=_make_layer,
        needs=arguments(count="dim"),
        takes=arguments(truth="downsample") | LAYER,
        marks=(r"mamba\.A_log", r"norm\.weight"),
        tell=tell_layer,
    ),
}
FAMILY = Family(("mambamorph",), {"mambamorph_feat": ("feature_extractor.",), "mambamorph": ()})
