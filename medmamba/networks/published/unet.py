"""nnU-Net's ``PlainConvUNet`` as a `UNet`: an nnU-Net checkpoint's entry ``network_weights``.

Classes among the arguments are those of PyTorch or their names; kernel sizes and strides are a row for each stage. The
weights fit any size that the strides divide.
"""

from __future__ import annotations

from typing import Any

from medmamba.networks._backbone import accumulate, topology_of
from medmamba.networks._blocks import CONVS, SLOPE
from medmamba.networks.published._names import Renaming, Shapes, renamed, without_aliases
from medmamba.networks.published._system import Config, System, UpstreamError, Weights, arguments
from medmamba.networks.unet import UNet

#: Arguments that are classes, by those of nnU-Net's names: of two dimensions and of three.
_CLASSES = {
    "conv_op": ("Conv2d", "Conv3d"),
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d"),
    "nonlin": ("LeakyReLU", "LeakyReLU"),
}
#: Each of our convolutions has its activation beside it.
_NAMES: Renaming = (
    (r"^encoder\.stages\.(\d+)\.0\.", r"stages.\1."),
    ("transpconvs", "upsample_layers"),
    (r"\.convs\.(\d+)\.", lambda found: f".{2 * int(found[1])}."),
)


def _make(config: Config, weights: Weights) -> tuple[UNet, Weights]:
    features, strides = tuple(config["features_per_stage"]), tuple(tuple(row) for row in config["strides"])
    stages, dims = len(features), len(strides[0])
    for name, known in _CLASSES.items():
        given = config.get(name, known[dims - 2])
        if (given if isinstance(given, str) else given.__name__).rpartition(".")[2] != known[dims - 2]:
            raise UpstreamError(f"only a {dims}D U-Net with {name}={known[dims - 2]} is known here, got {given}")
    slope = (config.get("nonlin_kwargs") or {}).get("negative_slope", SLOPE)
    if config.get("n_stages", stages) != stages or slope != SLOPE:
        raise UpstreamError(
            f"n_stages must be the {stages} of features_per_stage, and nonlin_kwargs a slope of {SLOPE}"
        )
    network = UNet(
        config["input_channels"],
        config["num_classes"],
        topology_of(accumulate(strides)[-1], strides, config["kernel_sizes"], features),
        blocks=config["n_conv_per_stage"],
        decoder_blocks=config.get("n_conv_per_stage_decoder", CONVS),
        deep_supervision=config.get("deep_supervision", False),
    )
    return network, renamed(without_aliases(weights), _NAMES)


def _tell(shapes: Shapes) -> dict[str, Any]:
    first = shapes.stages(r"encoder\.stages\.{}\.0\.convs\.0\.conv\.weight")
    convs = [shapes.count(rf"encoder\.stages\.{stage}\.0\.convs\.(\d+)\..+") for stage in range(len(first))]
    return {
        "input_channels": first[0][1] if first else None,
        "num_classes": shapes.size(r"decoder\.seg_layers\.\d+\.weight", 0),
        "features_per_stage": [shape[0] for shape in first],
        "kernel_sizes": [list(shape[2:]) for shape in first],
        "n_conv_per_stage": convs,
    }


SYSTEMS = {
    "unet": System(
        what="U-Net",
        make=_make,
        needs=arguments(
            count="input_channels",
            row="features_per_stage",
            table="kernel_sizes strides",
            counts="n_conv_per_stage",
            classes="num_classes",
        ),
        takes=arguments(counts="n_conv_per_stage_decoder", truth="deep_supervision"),
        knows=arguments(any="n_stages nonlin_kwargs conv_op norm_op nonlin"),
        only={
            "conv_bias": True,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin_first": False,
        },
        marks=(r"encoder\.stages\.0\.0\.convs\.0\.conv\.weight", r"decoder\.stages\.0\.convs\.0\.conv\.weight"),
        tell=_tell,
        family="unet",
    )
}
