"""The Mamba block of `mamba_ssm`, and of the forks that scan in several directions.

Letters: B batch, L tokens, d model width, e inner width, N states, W taps, R rank of the step size.
"""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module
from torch.nn.utils.parametrize import is_parametrized

from ..convolution import causal_conv
from ..dispatch import multi_scan, selective_scan
from ..orders import ScanOrder, bidirectional, interleaved
from ..packed import packed_scan, sequence_numbers
from ._convolution import causal_conv1d_update, convolve, turned
from ._operations import both_ways
from ._residual import Block
from ._state_update import selective_state_update

__all__ = ["Block", "Mamba", "is_plain"]  # models that 0.1.0 pickled look for the first here

#: Suffixes of the parameters of each order.
_SUFFIXES = {"none": ("",), "v1": ("",), "v2": ("", "_b"), "v3": ("", "_b", "_s")}


class Mamba(nn.Module):
    """Upstream's block, by upstream's names, with the directions of the forks of Vim, SegMamba and Vivim.

    Args:
        d_model: d.
        d_state: N.
        d_conv: W.
        expand: e over d.
        dt_rank: R; "auto": a sixteenth of d, rounded up.
        dt_min: smallest step size at the start.
        dt_max: largest.
        dt_init: "random" or "constant" weights of the step size.
        dt_scale: factor of these.
        dt_init_floor: step sizes at the start are no smaller.
        conv_bias: whether the convolution has a bias.
        bias: whether the projections at entry and exit have one.
        use_fast_path: taken and of no effect: the compiled path reads the weights of layers that are as they were made;
            one that was replaced or has hooks is called.
        layer_idx: the block's key in a cache.
        device: of the parameters.
        dtype: of the parameters.
        bimamba_type: "none"; "v1": two sets of decays; "v2": two directions (Vim); "v3": three (SegMamba, Vivim).
        if_divide_out: whether the two directions of "v2" are averaged.
        if_devide_out: the same, as older forks spell it.
        bimamba: whether there are two directions, "v2", as VideoMamba says it.
        init_layer_scale: start of a factor for each output channel; None: no such factor.
        nslices: pieces of the third order of "v3", whose results are summed (SegMamba).
        nframes: the same, but results are averaged (Vivim); 5 if neither is given.

    Raises:
        ValueError: if there is no such type of directions or initialisation.
    """

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter
    # What blocks that upstream pickled do not have.
    bimamba_type: str | None = "none"
    if_divide_out = False
    init_layer_scale: float | None = None
    nslices: int | None = None
    nframes: int | None = 5

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bimamba_type: str | None = "none",
        if_divide_out: bool = False,
        if_devide_out: bool = False,
        bimamba: bool = False,
        init_layer_scale: float | None = None,
        nslices: int | None = None,
        nframes: int | None = None,
    ) -> None:
        super().__init__()
        kind = _kind(bimamba_type, bimamba)
        if kind not in _SUFFIXES:
            raise ValueError(f"Mamba: bimamba_type must be one of {', '.join(_SUFFIXES)}, but is {bimamba_type!r}")
        if nslices is not None and nframes is not None:
            raise ValueError(f"Mamba: give nslices ({nslices}) or nframes ({nframes}), not both")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_fast_path, self.layer_idx, self.bimamba_type = use_fast_path, layer_idx, kind
        self.if_divide_out, self.init_layer_scale = if_divide_out or if_devide_out, init_layer_scale
        self.nslices, self.nframes = nslices, nframes if nslices or nframes else 5
        self.activation, self.act = "silu", nn.SiLU()
        if init_layer_scale is not None:
            self.gamma = nn.Parameter(init_layer_scale * torch.ones(d_model, **where))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **where)
        for suffix in _SUFFIXES[kind]:
            conv = nn.Conv1d(
                self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias, **where
            )
            setattr(self, f"conv1d{suffix}", conv)
            x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **where)
            setattr(self, f"x_proj{suffix}", x_proj)
            setattr(self, f"dt_proj{suffix}", nn.Linear(self.dt_rank, self.d_inner, **where))
            self._add_decays(suffix, device)
            skip = nn.Parameter(torch.ones(self.d_inner, device=device))
            skip._no_weight_decay = True  # type: ignore[attr-defined]  # what upstream's users look for
            setattr(self, f"D{suffix}", skip)
        if kind == "v1":
            self._add_decays("_b", device)
        self._start_steps(dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **where)

    def _add_decays(self, suffix: str, device: torch.device | str | None) -> None:
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=device)
        decays = nn.Parameter(torch.log(states).repeat(self.d_inner, 1))
        decays._no_weight_decay = True  # type: ignore[attr-defined]  # what upstream's users look for
        setattr(self, f"A{suffix}_log", decays)

    def _start_steps(self, low: float, high: float, init: str, scale: float, floor: float) -> None:
        """Initialise the forward step size; the forks leave the others as a linear layer begins."""
        bound = self.dt_rank**-0.5 * scale
        if init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        elif init == "random":
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        else:
            raise ValueError(f"Mamba: dt_init must be 'random' or 'constant', but is {init!r}")
        drawn = torch.rand(self.d_inner, device=self.dt_proj.weight.device)
        step = torch.exp(drawn * (math.log(high) - math.log(low)) + math.log(low)).clamp(min=floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]  # what upstream's users look for

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickled block, a fork's included."""
        state = dict(state)
        if "if_devide_out" in state:
            state["if_divide_out"] = state.pop("if_devide_out")
        state["bimamba_type"] = _kind(state.get("bimamba_type"), bool(state.pop("bimamba", False)))
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch's

    def forward(
        self,
        hidden_states: Tensor,
        inference_params: Any = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
        position_indices: Tensor | None = None,
    ) -> Tensor:
        """(B, L, d) to (B, L, d); inference_params keep the state, which tokens after the first call go on from.

        ``cu_seqlens``, ``seq_idx`` or ``position_indices`` name several sequences along L that do not see each other:
        see :func:`medmamba.kernels.packed.sequence_numbers`.

        Raises:
            NotImplementedError: for decoding in several directions or several sequences along L, and for such sequences
                in an order that interleaves tokens.
        """
        batch, length, _ = hidden_states.shape
        sequences = sequence_numbers(
            (batch, length), seq_idx=seq_idx, cu_seqlens=cu_seqlens, position_indices=position_indices
        )
        if inference_params is not None:
            if sequences is not None:
                raise NotImplementedError("Mamba: decoding takes one sequence per entry; leave out inference_params")
            out = self._decode(hidden_states, inference_params)
        else:
            x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
            if sequences is None and all(is_plain(part) for part in self._parts()):
                y = self._mix(turned(x), turned(z))
            else:
                y = self._mix_by_parts(turned(x), turned(z), sequences)
            out = self.out_proj(turned(y))
        return out * self.gamma if self.init_layer_scale is not None else out

    def _orders(self) -> tuple[ScanOrder, ...]:
        if self.bimamba_type in ("v1", "v2"):
            return bidirectional()
        if self.bimamba_type == "v3":
            pieces = self.nslices or self.nframes
            assert pieces is not None
            return interleaved(pieces)
        return (ScanOrder(),)

    def _scale(self) -> float:
        if self.bimamba_type == "v2":
            return 0.5 if self.if_divide_out else 1.0
        return 1 / 3 if self.bimamba_type == "v3" and self.nslices is None else 1.0

    def _suffixes(self) -> tuple[str, ...]:
        return _SUFFIXES[self.bimamba_type or "none"]

    def _parts(self) -> list[nn.Module]:
        """The layers whose weights the compiled path reads."""
        return [getattr(self, part + s) for part in ("conv1d", "x_proj", "dt_proj") for s in self._suffixes()]

    def _stack(self, name: str) -> Tensor:
        """A weight of all orders; the suffix stands behind the first part of its name."""
        head, dot, tail = name.partition(".")
        names = (f"{head}{s}{dot}{tail}" if head != "A_log" else f"A{s}_log" for s in self._suffixes())
        return torch.stack([attrgetter(n)(self) for n in names])

    def _mix(self, x: Tensor, z: Tensor) -> Tensor:
        """What goes into the projection at the exit, (B, e, L), from the branch and the gate."""
        orders, grid = self._orders(), (x.shape[2],)
        if self.bimamba_type == "v1":
            u = self._convolve(x, "")
            delta, B, C, bias = self._project(u, "")
            return both_ways(u, delta, self._decays(""), self._decays("_b"), B, C, self.D.float(), z, bias, True)
        bias = None if self.conv1d.bias is None else self._stack("conv1d.bias")
        u = causal_conv(x, self._stack("conv1d.weight")[:, :, 0], bias, orders=orders, grid=grid)
        made = torch.matmul(turned(u), turned(self._stack("x_proj.weight")))
        step, B, C = made.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = turned(torch.matmul(step, turned(self._stack("dt_proj.weight"))))
        y, _ = multi_scan(
            u, delta, -torch.exp(self._stack("A_log").float()), turned(B), turned(C), self._stack("D").float(), z,
            self._stack("dt_proj.bias").float(), True, orders=orders, grid=grid, scale=self._scale(),
        )  # fmt: skip
        return y

    def _mix_by_parts(self, x: Tensor, z: Tensor, sequences: Tensor | None) -> Tensor:
        """The same order by order, on sequences (B, L) or one; layers that are not plain are called."""
        orders = self._orders()
        total: Tensor | None = None
        if sequences is not None and any(order.pieces > 1 for order in orders):
            raise NotImplementedError("Mamba: an order that interleaves slices or frames takes one sequence per entry")
        for order, decays in zip(orders, ("", "_b", "_s"), strict=False):
            tokens = order.walk((x.shape[2],)).positions(x.device)
            numbers = None if sequences is None else sequences[:, tokens]
            if self.bimamba_type == "v1":  # only its scan goes backwards
                suffix, u = "", self._convolve(x, "", sequences)[..., tokens]
            else:
                suffix, u = decays, self._convolve(x[..., tokens], decays, numbers)
            delta, B, C, bias = self._project(u, suffix)
            skip: Tensor = getattr(self, f"D{suffix}").float()
            y, _ = packed_scan(u, delta, self._decays(decays), B, C, skip, None, bias, True, numbers)
            y = y[..., tokens.argsort()]
            total = y if total is None else total + y
        assert total is not None
        return total * self._scale() * F.silu(z)

    def _decays(self, suffix: str) -> Tensor:
        decays: Tensor = -torch.exp(getattr(self, f"A{suffix}_log").float())
        return decays

    def _convolve(self, x: Tensor, suffix: str, sequences: Tensor | None = None) -> Tensor:
        """Convolution and SiLU, (B, e, L)."""
        conv = getattr(self, f"conv1d{suffix}")
        if is_plain(conv):
            return convolve(x, conv.weight[:, 0], conv.bias, silu=True, sequences=sequences)
        if sequences is not None:
            raise NotImplementedError(
                f"Mamba: conv1d{suffix} was replaced or has hooks, and so convolves one sequence per entry; pad "
                "sequences to entries of a batch instead of naming them along the length"
            )
        return F.silu(conv(x)[..., : x.shape[2]])

    def _project(self, u: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Step sizes (B, e, L), B and C (B, N, L), and what is still to be added to the step sizes."""
        steps, made = getattr(self, f"dt_proj{suffix}"), getattr(self, f"x_proj{suffix}")(turned(u))
        step, B, C = made.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        if not is_plain(steps):
            return turned(steps(step)), turned(B), turned(C), None
        return turned(F.linear(step, steps.weight)), turned(B), turned(C), steps.bias.float()

    def _decode(self, hidden_states: Tensor, inference_params: Any) -> Tensor:
        if self.bimamba_type not in (None, "none"):
            raise NotImplementedError(
                f"Mamba: bimamba_type {self.bimamba_type!r} cannot decode; it sees tokens to come"
            )
        conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        conv_state.copy_(F.pad(turned(x), (self.d_conv - x.shape[1], 0)))  # crops when there are more tokens than taps
        u = self._convolve(turned(x), "")
        delta, B, C, bias = self._project(u, "")
        y, last = selective_scan(
            u, delta, self._decays(""), B, C, self.D.float(), turned(z), bias, True, return_last_state=True
        )
        ssm_state.copy_(last)
        out: Tensor = self.out_proj(turned(y))
        return out

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token (B, 1, d) more, changing the states in place; returns (B, 1, d) and the states.

        Raises:
            ValueError: if there is more than one token.
        """
        if hidden_states.shape[1] != 1:
            raise ValueError(f"Mamba.step: takes one token at a time, but got {hidden_states.shape[1]}")
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        if is_plain(self.conv1d):
            x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        else:
            conv_state.copy_(torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], dim=-1))
            x = self._convolve(conv_state.to(x.dtype), "")[..., -1]
        delta, B, C, bias = self._project(x[..., None], "")
        y = selective_state_update(
            ssm_state, x, delta[..., 0], self._decays(""), B[..., 0], C[..., 0], self.D, z, bias, True
        )
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """States of zeros for decoding: (B, e, W) and (B, e, N)."""
        device = self.D.device
        conv_type, ssm_type = (dtype or next(part.parameters(), self.D).dtype for part in (self.conv1d, self.dt_proj))
        return (
            torch.zeros(batch_size, self.d_inner, self.d_conv, device=device, dtype=conv_type),
            torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=ssm_type),
        )

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        """This block's states, made if they are not there yet.

        Raises:
            ValueError: if the block has no layer_idx.
        """
        if self.layer_idx is None:
            raise ValueError(
                "Mamba: decoding needs a layer_idx, the block's key in the cache; give it to the constructor"
            )
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        conv_state, ssm_state = cache[self.layer_idx]
        if initialize_states:
            conv_state.zero_()
            ssm_state.zero_()
        return conv_state, ssm_state


def _kind(bimamba_type: str | None, bimamba: bool) -> str:
    """The type of directions, however a fork says it.

    Raises:
        ValueError: if it is said twice, in two ways.
    """
    kind = bimamba_type or "none"
    if bimamba and kind not in ("none", "v2"):
        raise ValueError(f"Mamba: bimamba means bimamba_type 'v2', but bimamba_type is {bimamba_type!r}; leave one out")
    return "v2" if bimamba else kind


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer does what its weights say: PyTorch's own, with nothing put before, behind or in its place.

    Parametrised ones do, as their attributes give what their parametrisation makes.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    everywhere = (module._global_forward_hooks, module._global_forward_pre_hooks, module._global_backward_hooks)
    kind = type(layer).__bases__[0] if is_parametrized(layer) else type(layer)
    return kind in (nn.Linear, nn.Conv1d) and "forward" not in vars(layer) and not any(hooks) and not any(everywhere)
