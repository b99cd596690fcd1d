"""Convolutional building blocks in two and three dimensions.

Letters: B batch, C channels, S spatial axes. Names of sub-modules are those of the published networks, so that their
weights fit without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import DataError, UsageError

#: Convolutions per stage of nnU-Net's plain encoder and of its decoder.
CONVS = 2
#: Negative slope of every LeakyReLU, here and in the initialisation that compensates for it.
SLOPE = 0.01
#: What reads and makes feature maps.
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _SmallMaps(nn.Module):
    """Convolution that reads maps no larger than its kernel in its weights' precision, whatever the autocast on a CPU.

    oneDNN (3.12, jit_bf16:avx512_core_bf16) gives wrong gradients of the weights for such maps in bfloat16: values of
    any size, mostly finite, so that nothing but a comparison notices; with strides it also writes where it must not,
    and the process may end. Its float32 is right there for kernels of 3 and 5, and costs little on so few voxels.
    """

    kernel_size: tuple[int, ...]
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S / stride), of the type that the autocast asks for."""
        convolve = super().forward
        axes = zip(x.shape[2:], self.kernel_size, strict=True)
        if (
            x.device.type != "cpu"
            or not torch.is_autocast_enabled("cpu")
            or all(size > reach for size, reach in axes if reach > 1)
        ):
            return cast(Tensor, convolve(x))
        kind = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, convolve(x.to(self.weight.dtype))).to(kind)


class _SeveralVoxels(nn.Module):
    """Instance normalisation that says in our words what it cannot normalise: by itself one voxel would always be 0."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to the same shape.

        Raises:
            DataError: if a map is a single voxel.
        """
        if math.prod(x.shape[2:]) == 1:
            raise DataError(
                "the network's strides leave a feature map of a single voxel, which cannot be normalised: the image, "
                "or topology.patch_size in the plan, is too small for it; give a larger one, or plan with fewer stages"
            )
        return cast(Tensor, super().forward(x))


class _Norm2d(_SeveralVoxels, nn.InstanceNorm2d):
    """`_SeveralVoxels` in two dimensions."""


class _Norm3d(_SeveralVoxels, nn.InstanceNorm3d):
    """`_SeveralVoxels` in three dimensions."""


class _Conv2d(_SmallMaps, nn.Conv2d):
    """`_SmallMaps` in two dimensions."""


class _Conv3d(_SmallMaps, nn.Conv3d):
    """`_SmallMaps` in three dimensions."""


_CONV: dict[int, type[nn.Module]] = {2: _Conv2d, 3: _Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, type[nn.Module]] = {2: _Norm2d, 3: _Norm3d}


