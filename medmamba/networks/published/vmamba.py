"""The authors' ``VSSM`` as a `VMamba`, and its parts ``VSSBlock`` and ``SS2D``, by the names of any release.

Names are those of the root file of their repository or of its ``classification`` folder, and maps had either layout.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from medmamba.networks._vss import SS2D, Downsampling, Stem, VSSBlock
from medmamba.networks.published._blocks import START, rank_of
from medmamba.networks.published._names import Shapes, rename, renamed
from medmamba.networks.published._system import Config, System, UpstreamError, Weights, arguments
from medmamba.networks.vmamba import VMamba

#: What arguments of the authors' constructors must be for their weights to mean the same here.
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
#: Arguments of scans, by their names in ``VSSM`` and ``VSSBlock``.
_SCAN = arguments(count="ssm_d_state ssm_conv", number="ssm_ratio mlp_ratio", rank="ssm_dt_rank", truth="ssm_conv_bias")
#: Those that say how weights are drawn; the size that ``posembed`` is for; and in which layout maps are kept.
_KNOWS = START | arguments(any="ssm_init initialize imgsize channel_first use_checkpoint")
#: Types of ``forward_type`` that compute one and the same, but for the rounding of 16 bits; "_no32" concerns only that.
_TYPES = ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v2", "v3")
#: The first version, which takes no variants.
_FIRST = ("v0", "v0seq")
_STEMS: dict[str, Stem] = {"v1": "plain", "v2": "deep"}
_DOWNSAMPLINGS: dict[str, Downsampling] = {"v1": "merge", "v2": "patch", "v3": "conv"}
#: Norms are over channels in both layouts.
_NORMS = ("ln", "ln2d")

_MIXER_NAMES = (
    (r"^conv2d\.", "conv."),
    (r"^x_proj[_.]weight$", "x_proj"),
    (r"^dt_projs[_.]weight$", "step_weight"),
    (r"^dt_projs_bias$", "step_bias"),
    (r"^A_logs$", "A_log"),
    (r"^Ds$", "D"),
)
_BLOCK_NAMES = (
    (r"^(op|self_attention)\.(.+)", lambda found: f"mixer.{rename(found[2], _MIXER_NAMES)}"),
    (r"^(norm|ln_1)\.", "norm1."),
    (r"^mlp\.fc1\.", "mlp.0."),
    (r"^mlp\.fc2\.", "mlp.2."),
)
_STEM_NAMES: dict[Stem, dict[str, str]] = {
    "plain": {"0": "0.conv", "proj": "0.conv", "2": "0.norm", "norm": "0.norm"},
    "deep": {"0": "0.conv", "2": "0.norm", "5": "2.conv", "7": "2.norm"},
}
_DOWN_NAMES: dict[Downsampling, dict[str, str]] = {
    "merge": {"1": "norm", "2": "reduction"},
    "patch": {"1": "conv", "3": "norm"},
    "conv": {"1": "conv", "3": "norm"},
}


def _gated(config: Config) -> bool:
    """Whether there is a gate, by ``forward_type``."""
    kind = config["forward_type"]
    base = kind.removesuffix("_no32").removesuffix("_noz")
    no_gate = kind.removesuffix("_no32").endswith("_noz")
    if base not in _TYPES or (kind != base and base in _FIRST):
        raise UpstreamError(
            f"only VMamba with a forward_type of {', '.join(_TYPES)} is known here, all but the first two also with "
            f"'_noz' for no gate, got {kind!r}"
        )
    return not no_gate


def _scan_options(config: Config, prefix: str = "ssm_") -> dict[str, Any]:
    """Options of `SS2D` and `VMamba` by the authors' arguments, which have a prefix in all but ``SS2D`` itself."""
    taps = f"{prefix or 'd_'}conv"
    kernel = config.get(taps, 3)
    options = {
        "states": config.get(f"{prefix}d_state", 16),
        "rank": rank_of(config.get(f"{prefix}dt_rank", "auto")),
        "gate": _gated(config),
        "kernel": kernel,
        "conv_bias": config.get(f"{prefix}conv_bias", True),
    }
    if config["forward_type"] in _FIRST:
        return options | {"kernel": 3, "conv_bias": True}  # whatever the arguments say
    if kernel < 2 or kernel % 2 == 0:
        raise UpstreamError(f"only VMamba with an odd {taps} of 3 or more is known here, got {kernel!r}")
    return options


def _make(config: Config, weights: Weights) -> tuple[VMamba, Weights]:
    widths, depths = config.get("dims", 96), config.get("depths", (2, 2, 9, 2))
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
    stems, downs = _STEM_NAMES[_STEMS[stem]], _DOWN_NAMES[_DOWNSAMPLINGS[down]]
    names = (
        (
            r"^layers\.(\d+)\.blocks\.(\d+)\.(.+)",
            lambda found: f"stages.{found[1]}.{found[2]}.{rename(found[3], _BLOCK_NAMES)}",
        ),
        (
            r"^layers\.(\d+)\.downsample\.(\w+)\.",
            lambda found: f"entries.{int(found[1]) + 1}.{downs.get(found[2], found[2])}.",
        ),
        (r"^patch_embed\.(\w+)\.", lambda found: f"entries.0.{stems.get(found[1], found[1])}."),
        (r"^classifier\.", ""),
    )
    return network, _reshaped(renamed(weights, names))


