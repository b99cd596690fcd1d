"""What a scan is asked to do: the arguments in the one form that all backends take, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._memory import dense_like
from ._sizes import as_numbers, is_recorded, sizes_as_numbers
from .orders import ScanOrder, Walk, sequence

#: States a channel may have.
MAX_STATES = 256


#: The tensors of a scan, by name and by type.
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
Nine = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None
]  # fmt: skip


def in_orders(nine: Nine) -> Nine:
    """A scan's tensors with the axes of `Scan`: that of a lone order and that of a lone group are put in."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = nine
    constants = A.dim()
    B, C = (t.unsqueeze(-3) if t.dim() == constants + 1 else t for t in (B, C))
    if delta.dim() == 3:
        B, C = (t[None] if t.dim() == constants else t[:, None] for t in (B, C))
        u, delta, A = u[:, None], delta[:, None], A[None]
        D, delta_bias = (None if t is None else t[None] for t in (D, delta_bias))
        initial_state = None if initial_state is None else initial_state[:, None]
    return u, delta, A, B, C, D, z, delta_bias, initial_state


def new_gradients(tensors: Nine, kind: torch.dtype | None = None) -> list[Tensor | None]:
    """Memory for the gradients of a scan's nine tensors, with all axes or not; None for those that are not there.

    Of those with tokens, channels are side by side where they are so in the argument; the others are contiguous.
    """
    return [
        None if t is None else dense_like(t, kind) if has_tokens(i, tensors) else t.new_empty(t.shape, dtype=kind)
        for i, t in enumerate(tensors)
    ]


def has_tokens(index: int, tensors: Nine) -> bool:
    """Whether one of a scan's tensors has values for each token: u, delta, z, and B and C unless they are constant."""
    tensor, A = tensors[index], tensors[2]
    return tensor is not None and (index in (0, 1, 6) or (index in (3, 4) and tensor.dim() > A.dim()))


