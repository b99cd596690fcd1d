"""VMamba: a backbone of stages of falling resolution whose blocks scan maps along each axis, both ways.

Letters: B batch, C channels, S spatial axes, K classes. Inside, maps are channels last, (B, *S, C).

References:
    Liu et al., "VMamba: Visual State Space Model", 2024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from medmamba.networks._backbone import (
    Pyramid,
    accumulate,
    channels_first,
    channels_last,
    check_dims,
    draw_linear,
    drop_rates,
    run,
)
from medmamba.networks._blocks import check_size, conv, initialise
from medmamba.networks._convert import UpstreamError, check_known, check_only, load_upstream, rank_of
from medmamba.networks._decoders import make_decoder
from medmamba.networks._mixers import Mixer, check_mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._vss import (
    SS2D,
    ConvLayerNorm,
    Downsampling,
    MapMixer,
    Stem,
    VSSBlock,
    make_downsampling,
    make_stem,
)
from medmamba.networks.unet import plain_stage
from medmamba.plans.plan import Topology


def _stages(
    widths: Sequence[int], mixers: Sequence[Sequence[nn.Module | None]], mlp_ratio: float, drop_path: float
) -> nn.ModuleList:
    """Blocks of each stage around their mixers; the rate of stochastic depth rises through all of them."""
    rates = iter(drop_rates(drop_path, sum(len(stage) for stage in mixers)))
    return nn.ModuleList(
        nn.ModuleList(VSSBlock(width, mixer, mlp_ratio=mlp_ratio, drop_path=next(rates)) for mixer in stage)
        for width, stage in zip(widths, mixers, strict=True)
    )


def _run_stages(entries: nn.ModuleList, stages: nn.ModuleList, x: Tensor, *, checkpointing: bool) -> list[Tensor]:
    """Maps of all stages, channels last like the input."""
    maps = []
    for entry, blocks in zip(entries, stages, strict=True):
        x = entry(x)
        for block in cast(nn.ModuleList, blocks):
            x = run(block, x, checkpointing=checkpointing)
        maps.append(x)
    return maps


class VMamba(nn.Module):
    """Classifier and backbone of stages of falling resolution.

    The defaults are those of the authors' "tiny s1l8"; their first version ("vanilla") has states=16, ssm_ratio=2,
    mlp_ratio=0, gate, conv_bias, stem="plain", downsampling="merge", depths=(2, 2, 9, 2).

    Args:
        in_channels: channels of the image.
        classes: of the logits; 0: none, the network gives what they would be read from.
        dims: 2 or 3; scans along each axis, so six orders in 3D.
        widths: channels of each stage.
        depths: blocks of each stage.
        ssm_ratio: inner width of a block's scan over its width; 0: no scans.
        states: per channel and order.
        rank: of the step size; 0: a sixteenth of the width, rounded up.
        kernel: of a block's depthwise convolution, odd.
        mlp_ratio: hidden width of the MLPs; 0: none.
        gate: whether each block has a gate.
        conv_bias: whether its depthwise convolution has a bias.
        stem: "plain": patches of 4; "deep": two convolutions of stride 2.
        downsampling: between stages; "merge": linear, of norms of patches of 2; "patch": norm of a convolution of size
            2 and stride 2; "conv": the same of size 3.
        drop_path: rate of stochastic depth in the last block; rises linearly.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        *,
        dims: int = 2,
        widths: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 8, 2),
        ssm_ratio: float = 1.0,
        states: int = 1,
        rank: int = 0,
        kernel: int = 3,
        mlp_ratio: float = 4.0,
        gate: bool = False,
        conv_bias: bool = False,
        stem: Stem = "deep",
        downsampling: Downsampling = "conv",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"VMamba: widths {tuple(widths)} and depths {tuple(depths)} must be one for each stage")
        self.in_channels, self.dims, self.checkpointing = in_channels, dims, checkpointing
        steps = [(4,) * dims, *[(2,) * dims] * (len(widths) - 1)]
        self.pyramid = Pyramid(tuple(widths), accumulate(steps))
        downs = [make_downsampling(downsampling, fine, coarse, dims) for fine, coarse in pairwise(widths)]
        self.entries = nn.ModuleList([make_stem(stem, in_channels, widths[0], dims), *downs])
        scan = partial(
            SS2D, dims=dims, states=states, ratio=ssm_ratio, rank=rank, kernel=kernel, conv_bias=conv_bias, gate=gate
        )
        mixers = [
            [scan(width) if ssm_ratio else None for _ in range(depth)]
            for width, depth in zip(widths, depths, strict=True)
        ]
        self.stages = _stages(widths, mixers, mlp_ratio, drop_path)
        # What rounds down must not leave nothing.
        coarsest = 2 ** (len(widths) - 1) if downsampling == "patch" else 1
        self._least = 4 * coarsest - (0 if stem == "plain" else 3)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], classes) if classes else nn.Identity()
        draw_linear([self.head])

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, *S) to the maps of all stages, finest first: (B, C, *S / stride) by `pyramid`.

        Sizes that the strides do not divide are rounded: up, but down by a plain stem and by downsampling of patches.

        Raises:
            ValueError: for another shape, or an image of which a stage would get nothing.
        """
        return [channels_first(y) for y in self._maps(x)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to logits (B, classes); sizes as in `features`."""
        y = self.norm(self._maps(x)[-1]).flatten(1, -2).mean(1)
        return cast(Tensor, self.head(y))

    def _maps(self, x: Tensor) -> list[Tensor]:
        check_dims(x, self.in_channels, self.dims)
        if min(size := tuple(x.shape[2:])) < self._least:
            raise ValueError(f"input size {size} must be at least {self._least} along each axis; pad it")
        return _run_stages(self.entries, self.stages, channels_last(x), checkpointing=self.checkpointing)


