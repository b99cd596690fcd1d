"""Functions below the block: the compiled convolution in all its forms, decoding steps with heads, norms, names."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytestmark = pytest.mark.usefixtures("installed")


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, before: Tensor | None = None) -> Tensor:
    taps = weight.shape[-1]
    x = F.pad(x, (taps - 1, 0)) if before is None else torch.cat([before, x], dim=-1)
    y = F.conv1d(x, weight[:, None], bias, groups=x.shape[1])
    return F.silu(y) if silu else y


def given(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = (2, 5, 9), (5, 4), (5,), (2, 5, 3), (2, 5, 9)
    x, weight, bias, before, dout = (torch.randn(s, generator=g) for s in shapes)
    return x, weight, bias, before, dout


@pytest.mark.parametrize("silu", [True, False])
def test_compiled_convolution_answers_to_every_release(silu: bool) -> None:
    module = importlib.import_module("causal_conv1d_cuda")
    x, weight, bias, before, _ = given()
    right, after = convolved(x, weight, bias, silu), convolved(x, weight, bias, silu, before)
    for form in ((silu,), (None, silu), (None, None, None, silu)):
        torch.testing.assert_close(module.causal_conv1d_fwd(x, weight, bias, *form), right)
    final = torch.empty(2, 5, 3)
    torch.testing.assert_close(module.causal_conv1d_fwd(x, weight, bias, None, before, final, silu), after)
    assert torch.equal(final, x[..., -3:])
    out = torch.empty_like(x)
    assert module.causal_conv1d_fwd(x, weight, bias, None, before, out, final, silu) is None
    torch.testing.assert_close(out, after)
    torch.testing.assert_close(module.causal_conv1d_fwd(x, weight, None, silu), convolved(x, weight, None, silu))
    with pytest.raises(TypeError, match="takes 4, 5, 7, 8 arguments"):
        module.causal_conv1d_fwd(x, weight, bias)


def gradients(silu: bool, before: bool, final: Tensor | None = None) -> list[Tensor]:
    x, weight, bias, states, dout = given()
    leaves = [t.requires_grad_() for t in ((x, weight, bias, states) if before else (x, weight, bias))]
    y = convolved(x, weight, bias, silu, states if before else None)
    results, weights = [y], [dout]
    if final is not None:
        results, weights = [y, x[..., -3:]], [dout, final]
    return list(torch.autograd.grad(results, leaves, weights))


@pytest.mark.parametrize("silu", [True, False])
def test_gradients_of_the_compiled_convolution_answer_to_every_release(silu: bool) -> None:
    module = importlib.import_module("causal_conv1d_cuda")
    x, weight, bias, before, dout = given()
    right = gradients(silu, before=False)
    dx = torch.full((2, 10, 9), 7.0)[:, :5]  # half of what the scan's gradient has too
    for form in ((None, silu), (None, None, silu), (dx, silu), (None, dx, silu)):
        own = module.causal_conv1d_bwd(x, weight, bias, dout, *form)
        assert len(own) == 3
        for mine, expected in zip(own, right, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, right[0], rtol=1e-4, atol=1e-5)

    upstream = torch.randn(2, 5, 3)
    right = gradients(silu, before=True, final=upstream)
    own = module.causal_conv1d_bwd(x, weight, bias, dout, None, before, upstream, None, True, silu)
    for mine, expected in zip(own, right, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert module.causal_conv1d_bwd(x, weight, bias, dout, None, None, None, None, False, silu)[3] is None
    targets = [torch.zeros_like(t) for t in right]
    module.causal_conv1d_bwd(x, weight, bias, dout, None, before, upstream, *targets, silu)
    for mine, expected in zip(targets, right, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    no_bias = module.causal_conv1d_bwd(x, weight, None, dout, None, silu)
    assert no_bias[2] is None


def test_compiled_step_of_the_convolution_answers_to_every_release() -> None:
    module = importlib.import_module("causal_conv1d_cuda")
    x, weight, bias, before, _ = given()
    right = convolved(x, weight, bias, True, before)
    for form in ((True,), (True, None), (True, None, None)):
        state = before.clone()
        torch.testing.assert_close(module.causal_conv1d_update(x, state, weight, bias, *form), right)
        assert torch.equal(state, x[..., -3:])
    out, state = torch.empty_like(x), before.clone()
    module.causal_conv1d_update(x, state, weight, bias, out, True, None, None)
    torch.testing.assert_close(out, right)


def test_functions_of_the_compiled_convolution_take_names() -> None:
    module = importlib.import_module("causal_conv1d.cpp_functions")
    x, weight, bias, before, dout = given()
    y = module.causal_conv1d_fwd_function(
        x=x, weight=weight, bias=bias, seq_idx=None, initial_states=before, final_states_out=None, silu_activation=True
    )
    torch.testing.assert_close(y, convolved(x, weight, bias, True, before))
    grads = module.causal_conv1d_bwd_function(
        x=x, weight=weight, bias=bias, dout=dout, seq_idx=None, initial_states=before, dfinal_states=None, dx=None,
        return_dinitial_states=True, silu_activation=True,
    )  # fmt: skip
    for mine, expected in zip(grads, gradients(True, before=True), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    y = module.causal_conv1d_update_function(x, before.clone(), weight, bias, True, None, None)
    torch.testing.assert_close(y, convolved(x, weight, bias, True, before))


def test_ring_and_rows_of_states_go_on_as_one_state_each() -> None:
    update = importlib.import_module("causal_conv1d").causal_conv1d_update
    x, weight, bias, _, _ = given()
    right = convolved(x, weight, bias, True)
    ring, rows = torch.zeros(2, 5, 6), torch.zeros(4, 5, 3)
    own, chosen, seen = [], [], torch.tensor([0, 0], dtype=torch.int32)
    for first, last in ((0, 1), (1, 3), (3, 9)):
        own.append(update(x[..., first:last], ring, weight, bias, "silu", cache_seqlens=seen + first))
        row = torch.tensor([2, 0], dtype=torch.int32)
        chosen.append(update(x[..., first:last], rows, weight, bias, "silu", conv_state_indices=row))
    torch.testing.assert_close(torch.cat(own, dim=-1), right)
    torch.testing.assert_close(torch.cat(chosen, dim=-1), right)
    assert torch.equal(rows[[2, 0]], x[..., -3:])
    assert torch.equal(rows[[1, 3]], torch.zeros(2, 5, 3))
    assert torch.equal(ring, torch.cat([x[..., 6:9], x[..., 3:6]], dim=-1))  # token t at t modulo 6


HEADS, WIDTH, STATES, GROUPS = 4, 3, 5, 2


def one_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence head by head, channel by channel, in float64: dt (B, H, P), A (H, P, N), B and C (B, G, N)."""
    state, y = state.double().clone(), torch.zeros(x.shape, dtype=torch.float64)
    for b in range(x.shape[0]):
        for h in range(HEADS):
            into, out = (t[b, h // (HEADS // GROUPS)].double() for t in (B, C))
            for p in range(WIDTH):
                d = dt[b, h, p].double()
                state[b, h, p] = torch.exp(d * A[h, p].double()) * state[b, h, p] + d * into * x[b, h, p].double()
                y[b, h, p] = out @ state[b, h, p]
    return y, state


@pytest.mark.parametrize("expanded", [True, False])
def test_decoding_step_with_heads_is_the_recurrence_of_each(expanded: bool) -> None:
    update = importlib.import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    state, x, z = draw(2, HEADS, WIDTH, STATES), draw(2, HEADS, WIDTH), draw(2, HEADS, WIDTH)
    dt, A, D, bias = draw(2, HEADS), -draw(HEADS).exp(), draw(HEADS), draw(HEADS)
    B, C = draw(2, GROUPS, STATES), draw(2, GROUPS, STATES)
    wide_dt, wide_A = dt[..., None].expand(2, HEADS, WIDTH), A[:, None, None].expand(HEADS, WIDTH, STATES)
    wide_D, wide_bias = (t[:, None].expand(HEADS, WIDTH) for t in (D, bias))
    right, right_state = one_step(state, x, F.softplus(wide_dt + wide_bias), wide_A, B, C)
    right = (right + wide_D * x) * F.silu(z.double())
    dt, A, D, bias = (wide_dt, wide_A, wide_D, wide_bias) if expanded else (dt, A, D, bias)
    held = state.clone()
    y = update(held, x, dt, A, B, C, D, z, bias, dt_softplus=True)
    torch.testing.assert_close(y.double(), right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(held.double(), right_state, rtol=1e-5, atol=1e-5)
    rows, row = torch.zeros(5, *state.shape[1:]), torch.tensor([3, 1], dtype=torch.int32)
    rows[row.long()] = state
    y = update(rows, x, dt, A, B, C, D, z, bias, dt_softplus=True, state_batch_indices=row)
    torch.testing.assert_close(y.double(), right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows[row.long()].double(), right_state, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows[[0, 2, 4]], torch.zeros_like(rows[:3]))
    with pytest.raises(ValueError, match="3 groups must divide the 4 heads"):
        update(held, x, dt, A, draw(2, 3, STATES), C)


def test_decoding_steps_without_heads_make_up_the_scan() -> None:
    update = importlib.import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    g = torch.Generator().manual_seed(0)
    shapes = (2, 4, 6), (2, 4, 6), (2, 2, 3, 6), (2, 2, 3, 6), (2, 4, 6), (4,), (4,)
    u, delta, B, C, z, D, bias = (torch.randn(s, generator=g) for s in shapes)
    A, state = -torch.rand(4, 3, generator=g), torch.zeros(2, 4, 3)
    expected, last = scan(u, delta, A, B, C, D, z, bias, True, return_last_state=True)
    steps = [
        update(state, u[..., t], delta[..., t], A, B[..., t], C[..., t], D, z[..., t], bias, True) for t in range(6)
    ]
    torch.testing.assert_close(torch.stack(steps, dim=-1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


def test_inner_function_norms_what_it_projects() -> None:
    inner = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    torch.manual_seed(0)
    channels, states, rank = 4, 3, 2
    xz = torch.randn(2, 2 * channels, 7)
    weight, bias, project = torch.randn(channels, 1, 4), torch.randn(channels), torch.randn(rank + 2 * states, channels)
    steps, A, D = torch.randn(channels, rank), -torch.rand(channels, states), torch.randn(channels)
    for_B, for_C, for_steps = torch.rand(states), torch.rand(states), torch.rand(rank)
    y = inner.mamba_inner_fn_no_out_proj(
        xz, weight, bias, project, steps, A, D=D, b_rms_weight=for_B, c_rms_weight=for_C, dt_rms_weight=for_steps,
        b_c_dt_rms_eps=1e-3,
    )  # fmt: skip
    x, z = xz.chunk(2, dim=1)
    x = convolved(x, weight[:, 0], bias, True)
    made = (project @ x).split([rank, states, states], dim=1)
    normed = [F.rms_norm(t.mT, (t.shape[1],), w, 1e-3).mT for t, w in zip(made, (for_steps, for_B, for_C), strict=True)]
    expected = inner.selective_scan_ref(x, steps @ normed[0], A, normed[1], normed[2], D, z, None, True)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    out = torch.randn(5, channels)
    longer = torch.cat([for_steps, torch.full((9,), torch.nan)])  # Falcon-Mamba's has more values than count
    full = inner.mamba_inner_fn(
        xz, weight, bias, project, steps, out, None, A, D=D, b_rms_weight=for_B, c_rms_weight=for_C,
        dt_rms_weight=longer, b_c_dt_rms_eps=1e-3,
    )  # fmt: skip
    torch.testing.assert_close(full, expected.mT @ out.T, rtol=1e-4, atol=1e-4)


def test_norms_serve_a_second_weight_rows_and_dropout() -> None:
    norms = importlib.import_module("mamba_ssm.ops.triton.layer_norm")
    torch.manual_seed(0)
    x, x1, residual, rows = torch.randn(3, 6, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 8), torch.rand(3, 6)
    weight, bias, weight1, bias1 = torch.randn(4, 8)
    total = x + x1 + residual
    y, y1, added = norms.layer_norm_fn(x, weight, bias, residual, x1, weight1, bias1, eps=1e-5, prenorm=True)
    torch.testing.assert_close(added, total)
    torch.testing.assert_close(y, F.layer_norm(total, (8,), weight, bias, 1e-5))
    torch.testing.assert_close(y1, F.layer_norm(total, (8,), weight1, bias1, 1e-5))
    scaled = norms.rms_norm_fn(x, weight, None, eps=1e-5, rowscale=rows)
    torch.testing.assert_close(scaled, F.rms_norm(x * rows[..., None], (8,), weight, 1e-5))
    y, added, mask, mask1 = norms.layer_norm_fn(
        x, weight, bias, residual, x1, dropout_p=0.5, prenorm=True, return_dropout_mask=True
    )
    assert 0.2 < float(mask.float().mean()) < 0.8
    torch.testing.assert_close(added, residual + 2 * (x * mask + x1 * mask1))
    again = norms.layer_norm_ref(x, weight, bias, residual, x1, dropout_p=0.5, dropout_mask=mask, dropout_mask1=mask1)
    torch.testing.assert_close(again, y)
    project = torch.randn(3, 8)
    y, added = norms.layer_norm_linear_fn(x, weight, bias, project, None, residual, eps=1e-5, prenorm=True)
    torch.testing.assert_close(y, F.layer_norm(x + residual, (8,), weight, bias, 1e-5) @ project.T)
    torch.testing.assert_close(added, x + residual)
    with pytest.raises(ValueError, match="rowscale and x1"):
        norms.layer_norm_fn(x, weight, bias, x1=x1, rowscale=rows)


NAMES = {
    "mamba_ssm": ("Mamba", "MambaLMHeadModel", "selective_scan_fn", "mamba_inner_fn"),
    "mamba_ssm.models.mixer_seq_simple": (
        "_init_weights", "create_block", "MixerModel", "MambaLMHeadModel", "RMSNorm", "layer_norm_fn", "rms_norm_fn",
        "GenerationMixin", "load_config_hf", "load_state_dict_hf", "MambaConfig", "Mamba", "Block",
    ),
    "mamba_ssm.modules.mamba_simple": (
        "Mamba", "Block", "selective_scan_fn", "mamba_inner_fn", "causal_conv1d_fn", "causal_conv1d_update",
        "selective_state_update", "RMSNorm", "layer_norm_fn", "rms_norm_fn",
    ),
    "mamba_ssm.modules.mlp": ("GatedMLP",),
    "mamba_ssm.ops.triton.layernorm": ("RMSNorm", "layer_norm_fn", "rms_norm_fn", "layer_norm_linear_fn"),
    "mamba_ssm.ops.selective_scan_interface": ("SelectiveScanFn", "MambaInnerFn", "causal_conv1d_fn"),
    "mamba_ssm.utils.generation": (
        "GenerationMixin", "InferenceParams", "decode", "sample", "update_graph_cache", "SampleDecoderOnlyOutput",
    ),
    "mamba_ssm.utils.hf": ("load_config_hf", "load_state_dict_hf"),
    "mamba_ssm.utils.torch": ("custom_fwd", "custom_bwd"),
    "causal_conv1d": ("causal_conv1d_fn", "causal_conv1d_update"),
    "causal_conv1d.causal_conv1d_interface": ("causal_conv1d_ref", "causal_conv1d_bwd_function", "CausalConv1dFn"),
    "causal_conv1d.causal_conv1d_varlen": ("causal_conv1d_varlen_states",),
    "causal_conv1d.cpp_functions": ("causal_conv1d_fwd_function", "causal_conv1d_update_function"),
    "causal_conv1d_cuda": ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update"),
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_names_that_published_networks_import_are_there(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []
    assert importlib.util.find_spec(module) is not None
    assert found.__file__.endswith(".py")


@pytest.mark.parametrize("name", ["mamba2", "mamba2_simple", "ssd_minimal", "mha"])
def test_what_is_not_served_cannot_be_imported(name: str) -> None:
    """Else callers would take it in the place of their own."""
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"mamba_ssm.modules.{name}")
    for other in ("mamba_ssm.ops.triton.ssd_combined", "mamba_ssm.ops.triton.layernorm_gated"):
        assert importlib.util.find_spec(other) is None
    assert not hasattr(importlib.import_module("mamba_ssm"), "Mamba2")


@pytest.mark.parametrize(("package", "other"), [("mamba_ssm", "mamba-ssm"), ("causal_conv1d", "causal-conv1d")])
def test_packages_say_which_release_they_are(package: str, other: str) -> None:
    release = importlib.import_module(package).__version__
    assert importlib.metadata.version(package) == importlib.metadata.version(other) == release
    assert package in importlib.metadata.packages_distributions()
    numbers = tuple(int(part) for part in release.split("."))
    assert numbers < (2, 0, 4) or package != "mamba_ssm"  # from then on Mamba-2's kernels are taken for granted
    assert numbers >= (1, 4)


def test_packages_are_gone_after_uninstalling() -> None:
    from medmamba.kernels import compat

    compat.uninstall()
    try:
        assert importlib.util.find_spec("mamba_ssm") is None
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("mamba_ssm")
    finally:
        compat.install()


def test_autograd_function_of_a_fork_runs_under_its_wrappers() -> None:
    wrappers = importlib.import_module("mamba_ssm.utils.torch")

    class Twice(torch.autograd.Function):
        @staticmethod
        @wrappers.custom_fwd
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @wrappers.custom_bwd
        def backward(ctx, grad):
            return 2 * grad

    x = torch.ones(3, requires_grad=True)
    Twice.apply(x).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_convolution_is_called_by_its_autograd_functions_name() -> None:
    interface = importlib.import_module("causal_conv1d.causal_conv1d_interface")
    x, weight, before = torch.randn(1, 4, 6), torch.randn(4, 3), torch.randn(1, 4, 2)
    own, state = interface.CausalConv1dFn.apply(x, weight, None, None, before, True, None, "silu")
    expected = interface.causal_conv1d_fn(x, weight, initial_states=before, activation="silu")
    assert torch.equal(own, expected)
    assert torch.equal(state, x[..., -2:])


def test_scan_is_called_by_its_autograd_functions_name() -> None:
    interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    torch.manual_seed(0)
    u, delta, A, B = torch.randn(1, 4, 6), torch.rand(1, 4, 6), -torch.rand(4, 3), torch.randn(1, 3, 6)
    own = interface.SelectiveScanFn.apply(u, delta, A, B, B, None, u, None, True, True)
    for mine, expected in zip(
        own, interface.selective_scan_fn(u, delta, A, B, B, None, u, None, True, True), strict=True
    ):
        assert torch.equal(mine, expected)


def test_module_of_vmamba_is_there_unless_a_program_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    u, delta, A, B = torch.randn(1, 4, 6), torch.rand(1, 4, 6), -torch.rand(4, 3), torch.randn(1, 2, 3, 6)
    theirs = importlib.import_module("selective_scan")
    expected = importlib.import_module("mamba_ssm").selective_scan_fn(
        u, delta, A, B, B, torch.ones(4), None, torch.ones(4), True
    )
    for function in (theirs.selective_scan_fn, theirs.selective_scan_ref):
        y = function(u, delta, A, B, B, torch.ones(4), delta_bias=torch.ones(4), delta_softplus=True, nrows=2)
        torch.testing.assert_close(y, expected)
    monkeypatch.delitem(sys.modules, "selective_scan")
    (tmp_path / "selective_scan.py").write_text("mine = True")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("selective_scan").mine
    monkeypatch.delitem(sys.modules, "selective_scan")
