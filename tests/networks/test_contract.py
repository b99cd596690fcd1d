"""What every registered network promises, whatever it is."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmamba import kernels, networks
from medmamba.errors import DataError
from medmamba.networks import _ssm, mamba
from medmamba.networks._ssm import KeepsFloat32
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
#: Whose coarsest maps are a row of odd length.
ROWS = {
    2: Topology(patch_size=(4, 20), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3, features=(4, 5, 7)),
    3: Topology(
        patch_size=(3, 4, 20),
        strides=((1, 1, 1), (1, 2, 2), (3, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        features=(4, 5, 7),
    ),
}
SMALLEST = {2: TOPOLOGIES["2d"], 3: TOPOLOGIES["3d"]}
#: Names of options, and the least that keeps every kind of layer.
FEW: dict[str, Any] = {"depth": 2, "blocks": 1, "decoder_blocks": 1}
TINY = {
    2: Topology(patch_size=(4, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
    3: Topology(patch_size=(2, 4, 4), strides=((1,) * 3, (1, 2, 2)), kernel_sizes=((3,) * 3,) * 2, features=(4, 6)),
}
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


def build(name: str, topology: Topology, seed: int = 0, **options: Any) -> nn.Module:
    """A small network, the same for the same seed."""
    torch.manual_seed(seed)
    known = networks.describe(name).options
    return networks.create(
        name, IMAGE, CLASSES, topology, **{key: value for key, value in FEW.items() if key in known}, **options
    )


def build_least(name: str) -> tuple[nn.Module, Tensor]:
    """A network with one layer of each kind, and an image for it: every operator takes its time to trace."""
    torch.manual_seed(0)
    known, least = networks.describe(name).options, FEW | {"depth": 1, "depths": (1,)}
    options = {key: value for key, value in least.items() if key in known}
    return networks.create(name, IMAGE, CLASSES, TINY[2], **options), image(TINY[2])


def gradients(network: nn.Module, run: Any, x: Tensor) -> dict[str, Tensor]:
    """Of all parameters, and of the image."""
    x = x.detach().requires_grad_()
    network.zero_grad()
    torch.autograd.backward(sum((output.float() ** 2).mean() for output in run(x)))
    assert x.grad is not None
    found = {"image": x.grad}
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        found[key] = parameter.grad.clone()
    return found


def recurrences(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a recurrence adds up: decays, skips and biases of step sizes."""
    return {
        f"{prefix}.{name}": module.get_parameter(name)
        for prefix, module in network.named_modules()
        if isinstance(module, KeepsFloat32)
        for name in module.float32_parameters
    }


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


@each_network
def test_map_of_a_single_voxel_is_taken_or_refused_in_our_own_words(name: str, topology: Topology) -> None:
    with contextlib.suppress(DataError):
        build(name, topology)(torch.zeros(1, IMAGE, *topology.total_stride))


@pytest.mark.parametrize("dims", TINY)
@pytest.mark.parametrize("name", networks.names("segmentation"))
def test_size_of_feature_maps_is_what_the_convolutions_return(name: str, dims: int) -> None:
    check_size_of_feature_maps(name, TINY[dims])


@pytest.mark.slow
@each_network_and_topology
def test_size_of_feature_maps_is_so_whatever_the_topology(name: str, topology: Topology) -> None:
    check_size_of_feature_maps(name, topology)


def check_size_of_feature_maps(name: str, topology: Topology) -> None:
    network = build(name, topology)
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, inputs, output: counted.append(output.numel()))
    for deep_supervision in (True, False):
        network.decoder.deep_supervision = deep_supervision  # type: ignore[union-attr]
        counted.clear()
        with torch.no_grad():
            network(image(topology, batch=1))
        expected = sum(counted)
        assert expected > 0
        assert network.compute_conv_feature_map_size(topology.patch_size) == expected  # type: ignore[operator]
    meta = copy.deepcopy(network).to("meta")
    assert meta.compute_conv_feature_map_size(topology.patch_size) == expected  # type: ignore[operator]


@each_network
def test_size_of_feature_maps_wants_the_size_of_an_image(name: str, topology: Topology) -> None:
    network = build(name, topology)
    with pytest.raises(ValueError, match=f"must be {topology.dims} numbers"):
        network.compute_conv_feature_map_size((1, IMAGE, *topology.patch_size))  # type: ignore[operator]