@register("vmamba", source="Liu et al.: VMamba, 2024")
class VMambaUNet(SegmentationNetwork):
    """VMamba under a U-Net decoder: scans along each axis, both ways, below a stem of convolutions.

    Strides, kernels and widths are the topology's. The first levels stand where VMamba has its stem.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D.
        conv_levels: levels with plain convolutions; at least the first, at most all but the last.
        depth: blocks of each level below.
        ssm_ratio: as in `VMamba`, and so on to gate.
        mixer: what scans in a block; all but "cross" are without ssm_ratio, states, gate and the depthwise convolution;
            "none" leaves the MLPs only, which is the network to compare with.
        decoder: "unet" or "upernet".
        drop_path: rate of stochastic depth in the last block; rises linearly.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
        deep_supervision: return logits of all resolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        conv_levels: int = 2,
        depth: int = 2,
        ssm_ratio: float = 1.0,
        states: int = 1,
        mlp_ratio: float = 4.0,
        gate: bool = False,
        mixer: Mixer = "cross",
        decoder: str = "unet",
        drop_path: float = 0.0,
        checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        check_mixer(mixer)
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        if conv_levels < 1 or depth < 1:
            raise ValueError(f"vmamba: conv_levels and depth must be at least 1, got {conv_levels} and {depth}")
        first = min(conv_levels, len(features) - 1)
        self.pyramid = Pyramid(features, accumulate(strides))
        self.checkpointing = checkpointing
        self.conv_stages = nn.ModuleList(
            plain_stage(source, width, kernel, stride)
            for source, width, kernel, stride in zip(
                (in_channels, *features), features[:first], kernels, strides, strict=False
            )
        )
        levels = range(first, len(features))
        self.entries = nn.ModuleList(
            ConvLayerNorm(conv(features[level - 1], features[level], kernels[level], strides[level]), features[level])
            for level in levels
        )

        def mix(level: int) -> nn.Module | None:
            width, dims = features[level], topology.dims
            if mixer == "cross":
                return SS2D(width, dims=dims, states=states, ratio=ssm_ratio, kernel=kernels[level], gate=gate)
            return None if mixer == "none" else MapMixer(mixer, width, dims)

        mixers = [[mix(level) for _ in range(depth)] for level in levels]
        self.stages = _stages(features[first:], mixers, mlp_ratio, drop_path)
        self.norms = nn.ModuleList(nn.LayerNorm(features[level]) for level in levels)
        self.decoder = make_decoder(
            decoder, out_channels, topology, deep_supervision=deep_supervision, checkpointing=checkpointing
        )
        for part in (self.conv_stages, self.decoder):
            part.apply(initialise)

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first, by `pyramid`.

        Raises:
            ValueError: if the size cannot be divided by the strides.
        """
        check_size(x, self.pyramid.strides[-1])
        maps = []
        for stage in self.conv_stages:
            x = run(stage, x, checkpointing=self.checkpointing)
            maps.append(x)
        scanned = _run_stages(self.entries, self.stages, channels_last(x), checkpointing=self.checkpointing)
        return maps + [channels_first(norm(y)) for norm, y in zip(self.norms, scanned, strict=True)]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) to logits (B, K, *S), or a list of them, finest first; sizes as in `features`."""
        return cast("Tensor | list[Tensor]", self.decoder(self.features(x)))


#: What arguments of upstream's constructors must be for their weights to mean the same here.
_ONLY: dict[str, Any] = {
    "patch_size": 4,
    "ssm_act_layer": "silu",
    "act_layer": "silu",
    "ssm_drop_rate": 0.0,
    "dropout": 0.0,
    "mlp_act_layer": "gelu",
    "mlp_drop_rate": 0.0,
    "gmlp": False,
    "post_norm": False,
    "patch_norm": True,
    "posembed": False,
}
#: Arguments that every one of them takes, by their names in ``VSSM`` and ``VSSBlock``, and in ``SS2D``.
_SCAN = ("ssm_d_state", "ssm_ratio", "ssm_dt_rank", "ssm_conv", "ssm_conv_bias", "forward_type")
_MIX = ("d_state", "ssm_ratio", "dt_rank", "d_conv", "conv_bias", "bias", "forward_type", "channel_first")
_NETWORK = (
    *("in_chans", "num_classes", "dims", "depths", "mlp_ratio", "norm_layer", "patchembed_version"),
    *("downsample_version", "drop_path_rate", "use_checkpoint"),
)
_BLOCK_ALONE = ("hidden_dim", "mlp_ratio", "drop_path", "channel_first", "use_checkpoint")
#: Those that say how weights are drawn; and the size that ``posembed`` is for.
_START = ("ssm_init", "initialize", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "imgsize")
#: Types of ``forward_type`` that compute one and the same, but for the rounding of 16 bits; "_no32" concerns only that.
_TYPES = ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v2", "v3")
#: The first version, which takes no variants.
_FIRST = ("v0", "v0seq")
_STEMS: dict[str, Stem] = {"v1": "plain", "v2": "deep"}
_DOWNSAMPLINGS: dict[str, Downsampling] = {"v1": "merge", "v2": "patch", "v3": "conv"}
#: Norms are over channels in both layouts.
_NORMS = ("ln", "ln2d")
#: Ours for upstream's names, of the root file and of its ``classification`` folder.
_MIXER = {
    "conv2d.weight": "conv.weight",
    "conv2d.bias": "conv.bias",
    "x_proj_weight": "x_proj",
    "x_proj.weight": "x_proj",
    "dt_projs_weight": "step_weight",
    "dt_projs.weight": "step_weight",
    "dt_projs_bias": "step_bias",
    "A_logs": "A_log",
    "Ds": "D",
}
_BLOCK = {"norm": "norm1", "ln_1": "norm1", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
_STEM: dict[Stem, dict[str, str]] = {
    "plain": {"0": "0.conv", "proj": "0.conv", "2": "0.norm", "norm": "0.norm"},
    "deep": {"0": "0.conv", "2": "0.norm", "5": "2.conv", "7": "2.norm"},
}
_DOWN: dict[Downsampling, dict[str, str]] = {
    "merge": {"1": "norm", "2": "reduction"},
    "patch": {"1": "conv", "3": "norm"},
    "conv": {"1": "conv", "3": "norm"},
}


def _check(what: str, config: Mapping[str, Any], *known: str) -> None:
    check_known(what, config, (*known, *_ONLY, *_START))
    check_only(what, config, _ONLY)


def _gated(config: Mapping[str, Any]) -> bool:
    """Whether there is a gate, by upstream's ``forward_type``."""
    kind = str(config.get("forward_type"))
    base = kind.removesuffix("_no32").removesuffix("_noz")
    no_gate = kind.removesuffix("_no32").endswith("_noz")
    if base not in _TYPES or (kind != base and base in _FIRST):
        raise UpstreamError(
            f"only VMamba with a forward_type of {', '.join(_TYPES)} is known here, all but the first two also with "
            f"'_noz' for no gate, got {kind!r}"
        )
    return not no_gate


