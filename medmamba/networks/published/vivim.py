"""The authors' Vivim, its MambaLayer, which in ours takes (B, T, h, w, C), and its Mamba block of type v3.

``segformer`` holds the backbone's sizes by the names of the transformers library; its widths are ``feat_size``. Of
``nframes`` the third order of each Mamba layer cuts the clip in as many pieces, whatever the number of frames; without
it, in as many as there are frames. A checkpoint may have the prefix ``model.`` and the loss's own network
``criterion.`` in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from medmamba.networks._backbone import topology_of
from medmamba.networks._segformer import EXPANSION
from medmamba.networks.published import _blocks as blocks
from medmamba.networks.published._names import Shapes, renamed, without_prefix
from medmamba.networks.published._system import (
    Config,
    System,
    UpstreamError,
    Weights,
    arguments,
    check_kinds,
    check_known,
    check_only,
    load,
)
from medmamba.networks.vivim import MambaLayer, Vivim, published_topology
from medmamba.plans.plan import Topology

#: Parameters that the authors' code has and never uses: classifiers, norms after stages, a network inside the loss.
_UNUSED = re.compile(r"encoder\.downsample_layers\.layer_norm\.|(decoder\.)?classifier\.|criterion\.")
_NAMES = (
    (r"^encoder\.downsample_layers\.patch_embeddings\.(\d+)\.", r"stages.\1.embed."),
    (r"^encoder\.downsample_layers\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"^encoder\.stages\.(\d+)\.(\d+)\.0\.", r"stages.\1.mamba_layers.\2."),
    (r"\.attention\.(self|output)\.", ".attention."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
    (r"^decoder\.linear_c\.(\d+)\.proj\.", r"decoder.linear_c.\1."),
    (r"^out\.", "decoder.out."),
    (r"^edgeocr_cls_head\.", "edge_head."),
)
#: From the names of the transformers library to the authors'; of its model without a head, too.
_LIBRARY = (
    (r"^(segformer\.)?encoder\.(?!downsample_layers\.)", "encoder.downsample_layers."),
    (r"^decode_head\.", "decoder."),
)


def _before(pattern: str) -> Callable[[re.Match[str]], str]:
    """Of a match the pattern's text with the number of its stage, counted from 0, for {}."""
    return lambda match: pattern.format(int(match[1]) - 1)


#: From the names of SegFormer's own authors to those of the transformers library; keys and values are one layer there.
_ORIGINAL = (
    (r"^backbone\.", ""),
    (r"^patch_embed(\d)\.", _before("encoder.patch_embeddings.{}.")),
    (r"^block(\d)\.", _before("encoder.block.{}.")),
    (r"^norm(\d)\.", _before("encoder.layer_norm.{}.")),
    (r"(patch_embeddings\.\d)\.norm\.", r"\1.layer_norm."),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.q\.", ".attention.self.query."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.norm\.", ".attention.self.layer_norm."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
    (r"^decode_head\.linear_c(\d)\.", _before("decode_head.linear_c.{}.")),
    (r"^decode_head\.linear_fuse\.conv\.", "decode_head.linear_fuse."),
    (r"^decode_head\.linear_fuse\.bn\.", "decode_head.batch_norm."),
    (r"^(head|decode_head\.(conv_seg|linear_pred))\.", "classifier."),
)
#: What says that names are those of SegFormer's own authors.
_OF_ORIGINAL = re.compile(r"(backbone\.)?patch_embed1\.")

#: Of a SegFormer: what it must have, what is beside that, for training or for what the authors leave out; and what must
#: be as the library has it.
_SIZES = arguments(
    row="depths hidden_sizes num_attention_heads sr_ratios patch_sizes strides", count="decoder_hidden_size"
)
_BESIDE = arguments(
    rate="drop_path_rate classifier_dropout_prob",
    any="mlp_ratios num_labels num_encoder_blocks layer_norm_eps initializer_range semantic_loss_ignore_index "
    "hidden_dropout_prob attention_probs_dropout_prob",
)
_ONLY = {"hidden_act": "gelu", "num_channels": 3, "reshape_last_stage": True}
#: Arguments of the authors' constructor that it never reads, whatever they say.
_UNREAD = (
    "in_chans depths drop_path_rate layer_scale_init_value hidden_size norm_name conv_block res_block spatial_dims"
)


def load_segformer(network: Vivim, state_dict: Weights) -> Vivim:
    """Give a network the weights of a SegFormer, and leave its Mamba layers and heads as they are.

    The authors begin with B3 trained on ADE20K, which fits a network of `published_topology` and default options. For
    frames of one channel the weights that read red, green and blue are added up: a grey frame then gives what it would
    give three times over.

    Args:
        network: of the SegFormer's size.
        state_dict: by the names of the transformers library or of SegFormer's own authors, of a model for segmentation;
            or of one for classification, or without a head, which has nothing for the decoder.

    Returns:
        The network.

    Raises:
        UpstreamError: if keys are missing, left over or of another shape, naming them.
    """
    if any(_OF_ORIGINAL.match(key) for key in state_dict):
        state_dict = _split_values(renamed(state_dict, _ORIGINAL))
    theirs = renamed(state_dict, _LIBRARY)
    first = "encoder.downsample_layers.patch_embeddings.0.proj.weight"
    if first in theirs and network.in_channels == 1:
        theirs[first] = theirs[first].sum(1, keepdim=True)
    own = r".*\.mamba_layers\.|decoder\.out\.|edge_head\."
    if not any(key.startswith("decoder.") for key in theirs):
        own += r"|decoder\."
    kept = {key: value for key, value in network.state_dict().items() if re.match(own, key)}
    load(network, _our_names(theirs) | kept)
    return network


