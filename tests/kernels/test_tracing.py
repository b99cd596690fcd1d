"""Programs that PyTorch writes of a scan: recorded, exported and compiled, also for lengths that vary."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medmamba import networks
from medmamba.kernels import cross, multi_scan, selective_scan
from medmamba.kernels._arguments import one_order
from medmamba.kernels.compat._block import Mamba
from medmamba.networks.language import MambaLM
from medmamba.networks.mambamorph import MambaMorph
from medmamba.networks.pyramid import PyramidRegistration
from medmamba.plans.plan import Topology

TOPOLOGIES = {
    2: Topology(patch_size=(8, 12), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
    3: Topology(patch_size=(4, 4, 8), strides=((1,) * 3, (2,) * 3), kernel_sizes=((3,) * 3,) * 2, features=(4, 6)),
}
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*")


class Scan(nn.Module):
    """A scan with all its parameters."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        g = torch.Generator().manual_seed(0)
        self.A, self.D = nn.Parameter(-torch.rand(6, 3, generator=g)), nn.Parameter(torch.randn(6, generator=g))
        self.constant = nn.Parameter(torch.randn(6, 3, generator=g))

    def forward(self, u: Tensor, delta: Tensor, B: Tensor) -> Tensor:
        return selective_scan(u, delta, self.A, B, self.constant, self.D, u, None, True, backend=self.backend)


