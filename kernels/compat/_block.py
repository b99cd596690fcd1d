"""The Mamba block of `mamba_ssm`, and of the forks that scan in several directions.

Letters: B batch, L tokens, d model width, e inner width, N states, W taps, R rank of the step size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn

from ..convolution import causal_conv
from ..dispatch import multi_scan, selective_scan
from ..orders import ScanOrder, bidirectional, interleaved
from ._convolution import causal_conv1d_update, convolve
from ._norms import RMSNorm, layer_norm_fn
from ._operations import bimamba_inner_fn, selective_state_update

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
        use_fast_path: taken and of no effect: there is one path.
        layer_idx: the block's key in a cache.
        device: of the parameters.
        dtype: of the parameters.
        bimamba_type: "none"; "v1": two sets of decays; "v2": two directions (Vim); "v3": three (SegMamba, Vivim).
        if_divide_out: whether the two directions of "v2" are averaged.
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
    A_b_log: nn.Parameter
    D: nn.Parameter

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
        init_layer_scale: float | None = None,
        nslices: int | None = None,
        nframes: int | None = None,
    ) -> None:
        super().__init__()
        kind = bimamba_type or "none"
        if kind not in _SUFFIXES:
            raise ValueError(f"Mamba: bimamba_type must be one of {', '.join(_SUFFIXES)}, but is {bimamba_type!r}")
        if nslices is not None and nframes is not None:
            raise ValueError(f"Mamba: give nslices ({nslices}) or nframes ({nframes}), not both")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_fast_path, self.layer_idx, self.bimamba_type = use_fast_path, layer_idx, bimamba_type
        self.if_divide_out, self.init_layer_scale = if_divide_out, init_layer_scale
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

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """(B, L, d) to (B, L, d); inference_params keep the state, which tokens after the first call go on from.

        Raises:
            NotImplementedError: for decoding in several directions.
        """
        if inference_params is not None:
            out = self._decode(hidden_states, inference_params)
        elif self.bimamba_type == "v1":
            out = bimamba_inner_fn(
                self.in_proj(hidden_states).mT, self.conv1d.weight, self.conv1d.bias, self.x_proj.weight,
                self.dt_proj.weight, self.out_proj.weight, self.out_proj.bias, -torch.exp(self.A_log),
                -torch.exp(self.A_b_log), None, None, self.D, self.dt_proj.bias,
            )  # fmt: skip
        else:
            out = self.out_proj(self._mix(hidden_states))
        return out * self.gamma if self.init_layer_scale is not None else out

    def _orders(self) -> tuple[ScanOrder, ...]:
        if self.bimamba_type == "v2":
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

    def _stack(self, name: str) -> Tensor:
        """A parameter of all orders; the suffix stands behind the first part of its name."""
        suffixes = _SUFFIXES[self.bimamba_type or "none"]
        head, dot, tail = name.partition(".")
        names = (f"{head}{s}{dot}{tail}" if head != "A_log" else f"A{s}_log" for s in suffixes)
        return torch.stack([self.get_parameter(n) for n in names])

    def _mix(self, hidden_states: Tensor) -> Tensor:
        """What goes into the projection at the exit, (B, L, e)."""
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        orders, grid = self._orders(), (x.shape[1],)
        bias = None if self.conv1d.bias is None else self._stack("conv1d.bias")
        u = causal_conv(x.mT, self._stack("conv1d.weight")[:, :, 0], bias, orders=orders, grid=grid)
        parts = [self.dt_rank, self.d_state, self.d_state]
        step, B, C = torch.matmul(u.mT, self._stack("x_proj.weight").mT).split(parts, dim=-1)
        y, _ = multi_scan(
            u, torch.matmul(step, self._stack("dt_proj.weight").mT).mT, -torch.exp(self._stack("A_log").float()), B.mT,
            C.mT, self._stack("D").float(), z.mT, self._stack("dt_proj.bias").float(), True, orders=orders, grid=grid,
            scale=self._scale(),
        )  # fmt: skip
        return y.mT

    def _decode(self, hidden_states: Tensor, inference_params: Any) -> Tensor:
        if self.bimamba_type not in (None, "none"):
            raise NotImplementedError(
                f"Mamba: bimamba_type {self.bimamba_type!r} cannot decode; it sees tokens to come"
            )
        conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        conv_state.copy_(F.pad(x.mT, (self.d_conv - x.shape[1], 0)))  # crops when there are more tokens than taps
        u = convolve(x.mT, self.conv1d.weight[:, 0], self.conv1d.bias, silu=True)
        step, B, C = self.x_proj(u.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, last = selective_scan(
            u, F.linear(step, self.dt_proj.weight).mT, -torch.exp(self.A_log.float()), B.mT, C.mT, self.D.float(), z.mT,
            self.dt_proj.bias.float(), True, return_last_state=True,
        )  # fmt: skip
        ssm_state.copy_(last)
        out: Tensor = self.out_proj(y.mT)
        return out

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token (B, 1, d) more, changing the states in place; returns (B, 1, d) and the states.

        Raises:
            ValueError: if there is more than one token.
        """
        if hidden_states.shape[1] != 1:
            raise ValueError(f"Mamba.step: takes one token at a time, but got {hidden_states.shape[1]}")
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = selective_state_update(
            ssm_state, x, F.linear(dt, self.dt_proj.weight), -torch.exp(self.A_log.float()), B, C, self.D, z,
            self.dt_proj.bias, True,
        )  # fmt: skip
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """States of zeros for decoding: (B, e, W) and (B, e, N)."""
        device = self.out_proj.weight.device
        conv_type, ssm_type = dtype or self.conv1d.weight.dtype, dtype or self.dt_proj.weight.dtype
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


class Block(nn.Module):
    """Add, norm, mix: a residual block with the residual as a stream of its own.

    Args:
        dim: d.
        mixer_cls: makes the mixer from d.
        mlp_cls: makes what follows it from d; None or `nn.Identity`: nothing.
        norm_cls: makes the norms from d.
        fused_add_norm: taken; the result is the same.
        residual_in_fp32: whether the residual is float32.
    """

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[[int], nn.Module],
        mlp_cls: Callable[[int], nn.Module] | None = None,
        norm_cls: Callable[[int], nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__()
        if mlp_cls is not None and _makes_norm(mlp_cls):  # the older form, without an MLP
            norm_cls, mlp_cls = mlp_cls, nn.Identity
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.mixer, self.norm = mixer_cls(dim), norm_cls(dim)
        self.mlp: nn.Module | None = None
        if mlp_cls is not None and mlp_cls is not nn.Identity:
            self.norm2, self.mlp = norm_cls(dim), mlp_cls(dim)

    def forward(
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, L, d) and the residual before it, to those after."""
        hidden_states, residual = self._add(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **options)
        if self.mlp is not None:
            hidden_states, residual = self._add(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _add(self, norm: nn.Module, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        bias = getattr(norm, "bias", None)
        result = layer_norm_fn(
            hidden_states, norm.weight, bias, residual, eps=norm.eps, prenorm=True,  # type: ignore[arg-type]  # a norm's
            residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
        )  # fmt: skip
        assert isinstance(result, tuple)
        return result

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> Any:
        """The mixer's states."""
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)  # type: ignore[operator]


def _makes_norm(factory: Callable[[int], nn.Module]) -> bool:
    made = getattr(factory, "func", factory)
    return isinstance(made, type) and issubclass(made, (nn.LayerNorm, RMSNorm))
