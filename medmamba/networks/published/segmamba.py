"""The authors' SegMamba and its parts: GSC, MambaLayer, and the Mamba block of type v3.

The whole network has the authors' numbers of slices; ``num_slices`` names others, None those of the feature maps.
"""

from __future__ import annotations

from typing import Any

from medmamba.networks.published import _blocks as blocks
from medmamba.networks.published._names import Renaming, Shapes, renamed, without_prefix
from medmamba.networks.published._system import Config, System, Weights, arguments, halving_topology
from medmamba.networks.segmamba import DEPTH, GatedConv, MambaLayer, SegMamba

#: The authors' numbers of slices: those of the maps of a patch of 128 voxels.
_SLICES = (64, 32, 16, 8)


def _make(config: Config, weights: Weights) -> tuple[SegMamba, Weights]:
    features = (*config.get("feat_size", (48, 96, 192, 384)), config.get("hidden_size", 768))
    stages = len(features) - 1
    network = SegMamba(
        config.get("in_chans", 1),
        config.get("out_chans", 13),
        halving_topology(features),
        deep_supervision=False,
        depths=config.get("depths", (DEPTH,) * stages),
        slices=config.get("num_slices", _SLICES[:stages]) or (),
    )
    # Their blocks count from 1, decoders from fine to coarse.
    names: Renaming = (
        (r"^encoder(\d+)\.layer\.(conv\d)\.conv\.", lambda found: f"skips.{int(found[1]) - 1}.{found[2]}."),
        (r"^decoder1\.layer\.(conv\d)\.conv\.", r"decoder.last.\1."),
        (
            r"^decoder(\d+)\.conv_block\.(conv\d)\.conv\.",
            lambda found: f"decoder.stages.{stages + 1 - int(found[1])}.{found[2]}.",
        ),
        (
            r"^decoder(\d+)\.transp_conv\.conv\.",
            lambda found: f"decoder.upsample_layers.{stages + 1 - int(found[1])}.",
        ),
        (r"^vit\.", "trunk."),
        (r"^out\.conv\.conv\.", "decoder.heads.0."),
    )
    return network, renamed(blocks.grid_mamba(without_prefix(weights, "module."), blocks.THREE_ORDERS), names)


def _make_layer(config: Config, weights: Weights) -> tuple[MambaLayer, Weights]:
    layer = MambaLayer(config["dim"], 3, slices=config["num_slices"] or 0, **blocks.layer_options(config))
    return layer, blocks.grid_mamba(weights, blocks.THREE_ORDERS)


def _tell(shapes: Shapes) -> dict[str, Any]:
    stages = shapes.count(r"vit\.gscs\.(\d+)\..+")
    return {
        "in_chans": shapes.size(r"vit\.downsample_layers\.0\.0\.weight", 1),
        "out_chans": shapes.size(r"out\.conv\.conv\.weight", 0),
        "depths": [shapes.count(rf"vit\.stages\.{stage}\.(\d+)\..+") for stage in range(stages)],
        "feat_size": [shapes.size(rf"vit\.gscs\.{stage}\.proj\.weight", 0) for stage in range(stages)],
        "hidden_size": shapes.size(rf"encoder{stages + 1}\.layer\.conv1\.conv\.weight", 0),
    }


SYSTEMS = {
    "segmamba": System(
        what="SegMamba",
        make=_make,
        takes=arguments(count="in_chans out_chans hidden_size", depths="depths", row="feat_size", slices="num_slices"),
        knows=arguments(any="drop_path_rate layer_scale_init_value conv_block"),  # never read
        only={"norm_name": "instance", "res_block": True, "spatial_dims": 3},
        marks=(r"vit\.downsample_layers\.0\.0\.weight",),
        tell=_tell,
        head="out.",
        family="segmamba",
    ),
    "segmamba_gsc": System(
        what="GSC",
        make=lambda config, weights: (GatedConv(config["in_channles"], (3, 3, 3)), weights),
        needs=arguments(count="in_channles"),  # spelt like that
        marks=(r"proj4\.weight",),
        tell=lambda shapes: {"in_channles": shapes.size(r"proj4\.weight", 0)},
    ),
    "segmamba_layer": System(
        what="MambaLayer",
        make=_make_layer,
        needs=arguments(count="dim", slices="num_slices"),
        takes=blocks.LAYER,
        marks=(r"mamba\.A_s_log", r"norm\.weight"),
        tell=blocks.tell_layer,
    ),
    "segmamba_mixer": blocks.three_orders_mixer("Mamba block of SegMamba", "nslices", mean=False),
}
