"""What every network for video promises, whatever it is."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medmamba import kernels, networks
from medmamba.errors import DataError, UsageError
from medmamba.networks import StreamState, VideoNetwork
from medmamba.networks.clips import with_time
from medmamba.plans.plan import Topology

SHAPE = Topology(patch_size=(8, 16), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
#: Names of options, and the least that keeps every kind of layer.
FEW: dict[str, Any] = {
    "depth": 2, "blocks": 1, "decoder_blocks": 1, "depths": (1, 1), "heads": (1, 1), "decoder_width": 6, "frames": 4,
}  # fmt: skip
CHANNELS, CLASSES = 2, 3
NAMES = networks.names("video")
CAUSAL = [pytest.param(name, {"causal": True}, id=name) for name in NAMES if not name.startswith("volume:")]
#: Each network, and Vivim both ways.
VARIANTS = [*(pytest.param(name, {}, id=name) for name in NAMES), pytest.param("vivim", {"causal": True}, id="causal")]
each_network = pytest.mark.parametrize(("name", "options"), VARIANTS)
each_causal_network = pytest.mark.parametrize(("name", "options"), CAUSAL)


def build(name: str, seed: int = 0, **options: Any) -> VideoNetwork:
    """A small network in evaluation mode, the same for the same seed."""
    torch.manual_seed(seed)
    known = networks.describe(name).options
    few = {key: value for key, value in FEW.items() if key in known}
    if name != "vivim":
        few.pop("depths", None)
    return networks.create_video(name, CHANNELS, CLASSES, SHAPE, **{**few, **options}).eval()


def clips(frames: int = 4, batch: int = 2, kind: torch.dtype = torch.float32) -> Tensor:
    """Noise."""
    shape = batch, frames, CHANNELS, *SHAPE.patch_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(kind)


def stream(network: VideoNetwork, x: Tensor) -> tuple[Tensor, StreamState]:
    """Logits of clips that come frame by frame, and the state in the end."""
    state, logits = network.start(), []
    for frame in x.unbind(1):
        made, state = network.step(frame, state)
        logits.append(made)
    return torch.stack(logits, dim=1), state


def difference(one: Tensor, other: Tensor) -> float:
    """The largest, over the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def stirred(network: VideoNetwork) -> VideoNetwork:
    """With weights that let the parts between frames count, which at the start of training they hardly do."""
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if ".mamba_layers." in key and key.endswith(("weight", "x_proj")) and "norm" not in key:
                parameter.mul_(0.4 / parameter.std())
    return network


def test_every_segmentation_network_is_one_for_video_too() -> None:
    flat, solid = (
        {name for name in networks.names("segmentation") if n in networks.describe(name).dims} for n in (2, 3)
    )
    assert set(NAMES) == {"vivim"} | {f"frames:{name}" for name in flat} | {f"volume:{name}" for name in solid}
    assert {"frames:unet", "volume:unet"} < set(NAMES)
    assert not set(NAMES) & set(networks.names("segmentation"))


@each_network
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_number_of_frames_gives_logits_of_each(name: str, options: dict[str, Any], frames: int) -> None:
    with torch.no_grad():
        logits = build(name, **options)(clips(frames))
    assert logits.shape == (2, frames, CLASSES, *SHAPE.patch_size)
    assert torch.isfinite(logits).all()


@each_network
def test_gradient_reaches_all_that_full_resolution_is_made_of(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options).train()
    network(clips()).square().mean().backward()
    for key, parameter in network.named_parameters():
        if re.search(r"key\.bias$", key):
            continue  # shifts all scores of a query alike
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert key.endswith(".bias") or parameter.grad.abs().max() > 0, key


@each_network
def test_clips_of_a_batch_do_not_see_each_other(name: str, options: dict[str, Any]) -> None:
    network, x = build(name, **options), clips()
    with torch.no_grad():
        assert difference(torch.cat([network(clip) for clip in x.split(1)]), network(x)) < 1e-4


