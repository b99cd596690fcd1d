"""The authors' U-Mamba Bot and Enc, 2D or 3D, as a `UMamba`: an nnU-Net checkpoint's entry ``network_weights``.

The configuration is what their code takes from plan and data set. Numbers of blocks are those of nnU-Net's plan, by its
names or by ours, which their code cuts to one in the coarser half. The weights tell how many blocks were built; numbers
that are neither these nor come to these are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from medmamba.networks._backbone import topology_of
from medmamba.networks.published._names import Shapes, without_aliases
from medmamba.networks.published._system import (
    Config,
    Family,
    System,
    UpstreamError,
    Weights,
    arguments,
    check_kinds,
)
from medmamba.networks.umamba import BLOCKS, Placement, UMamba, shallower

_ENCODER_BLOCKS = ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_encoder", "ne")
_DECODER_BLOCKS = ("n_conv_per_stage_decoder", "nd")


def _make(config: Config, weights: Weights, placement: Placement) -> tuple[UMamba, Weights]:
    if _is_first_version(weights):
        raise UpstreamError(
            "these are weights of U-Mamba's first version (January 2024), another network: plain stem, transposed "
            "convolutions, no channel tokens. Weights trained with the code since March 2024 can be loaded"
        )
    features = tuple(config["features_per_stage"])
    _check_features(config, features)
    topology = topology_of(config["patch"], config["strides"], config["kernels"], features)
    stages = len(features)
    network = UMamba(
        config["in_ch"],
        config["ncls"],
        topology,
        placement=placement,
        blocks=_counts(config, _ENCODER_BLOCKS, weights, "encoder.stages", stages, stages),
        decoder_blocks=_counts(config, _DECODER_BLOCKS, weights, "decoder.stages", stages - 1, stages),
        deep_supervision=config.get("deep_supervision", True),
    )
    return network, without_aliases(weights)


def _check_features(config: Config, features: Sequence[int]) -> None:
    """Refuse widths that contradict what they are made of."""
    check_kinds("U-Mamba", config, arguments(count="base mx"))
    first, most = config.get("base", features[0]), config.get("mx", max(features))
    made = [min(first * 2**stage, most) for stage in range(len(features))]
    if {"base", "mx"} & config.keys() and made != list(features):
        raise UpstreamError(f"base={first} and mx={most} make features {made}, but features_per_stage={list(features)}")


def _counts(
    config: Config, names: Sequence[str], weights: Weights, where: str, count: int, stages: int
) -> tuple[int, ...]:
    """Blocks of each stage: as the weights have them, which must be what the configuration says."""
    given = next((config[name] for name in names if name in config), BLOCKS)
    asked = (given,) * count if isinstance(given, int) else tuple(given)
    if len(asked) != count:
        raise UpstreamError(f"{names[0]} must be one number or {count}, one for each stage, got {list(asked)}")
    numbers = (re.match(rf"{re.escape(where)}\.(\d+)\.(\d+)\.", key) for key in weights)
    built = Counter(stage for stage, _ in {(int(n[1]), int(n[2])) for n in numbers if n})
    found = tuple(built[stage] for stage in range(count))
    cut = shallower(asked, stages)
    if found not in (asked, cut) and min(found) > 0 and any(name in config for name in names):
        raise UpstreamError(f"{names[0]}={list(asked)} builds {list(cut)} blocks, but the weights are of {list(found)}")
    return found if min(found) > 0 else cut  # weights that lack a stage are named where they are loaded


def _is_first_version(weights: Weights) -> bool:
    """Whether these are weights of U-Mamba as it was before March 2024."""
    bottleneck = any(key.startswith(("ln.", "mamba.")) for key in weights)
    transposed = any(key.startswith("decoder.transpconvs.") for key in weights)
    return bottleneck or (transposed and any(".mamba." in key for key in weights))


def _tell(shapes: Shapes) -> dict[str, Any]:
    first = shapes.stages(r"encoder\.stages\.{}\.0\.conv1\.weight")
    return {
        "in_ch": shapes.size(r"encoder\.stem\.0\.conv1\.weight", 1),
        "ncls": shapes.size(r"decoder\.seg_layers\.\d+\.weight", 0),
        "features_per_stage": [shape[0] for shape in first],
        "kernels": [list(shape[2:]) for shape in first],
    }


def _system(placement: Placement) -> System:
    return System(
        what="U-Mamba",
        make=partial(_make, placement=placement),
        needs=arguments(row="patch features_per_stage", table="strides kernels", count="in_ch ncls"),
        takes=arguments(
            truth="deep_supervision",
            counts="n_blocks_per_stage n_conv_per_stage_encoder n_conv_per_stage_decoder ne nd",
        ),
        # Where features_per_stage comes from: that of the first stage, and the most.
        knows=arguments(counts="n_conv_per_stage", any="base mx"),
        only={
            "conv_bias": True,
            "norm": "InstanceNorm eps 1e-5 affine",
            "nonlin": "LeakyReLU 0.01",
            "dropout_op": None,
            "stem_channels": None,
        },
        marks=(r"encoder\.stages\.0\..+", r"decoder\.stages\.0\..+"),
        tell=_tell,
        head="decoder.seg_layers.",
        family="umamba",
    )


SYSTEMS = {"umamba_bot": _system("bottleneck"), "umamba_enc": _system("encoder")}
#: Their marks are the same.
FAMILY = Family(("umamba_bot",), {"umamba_enc": ("encoder.mamba_layers.",), "umamba_bot": ()})