def conv(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    *,
    bias: bool = True,
    groups: int = 1,
    padding: Sequence[int] | None = None,
) -> nn.Module:
    """Convolution whose kernel's length decides the dimensions; unless padded otherwise, an odd one keeps the size."""
    dims = len(kernel)
    return _CONV[dims](
        in_channels,
        out_channels,
        tuple(kernel),
        stride=tuple(stride) if stride is not None else 1,
        padding=tuple(size // 2 for size in kernel) if padding is None else tuple(padding),
        bias=bias,
        groups=groups,
    )


def merging_conv(
    in_channels: int, out_channels: int, stride: Sequence[int], kernel: Sequence[int] | None = None
) -> nn.Module:
    """Convolution with bias that does not pad; without a kernel of its own the counterpart of `transposed_conv`."""
    return _CONV[len(stride)](in_channels, out_channels, tuple(kernel or stride), stride=tuple(stride))


def pointwise(
    in_channels: int, out_channels: int, dims: int, stride: Sequence[int] | None = None, *, bias: bool = True
) -> nn.Module:
    """1x1 convolution."""
    return conv(in_channels, out_channels, (1,) * dims, stride, bias=bias)


def transposed_conv(in_channels: int, out_channels: int, stride: Sequence[int], *, bias: bool = True) -> nn.Module:
    """Upsampling by exactly the stride."""
    return _TRANSPOSED[len(stride)](in_channels, out_channels, tuple(stride), stride=tuple(stride), bias=bias)


def norm(channels: int, dims: int, *, affine: bool = True) -> nn.Module:
    """Instance normalisation, with learned scale and shift or without."""
    return _NORM[dims](channels, eps=1e-5, affine=affine)


def activation() -> nn.Module:
    """LeakyReLU, in place."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def check_size(x: Tensor, total_stride: Sequence[int]) -> None:
    """Refuse an input (B, C, *S) whose size the strides do not divide.

    Raises:
        DataError: naming size and strides.
    """
    size = tuple(x.shape[2:])
    if len(size) != len(total_stride) or any(n % s for n, s in zip(size, total_stride, strict=True)):
        raise DataError(f"input size {size} must be divisible by the product of strides {tuple(total_stride)}")


#: How many blocks each stage has: one number for all of them, or one each; empty: as many as usual.
Counts = int | Sequence[int]


def block_counts(name: str, given: Counts, usual: Sequence[int]) -> tuple[int, ...]:
    """How many blocks each stage has.

    Args:
        name: of what is given.
        given: see `Counts`.
        usual: for each stage.

    Raises:
        UsageError: unless there is a positive whole number for each stage, naming list and rule.
    """
    if isinstance(given, int):
        counts: tuple[Any, ...] = (given,) * len(usual)
    else:
        counts = tuple(given) or tuple(usual)
    if len(counts) != len(usual) or any(type(count) is not int or count < 1 for count in counts):
        raise UsageError(
            f"{name} must be a positive whole number, or one for each of the {len(usual)} stages, but is {given!r}"
        )
    return counts


class ConvNorm(nn.Module):
    """Convolution and instance norm: (B, C_in, *S) to (B, C_out, *S / stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, stride)
        self.norm = norm(out_channels, len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features, before the activation."""
        return cast(Tensor, self.norm(self.conv(x)))


class ResidualEntry(nn.Module):
    """Residual block whose skip is a strided 1x1 convolution: changes width and resolution.

    conv, norm, act, conv, norm, plus skip, act.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        dims = len(kernel)
        self.conv1 = conv(in_channels, out_channels, kernel, stride)
        self.norm1 = norm(out_channels, dims)
        self.conv2 = conv(out_channels, out_channels, kernel)
        self.norm2 = norm(out_channels, dims)
        self.conv3 = pointwise(in_channels, out_channels, dims, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S / stride)."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE, inplace=True)
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.conv3(x), SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """Residual block with an identity skip: keeps width and resolution."""

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, kernel)
        self.conv2 = ConvNorm(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *S)."""
        y = F.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        return F.leaky_relu(self.conv2(y) + x, SLOPE, inplace=True)


def residual_stage(
    in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None, blocks: int
) -> nn.Sequential:
    """An entry block and ``blocks - 1`` blocks that keep width and resolution."""
    rest = (ResidualBlock(out_channels, kernel) for _ in range(blocks - 1))
    return nn.Sequential(ResidualEntry(in_channels, out_channels, kernel, stride), *rest)


def plain_stage(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    convs: int = CONVS,
) -> nn.Sequential:
    """So many times convolution, norm, activation; the first convolution strides."""
    layers: list[nn.Module] = []
    for index in range(convs):
        source, step = (in_channels, stride) if index == 0 else (out_channels, None)
        layers += [ConvNorm(source, out_channels, kernel, step), activation()]
    return nn.Sequential(*layers)


class Upsample(nn.Module):
    """Nearest-neighbour interpolation by the stride, then a 1x1 convolution: no checkerboard."""

    def __init__(self, in_channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv = pointwise(in_channels, out_channels, len(stride))
        self.factors = tuple(float(step) for step in stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S * stride)."""
        # A 1x1 convolution and copying of voxels commute, so it runs before, on fewer voxels.
        return F.interpolate(self.conv(x), scale_factor=self.factors, mode="nearest")


def initialise(module: nn.Module) -> None:
    """nnU-Net's initialisation of 2D and 3D convolutions: He for the LeakyReLU's slope, zero bias.

    For ``network.apply``; linear layers, 1D convolutions and everything inside a Mamba block keep their own.
    """
    if isinstance(module, CONVOLUTIONS):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
