"""What every network for video offers: whole clips, and where it is causal, frame by frame with a state in between.

Letters: B batch, T frames, C channels, H and W rows and columns, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from medmamba.errors import DataError, UsageError
from medmamba.networks._causal import State, kept


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a causal network remembers of the frames so far; as large after a thousand frames as after a few.

    Args:
        frames: how many there were.
        size: B, C, H and W of each; () where there was none.
        memory: of the network's parts.
    """

    frames: int = 0
    size: tuple[int, ...] = ()
    memory: State = ()


def check_clips(x: Tensor, channels: int) -> None:
    """Refuse what is no batch of clips.

    Raises:
        ValueError: naming the shape.
    """
    if x.dim() != 5 or x.shape[2] != channels or not x.shape[1]:
        raise ValueError(
            f"clips must be (batch, frames, {channels} channels, height, width) with a frame at least, "
            f"but are {tuple(x.shape)}"
        )


class VideoNetwork(nn.Module):
    """A network from clips (B, T, C, H, W) to logits (B, T, K, H, W).

    A causal one takes a stream too, in evaluation mode: frames one by one, or a few at a time, with the same logits as
    for the whole clip at once, in the memory and the time that a frame takes.

    Examples:
        >>> import torch
        >>> from medmamba.networks import create_video
        >>> from medmamba.plans.plan import Topology
        >>> shape = Topology(patch_size=(8, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
        >>> network = create_video("frames:unet", 1, 2, shape).eval()
        >>> state = network.start()
        >>> for frame in torch.zeros(3, 1, 1, 8, 8):
        ...     logits, state = network.step(frame, state)
        >>> tuple(logits.shape), state.frames
        ((1, 2, 8, 8), 3)
    """

    #: Whether no frame's logits depend on a later frame.
    causal: bool

    def start(self) -> StreamState:
        """The state before the first frame.

        Raises:
            UsageError: if the network is not causal.
        """
        if not self.causal:
            raise UsageError(
                "this network looks at later frames and cannot take a stream; make it with causal=True, or take a "
                "network that works frame by frame"
            )
        return StreamState()

    def step(self, frame: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """The next frame (B, C, H, W) to its logits (B, K, H, W), and the state after it.

        Raises:
            DataError: as `advance`.
        """
        logits, after = self.advance(frame[:, None], state)
        return logits[:, 0], after

    def advance(self, frames: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """The next frames (B, T, C, H, W) to their logits (B, T, K, H, W), and the state after them.

        The state holds no graph: gradients end there.

        Raises:
            DataError: if frames are of another size than those before.
            UsageError: if the network is not causal.
        """
        self.start()
        size = (frames.shape[0], *frames.shape[2:])
        if state.size and size != state.size:
            raise DataError(
                f"all frames of a stream must have one size; frame {state.frames} is (batch, channels, height, width) "
                f"{size} and those before are {state.size}: start a new stream there"
            )
        logits, memory = self.follow(frames, state.memory)
        return logits, StreamState(state.frames + frames.shape[1], size, kept(memory))

    def follow(self, frames: Tensor, memory: State) -> tuple[Tensor, State]:
        """What `advance` does in this network, on frames of one size; what it remembers may hold a graph."""
        raise NotImplementedError
