"""Segmentation networks on clips: 2D ones frame by frame, 3D ones with time for their first axis.

Letters: B batch, T frames, C channels, H and W rows and columns, K classes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks._causal import State
from medmamba.networks._registry import Entry, adapts
from medmamba.networks._video import VideoNetwork, check_clips
from medmamba.plans.plan import Topology

#: Frames that a map keeps at least where strides go through time.
FEWEST_FRAMES = 4


class EachFrame(VideoNetwork):
    """A network for images on each frame of a clip by itself.

    Args:
        network: 2D, from (N, C, H, W) to logits (N, K, H, W).
        in_channels: C.
    """

    causal = True

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.network, self._in_channels = network, in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, T, C, H, W) to logits (B, T, K, H, W).

        Raises:
            ValueError: if that is not the shape.
            DataError: for sizes that the network does not take.
        """
        check_clips(x, self._in_channels)
        logits: Tensor = self.network(x.flatten(0, 1))
        return torch.unflatten(logits, 0, x.shape[:2])

    def follow(self, frames: Tensor, memory: State) -> tuple[Tensor, State]:
        """See `VideoNetwork`; nothing is remembered."""
        return self(frames), memory


class ThroughTime(VideoNetwork):
    """A network for volumes on clips, time being the first axis.

    A clip that the strides through time do not divide is continued by its last frame, and the logits are cut back.

    Args:
        network: 3D, from (B, C, T, H, W) to logits (B, K, T, H, W).
        in_channels: C.
        stride: of the network through time, in all.
        frames: to which each clip is continued at least; 0: to none.
    """

    causal = False

    def __init__(self, network: nn.Module, in_channels: int, stride: int, frames: int = 0) -> None:
        super().__init__()
        self.network, self._in_channels = network, in_channels
        self._stride, self._frames = stride, frames

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, T, C, H, W) to logits (B, T, K, H, W).

        Raises:
            ValueError: if that is not the shape.
            DataError: for sizes that the network does not take.
        """
        check_clips(x, self._in_channels)
        frames = x.shape[1]
        lacking = max(-frames % self._stride, self._frames - frames)
        if lacking:
            x = torch.cat([x, x[:, -1:].expand(-1, lacking, -1, -1, -1)], dim=1)
        logits = cast(Tensor, self.network(x.transpose(1, 2)))
        return logits.transpose(1, 2)[:, :frames]


def with_time(topology: Topology, frames: int) -> Topology:
    """A pyramid of frames (H, W) as one of clips (T, H, W).

    Strides go through time where they go through space, by 2, while maps keep `FEWEST_FRAMES`; kernels are 3 frames
    long.

    Args:
        topology: 2D.
        frames: of a clip; the patch has so many, or as many more as the strides need.

    Raises:
        UsageError: if there is no frame.
    """
    if frames < 1:
        raise UsageError(f"frames of a clip must be at least 1, got {frames}")
    left, steps = frames, []
    for stride in topology.strides:
        steps.append(2 if max(stride) > 1 and left // 2 >= FEWEST_FRAMES else 1)
        left //= steps[-1]
    total = 2 ** steps.count(2)
    return Topology(
        patch_size=(frames + -frames % total, *topology.patch_size),
        strides=tuple((step, *stride) for step, stride in zip(steps, topology.strides, strict=True)),
        kernel_sizes=tuple((3, *kernel) for kernel in topology.kernel_sizes),
        features=topology.features,
    )


@adapts("frames", task="video", needs=2, takes=(2,), said="frame by frame")
def each_frame(entry: Entry, in_channels: int, out_channels: int, topology: Topology, **options: Any) -> EachFrame:
    """A 2D network on each frame by itself."""
    return EachFrame(_of_full_resolution(entry, in_channels, out_channels, topology, options), in_channels)


@adapts("volume", task="video", needs=3, takes=(2, 3), said="with time for its first axis")
def through_time(
    entry: Entry, in_channels: int, out_channels: int, topology: Topology, *, frames: int = 8, **options: Any
) -> ThroughTime:
    """A 3D network with time for its first axis.

    Args:
        entry: of the network.
        in_channels: C.
        out_channels: K.
        topology: of clips (T, H, W), or of frames, see `with_time`.
        frames: of the clips that it is to learn from, where the topology is of frames.
        options: of the network.
    """
    if topology.dims == 2:
        topology = with_time(topology, frames)
    network = _of_full_resolution(entry, in_channels, out_channels, topology, options)
    only = getattr(network, "_only_size", None)  # of one whose weights fit a single size
    return ThroughTime(network, in_channels, topology.total_stride[0], only[0] if only else 0)


def _of_full_resolution(
    entry: Entry, in_channels: int, out_channels: int, topology: Topology, options: dict[str, Any]
) -> nn.Module:
    """A segmentation network that gives logits of full resolution only."""
    network = entry.factory(in_channels, out_channels, topology, **options)
    cast(Any, network).decoder.deep_supervision = False
    return network