@each_network
def test_weights_survive_a_file(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    network, other = build(name, **options), build(name, seed=1, **options)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(network(clips()), other(clips()))


@pytest.mark.parametrize("name", [name for name in NAMES if "mixer" in networks.describe(name).options])
def test_without_a_mixer_no_state_space_is_left(name: str) -> None:
    network = build(name, mixer="none")
    assert not any("A_log" in key for key in network.state_dict())
    with torch.no_grad():
        assert torch.isfinite(network(clips(3))).all()


@each_causal_network
@pytest.mark.parametrize("backend", kernels.backends("cpu"))
def test_every_backend_gives_the_same_stream(
    name: str, options: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = build(name, **options), clips(3, batch=1)
    with torch.no_grad():
        expected = network(x)
        monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
        assert difference(stream(network, x)[0], expected) < 1e-4


@each_causal_network
@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize(("kind", "rounding"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_stream_gives_what_the_whole_clip_gives(
    name: str, options: dict[str, Any], kind: torch.dtype, rounding: float, frames: int
) -> None:
    network, x = stirred(build(name, **options)).to(kind), clips(frames, kind=kind)
    with torch.no_grad():
        found, state = stream(network, x)
        assert difference(found, network(x)) < rounding
    assert state.frames == frames


@each_causal_network
def test_no_frame_sees_a_later_one(name: str, options: dict[str, Any]) -> None:
    network = stirred(build(name, **options)).double()
    x = clips(4, kind=torch.float64).requires_grad_()
    network(x)[:, 1].square().sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().amax(dim=(0, 2, 3, 4))
    assert reached[1] > 0
    assert (reached[2:] == 0).all()
    assert (reached[0] > 0) == (name == "vivim")


@each_causal_network
def test_stream_holds_no_graph_and_does_not_grow(name: str, options: dict[str, Any]) -> None:
    network, x = build(name, **options), clips(12, batch=1)
    state, sizes = network.start(), []
    for frame in x.unbind(1):
        _, state = network.step(frame, state)
        assert not any(tensor.requires_grad for tensor in tensors(state.memory))
        sizes.append(held(state))
    assert all(later == earlier for earlier, later in pairwise(sizes[4:]))
    assert held(network.advance(x, network.start())[1]) == sizes[-1]


def held(state: StreamState) -> int:
    """Bytes of memory that a state keeps."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors(state.memory))


def tensors(memory: Any) -> Any:
    """All of a state."""
    for part in memory:
        yield from (part,) if isinstance(part, Tensor) else tensors(part)


@each_causal_network
def test_state_may_be_gone_on_from_twice(name: str, options: dict[str, Any]) -> None:
    network, x = stirred(build(name, **options)), clips(3)
    with torch.no_grad():
        _, state = network.step(x[:, 0], network.start())
        once, after = network.step(x[:, 1], state)
        network.step(x[:, 2], after)
        assert torch.equal(network.step(x[:, 1], state)[0], once)


@each_causal_network
def test_frame_of_another_size_is_refused(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options)
    _, state = network.step(clips()[:, 0], network.start())
    with pytest.raises(DataError, match=r"frame 1 is .* \(2, 2, 8, 8\) and those before are \(2, 2, 8, 16\)"):
        network.step(clips()[:, 0, ..., :8], state)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("frames:")])
def test_network_that_looks_ahead_takes_no_stream(name: str) -> None:
    network = build(name)
    assert not network.causal
    with pytest.raises(UsageError, match="looks at later frames"):
        network.start()
    with pytest.raises(UsageError, match="looks at later frames"):
        network.step(clips()[:, 0], StreamState())


@each_network
def test_what_is_no_clip_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, frames, 2 channels, height, width\).*\(2, 2, 8, 16\)"):
        build(name, **options)(clips()[:, 0])


def test_frame_by_frame_is_the_network_on_each_image() -> None:
    network, x = build("frames:unet"), clips(3)
    with torch.no_grad():
        alone = torch.stack([network.network(frame) for frame in x.unbind(1)], dim=1)
        assert difference(network(x), alone) < 1e-5


def test_clip_that_strides_do_not_divide_is_continued_by_its_last_frame() -> None:
    network = build("volume:unet", frames=8)
    x = clips(5)
    with torch.no_grad():
        longer = network(torch.cat([x, x[:, -1:]], dim=1))
        assert torch.equal(network(x), longer[:, :5])
    assert network.network.stages[1][0].conv.stride == (2, 2, 2)


@pytest.mark.parametrize(
    ("frames", "patch", "steps"), [(1, 1, (1, 1, 1)), (7, 7, (1, 1, 1)), (9, 10, (1, 2, 1)), (18, 20, (1, 2, 2))]
)
def test_strides_go_through_time_while_four_frames_are_left(frames: int, patch: int, steps: tuple[int, ...]) -> None:
    flat = Topology(
        patch_size=(8, 16), strides=((1, 1), (2, 2), (1, 2)), kernel_sizes=((3, 3), (3, 1), (3, 3)), features=(4, 6, 8)
    )
    made = with_time(flat, frames)
    assert made.patch_size == (patch, 8, 16)
    assert tuple(row[0] for row in made.strides) == steps
    assert made.kernel_sizes[1] == (3, 3, 1)


def test_network_of_a_single_size_gets_shorter_clips_as_long_as_its_own() -> None:
    tied = Topology(patch_size=(4, 4), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 24))
    network = networks.create_video("volume:umamba_enc", 1, 2, tied, frames=4).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 1, 4, 4)).shape == (1, 3, 2, 4, 4)
        with pytest.raises(DataError, match=r"patches of \(4, 4, 4\) voxels and cannot take \(5, 4, 4\)"):
            network(torch.zeros(1, 5, 1, 4, 4))


def test_topology_of_clips_is_taken_as_it_is() -> None:
    network = networks.create_video("volume:unet", 1, 2, with_time(SHAPE, 8))
    assert network.network.stages[1][0].conv.stride == (2, 2, 2)
    with pytest.raises(UsageError, match="2D only"):
        networks.create_video("frames:unet", 1, 2, with_time(SHAPE, 8))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unet", {}, "'unet' is for segmentation, not video; take frames:unet or volume:unet"),
        ("mambamorph", {}, "'mambamorph' is for registration, not video; choose one of frames:"),
        ("frames:vivim", {}, "there is no network 'frames:vivim'"),
        ("volume:unet", {"frames": 0}, "at least 1, got 0"),
        ("frames:unet", {"frames": 4}, "no option frames"),
        ("volume:unet", {"causal": True}, "'volume:unet' looks at later frames and cannot be causal; take vivim"),
        ("vivim", {"causal": True, "pieces": 5}, "no whole clip to cut in pieces, got pieces=5"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        networks.create_video(name, 1, 2, SHAPE, **options)


def test_memory_of_training_grows_with_what_is_kept() -> None:
    options = {"depths": (1, 1), "heads": (1, 1), "decoder_width": 6}
    whole = networks.video_bytes("vivim", 1, 2, SHAPE, options)
    assert 0 < networks.video_bytes("vivim", 1, 2, SHAPE, options | {"mixer": "none"}) < whole