def _scan_options(config: Mapping[str, Any], prefix: str = "ssm_") -> dict[str, Any]:
    """Options of `SS2D` and `VMamba` by upstream's arguments, which have a prefix in all but ``SS2D`` itself."""
    gate = _gated(config)
    rank = rank_of(f"{prefix}dt_rank", config.get(f"{prefix}dt_rank", "auto"))
    kernel = config.get(f"{prefix or 'd_'}conv", 3)
    options = {
        "states": config.get(f"{prefix}d_state", 16),
        "rank": rank,
        "gate": gate,
        "kernel": kernel,
        "conv_bias": config.get(f"{prefix}conv_bias", True),
    }
    if config["forward_type"] in _FIRST:
        return options | {"kernel": 3, "conv_bias": True}  # whatever the arguments say
    if kernel < 2 or kernel % 2 == 0:
        name = "ssm_conv" if prefix else "d_conv"
        raise UpstreamError(f"only VMamba with an odd {name} of 3 or more is known here, got {kernel!r}")
    return options


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``VSSM`` as a `VMamba`.

    Args:
        config: arguments of its constructor, ``forward_type`` among them.
        state_dict: its tensors; the checkpoint's entry ``model`` or ``model_ema``, by the names of any release.

    Raises:
        UpstreamError: if a setting is of another version than the published models, or weights do not fit.
    """
    _check("VMamba", config, *_NETWORK, *_SCAN)
    widths = config.get("dims", 96)
    depths = config.get("depths", (2, 2, 9, 2))
    stem, down = config.get("patchembed_version", "v1"), config.get("downsample_version", "v2")
    if stem not in _STEMS or down not in _DOWNSAMPLINGS:
        raise UpstreamError(
            f"VMamba's patchembed_version must be one of {', '.join(_STEMS)} and downsample_version one of "
            f"{', '.join(_DOWNSAMPLINGS)} to be known here, got {stem!r} and {down!r}"
        )
    if (norm := config.get("norm_layer", "ln").lower()) not in _NORMS:
        raise UpstreamError(f"VMamba's norm_layer must be one of {', '.join(_NORMS)} to be known here, got {norm!r}")
    network = VMamba(
        config.get("in_chans", 3),
        config.get("num_classes", 1000),
        widths=[widths * 2**stage for stage in range(len(depths))] if isinstance(widths, int) else widths,
        depths=depths,
        ssm_ratio=config.get("ssm_ratio", 2.0),
        mlp_ratio=config.get("mlp_ratio", 4.0),
        **_scan_options(config),
        stem=_STEMS[stem],
        downsampling=_DOWNSAMPLINGS[down],
        drop_path=config.get("drop_path_rate", 0.1),
        checkpointing=config.get("use_checkpoint", False),
    )

    def name(key: str) -> str:
        if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", key):
            return f"stages.{match[1]}.{match[2]}.{_block_name(match[3])}"
        if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(\w+)\.(\w+)", key):
            part = _DOWN[_DOWNSAMPLINGS[down]].get(match[2], match[2])
            return f"entries.{int(match[1]) + 1}.{part}.{match[3]}"
        if match := re.fullmatch(r"patch_embed\.(\w+)\.(\w+)", key):
            return f"entries.0.{_STEM[_STEMS[stem]].get(match[1], match[1])}.{match[2]}"
        return key.removeprefix("classifier.")

    return load_upstream(network, _reshaped({name(key): tensor for key, tensor in state_dict.items()}))


def convert_block(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``VSSBlock`` as ours, whichever layout its maps had.

    Args:
        config: arguments of its constructor, ``hidden_dim`` and ``forward_type`` among them.
        state_dict: its tensors.

    Raises:
        UpstreamError: as `convert`.
    """
    _check("a block of VMamba", config, *_BLOCK_ALONE, *_SCAN)
    width, ratio = config["hidden_dim"], config.get("ssm_ratio", 2.0)
    mixer = SS2D(width, ratio=ratio, **_scan_options(config)) if ratio else None
    block = VSSBlock(width, mixer, mlp_ratio=config.get("mlp_ratio", 4.0), drop_path=config.get("drop_path", 0.0))
    return load_upstream(block, _reshaped({_block_name(key): tensor for key, tensor in state_dict.items()}))


