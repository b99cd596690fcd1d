"""Mamba blocks as all systems have them: arguments, what weights tell of them, and scan orders in one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from medmamba.case import some
from medmamba.kernels import interleaved
from medmamba.networks._ssm import GridMamba
from medmamba.networks.published._names import Shapes
from medmamba.networks.published._system import Config, System, UpstreamError, Weights, arguments

#: Arguments of a block, and their values as its authors' constructor has them.
BLOCK = arguments(count="d_state d_conv", number="expand", rank="dt_rank", truth="conv_bias bias")
USUAL_BLOCK: dict[str, Any] = {
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "conv_bias": True,
    "bias": False,
}
#: Those of a layer around a block, beside its width.
LAYER = {name: BLOCK[name] for name in ("d_state", "d_conv", "expand")}
#: Those that say how weights are drawn or where and how fast the block runs, which loaded weights do not show.
START = arguments(any="dt_min dt_max dt_init dt_scale dt_init_floor")
PLACE = arguments(any="device dtype")
START_AND_SPEED = arguments(any="use_fast_path layer_idx") | START | PLACE
#: What SegMamba and Vivim append to the names of each order's parameters.
THREE_ORDERS = ("", "_b", "_s")

#: `GridMamba`'s stacked parameters, and what the originals call that of each order, with the order's suffix for {}.
_STACKED = {
    "conv_weight": "conv1d{}.weight",
    "conv_bias": "conv1d{}.bias",
    "x_proj": "x_proj{}.weight",
    "step_weight": "dt_proj{}.weight",
    "step_bias": "dt_proj{}.bias",
    "A_log": "A{}_log",
    "D": "D{}",
}


def layer_options(config: Config) -> dict[str, Any]:
    """How large a block is, from ``d_state``, ``d_conv`` and ``expand``, as our layers and `GridMamba` name it."""
    names = {"states": "d_state", "taps": "d_conv", "expand": "expand"}
    return {ours: config.get(name, USUAL_BLOCK[name]) for ours, name in names.items()}


def mixer_options(config: Config) -> dict[str, Any]:
    """Options of our `GridMamba` from the arguments of a Mamba block."""
    biases = {name: config.get(name, USUAL_BLOCK[name]) for name in ("conv_bias", "bias")}
    return layer_options(config) | {"rank": rank_of(config.get("dt_rank", "auto"))} | biases


def rank_of(given: int | str) -> int:
    """The rank of a step size as our options have it: 0 for "auto"."""
    return 0 if isinstance(given, str) else given


def tell_block(shapes: Shapes, place: str = "") -> dict[str, Any]:
    """Of a Mamba block, for one order or several; ``place`` is a pattern of what its names begin with."""
    inner, width = shapes.size(f"{place}in_proj\\.weight", 0), shapes.size(f"{place}in_proj\\.weight", 1)
    if inner is None or width is None:
        return {}
    expand = inner / 2 / width
    rank = shapes.size(f"{place}dt_proj\\.weight", 1)
    return {
        "d_model": width,
        "d_state": shapes.size(f"{place}A_log", 1),
        "d_conv": shapes.size(f"{place}conv1d\\.weight", -1),
        "expand": int(expand) if expand == int(expand) else expand,
        "dt_rank": "auto" if rank == math.ceil(width / 16) else rank,
        "conv_bias": shapes.has(f"{place}conv1d\\.bias"),
        "bias": shapes.has(f"{place}in_proj\\.bias"),
    }


def tell_layer(shapes: Shapes) -> dict[str, Any]:
    """Of a norm and a Mamba block beside it."""
    return {"dim": shapes.size(r"norm1?\.weight", 0), "d_state": shapes.size(r"mamba\.A_log", 1)}


def says(config: Config, name: str, value: Any) -> bool:
    """Whether a configuration says of an argument what the weights do, or nothing."""
    if name not in config:
        return True
    given = config[name]
    automatic = (math.ceil(config.get("d_model", 0) / 16), "auto")
    if name == "dt_rank":
        return bool(given == value) or (given in automatic and value in automatic)
    if name == "ssm_cfg":  # of which the weights tell what is not as usual
        block, own = ({**USUAL_BLOCK, **(options or {})} for options in (given, value))
        return all(says({**block, "d_model": config.get("d_model", 0)}, key, own[key]) for key in USUAL_BLOCK)
    if name == "vocab_size":  # the weights have as many rows as it is padded to
        multiple = config.get("pad_vocab_size_multiple", 8)
        return value in (given, -(-given // multiple) * multiple)
    return bool(given == value)


def grid_mamba(tensors: Weights, suffixes: Sequence[str], *, shared: bool = False) -> dict[str, torch.Tensor]:
    """The weights of all blocks for several orders (bimamba v1, v2 and v3), by the names of our `GridMamba`.

    Args:
        tensors: a state dict with any number of such blocks, whatever comes before their names.
        suffixes: what the original appends to the names of each order's own parameters, in our order of orders: "",
            "_b" for Vim's two; "", "_b", "_s" for SegMamba's and Vivim's three. In ``A_b_log`` it stands inside.
        shared: whether all but A is of all orders (v1), by the first one's names.

    Returns:
        The same dict with each block's tensors per order stacked, all others as they were.

    Raises:
        UpstreamError: if a tensor is there for some of the orders only, or of another shape, naming it.
    """
    ours = dict(tensors)
    for prefix in [key.removesuffix("A_log") for key in tensors if key.rpartition(".")[2] == "A_log"]:
        for name, pattern in _STACKED.items():
            orders = suffixes[:1] if shared and name != "A_log" else suffixes
            keys = [prefix + pattern.format(suffix) for suffix in orders]
            if not any(key in tensors for key in keys):
                continue  # a bias that the block may do without; what it needs is named where weights are loaded
            if missing := [key for key in keys if key not in tensors]:
                raise UpstreamError(f"the weights lack {some(missing)}; a block needs its own for each scan order")
            if len(shapes := {tuple(tensors[key].shape) for key in keys}) > 1:
                raise UpstreamError(f"{', '.join(keys)} must be of one shape, but are {sorted(shapes)}")
            whole = torch.stack([ours.pop(key) for key in keys])
            ours[prefix + name] = whole.squeeze(2) if name == "conv_weight" else whole
    return ours


def three_orders_mixer(what: str, pieces: str, *, mean: bool) -> System:
    """The Mamba block of type v3 of SegMamba and of Vivim.

    Args:
        what: the original's name.
        pieces: the argument that says in how many pieces the third order cuts the tokens.
        mean: whether the orders' results are averaged rather than summed.
    """

    def make(config: Config, weights: Weights) -> tuple[GridMamba, Weights]:
        orders = interleaved(config.get(pieces, 5))
        mixer = GridMamba(config["d_model"], orders, mean=mean, **mixer_options(config))
        return mixer, grid_mamba(weights, THREE_ORDERS)

    return System(
        what=what,
        make=make,
        needs=arguments(count="d_model"),
        takes=arguments(count=pieces) | BLOCK,
        knows=START_AND_SPEED,
        only={"bimamba_type": "v3"},
        marks=("A_s_log",),
        tell=tell_block,
    )