@dataclass(frozen=True, slots=True)
class Scan:
    """A selective scan in K orders whose results are added up; a plain scan is one with K = 1.

    All tensors hold their L tokens as the grid lies in memory, with any strides. They may lack the axis of a lone
    order, all of them, and B and C that of a lone group, until `in_orders` puts it in. Autograd takes longer over such
    views than over a short scan, so backends put the axes in where it does not look.

    Args:
        u: (B, K, D, L) input, or (B, 1, D, L): the same for every order.
        delta: (B, K, D, L) step sizes.
        A: (K, D, N) decay.
        B: (B, K, G, N, L), or (K, D, N): constant.
        C: like B.
        D: (K, D) weight of the path past the states, or None.
        z: (B, D, L) gate, or None.
        delta_bias: (K, D), or None.
        initial_state: (B, K, D, N), or None: zeros.
        delta_softplus: whether softplus makes the step sizes positive.
        walks: K walks over the L tokens.
        scale: factor of the sum.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    delta_softplus: bool
    walks: tuple[Walk, ...]
    scale: float

    @property
    def tensors(self) -> Nine:
        """The nine tensors, in the order of the fields."""
        return self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias, self.initial_state

    @property
    def given(self) -> list[Tensor]:
        """The tensors that are not None."""
        return [t for t in self.tensors if t is not None]

    def in_orders(self) -> Scan:
        """The same scan with all axes."""
        return self.of(in_orders(self.tensors))

    def of(self, tensors: Nine) -> Scan:
        """The same scan of other tensors."""
        return Scan(*tensors, self.delta_softplus, self.walks, self.scale)

    @property
    def exact(self) -> bool:
        """Whether an argument is float64."""
        return any(t.dtype == torch.float64 for t in self.given)


def wants_gradient(scan: Scan) -> bool:
    """Whether a backward pass is known to follow; what torch.jit.trace records runs with and without one."""
    return not is_recorded() and torch.is_grad_enabled() and any(t.requires_grad for t in scan.given)


def _say(name: str, rule: str, value: object) -> str:
    return f"selective_scan: {name} must {rule}, but is {value}"


def _check_projection(
    name: str, tensor: Tensor, constant: tuple[int, ...], lead: tuple[int, ...], tail: tuple[int, int], channels: int
) -> None:
    """Check B or C: constant, per token (*lead, *tail) or grouped (*lead, G, *tail)."""
    shape = tuple(tensor.shape)
    # Python compares tuples of unlike length item by item, and a batch that varies with a number of channels.
    if any(len(shape) == len(right) and shape == right for right in (constant, (*lead, *tail))):
        return
    if len(shape) == len(lead) + 3 and (*shape[: len(lead)], *shape[-2:]) == (*lead, *tail):
        if shape[-3] < 1 or channels % shape[-3]:
            raise ValueError(_say(name, f"have a number of groups that divides the {channels} channels", shape[-3]))
        return
    grouped = ", ".join(str(n) for n in (*lead, "G", *tail))
    raise ValueError(_say(name, f"be constant {constant}, per token {(*lead, *tail)} or grouped ({grouped})", shape))


#: What tensors must that have one shape.
_RULES = {
    "z": "have the shape of u in one order",
    "D": "have one value per channel of each order",
    "delta_bias": "have one value per channel of each order",
    "initial_state": "be",
}


@sizes_as_numbers
def _check(scan: Scan, lead: tuple[int, ...]) -> None:
    """Check all but u and delta of a scan whose parameters have no axis of orders, or one of so many."""
    batch, channels, length, A = scan.delta.shape[0], *scan.delta.shape[-2:], scan.A
    each = (*lead, channels)
    if A.dim() != len(each) + 1 or tuple(A.shape[:-1]) != each or not 1 <= A.shape[-1] <= MAX_STATES:
        counts = ", ".join((*(f"{n} orders" for n in lead), f"{channels} channels"))
        raise ValueError(_say("A", f"be ({counts}, 1 to {MAX_STATES} states)", tuple(A.shape)))
    given = {name: tensor for name, tensor in zip(NAMES, scan.tensors, strict=True) if tensor is not None}
    for name, tensor in given.items():
        if tensor.is_complex():
            raise TypeError(_say(name, "be real (complex state matrices are not supported)", tensor.dtype))
        if not tensor.is_floating_point():
            raise TypeError(_say(name, "be of a floating point type", tensor.dtype))
        if tensor.device != scan.u.device:
            raise ValueError(_say(name, f"be on the device of u, {scan.u.device}", tensor.device))
    states = A.shape[-1]
    shapes = {"z": (batch, channels, length), "D": each, "delta_bias": each, "initial_state": (batch, *each, states)}
    for name, shape in shapes.items():
        if name in given and tuple(given[name].shape) != shape:
            raise ValueError(_say(name, f"{_RULES[name]} {shape}", tuple(given[name].shape)))
    for name in ("B", "C"):
        _check_projection(name, given[name], (*each, states), (batch, *lead), (states, length), channels)


@sizes_as_numbers
def one_order(nine: Nine, delta_softplus: bool) -> Scan:
    """A plain scan; shapes are those of :func:`~medmamba.kernels.selective_scan`.

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together.
    """
    u, delta, *_ = nine
    if u.dim() != 3:
        raise ValueError(_say("u", "have the three axes (batch, channels, length)", tuple(u.shape)))
    if delta.shape != u.shape:
        raise ValueError(_say("delta", f"have the shape of u, {tuple(u.shape)}", tuple(delta.shape)))
    scan = Scan(*nine, delta_softplus, (sequence(u.shape[2]),), 1.0)
    _check(scan, ())
    return scan


def many_orders(
    nine: Nine, delta_softplus: bool, orders: Sequence[ScanOrder], grid: Sequence[int], scale: float
) -> Scan:
    """A scan in several orders; shapes are those of :func:`~medmamba.kernels.multi_scan`.

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together, or an order does not fit the grid.
    """
    u = nine[0][:, None] if nine[0].dim() == 3 else nine[0]
    scan = Scan(u, *nine[1:], delta_softplus, _walks(u, nine[1], orders, grid), scale)
    _check(scan, (len(orders),))
    return scan


@sizes_as_numbers
def _walks(u: Tensor, delta: Tensor, orders: Sequence[ScanOrder], grid: Sequence[int]) -> tuple[Walk, ...]:
    """The walks of a scan in several orders, whose u has all axes."""
    count = len(orders)
    if count < 1:
        raise ValueError(_say("orders", "name at least one order", tuple(orders)))
    if delta.dim() != 4 or delta.shape[1] != count:
        raise ValueError(_say("delta", f"be (batch, {count} orders, channels, length)", tuple(delta.shape)))
    batch, _, channels, length = delta.shape
    grid = as_numbers(grid)
    walks = tuple(order.walk(grid) for order in orders)
    if walks[0].length != length:
        raise ValueError(_say("grid", f"have the {length} tokens of delta", tuple(grid)))
    if tuple(u.shape) not in (tuple(delta.shape), (batch, 1, channels, length)):
        one, each = (batch, channels, length), tuple(delta.shape)
        raise ValueError(_say("u", f"be {one}, the same for every order, or {each}", tuple(u.shape)))
    return walks