def _split_values(tensors: Weights) -> dict[str, Tensor]:
    """Keys and values, which SegFormer's own authors make in one layer, as a layer each."""
    joined = {key: tensor.chunk(2) for key, tensor in tensors.items() if ".kv." in key}
    split = {
        key.replace(".kv.", f".{name}."): part
        for key, parts in joined.items()
        for name, part in zip(("key", "value"), parts, strict=True)
    }
    return split | {key: tensor for key, tensor in tensors.items() if key not in joined}


def _our_names(tensors: Weights) -> dict[str, Tensor]:
    """The authors' parameters by our names, without those that are never used."""
    return renamed({key: tensor for key, tensor in tensors.items() if not _UNUSED.match(key)}, _NAMES)


def _make(config: Config, weights: Weights) -> tuple[Vivim, Weights]:
    sizes = config.get("segformer")
    topology, options = (published_topology(), {}) if sizes is None else _sizes(sizes)
    if tuple(config.get("feat_size", topology.features)) != topology.features:
        raise UpstreamError(
            f"feat_size must be the widths of the SegFormer, {topology.features}, got {config['feat_size']}"
        )
    network = Vivim(
        3,
        config.get("out_chans", 1),
        topology,
        edge_head=config.get("with_edge", False),
        pieces=config.get("nframes", 0),
        any_size=True,
        **options,
    )
    wanted = {key: tensor for key, tensor in weights.items() if not key.startswith("criterion.")}
    return network, _our_names(blocks.grid_mamba(without_prefix(wanted, "model."), blocks.THREE_ORDERS))


def _sizes(config: Config) -> tuple[Topology, dict[str, Any]]:
    """Topology and options of a SegFormer by the names of the transformers library."""
    check_known("SegFormer", config, (*_SIZES, *_BESIDE, *_ONLY))
    check_only("a SegFormer", config, _ONLY)
    if missing := [name for name in _SIZES if name not in config]:
        raise UpstreamError(
            f"the sizes of a SegFormer lack {', '.join(missing)}, as the transformers library names them"
        )
    check_kinds("segformer", config, _SIZES | _BESIDE)
    ratios = config.get("mlp_ratios", (EXPANSION,))
    if any(ratio != EXPANSION for ratio in ratios):
        raise UpstreamError(f"only a SegFormer with mlp_ratios of {EXPANSION} is known here, got {ratios}")
    side = math.prod(config["strides"])
    strides, kernels = ([(size, size) for size in config[name]] for name in ("strides", "patch_sizes"))
    topology = topology_of((side, side), strides, kernels, config["hidden_sizes"])  # the weights fit any size
    return topology, {
        "depths": config["depths"],
        "heads": config["num_attention_heads"],
        "reductions": config["sr_ratios"],
        "decoder_width": config["decoder_hidden_size"],
        "drop_path": config.get("drop_path_rate", 0.1),
        "dropout": config.get("classifier_dropout_prob", 0.1),
    }


def _make_layer(config: Config, weights: Weights) -> tuple[MambaLayer, Weights]:
    layer = MambaLayer(
        config["dim"],
        **blocks.layer_options(config),
        expansion=config.get("mlp_ratio", EXPANSION),
        pieces=config.get("nframes", 0),
    )
    return layer, _our_names(blocks.grid_mamba(weights, blocks.THREE_ORDERS))


def _tell(shapes: Shapes) -> dict[str, Any]:
    return {"out_chans": shapes.size(r"out\.weight", 0), "with_edge": shapes.has(r"edgeocr_cls_head\.weight")}


SYSTEMS = {
    "vivim": System(
        what="Vivim",
        make=_make,
        takes=arguments(count="out_chans nframes", truth="with_edge", object="segformer"),
        knows=arguments(row="feat_size", any=_UNREAD),
        marks=(r"encoder\.downsample_layers\.patch_embeddings\.0\.proj\.weight",),
        tell=_tell,
        head="out.",
        family="vivim",
    ),
    "vivim_layer": System(
        what="MambaLayer of Vivim",
        make=_make_layer,
        needs=arguments(count="dim"),
        takes=arguments(number="mlp_ratio", count="nframes") | blocks.LAYER,
        only={"drop": 0.0, "drop_path": 0.0},
        marks=(r"mamba\.A_s_log", r"norm1\.weight"),
        tell=blocks.tell_layer,
    ),
    "vivim_mixer": blocks.three_orders_mixer("Mamba block of Vivim", "nframes", mean=True),
}
