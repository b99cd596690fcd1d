"""Convolutions as all networks make them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medmamba.errors import DataError
from medmamba.networks._blocks import conv, norm

#: Kernel, stride and size of the map: thin ones, where oneDNN's bfloat16 kernels went wrong, and one as usual.
MAPS = [
    ((3, 3, 3), (1, 1, 1), (2, 2, 3)),
    ((3, 3, 3), (1, 1, 1), (2, 16, 16)),
    ((3, 3, 3), (2, 2, 2), (4, 4, 1)),
    ((5, 1, 1), (1, 1, 1), (4, 6, 6)),
    ((5, 5, 5), (2, 2, 2), (4, 6, 8)),
    ((3, 3), (2, 2), (4, 1)),
    ((3, 3, 3), (1, 1, 1), (4, 8, 12)),
]


def gradients(
    kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...], *, reduced: bool
) -> list[Tensor]:
    """Output of a convolution of noise, and the gradients of noise in it, in float32."""
    torch.manual_seed(0)
    convolution = conv(32, 16, kernel, stride)
    x = torch.randn(2, 32, *size, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
        y = convolution(x)
    assert y.dtype == (torch.bfloat16 if reduced else torch.float32)
    y.backward(torch.randn(y.shape).to(y.dtype))
    found = [y.detach().float(), x.grad, *(parameter.grad for parameter in convolution.parameters())]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize(("kernel", "stride", "size"), MAPS)
def test_bfloat16_gives_nearly_the_gradients_of_float32_however_thin_the_map(
    kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]
) -> None:
    exact, rounded = (gradients(kernel, stride, size, reduced=reduced) for reduced in (False, True))
    assert len(exact) == len(rounded) == 4
    for wanted, got in zip(exact, rounded, strict=True):
        assert (got - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("dims", [2, 3])
def test_what_has_one_voxel_cannot_be_normalised_and_says_what_to_do(dims: int) -> None:
    layer = norm(4, dims)
    with pytest.raises(DataError, match=r"single voxel.*topology.patch_size.*fewer stages"):
        layer(torch.ones(2, 4, *(1,) * dims))
    assert layer(torch.ones(2, 4, *(1,) * (dims - 1), 2)).shape == (2, 4, *(1,) * (dims - 1), 2)