def scan_arguments(length: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(length)
    return (
        torch.randn(batch, 6, length, generator=g), torch.randn(batch, 6, length, generator=g),
        torch.randn(batch, 3, length, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_recorded_scan_computes_and_differentiates_as_the_scan(backend: str) -> None:
    scan, given, others = Scan(backend), scan_arguments(20), [t + 0.1 for t in scan_arguments(20)]
    recorded = torch.jit.trace(scan, given)
    for x in (given, others):
        assert torch.equal(recorded(*x), scan(*x))
    own, expected = (torch.autograd.grad(f(*others).square().sum(), list(scan.parameters())) for f in (recorded, scan))
    for mine, right in zip(own, expected, strict=True):
        torch.testing.assert_close(mine, right)


def test_recorded_program_is_written_and_read(tmp_path: Path) -> None:
    block, x = Mamba(8, bimamba_type="v2").eval(), torch.randn(2, 9, 8)
    torch.jit.trace(block, x).save(tmp_path / "block.pt")
    read = torch.jit.load(tmp_path / "block.pt")
    assert torch.equal(read(x), block(x))
    assert "medmamba::scan_cpu" in str(read.inlined_graph)


def test_recorded_program_refuses_another_length() -> None:
    recorded = torch.jit.trace(Mamba(8).eval(), torch.randn(1, 9, 8))
    with pytest.raises(Exception, match="recorded for 9 tokens, but got 12"):
        recorded(torch.randn(1, 12, 8))


@pytest.mark.parametrize("kind", ["none", "v1", "v2", "v3"])
def test_recorded_block_computes_as_the_block(kind: str) -> None:
    block = Mamba(8, bimamba_type=kind, nslices=3 if kind == "v3" else None).eval()
    x = torch.randn(2, 9, 8)
    for _ in range(2):
        recorded = torch.jit.trace(block, torch.randn(2, 9, 8))
        torch.testing.assert_close(recorded(x), block(x), rtol=1e-6, atol=1e-6)
        block.x_proj.register_forward_hook(lambda *_: None)  # what counts operations calls each layer


@pytest.mark.parametrize("name", networks.names("segmentation"))
def test_recorded_network_computes_as_the_network(name: str) -> None:
    topology = TOPOLOGIES[networks.describe(name).dims[-1]]
    shallow = {"depth": 2} if "depth" in networks.describe(name).options else {}
    torch.manual_seed(0)
    network = networks.create(name, 1, 2, topology, **shallow).eval()
    first, second = torch.randn(2, 1, 1, *topology.patch_size)
    with torch.no_grad():
        recorded = torch.jit.trace(network, first)
        found, expected = recorded(second), network(second)
    found, expected = ([y] if isinstance(y, Tensor) else y for y in (found, expected))
    for mine, right in zip(found, expected, strict=True):
        assert torch.equal(mine, right)


LENGTH = torch.export.Dim("length", min=2, max=100_000)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("first", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_exported_scan_takes_any_length(backend: str, first: int) -> None:
    scan = Scan(backend)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch, 2: LENGTH},) * 3
    program = torch.export.export(scan, scan_arguments(first), dynamic_shapes=shapes)
    own = [str(node.target) for node in program.graph.nodes if "medmamba" in str(node.target)]
    assert bool(own) == (backend == "cpu")  # the portable one goes where this library is not installed
    for length, entries in ((2, 2), (17, 3), (64, 6), (1000, 2)):
        given = scan_arguments(length, entries)
        torch.testing.assert_close(program.module()(*given), scan(*given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("none", "cpu"), ("none", "torch"), ("v2", "cpu"), pytest.param("v2", "torch", marks=pytest.mark.slow)],
)
def test_exported_block_takes_any_length(backend: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
    block = Mamba(8, bimamba_type=kind)
    program = torch.export.export(block, (torch.randn(1, 40, 8),), dynamic_shapes=({1: LENGTH},)).module()
    for length in (2, 64, 65, 300):
        x = torch.randn(1, length, 8)
        torch.testing.assert_close(program(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_exported_scan_takes_any_grid(backend: str) -> None:
    class Grid(nn.Module):
        def forward(self, u: Tensor, delta: Tensor, B: Tensor) -> Tensor:
            u, delta, B, grid = u.flatten(-2), delta.flatten(-2), B.flatten(-2), u.shape[-2:]
            A = -torch.ones(2, 3, 2)
            return multi_scan(u, delta, A, B, B, orders=cross(2)[1::2], grid=grid, backend=backend)[0]  # columns

    def arguments(height: int, width: int) -> tuple[Tensor, ...]:
        return tuple(torch.rand(1, *lead, height, width) for lead in ((3,), (2, 3), (2, 2)))

    rows, columns = (torch.export.Dim(name, min=2, max=500) for name in ("rows", "columns"))
    shapes = ({2: rows, 3: columns}, {3: rows, 4: columns}, {3: rows, 4: columns})
    program = torch.export.export(Grid(), arguments(5, 7), dynamic_shapes=shapes).module()
    for size in ((5, 7), (12, 9), (2, 3)):
        given = arguments(*size)
        torch.testing.assert_close(program(*given), Grid()(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_compiled_scan_takes_any_length(backend: str) -> None:
    torch._dynamo.reset()
    scan = Scan(backend)
    compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (40, 100, 7):
        own, expected = ([], [])
        for f, results in ((compiled, own), (scan, expected)):
            leaves = [t.requires_grad_() for t in scan_arguments(length)]
            y = f(*leaves)
            results += [y, *torch.autograd.grad(y.square().mean(), [*leaves, *scan.parameters()])]
        for mine, right in zip(own, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["none", "v1", "v3"])
def test_compiled_block_is_one_program_and_the_block(kind: str) -> None:
    torch._dynamo.reset()
    block = Mamba(8, bimamba_type=kind, nslices=3 if kind == "v3" else None)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 9, 8)
    own, expected = (
        [y, *torch.autograd.grad(y.square().sum(), list(block.parameters()))] for y in (compiled(x), block(x))
    )
    for mine, right in zip(own, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_compiler_is_shown_one_operator_and_not_the_steps() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compile(Scan("torch"), fullgraph=True, backend=backend)(*scan_arguments(400))
    (graph,) = graphs
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert any("scan_torch" in str(node.target) for node in calls)
    assert len(calls) < 20
    torch._dynamo.reset()


def test_compiled_transform_is_the_transform() -> None:
    torch._dynamo.reset()
    u, delta, B = scan_arguments(9)
    scan = Scan("torch")

    def loss(u: Tensor) -> Tensor:
        return scan(u[None], delta[:1], B[:1]).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))
    torch.testing.assert_close(torch.compile(per_sample, backend="eager")(u), per_sample(u))
    torch._dynamo.reset()


def test_portable_operator_keeps_its_promises_to_pytorch(arguments) -> None:
    for groups, kind in (((1, 2), torch.float32), ((None, 1), torch.float64)):
        scan = one_order(tuple(arguments(2, 4, 2, 5, groups=groups, kind=kind).values()), True)
        leaves = [t.detach().requires_grad_() for t in scan.tensors]
        torch.library.opcheck(torch.ops.medmamba.scan_torch.default, (*leaves, True, scan.walks[0].encode(), 0.5))


def test_recorded_registration_and_language_networks_compute_as_they_do() -> None:
    topology = Topology(
        patch_size=(8,) * 3, strides=((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), kernel_sizes=((3,) * 3,) * 4,
        features=(4, 6, 8, 12),
    )  # fmt: skip
    torch.manual_seed(0)
    makers = (partial(MambaMorph, states=2), PyramidRegistration)
    morphs, text = [make(1, topology).eval() for make in makers], MambaLM(40, 16, 1).eval()
    moving, fixed, others = torch.randn(3, 2, 1, 1, 16, 16, 16)
    tokens = torch.randint(0, 40, (2, 1, 9))
    pairs = (moving[0], fixed[0]), (others[0], others[1])
    cases = (*((morph, *pairs) for morph in morphs), (text, (tokens[0],), (tokens[1],)))
    with torch.no_grad():
        for network, first, second in cases:
            found, expected = torch.jit.trace(network, first)(*second), network(*second)
            both = [(found, expected)] if isinstance(found, Tensor) else zip(found, expected, strict=True)
            assert all(torch.equal(mine, right) for mine, right in both)
