"""The residual block around a mixer, and the gated MLP that may follow it, as `mamba_ssm` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._norms import RMSNorm, layer_norm_fn


def add_and_norm(
    norm: nn.Module, hidden_states: Tensor, residual: Tensor | None, residual_in_fp32: bool
) -> tuple[Tensor, Tensor]:
    """The norm of hidden states (B, L, d) and what came before them, and their sum."""
    result: tuple[Tensor, Tensor] = layer_norm_fn(
        hidden_states, norm.weight, getattr(norm, "bias", None), residual, eps=norm.eps, prenorm=True,  # type: ignore[arg-type]  # a norm's
        residual_in_fp32=residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
    )  # fmt: skip
    return result


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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickled block; those of mamba_ssm's first version know no MLP."""
        if "mlp" not in state["_modules"]:
            state = {"mlp": None, **state}
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch's

    def forward(
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, L, d) and the residual before it, to those after."""
        hidden_states, residual = add_and_norm(self.norm, hidden_states, residual, self.residual_in_fp32)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **options)
        if self.mlp is not None:
            hidden_states, residual = add_and_norm(self.norm2, hidden_states, residual, self.residual_in_fp32)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> Any:
        """The mixer's states."""
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)  # type: ignore[operator]


def _makes_norm(factory: Callable[[int], nn.Module]) -> bool:
    made = getattr(factory, "func", factory)
    return isinstance(made, type) and issubclass(made, (nn.LayerNorm, RMSNorm))


class GatedMLP(nn.Module):
    """Two projections at entry, one of them the gate of the other, and one at the exit.

    Args:
        in_features: d.
        hidden_features: of the values; None: 8/3 of d. Rounded up to a multiple of ``multiple_of``.
        out_features: at the exit; None: d.
        activation: of the gate.
        bias: whether the projections have one.
        multiple_of: see above.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        multiple_of: int = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = -(-hidden // multiple_of) * multiple_of
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, 2 * hidden, bias=bias, **where)
        self.activation = activation
        self.fc2 = nn.Linear(hidden, out_features or in_features, bias=bias, **where)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., out_features)."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        y: Tensor = self.fc2(value * self.activation(gate))
        return y
