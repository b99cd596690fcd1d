"""The Triton backend against the oracle: on a GPU if there is one, and interpreted, in a child process."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medmamba.errors import MachineError
from medmamba.kernels import ScanOrder, backends, causal_conv, cross, multi_scan, selective_scan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed; install it with 'pip install triton'", allow_module_level=True)

#: Interpreted in a child process, and run on a GPU.
kernels_run = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="there is no GPU; the test of the interpreted kernels runs it in a child process",
)


def run_interpreted(files: list[str], chosen: str, marked: str) -> None:
    folder = Path(__file__).parent
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, "-m", marked,
         *(str(folder / f"test_{name}.py") for name in files)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    assert " passed" in finished.stdout


@pytest.mark.skipif(INTERPRETED, reason="this is the child process")
def test_interpreted_kernels_pass_the_tests_of_scans() -> None:
    run_interpreted(["triton_scan", "golden_scan", "reference"], "triton and not long", "not slow")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the child process")
def test_interpreted_kernels_pass_the_exhaustive_tests_and_those_of_blocks() -> None:
    run_interpreted(["triton_scan"], "triton", "slow")
    run_interpreted(["golden_blocks"], "triton and not long", "not slow")


@pytest.fixture
def short_pieces(monkeypatch) -> None:
    """States are kept so often that a few steps are several pieces."""
    from medmamba.kernels import _triton_launch, _triton_plan

    monkeypatch.setattr(_triton_launch, "KEEP", 8)
    monkeypatch.setattr(_triton_plan, "_plans", {})


@pytest.fixture
def short_chunks(short_pieces, monkeypatch) -> None:
    """Each piece is a chunk."""
    from medmamba.kernels import _triton_launch

    monkeypatch.setattr(_triton_launch, "processors", lambda device: 10**6)
    monkeypatch.setattr(_triton_launch, "SHORTEST_CHUNK", 1)
    monkeypatch.setattr(_triton_launch, "FEWEST_CHUNKS", 2)


#: Interpreted, equal means equal. A GPU gets kernels compiled for each type and for some strides, which may fuse other
#: additions with multiplications.
COMPILED_APART = 0 if INTERPRETED else 1e-6


def assert_same_scan(own: Tensor, other: Tensor, what: str) -> None:
    """Results of the same numbers in memory of another form."""
    assert float((own - other).abs().max()) <= COMPILED_APART * float(other.abs().max()), what


def run(arguments, backend: str, *, softplus: bool = True, device: str = DEVICE) -> dict[str, Tensor]:
    """y, last_state and ``grad/<name>`` for fixed random gradients of both results; the reference in float64."""
    kind = torch.float64 if backend == "reference" else None
    leaves = {k: None if v is None else v.to(device, kind).detach().requires_grad_() for k, v in arguments.items()}
    y, state = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    g = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=g).to(t.device, t.dtype) for t in (y, state)]
    torch.autograd.backward([y, state], upstream)
    grads = {f"grad/{k}": torch.zeros_like(v) if v.grad is None else v.grad for k, v in leaves.items() if v is not None}
    return {"y": y.detach(), "last_state": state.detach(), **grads}


def assert_close_to_exact(arguments, *, softplus: bool = True, tolerance: float = 1e-5) -> None:
    """The largest error against float64, over the largest value, is what a few roundings cost."""
    results = run(arguments, "triton", softplus=softplus)
    expected = run(arguments, "reference", softplus=softplus, device="cpu")
    for name, value in expected.items():
        own = results[name].cpu().double()
        assert own.shape == value.shape, name
        if value.numel():
            assert float((own - value).abs().max()) <= tolerance * float(value.abs().max()) + 1e-9, name


@kernels_run
@pytest.mark.parametrize(
    ("batch", "channels", "states", "length", "groups"),
    [
        pytest.param(2, 5, 3, 6, (1, 1), id="odd"),
        pytest.param(1, 35, 1, 4, (1, 1), id="one-state-two-blocks"),
        pytest.param(1, 6, 16, 5, (2, 3), id="groups"),
        pytest.param(1, 4, 2, 5, (None, 2), id="constant-B"),
        pytest.param(1, 3, 7, 3, (None, None), id="constant-B-and-C"),
        pytest.param(1, 2, 64, 3, (1, None), id="64-states", marks=pytest.mark.slow),
        pytest.param(1, 2, 256, 3, (1, 1), id="256-states", marks=pytest.mark.slow),
        pytest.param(1, 2, 4, 1, (1, 1), id="one-step"),
    ],
)
def test_triton_agrees_with_the_oracle(batch, channels, states, length, groups, arguments) -> None:
    assert_close_to_exact(arguments(batch, channels, states, length, groups=groups))


@kernels_run
def test_triton_does_without_optional_arguments(arguments) -> None:
    given = arguments(2, 5, 3, 6, optional=False)
    assert_close_to_exact(given | {"delta": given["delta"].abs() * 0.1}, softplus=False)


@kernels_run
def test_triton_goes_through_a_chunk_in_pieces(arguments, short_pieces) -> None:
    assert_close_to_exact(arguments(1, 2, 2, 19))


@kernels_run
def test_triton_passes_states_on_from_chunk_to_chunk(arguments, short_chunks) -> None:
    assert_close_to_exact(arguments(2, 3, 2, 21))


@kernels_run
def test_triton_adds_up_gradients_of_tokens_window_by_window(arguments, short_pieces, monkeypatch) -> None:
    from medmamba.kernels import _triton_launch

    windows = []
    add = _triton_launch.Layout._add_tokens
    monkeypatch.setattr(_triton_launch, "processors", lambda device: 1)
    monkeypatch.setattr(_triton_launch, "PROGRAMS_BACK", 2)
    monkeypatch.setattr(_triton_launch, "SHORTEST_CHUNK", 1)
    monkeypatch.setattr(_triton_launch, "WINDOW", 1)
    monkeypatch.setattr(_triton_launch.Layout, "_add_tokens", lambda *a: windows.append(a[4]) or add(*a))
    assert_close_to_exact(arguments(2, 3, 2, 21))
    assert windows == [0, 0, 8, 8, 16, 16]


@kernels_run
@pytest.mark.parametrize(
    ("grid", "orders", "shared"),
    [
        pytest.param((2, 4, 3), (ScanOrder(axes=(1, 0, 2), pieces=2), cross(3)[4]), False, id="input-each"),
        pytest.param((3, 2, 2), (ScanOrder(), ScanOrder(backward=(1, 2))), True, id="frames-from-their-ends"),
        pytest.param((4, 5), (cross(2)[3], ScanOrder(pieces=5)), True, id="one-input"),
    ],
)
def test_triton_follows_every_order(grid, orders, shared, short_chunks) -> None:
    g = torch.Generator().manual_seed(2)
    length = math.prod(grid)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    tensors = [
        draw(1, 2, length) if shared else draw(1, 2, 2, length), draw(1, 2, 2, length) - 1, -draw(2, 2, 1).exp(),
        draw(1, 2, 1, length), draw(1, 2, length, 1).mT, draw(2, 2), draw(1, length, 2).mT, draw(2, 2),
    ]  # fmt: skip
    results = []
    for backend, kind, device in (("triton", torch.float32, DEVICE), ("reference", torch.float64, "cpu")):
        leaves = [t.to(device, kind).clone().requires_grad_() for t in tensors]
        y, state = multi_scan(*leaves, True, orders=orders, grid=grid, scale=0.5, backend=backend)
        (y * y.detach().cos()).sum().backward()
        results.append([y.detach(), state.detach(), *(leaf.grad for leaf in leaves)])
    for own, exact in zip(*results, strict=True):
        assert (own.cpu() - exact).abs().max() <= 1e-5 * exact.abs().max()


@kernels_run
@pytest.mark.parametrize(
    "name", ["u", "B", *(pytest.param(name, marks=pytest.mark.slow) for name in ("delta", "z", "C", "initial_state"))]
)
def test_triton_gives_the_same_for_any_strides(name, arguments) -> None:
    given = arguments(1, 4, 3, 3)
    expected = run(given, "triton")
    strided = given | {name: given[name].transpose(1, 2).contiguous().transpose(1, 2)}
    spread = given | {name: given[name].repeat_interleave(2, dim=-1)[..., ::2]}
    for variant in (strided, spread):
        for key, value in run(variant, "triton").items():
            assert_same_scan(value, expected[key], key)


@kernels_run
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_triton_computes_half_precision_in_float32(kind, arguments) -> None:
    given = arguments(1, 4, 3, 4, kind=kind)
    half, single = run(given, "triton"), run({k: v.float() for k, v in given.items()}, "triton")
    assert_same_scan(half["last_state"], single["last_state"], "last_state")
    # The interpreter cuts bfloat16 off where a GPU rounds; and what differs in float32 may round either way.
    rtol = 0 if INTERPRETED and kind == torch.float16 else torch.finfo(kind).eps
    torch.testing.assert_close(half["y"], single["y"].to(kind), rtol=rtol, atol=0)
    assert all(half[f"grad/{name}"].dtype == kind for name in given)


@kernels_run
def test_autocast_leaves_mixed_types_to_triton(arguments) -> None:
    given = {k: v.to(DEVICE) for k, v in arguments(1, 4, 3, 4).items()}
    given |= {k: given[k].bfloat16() for k in ("u", "B", "z")}
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y, state = selective_scan(**given, return_last_state=True, backend="triton")
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact, _ = selective_scan(**{k: v.double() for k, v in given.items()}, return_last_state=True, backend="reference")
    assert (y - exact).abs().max() <= 2**-8 * exact.abs().max()


@kernels_run
@pytest.mark.parametrize(("batch", "channels", "length"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_triton_scans_nothing(batch, channels, length, arguments) -> None:
    assert_close_to_exact(arguments(batch, channels, 2, length))


@kernels_run
def test_float64_is_left_to_torch(arguments) -> None:
    given = {k: v.to(DEVICE) for k, v in arguments(1, 3, 2, 5, kind=torch.float64).items()}
    assert torch.equal(selective_scan(**given, backend="triton"), selective_scan(**given, backend="torch"))


@kernels_run
def test_operator_keeps_its_promises_to_pytorch(arguments) -> None:
    from medmamba.kernels._arguments import one_order
    from medmamba.kernels.triton_scan import scan_triton

    given = {k: v.to(DEVICE) for k, v in arguments(1, 2, 1, 2).items()}
    scan = one_order(tuple(given[k] for k in NAMES), True)
    walks = scan.walks[0].encode()
    scan_triton(scan)
    operator = torch.ops.medmamba.scan_triton.default
    for form in (scan, scan.in_orders()):
        leaves = [t.detach().requires_grad_() for t in form.given]
        torch.library.opcheck(operator, (*leaves, True, walks, 1.0, True))
    bare = [t.detach() for t in scan.given[:5]]
    torch.library.opcheck(operator, (*bare, None, None, None, None, False, walks, 1.0, False))


@kernels_run
def test_compiled_model_gives_the_same(arguments) -> None:
    def model(u, delta, A, B, C, D, z):
        taps = A.detach()[None, :, :2]
        u = causal_conv(u, taps, orders=[ScanOrder()], grid=[u.shape[2]], backend="triton")[:, 0]
        y, state = selective_scan(
            u * 2, delta, A, B, C, D, z, delta_softplus=True, return_last_state=True, backend="triton"
        )
        return (y.square().sum() + state.sum()) * 0.5

    given, results = arguments(1, 3, 2, 3), []
    for form in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        leaves = [given[k].to(DEVICE).requires_grad_() for k in NAMES[:7]]
        loss = form(*leaves)
        loss.backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for own, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, own)


@kernels_run
@pytest.mark.parametrize("shared", [True, False], ids=["parameters-shared", "parameters-each"])
def test_triton_under_vmap_is_one_scan_for_each(shared, arguments) -> None:
    each = [arguments(1, 3, 2, 3, seed=seed) for seed in range(2)]
    dims = {k: None if shared and k in ("A", "D", "delta_bias") else 0 for k in NAMES}
    given = {k: each[0][k] if dims[k] is None else torch.stack([a[k] for a in each]) for k in NAMES}

    def scan(*tensors: Tensor) -> Tensor:
        return selective_scan(**dict(zip(NAMES, tensors, strict=True)), delta_softplus=True, backend="triton")

    tensors = [given[k].to(DEVICE) for k in NAMES]
    together = torch.vmap(scan, in_dims=tuple(dims.values()))(*tensors)
    gradients = torch.func.grad(lambda *t: scan(*t).square().sum(), argnums=(2, 3))
    found = torch.vmap(gradients, in_dims=tuple(dims.values()))(*tensors)
    for i in range(2):
        own = [t if dim is None else t[i] for t, dim in zip(tensors, dims.values(), strict=True)]
        torch.testing.assert_close(together[i], scan(*own))
        for a, b in zip(found, gradients(*own), strict=True):
            torch.testing.assert_close(a[i], b)


@kernels_run
def test_second_derivative_is_refused_with_the_way_out(arguments) -> None:
    given = {k: v.to(DEVICE).requires_grad_() for k, v in arguments(1, 2, 1, 2).items()}
    (grad,) = torch.autograd.grad(selective_scan(**given, backend="triton").sum(), given["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="use backend='torch'"):
        grad.sum().backward()


@kernels_run
@pytest.mark.parametrize("result", [0, 1], ids=["y", "last-state"])
def test_triton_differentiates_one_result_alone(result, arguments) -> None:
    grads = []
    for backend, kind, device in (("triton", None, DEVICE), ("reference", torch.float64, "cpu")):
        leaves = {k: v.to(device, kind).requires_grad_() for k, v in arguments(1, 2, 2, 3).items()}
        results = selective_scan(**leaves, return_last_state=True, backend=backend)
        results[result].sum().backward()
        grads.append(leaves["B"].grad.cpu().double())
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@kernels_run
def test_convolution_of_triton_agrees_with_the_reference() -> None:
    g = torch.Generator().manual_seed(5)
    tensors = [torch.randn(*s, generator=g) for s in ((2, 35, 36), (4, 35, 3), (4, 35))]
    results = []
    for backend, kind, device in (("triton", torch.float32, DEVICE), ("reference", torch.float64, "cpu")):
        leaves = [t.to(device, kind).clone().requires_grad_() for t in tensors]
        y = causal_conv(*leaves, orders=cross(2), grid=(4, 9), backend=backend)
        (y * y.detach().cos()).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for own, exact in zip(*results, strict=True):
        assert (own.cpu() - exact).abs().max() <= 1e-5 * exact.abs().max()


@kernels_run
def test_wrong_kernels_are_noticed_and_named(monkeypatch) -> None:
    from medmamba.kernels import _triton_launch, _triton_plan, triton_scan
    from medmamba.kernels.orders import sequence

    monkeypatch.setattr(triton_scan, "CHECK_GRID", (2, 3))
    device = torch.device(DEVICE)
    triton_scan.check_kernels(device)
    table = _triton_launch.table
    monkeypatch.setattr(_triton_launch, "table", lambda walk, device: table(sequence(walk.length), device))
    monkeypatch.setattr(_triton_plan, "_plans", {})
    with pytest.raises(MachineError, match=r"wrong on .* y is off by .* MEDMAMBA_SCAN_BACKEND"):
        triton_scan.check_kernels(device)
    monkeypatch.setattr(_triton_launch, "FORWARD", {})
    _triton_plan._plans.clear()
    with pytest.raises(MachineError, match=r"fails on .*: 16; use backend='torch'"):
        triton_scan.check_kernels(device)


@kernels_run
def test_kernels_are_checked_inside_an_operator(monkeypatch) -> None:
    from medmamba.kernels import triton_scan

    monkeypatch.setattr(triton_scan, "CHECK_GRID", (2, 3))

    @torch.library.custom_op("medmamba_tests::check", mutates_args=())
    def check(x: Tensor) -> Tensor:
        triton_scan.check_kernels(torch.device(DEVICE))
        return x + 1

    with torch.no_grad():
        assert check(torch.zeros(())) == 1


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors on the CPU")
def test_triton_refuses_the_cpu_and_names_the_remedy(arguments) -> None:
    assert "triton" in backends()
    assert "triton" not in backends("cpu")
    with pytest.raises(ValueError, match="'triton' must get tensors on a GPU, but they are on the CPU; use 'cpu'"):
        selective_scan(**arguments(1, 2, 2, 2), backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("states", [1, 16, 64])
def test_long_scan_on_a_gpu_agrees_and_is_the_same_each_time(states, arguments) -> None:
    given = arguments(2, 96, states, 5000)
    assert_close_to_exact(given, tolerance=1e-4)
    first, second = run(given, "triton"), run(given, "triton")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_triton_is_what_a_gpu_gets(arguments, caplog) -> None:
    given = {k: v.cuda() for k, v in arguments(1, 4, 16, 9).items()}
    assert torch.equal(selective_scan(**given), selective_scan(**given, backend="triton"))
