"""What every registered registration network promises, whatever it is."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmamba import kernels, networks
from medmamba.errors import DataError
from medmamba.networks import Registration
from medmamba.networks._mixers import Mixer
from medmamba.plans.plan import Topology
from medmamba.warp import warp

TOPOLOGIES = {
    "2d": Topology(
        patch_size=(24, 40), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3, features=(4, 6, 10)
    ),
    "3d": Topology(
        patch_size=(8, 16, 24),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        features=(4, 6, 10, 14),
    ),
}
CHANNELS = 2
#: Of Adam, in the training of MambaMorph's authors.
LEARNING_RATE = 1e-4

each_network_and_topology = pytest.mark.parametrize(
    ("name", "topology"),
    [
        pytest.param(name, topology, id=f"{name}-{kind}")
        for name in networks.names("registration")
        for kind, topology in TOPOLOGIES.items()
        if topology.dims in networks.describe(name).dims
    ],
)


#: Each network, and the options that change what is computed where.
VARIANTS = [
    pytest.param(name, options, id="-".join([name, *options]))
    for name in networks.names("registration")
    for options in ({}, {"full_resolution": True}, {"radius": 0}, {"feature_width": 0}, {"checkpointing": True})
    if options.keys() <= networks.describe(name).options.keys()
]


def build(name: str, topology: Topology, seed: int = 0, **options: Any) -> nn.Module:
    """A small network, the same for the same seed, that moves things, as fresh ones hardly do."""
    torch.manual_seed(seed)
    network = networks.create_registration(name, CHANNELS, topology, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    return network


def pair(topology: Topology, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Noise as moving and fixed image."""
    generator = torch.Generator().manual_seed(1)
    moving, fixed = torch.randn(2, batch, CHANNELS, *topology.patch_size, generator=generator)
    return moving, fixed


def tensors(result: Registration) -> list[Tensor]:
    """All there is in a result."""
    return [tensor for tensor in result if tensor is not None]


@each_network_and_topology
def test_images_give_a_displacement_in_voxels_and_the_image_moved_by_it(name: str, topology: Topology) -> None:
    moving, fixed = pair(topology)
    result = build(name, topology)(moving, fixed)
    assert isinstance(result, Registration)
    assert result.moved.shape == moving.shape
    assert result.displacement.shape == result.velocity.shape == (2, topology.dims, *topology.patch_size)
    assert result.displacement.abs().max() > 1e-3
    assert torch.equal(result.moved, warp(moving, result.displacement))


@each_network_and_topology
def test_fresh_network_hardly_moves_anything(name: str, topology: Topology) -> None:
    torch.manual_seed(0)
    moving, fixed = pair(topology)
    result = networks.create_registration(name, CHANNELS, topology)(moving, fixed)
    assert result.displacement.abs().max() < 1e-2
    assert torch.allclose(result.moved, moving, atol=5e-2)


@each_network_and_topology
def test_gradient_reaches_every_parameter_and_both_images(name: str, topology: Topology) -> None:
    network = build(name, topology)
    moving, fixed = (image.requires_grad_() for image in pair(topology))
    weights = iter(range(1, 100))
    torch.autograd.backward(sum((part**2).mean() * next(weights) for part in tensors(network(moving, fixed))))
    for key, parameter in [*network.named_parameters(), ("moving", moving), ("fixed", fixed)]:
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@each_network_and_topology
def test_batch_entries_do_not_see_each_other(name: str, topology: Topology) -> None:
    network = build(name, topology).eval()
    moving, fixed = pair(topology, batch=3)
    with torch.no_grad():
        together = tensors(network(moving, fixed))
        alone = [tensors(network(*entry)) for entry in zip(moving.split(1), fixed.split(1), strict=True)]
    for whole, *parts in zip(together, *alone, strict=True):
        assert (whole - torch.cat(parts)).abs().max() < 1e-3 * whole.abs().max()


@each_network_and_topology
def test_evaluation_is_deterministic(name: str, topology: Topology) -> None:
    network = build(name, topology).eval()
    with torch.no_grad():
        for one, other in zip(*(tensors(network(*pair(topology))) for _ in range(2)), strict=True):
            assert torch.equal(one, other)


@each_network_and_topology
def test_weights_survive_a_file_and_fit_another_size(name: str, topology: Topology, tmp_path: Path) -> None:
    network, other = build(name, topology), build(name, topology, seed=1)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    larger = [n + s for n, s in zip(topology.patch_size, topology.total_stride, strict=True)]
    for size in (topology.patch_size, larger):
        images = torch.randn(2, 1, CHANNELS, *size)
        with torch.no_grad():
            assert torch.equal(network(*images).displacement, other(*images).displacement)


