"""The causal convolution along orders: compiled against gathered, and what PyTorch asks of an operator."""

from __future__ import annotations

import math

import pytest
import torch

from medmamba.kernels import ScanOrder, bidirectional, causal_conv, cross, interleaved

CASES = {
    "sequence": ((ScanOrder(),), (131,)),
    "both-ways": (bidirectional(), (100,)),
    "panels": (interleaved(8), (8, 4, 8)),
    "cross": (cross(2), (16, 18)),
    "shorter-than-taps": (bidirectional(), (2,)),
    "cross3d": (cross(3), (3, 4, 5)),
    "frames-from-their-ends": ((ScanOrder(), ScanOrder(backward=(1, 2))), (5, 6, 7)),
}


@pytest.mark.parametrize("tokens_first", [True, False])
@pytest.mark.parametrize(("taps", "activation", "biased"), [(4, True, True), (1, True, False), (5, False, True)])
@pytest.mark.parametrize("channels", [5, 35])
@pytest.mark.parametrize("name", CASES)
def test_compiled_convolution_is_the_gathered_one(name, channels, taps, activation, biased, tokens_first) -> None:
    orders, grid = CASES[name]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, math.prod(grid), generator=g)
    x = x.mT.contiguous().mT if tokens_first else x
    weight = torch.randn(len(orders), channels, taps, generator=g)
    bias = torch.randn(len(orders), channels, generator=g) if biased else None
    upstream, results = torch.randn(2, len(orders), *x.shape[1:], generator=g), []
    for backend, kind in (("cpu", torch.float32), ("reference", torch.float64)):
        leaves = [None if t is None else t.detach().to(kind).requires_grad_() for t in (x, weight, bias)]
        y = causal_conv(*leaves, orders=orders, grid=grid, activation=activation, backend=backend)
        y.backward(upstream.to(kind))
        results.append([y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)])
    for own, expected in zip(*results, strict=True):
        assert own.shape == expected.shape
        assert (own - expected).abs().max() <= 2e-6 * expected.abs().max() + 1e-7


def test_operator_keeps_its_promises_to_pytorch() -> None:
    walks = [n for order in cross(2) for n in order.walk((3, 5)).encode()]
    for x in (torch.randn(2, 6, 15), torch.randn(2, 15, 6).mT, torch.randn(0, 6, 15)):
        leaves = [t.requires_grad_() for t in (x, torch.randn(4, 6, 3), torch.randn(4, 6))]
        torch.library.opcheck(torch.ops.medmamba.conv_cpu.default, (*leaves, True, walks))


def test_bfloat16_is_computed_in_float32() -> None:
    x, weight = torch.randn(1, 18, 70).bfloat16(), torch.randn(1, 18, 4)
    half, single = (causal_conv(t, weight, orders=(ScanOrder(),), grid=(70,)) for t in (x, x.float()))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2, 6), (1, 6, 4)), "three axes"),
        (((2, 6, 9), (2, 6, 4)), "weight must be"),
        (((2, 6, 8), (1, 6, 4)), "must cover the 8 tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(shapes, says) -> None:
    with pytest.raises(ValueError, match=says):
        causal_conv(*(torch.zeros(s) for s in shapes), orders=(ScanOrder(),), grid=(9,))