@pytest.mark.parametrize("name", networks.names("segmentation"))
def test_compiled_whole_gives_the_same(name: str) -> None:
    torch.compiler.reset()  # of the networks before, which share functions with this one
    network, x = build_least(name)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected, found = gradients(network, network, x), gradients(network, compiled, x)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for key, gradient in expected.items():
        assert (found[key] - gradient).abs().max() < 1e-4 * largest, key


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        # The portable scan is many operations, which take long to trace: everyday in the network with the fewest.
        pytest.param(name, backend, marks=[pytest.mark.slow] if backend == "torch" and name != "umamba_bot" else [])
        for name in networks.names("segmentation")
        for backend in ("cpu", "torch")
    ],
)
def test_exported_program_gives_the_same(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
    network, x = build_least(name)
    network.eval()
    with torch.no_grad():
        expected = finest(network, x)
        program = torch.export.export(network, (x,))
        found = program.module()(x)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    own = [str(node.target) for node in program.graph.nodes if "medmamba" in str(node.target)]
    # With the portable backend a program can go where this library is not installed.
    assert not own or backend == "cpu"


@each_network
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_conversion_to_16_bits_leaves_recurrences_in_float32(name: str, topology: Topology, kind: torch.dtype) -> None:
    network = build(name, topology)
    with torch.no_grad():
        exact = finest(network, image(topology))
    before = {key: parameter.clone() for key, parameter in recurrences(network).items()}
    network.half() if kind == torch.float16 else network.bfloat16()
    for key, parameter in network.named_parameters():
        is_kept = key in before
        assert parameter.dtype == (torch.float32 if is_kept else kind), key
        assert not is_kept or torch.equal(parameter, before[key]), key
    assert before.keys() == {key for key in dict(network.named_parameters()) if _is_of_a_recurrence(key)}
    with torch.no_grad():
        rough = finest(network, image(topology).to(kind))
    assert rough.dtype == kind
    assert (rough.float() - exact).abs().max() < 0.2 * exact.abs().max()


def _is_of_a_recurrence(key: str) -> bool:
    return key.rpartition(".")[2] in ("A_log", "D", "step_bias") or key.endswith("dt_proj.bias")


@each_network
def test_recurrences_get_float32_under_autocast(name: str, topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []

    def watched(scan: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            _, _, A, _, _, D, _, step_bias = args
            kinds.extend([A.dtype, D.dtype, step_bias.dtype])
            return scan(*args, **options)

        return run

    for module, scan in ((_ssm, "multi_scan"), (mamba, "selective_scan")):
        monkeypatch.setattr(module, scan, watched(getattr(module, scan)))
    network = build(name, topology)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        network(image(topology))
    assert len(kinds) == len(recurrences(network))
    assert set(kinds) <= {torch.float32}


@each_network
def test_step_sizes_survive_the_initialisations_of_others(name: str, topology: Topology) -> None:
    network = build(name, topology)
    before = {key: parameter.clone() for key, parameter in recurrences(network).items()}
    he = pytest.importorskip("dynamic_network_architectures.initialization.weight_init").InitWeights_He(1e-2)

    def careful(module: nn.Module) -> None:
        """As Mamba's language model does it."""
        if isinstance(module, nn.Linear) and module.bias is not None and not hasattr(module.bias, "_no_reinit"):
            nn.init.zeros_(module.bias)

    def careless(module: nn.Module) -> None:
        """As Vim's and many vision transformers do it."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    for initialise in (he, careful, careless):
        network.apply(initialise)
    for key, parameter in recurrences(network).items():
        assert torch.equal(parameter, before[key]), key


@each_network
def test_checkpointing_gives_the_same_gradients_and_keeps_less(name: str, topology: Topology) -> None:
    x = image(topology)
    plain = build(name, topology)
    saved = build(name, topology, checkpointing=True)
    expected, found = gradients(plain, plain, x), gradients(saved, saved, x)
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient), key

    def kept(network: nn.Module) -> int:
        """Values that autograd holds on to beside parameters."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(x)
        own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        del outputs
        return sum(size for place, size in sizes.items() if place not in own)

    assert kept(saved) < 0.7 * kept(plain)


@each_network
def test_decays_and_skips_are_marked_and_their_marks_survive_copies(name: str, topology: Topology) -> None:
    network = build(name, topology)
    moved = build(name, topology).to("meta").to_empty(device="cpu")
    for each in (network, copy.deepcopy(network), moved, copy.deepcopy(network).bfloat16()):
        marked = {key for key, parameter in each.named_parameters() if hasattr(parameter, "_no_weight_decay")}
        assert marked == {key for key in recurrences(each) if key.endswith((".A_log", ".D"))}


@each_network
def test_deep_copy_is_the_same_and_its_own(name: str, topology: Topology) -> None:
    network = build(name, topology).eval()
    copied = copy.deepcopy(network)
    with torch.no_grad():
        expected = finest(network, image(topology))
        assert torch.equal(finest(copied, image(topology)), expected)
        for parameter in copied.parameters():
            parameter.zero_()
        assert torch.equal(finest(network, image(topology)), expected)


@each_network_and_topology
def test_maps_may_be_of_any_odd_size(name: str, topology: Topology) -> None:
    network = build(name, topology)
    size = tuple(stride * odd for stride, odd in zip(topology.total_stride, (3, 5, 7), strict=False))
    if getattr(network, "_only_size", None) is not None:
        with pytest.raises(ValueError, match=re.escape(str(size))):
            network(torch.zeros(1, IMAGE, *size))
        return
    outputs = network(torch.randn(2, IMAGE, *size))
    assert tuple(outputs[0].shape) == (2, CLASSES, *size)
    assert all(torch.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("dims", ROWS)
@pytest.mark.parametrize("name", networks.names("segmentation"))
def test_coarsest_map_may_be_a_row(name: str, dims: int) -> None:
    network, x = build(name, ROWS[dims]), image(ROWS[dims]).requires_grad_()
    outputs = network(x)
    sizes = [tuple(output.shape[2:]) for output in outputs]
    assert sizes[0] == ROWS[dims].patch_size
    assert sizes[1] == tuple(n // s for n, s in zip(sizes[0], ROWS[dims].strides[1], strict=True))
    torch.autograd.backward(sum((output**2).mean() for output in outputs))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any(1).all(), "every voxel counts"
