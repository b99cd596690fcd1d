"""What every registered network promises, whatever it is."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmamba import kernels, networks
from medmamba.plans.plan import Topology

TOPOLOGIES = {
    "2d": Topology(
        patch_size=(24, 40), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3, features=(4, 6, 10)
    ),
    "3d": Topology(
        patch_size=(8, 12, 20),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        features=(4, 6, 10),
    ),
    "3d-two-stages": Topology(
        patch_size=(5, 7, 9), strides=((1, 1, 1), (1, 1, 1)), kernel_sizes=((3, 3, 3),) * 2, features=(5, 7)
    ),
    "2d-deep": Topology(
        patch_size=(32, 16),
        strides=((1, 1), (2, 2), (2, 2), (2, 2)),
        kernel_sizes=((3, 3), (3, 1), (3, 3), (3, 3)),
        features=(4, 6, 8, 10),
    ),
}
SMALLEST = {2: TOPOLOGIES["2d"], 3: TOPOLOGIES["3d"]}
IMAGE, CLASSES = 2, 3

each_network = pytest.mark.parametrize(
    ("name", "topology"),
    [
        pytest.param(name, SMALLEST[networks.describe(name).dims[-1]], id=name)
        for name in networks.names("segmentation")
    ],
)
each_network_and_topology = pytest.mark.parametrize(
    ("name", "topology"),
    [
        pytest.param(name, topology, id=f"{name}-{kind}")
        for name in networks.names("segmentation")
        for kind, topology in TOPOLOGIES.items()
        if topology.dims in networks.describe(name).dims
    ],
)


def build(name: str, topology: Topology, seed: int = 0) -> nn.Module:
    """A small network, the same for the same seed."""
    torch.manual_seed(seed)
    return networks.create(name, IMAGE, CLASSES, topology)


def image(topology: Topology, batch: int = 2) -> Tensor:
    """Noise of the patch's size."""
    return torch.randn(batch, IMAGE, *topology.patch_size, generator=torch.Generator().manual_seed(1))


def finest(network: nn.Module, x: Tensor) -> Tensor:
    """The logits at full resolution."""
    network.decoder.deep_supervision = False  # type: ignore[union-attr]
    output = network(x)
    assert isinstance(output, Tensor)
    return output


@each_network_and_topology
def test_outputs_fall_in_resolution_with_the_strides(name: str, topology: Topology) -> None:
    network = build(name, topology)
    outputs = network(image(topology))
    assert isinstance(outputs, list)
    assert len(outputs) == len(topology.features) - 1
    for stage, output in enumerate(outputs):
        strides = [math.prod(row[axis] for row in topology.strides[: stage + 1]) for axis in range(topology.dims)]
        size = tuple(n // s for n, s in zip(topology.patch_size, strides, strict=True))
        assert tuple(output.shape) == (2, CLASSES, *size)
    assert torch.equal(finest(network, image(topology)), outputs[0])


@each_network_and_topology
def test_gradient_reaches_every_parameter(name: str, topology: Topology) -> None:
    network = build(name, topology)
    weights = iter(range(1, 100))
    torch.autograd.backward(sum((output**2).mean() * next(weights) for output in network(image(topology))))
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # A bias in front of an instance norm has no effect, and its gradient is zero up to rounding.
        if not key.endswith(".bias"):
            assert parameter.grad.abs().max() > 0, key


@each_network_and_topology
def test_batch_entries_do_not_see_each_other(name: str, topology: Topology) -> None:
    network = build(name, topology).eval()
    x = image(topology, batch=3)
    with torch.no_grad():
        together = finest(network, x)
        alone = torch.cat([finest(network, entry) for entry in x.split(1)])
    # Another batch is another order of summation, which instance norms over few voxels amplify; a leak would be of
    # order 1.
    assert (together - alone).abs().max() < 1e-3 * together.abs().max()


@each_network
def test_evaluation_is_deterministic(name: str, topology: Topology) -> None:
    network = build(name, topology).eval()
    with torch.no_grad():
        assert torch.equal(finest(network, image(topology)), finest(network, image(topology)))


@each_network
def test_weights_survive_a_file(name: str, topology: Topology, tmp_path: Path) -> None:
    network, other = build(name, topology), build(name, topology, seed=1)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(finest(network, image(topology)), finest(other, image(topology)))


@each_network
def test_bfloat16_autocast_gives_finite_gradients(name: str, topology: Topology) -> None:
    network = build(name, topology)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(100 * image(topology))
    torch.autograd.backward(sum(output.float().pow(2).mean() for output in outputs))
    assert all(torch.isfinite(output).all() for output in outputs)
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@each_network
@pytest.mark.parametrize("backend", kernels.backends("cpu"))
def test_every_scan_backend_gives_the_same(
    name: str, topology: Topology, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(name, topology).eval()
    with torch.no_grad():
        chosen = finest(network, image(topology))
        monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
        asked = finest(network, image(topology))
    # Norms amplify the rounding of both alike (each is as far from float64); a mistake would be of order 1.
    assert (asked - chosen).abs().max() < 1e-3 * chosen.abs().max()


@each_network
def test_indivisible_size_is_refused(name: str, topology: Topology) -> None:
    network = build(name, topology)
    size = (*topology.patch_size[:-1], topology.patch_size[-1] - 2)
    with pytest.raises(ValueError, match=re.escape(str(size))):
        network(torch.zeros(1, IMAGE, *size))
