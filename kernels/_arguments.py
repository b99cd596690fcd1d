"""What a selective scan accepts, checked once for all backends."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

#: States a channel may have.
MAX_STATES = 256


def _say(name: str, rule: str, value: object) -> str:
    return f"selective_scan: {name} must {rule}, but is {value}"


def _named(**tensors: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in tensors.items() if tensor is not None)


def _check_projection(name: str, tensor: Tensor, batch: int, channels: int, states: int, length: int) -> None:
    """B or C: (D, N), (B, N, L) or (B, G, N, L) with G a divisor of D."""
    shape = tuple(tensor.shape)
    fits = (
        shape == (channels, states)
        or shape == (batch, states, length)
        or (len(shape) == 4 and (shape[0], *shape[2:]) == (batch, states, length))
    )
    if not fits:
        rule = (
            f"be constant {(channels, states)}, per token {(batch, states, length)} "
            f"or grouped ({batch}, G, {states}, {length})"
        )
        raise ValueError(_say(name, rule, shape))
    if len(shape) == 4 and (shape[1] < 1 or channels % shape[1]):
        raise ValueError(_say(name, f"have a number of groups that divides the {channels} channels", shape[1]))


def check_arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    """Refuse tensors that do not fit together; the shapes are those of :func:`~medmamba.kernels.selective_scan`.

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together.
    """
    if u.dim() != 3:
        raise ValueError(_say("u", "have the three axes (batch, channels, length)", tuple(u.shape)))
    if A.dim() != 2 or A.shape[0] != u.shape[1] or not 1 <= A.shape[1] <= MAX_STATES:
        rule = f"be ({u.shape[1]} channels, 1 to {MAX_STATES} states)"
        raise ValueError(_say("A", rule, tuple(A.shape)))
    batch, channels, length = u.shape
    states = A.shape[1]
    for name, tensor in _named(
        u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state
    ):
        if tensor.is_complex():
            raise TypeError(_say(name, "be real (complex state matrices are not supported)", tensor.dtype))
        if not tensor.is_floating_point():
            raise TypeError(_say(name, "be of a floating point type", tensor.dtype))
        if tensor.device != u.device:
            raise ValueError(_say(name, f"be on the device of u, {u.device}", tensor.device))
    for name, tensor in _named(delta=delta, z=z):
        if tensor.shape != u.shape:
            raise ValueError(_say(name, f"have the shape of u, {tuple(u.shape)}", tuple(tensor.shape)))
    for name, tensor in _named(D=D, delta_bias=delta_bias):
        if tensor.shape != (channels,):
            raise ValueError(_say(name, f"have one value per channel, {(channels,)}", tuple(tensor.shape)))
    _check_projection("B", B, batch, channels, states, length)
    _check_projection("C", C, batch, channels, states, length)
    if initial_state is not None and initial_state.shape != (batch, channels, states):
        raise ValueError(_say("initial_state", f"be {(batch, channels, states)}", tuple(initial_state.shape)))
