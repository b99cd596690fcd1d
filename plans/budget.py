"""How much memory a topology needs in training, in nnU-Net's measure, and the batch that fits.

The measure is the number of values in the feature maps of nnU-Net's plain U-Net: two convolutions in every stage of
encoder and decoder, the upsampled map of every decoder stage, and the output. It leaves out weights and optimiser and
knows nothing of a network other than that U-Net, so it compares topologies with each other; what a value costs is
fixed by two reference points, measured by nnU-Net's authors on a GPU of 8 GB (Isensee et al., Nature Methods 2021).

Letters: f features, V voxels of a feature map, K output channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medmamba.plans.plan import Topology

#: That a plan is made for when nothing is said.
GPU_MEMORY_GB = 8.0

#: Fewer patches make batch statistics and gradients too noisy.
MIN_BATCH_SIZE = 2

#: A batch sees at most this share of all voxels of the data set, against overfitting.
MAX_SHARE_OF_DATASET = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A training that is known to fit: so many feature-map values with so many patches in this much memory."""

    feature_values: int
    batch_size: int
    memory_gb: float

    def values_in(self, memory_gb: float) -> float:
        """How many feature-map values fit into another memory."""
        return self.feature_values * (memory_gb / self.memory_gb)


#: By the number of axes.
REFERENCES = {
    2: Reference(feature_values=85_000_000, batch_size=12, memory_gb=8.0),
    3: Reference(feature_values=560_000_000, batch_size=2, memory_gb=8.0),
}


def feature_values(topology: Topology, output_channels: int) -> int:
    """Values in all feature maps of a plain U-Net of this topology, for one patch.

    Sum over stages of 2 f V (encoder) + sum over all but the deepest of 3 f V (decoder) + K V of the finest.

    Args:
        topology: patch, strides and features; kernel sizes do not matter.
        output_channels: classes or regions, background included.
    """
    size = topology.patch_size
    total = 0
    for stage, (features, strides) in enumerate(zip(topology.features, topology.strides, strict=True)):
        size = tuple(n // s for n, s in zip(size, strides, strict=True))
        deepest = stage == len(topology.features) - 1
        total += (2 if deepest else 5) * features * math.prod(size)
        if stage == 0:
            total += output_channels * math.prod(size)
    return total


def fits(topology: Topology, output_channels: int, memory_gb: float) -> bool:
    """Whether the smallest batch of this topology can be trained in ``memory_gb``."""
    point = REFERENCES[topology.dims]
    needed = feature_values(topology, output_channels) / point.batch_size * MIN_BATCH_SIZE
    return needed <= point.values_in(memory_gb)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """Patches per step, and what held the number down or up.

    Args:
        patches: the batch size.
        fits: how many would fit into the memory.
        share_of_dataset: how many cover five per cent of the data set's voxels.
    """

    patches: int
    fits: int
    share_of_dataset: int


def batch_size(topology: Topology, output_channels: int, memory_gb: float, dataset_voxels: float) -> BatchSize:
    """As many patches as fit into memory, at most five per cent of the data set, at least two.

    Args:
        topology: of the network.
        output_channels: classes or regions, background included.
        memory_gb: of the GPU.
        dataset_voxels: of all training cases together, after cropping and resampling.
    """
    point = REFERENCES[topology.dims]
    in_memory = round(point.values_in(memory_gb) / feature_values(topology, output_channels) * point.batch_size)
    in_dataset = round(dataset_voxels * MAX_SHARE_OF_DATASET / math.prod(topology.patch_size))
    return BatchSize(
        patches=max(min(in_memory, in_dataset), MIN_BATCH_SIZE), fits=in_memory, share_of_dataset=in_dataset
    )
