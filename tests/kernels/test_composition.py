"""The scan as a part of PyTorch programs: transforms, compilation, checkpointing, autocast, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medmamba.kernels import backends, causal_conv, interleaved, multi_scan, selective_scan
from medmamba.kernels._arguments import one_order

BACKENDS = backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Mixer(nn.Module):
    """Three orders with parameters of their own, and the convolution before them."""

    def __init__(self, backend: str, grid: tuple[int, int, int] = (3, 2, 4)) -> None:
        super().__init__()
        self.backend, self.grid = backend, grid
        g = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=g))

        self.taps, self.A_log, self.D, self.bias = draw(3, 6, 4), draw(3, 6, 2), draw(3, 6), draw(3, 6)
        self.project = draw(3, 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid
        u = causal_conv(x, self.taps, orders=interleaved(3), grid=grid, backend=self.backend)
        delta, B, C = torch.matmul(self.project, u).split([6, 2, 2], dim=2)
        A, orders = -torch.exp(self.A_log), interleaved(3)
        y, _ = multi_scan(u, delta, A, B, C, self.D, x, self.bias, True, orders=orders, grid=grid, backend=self.backend)
        return y


def tokens(*lead: int) -> Tensor:
    return torch.randn(*lead, 6, 24, generator=torch.Generator().manual_seed(1))


def gradients(run, module: Mixer, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    return list(torch.autograd.grad(run(x).square().mean(), [x, *module.parameters()]))


@each_backend
def test_gradient_per_sample_is_the_gradient_of_each_sample(backend: str) -> None:
    mixer, x = Mixer(backend), tokens(3, 2)
    parameters = dict(mixer.named_parameters())

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(mixer, parameters, (sample,)).square().mean()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        alone = torch.func.grad(loss)(parameters, sample)
        for name, grad in alone.items():
            torch.testing.assert_close(per_sample[name][i], grad, rtol=1e-4, atol=1e-6)


@each_backend
@pytest.mark.parametrize("vary", ["tokens", "parameters"])
def test_vmapped_scan_is_the_scan_of_each(vary: str, backend: str) -> None:
    g = torch.Generator().manual_seed(2)
    u, delta, A, B = (torch.randn(*s, generator=g) for s in ((4, 2, 5, 9), (2, 5, 9), (5, 3), (2, 3, 9)))
    A = -A.exp()
    if vary == "parameters":
        A = torch.stack([A * k for k in (1, 2, 3, 4)], dim=1)

    def run(u: Tensor, A: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, B, delta_softplus=True, backend=backend)

    dims = (0, 1 if vary == "parameters" else None)
    together = torch.func.vmap(run, in_dims=dims)(u, A)
    for i in range(4):
        torch.testing.assert_close(together[i], run(u[i], A[:, i] if vary == "parameters" else A))


@each_backend
def test_checkpointed_gradient_is_the_gradient(backend: str) -> None:
    mixer, x = Mixer(backend), tokens(2)
    plain = gradients(mixer, mixer, x)
    again = gradients(lambda x: checkpoint(mixer, x, use_reentrant=False), mixer, x)
    for own, expected in zip(again, plain, strict=True):
        assert torch.equal(own, expected)


@each_backend
def test_compiled_whole_gives_the_same(backend: str) -> None:
    mixer, x = Mixer(backend, grid=(3, 1, 1)), tokens(2)[..., :3]  # a compiler unrolls every step of the reference
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    for own, expected in zip(gradients(compiled, mixer, x), gradients(mixer, mixer, x), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


@each_backend
def test_copy_and_no_grad_give_the_same(backend: str) -> None:
    mixer, x = Mixer(backend), tokens(2)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(mixer)(x), mixer(x))
    with torch.inference_mode():
        assert torch.equal(mixer(x), mixer(x))


@each_backend
def test_autocast_keeps_parameters_in_float32_and_stays_close(backend: str) -> None:
    mixer, x = Mixer(backend), tokens(2)
    exact = mixer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).abs().max() < 0.05 * exact.abs().max()
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in mixer.parameters())


@each_backend
@pytest.mark.parametrize("shape", [(0, 6, 24), (2, 0, 24), (2, 6, 0)])
def test_scan_over_nothing_gives_nothing(shape: tuple[int, int, int], backend: str) -> None:
    u = torch.randn(shape, requires_grad=True)
    A = -torch.ones(shape[1], 2)
    B = torch.randn(shape[0], 2, shape[2])
    y, state = selective_scan(u, u, A, B, B, delta_softplus=True, return_last_state=True, backend=backend)
    assert y.shape == u.shape
    assert torch.equal(state, torch.zeros(shape[0], shape[1], 2))
    (y.sum() + state.sum()).backward()
    assert u.grad is not None
    assert u.grad.shape == u.shape


def test_operator_on_the_cpu_keeps_its_promises_to_pytorch(arguments) -> None:
    operator = torch.ops.medmamba.scan_cpu.default
    for groups in ((1, 1), (2, 2), (None, 1)):
        given = arguments(1, 4, 2, 5, groups=groups)
        bare = one_order(tuple(given.values()), True)
        for scan in (bare, bare.in_orders()):
            leaves = [t.detach().requires_grad_() for t in scan.tensors]
            walk = scan.walks[0].encode()
            torch.library.opcheck(operator, (*leaves, True, walk, 0.5, True))
            plain = [t.detach() for t in leaves[:5]]
            torch.library.opcheck(operator, (*plain, None, None, None, None, False, walk, 1.0, False))