def convert_mixer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``SS2D`` as ours, whichever layout its maps had.

    Args:
        config: arguments of its constructor, ``d_model`` and ``forward_type`` among them.
        state_dict: its tensors.

    Raises:
        UpstreamError: as `convert`.
    """
    _check("SS2D", config, "d_model", *_MIX)
    bias = config.get("bias", False) and config["forward_type"] not in _FIRST
    mixer = SS2D(config["d_model"], ratio=config.get("ssm_ratio", 2.0), bias=bias, **_scan_options(config, prefix=""))
    return load_upstream(mixer, _reshaped({_MIXER.get(key, key): tensor for key, tensor in state_dict.items()}))


def _block_name(key: str) -> str:
    part, _, rest = key.partition(".")
    if part in ("op", "self_attention"):
        return f"mixer.{_MIXER.get(rest, rest)}"
    layer, _, what = key.rpartition(".")
    return f"{_BLOCK.get(layer, layer)}.{what}"


def _reshaped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With an axis for the orders, which upstream runs together with the next, and without the axes of 1x1 kernels."""
    ours = {}
    for key, tensor in tensors.items():
        last = key.rpartition(".")[2]
        if last in ("x_proj", "step_weight", "A_log", "D") and tensor.shape[0] % 4 == 0:
            tensor = tensor.reshape(4, -1) if last == "D" else tensor.reshape(4, -1, tensor.shape[-1])
        elif re.search(r"(proj|mlp\.\d|reduction|head)\.weight$", key) and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        ours[key] = tensor
    return ours