@each_network_and_topology
def test_bfloat16_autocast_gives_finite_gradients_and_float32_fields(name: str, topology: Topology) -> None:
    network = build(name, topology)
    moving, fixed = pair(topology)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = network(100 * moving, 100 * fixed)
    assert result.displacement.dtype == result.velocity.dtype == torch.float32
    torch.autograd.backward(sum(part.float().pow(2).mean() for part in tensors(result)))
    assert all(torch.isfinite(part).all() for part in tensors(result))
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@each_network_and_topology
@pytest.mark.parametrize("backend", kernels.backends("cpu"))
def test_every_scan_backend_gives_the_same(
    name: str, topology: Topology, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(name, topology).eval()
    with torch.no_grad():
        chosen = network(*pair(topology)).displacement
        monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
        asked = network(*pair(topology)).displacement
    assert (asked - chosen).abs().max() < 1e-3 * chosen.abs().max()


@each_network_and_topology
def test_map_of_a_single_voxel_is_taken_or_refused_in_our_own_words(name: str, topology: Topology) -> None:
    network, least = build(name, topology), torch.zeros(1, CHANNELS, *topology.total_stride)
    with contextlib.suppress(DataError):
        network(least, least)


@each_network_and_topology
def test_images_that_do_not_fit_are_refused(name: str, topology: Topology) -> None:
    network = build(name, topology)
    size = (*topology.patch_size[:-1], topology.patch_size[-1] - 2)
    odd = torch.zeros(1, CHANNELS, *size)
    right = torch.zeros(1, CHANNELS, *topology.patch_size)
    with pytest.raises(ValueError, match=re.escape(f"{size} must be divisible")):
        network(odd, odd)
    with pytest.raises(ValueError, match="one shape"):
        network(right, odd)
    with pytest.raises(ValueError, match=f"{CHANNELS} channels"):
        network(right[:, :1], right[:, :1])


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_variants_give_the_gradient_to_every_parameter_and_one_field(name: str, options: dict[str, Any]) -> None:
    topology = TOPOLOGIES["3d"]
    network = build(name, topology, **options)
    result = network(*pair(topology))
    torch.autograd.backward(sum((index + 1) * (part**2).mean() for index, part in enumerate(tensors(result))))
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
    assert torch.equal(result.moved, warp(pair(topology)[0], result.displacement))


@pytest.mark.parametrize("mixer", get_args(Mixer))
@pytest.mark.parametrize("name", networks.names("registration"))
def test_every_mixer_fits_into_every_network(name: str, mixer: str) -> None:
    topology = TOPOLOGIES["2d"]
    network = build(name, topology, mixer=mixer)
    torch.autograd.backward(sum((part**2).mean() for part in tensors(network(*pair(topology)))))
    found = dict(network.named_parameters())
    assert all(parameter.grad is not None for parameter in found.values())
    assert any("A_log" in key for key in found) == (mixer != "none")
    plain = dict(build(name, topology, mixer="none").named_parameters())
    assert all(found[key].shape == parameter.shape for key, parameter in plain.items())


def blobs(dims: int, shift: float) -> tuple[Tensor, Tensor]:
    """A moving image of two soft balls, and a fixed one that has them further along the first axis."""
    axes = torch.meshgrid(*(torch.arange(24.0),) * dims, indexing="ij")

    def image(offset: float) -> Tensor:
        balls = [
            torch.exp(
                -sum((axis - centre) ** 2 for axis, centre in zip(axes, (first + offset, *rest), strict=True)) / 18
            )
            for first, *rest in ((8.0, 8.0, 10.0)[:dims], (13.0, 15.0, 13.0)[:dims])
        ]
        return sum(balls)[None, None]

    return image(0.0), image(shift)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", networks.names("registration"))
def test_thirty_small_steps_move_the_field_the_right_way(name: str, kind: torch.dtype) -> None:
    topology = Topology(
        patch_size=(24, 24), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3, features=(16, 16, 16)
    )
    torch.manual_seed(0)
    network = networks.create_registration(name, 1, topology)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    moving, fixed = blobs(2, 2.0)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=kind, enabled=kind != torch.float32):
            result = network(moving, fixed)
        loss = (result.moved - fixed).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    inside = fixed[0, 0] > 0.3
    assert result.displacement[0, 0][inside].mean() < -0.3, "the image moves along +1, and is pulled from -1"
    assert losses[-1] < 0.8 * losses[0]