def _make_block(config: Config, weights: Weights) -> tuple[VSSBlock, Weights]:
    width, ratio = config["hidden_dim"], config.get("ssm_ratio", 2.0)
    mixer = SS2D(width, ratio=ratio, **_scan_options(config)) if ratio else None
    block = VSSBlock(width, mixer, mlp_ratio=config.get("mlp_ratio", 4.0), drop_path=config.get("drop_path", 0.0))
    return block, _reshaped(renamed(weights, _BLOCK_NAMES))


def _make_mixer(config: Config, weights: Weights) -> tuple[SS2D, Weights]:
    bias = config.get("bias", False) and config["forward_type"] not in _FIRST
    mixer = SS2D(config["d_model"], ratio=config.get("ssm_ratio", 2.0), bias=bias, **_scan_options(config, prefix=""))
    return mixer, _reshaped(renamed(weights, _MIXER_NAMES))


def _reshaped(tensors: Weights) -> dict[str, Tensor]:
    """With an axis for the orders, which the authors run together with the next, and without axes of 1x1 kernels."""
    ours = {}
    for key, tensor in tensors.items():
        last = key.rpartition(".")[2]
        if last in ("x_proj", "step_weight", "A_log", "D") and tensor.shape[0] % 4 == 0:
            tensor = tensor.reshape(4, -1) if last == "D" else tensor.reshape(4, -1, tensor.shape[-1])
        elif re.search(r"(proj|mlp\.\d|reduction|head)\.weight$", key) and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        ours[key] = tensor
    return ours


def _tell(shapes: Shapes) -> dict[str, Any]:
    stages, norms = shapes.count(r"layers\.(\d+)\..+"), r"\.blocks\.0\.(norm|ln_1)\.weight"
    widths = [shapes.size(rf"layers\.{stage}{norms}", 0) or 0 for stage in range(stages)] or [0]
    down = shapes.first(r"layers\.0\.downsample\.1\.weight")
    return {
        "in_chans": shapes.size(r"patch_embed\.(0|proj)\.weight", 1),
        "num_classes": shapes.size(r"(classifier\.)?head\.weight", 0) or 0,
        "dims": widths[0] if widths == [widths[0] * 2**stage for stage in range(stages)] else widths,
        "depths": [shapes.count(rf"layers\.{stage}\.blocks\.(\d+)\..+") for stage in range(stages)],
        "patchembed_version": "v2" if shapes.has(r"patch_embed\.5\.weight") else "v1",
        "downsample_version": "v3" if down is not None and len(down) == 4 else "v1",
        **_tell_block(shapes, r"layers\.0\.blocks\.0\."),
    }


def _tell_block(shapes: Shapes, place: str = "") -> dict[str, Any]:
    mixer, width = f"{place}(op|self_attention)\\.", shapes.size(f"{place}(norm|ln_1)\\.weight", 0)
    hidden = shapes.size(f"{place}mlp\\.fc1\\.weight", 0) or 0
    return {
        "hidden_dim": width,
        "ssm_d_state": shapes.size(f"{mixer}A_logs", 1),
        "ssm_ratio": shapes.ratio(f"{mixer}conv2d\\.weight", 0, width),
        "ssm_conv_bias": shapes.has(f"{mixer}conv2d\\.bias"),
        "mlp_ratio": hidden / width if width else None,
    }


def _tell_mixer(shapes: Shapes) -> dict[str, Any]:
    width = shapes.size(r"in_proj\.weight", 1)
    return {
        "d_model": width,
        "d_state": shapes.size("A_logs", 1),
        "ssm_ratio": shapes.ratio(r"conv2d\.weight", 0, width),
        "conv_bias": shapes.has(r"conv2d\.bias"),
    }


SYSTEMS = {
    "vmamba": System(
        what="VMamba",
        make=_make,
        needs=arguments(word="forward_type"),
        takes=arguments(
            count="in_chans",
            classes="num_classes",
            counts="dims",
            depths="depths",
            word="norm_layer patchembed_version downsample_version",
            rate="drop_path_rate",
            truth="use_checkpoint",
        )
        | _SCAN,
        knows=START | arguments(any="ssm_init initialize imgsize"),
        only=_ONLY,
        marks=(r"patch_embed\..+\.weight", r"layers\.0\.blocks\.0\.(op|self_attention)\.A_logs"),
        tell=_tell,
        family="vmamba",
    ),
    "vmamba_block": System(
        what="VSSBlock",
        make=_make_block,
        needs=arguments(count="hidden_dim", word="forward_type"),
        takes=_SCAN,
        knows=arguments(rate="drop_path") | _KNOWS,
        only=_ONLY,
        marks=(r"(op|self_attention)\.A_logs",),
        tell=_tell_block,
    ),
    "vmamba_ss2d": System(
        what="SS2D",
        make=_make_mixer,
        needs=arguments(count="d_model", word="forward_type"),
        takes=arguments(count="d_state d_conv", number="ssm_ratio", rank="dt_rank", truth="conv_bias bias"),
        knows=_KNOWS,
        only=_ONLY,
        marks=("A_logs",),
        tell=_tell_mixer,
    ),
}
