"""The largest patch that fits into memory, and the strides and kernels that suit it: nnU-Net's search.

Orders: everything here is in network axis order, two or three entries (see `medmamba.plans.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from numpy.typing import NDArray

from medmamba.errors import DataError
from medmamba.plans import budget
from medmamba.plans.plan import Topology

#: One number per network axis.
PerAxis = Sequence[float] | NDArray[np.float64]

BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}

#: The search starts from a patch of this many voxels, which is more than any GPU holds.
START_VOXELS = {2: 2048**2, 3: 256**3}

#: No axis of the deepest feature map gets shorter than this.
MIN_FEATURE_MAP_EDGE = 4

# nnU-Net's rule for pooling also knows a limit to the number of poolings, and does not use it.
_NO_LIMIT = 999_999


def largest_topology(spacing_mm: PerAxis, median_shape: PerAxis, *, output_channels: int, memory_gb: float) -> Topology:
    """The topology with the largest patch of which two can be trained in the memory.

    The first guess is a cube in millimetres of more voxels than fit, cut to the median case. While it needs too much
    memory, the axis that covers most of the median case is shortened by the smallest step that keeps the patch
    divisible by the strides.

    Args:
        spacing_mm: voxel size after resampling.
        median_shape: median size of the cases in voxels after resampling.
        output_channels: classes or regions, background included.
        memory_gb: of the GPU.

    Raises:
        DataError: if the cases or the memory are too small for a network with two stages.
    """
    pooling = _pooling(spacing_mm, _first_guess(spacing_mm, median_shape))
    if len(pooling.strides) < 2:
        size = " x ".join(f"{n:g}" for n in median_shape)
        raise DataError(
            f"the cases are too small for a network: their median size after cropping and resampling is {size} voxels, "
            f"and two axes need {2 * MIN_FEATURE_MAP_EDGE} or one {3 * MIN_FEATURE_MAP_EDGE}; check the voxel size in "
            "the image headers"
        )
    while not budget.fits(pooling.topology(), output_channels, memory_gb):
        coverage = [size / median for size, median in zip(pooling.patch_size, median_shape, strict=True)]
        axis = int(np.argsort(coverage)[-1])
        # The step is the divisor of the shorter patch. A patch of 256 is divided by 64, and one step down is not 192
        # but 224, because a patch of 192 is pooled less often and only needs to be divisible by 32.
        shorter = _pooling(spacing_mm, _shortened(pooling, axis, pooling.divisors, memory_gb))
        pooling = _pooling(spacing_mm, _shortened(pooling, axis, shorter.divisors, memory_gb))
        if len(pooling.strides) < 2:
            raise DataError(_too_little_memory(memory_gb))
    return pooling.topology()


class _Pooling(NamedTuple):
    """What nnU-Net's rule for pooling answers: the patch rounded up to what its strides divide, and the rest."""

    patch_size: tuple[int, ...]
    divisors: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    def topology(self) -> Topology:
        most = MAX_FEATURES[len(self.patch_size)]
        return Topology(
            patch_size=self.patch_size,
            strides=self.strides,
            kernel_sizes=self.kernel_sizes,
            features=tuple(min(most, BASE_FEATURES * 2**stage) for stage in range(len(self.strides))),
        )


def _pooling(spacing_mm: PerAxis, patch: PerAxis) -> _Pooling:
    _, strides, kernels, rounded, divisors = get_pool_and_conv_props(spacing_mm, patch, MIN_FEATURE_MAP_EDGE, _NO_LIMIT)
    return _Pooling(tuple(int(size) for size in rounded), tuple(int(d) for d in divisors), strides, kernels)


def _first_guess(spacing_mm: PerAxis, median_shape: PerAxis) -> list[float]:
    dims = len(spacing_mm)
    aspect = 1 / np.array(spacing_mm)
    edges = aspect * (START_VOXELS[dims] / np.prod(aspect)) ** (1 / dims)
    return [min(round(edge), median) for edge, median in zip(edges, median_shape, strict=True)]


def _shortened(pooling: _Pooling, axis: int, steps: tuple[int, ...], memory_gb: float) -> tuple[int, ...]:
    patch = list(pooling.patch_size)
    patch[axis] -= steps[axis]
    if patch[axis] < 1:
        raise DataError(_too_little_memory(memory_gb))
    return tuple(patch)


def _too_little_memory(memory_gb: float) -> str:
    return f"no patch is small enough to train in {memory_gb:g} GB of GPU memory; plan for more (8 GB is common)"


def share_of_case(topology: Topology, median_shape: PerAxis) -> float:
    """Which part of the median case one patch covers."""
    return math.prod(topology.patch_size) / float(np.prod(median_shape, dtype=np.float64))
