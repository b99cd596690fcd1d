"""Code written against mamba_ssm, causal_conv1d and VMamba's compiled modules, on our kernels."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.kernels import compat
from medmamba.kernels.compat.__main__ import main as compat_main
from tests import golden

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "selective_copying.py"
#: Upstream's own tolerances against its reference.
TOLERANCE = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}
#: Lengths of upstream's own test beside those that are tried each time.
OTHER_LENGTHS = (16, 32, 128, 512, 1024, 2048, 4096)


pytestmark = pytest.mark.usefixtures("installed")


def interface() -> ModuleType:
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface")


def draw(shape: tuple[int, ...], kind: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape)).to(kind)


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("states", [8, 16])
@pytest.mark.parametrize("length", [8, 64, 256, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHER_LENGTHS)])
def test_scan_agrees_with_upstreams_reference(length: int, states: int, kind: torch.dtype) -> None:
    """The checks of mamba_ssm's own test: with and without z, D, bias, softplus, and all kinds of B and C."""
    torch.manual_seed(0)
    few = length > 512  # the reference is a loop
    flags = list(itertools.product([False, True], [False, True], [False, True]))
    kinds = ["token", "group", "constant"]
    cases = [(f, kinds[i % 3], kinds[(i + i // 3) % 3]) for i, f in enumerate(flags)]
    batch, channels = 2, 4
    for (has_z, has_extras, softplus), kind_B, kind_C in cases[-1:] if few else cases:
        shapes = {"token": (batch, states, length), "group": (batch, 2, states, length), "constant": (channels, states)}
        given: dict[str, Tensor | None] = {
            "u": draw((batch, channels, length), kind),
            "delta": (0.5 * torch.rand(batch, channels, length)).to(kind),
            "A": -0.5 * torch.rand(channels, states),
            "B": draw(shapes[kind_B], torch.float32 if kind_B == "constant" else kind),
            "C": draw(shapes[kind_C], torch.float32 if kind_C == "constant" else kind),
            "D": draw((channels,)) if has_extras else None,
            "z": draw((batch, channels, length), kind) if has_z else None,
            "delta_bias": 0.5 * torch.rand(channels) if has_extras else None,
        }
        upstream, results = draw((batch, channels, length), kind), []
        for function in (interface().selective_scan_fn, interface().selective_scan_ref):
            leaves = {k: None if v is None else v.detach().requires_grad_() for k, v in given.items()}
            y, last = function(**leaves, delta_softplus=softplus, return_last_state=True)
            y.backward(upstream)
            results.append((y, last, {k: v.grad for k, v in leaves.items() if v is not None}))
        (y, last, grads), (y_ref, last_ref, grads_ref) = results
        rtol, atol = TOLERANCE[kind]
        assert y.dtype == kind
        torch.testing.assert_close(y, y_ref, rtol=rtol, atol=atol)
        torch.testing.assert_close(last, last_ref, rtol=rtol, atol=atol)
        for name, grad in grads.items():
            wide = 5 if name in ("A", "delta_bias", "D") else 2
            torch.testing.assert_close(grad, grads_ref[name], rtol=wide * rtol, atol=wide * atol, msg=name)


@pytest.mark.parametrize("fixed", [False, True])
def test_inner_function_agrees_with_its_reference(fixed: bool) -> None:
    torch.manual_seed(0)
    channels, states, rank, width, length = 6, 4, 2, 5, 21
    rows = rank if fixed else rank + 2 * states
    given = [
        draw((2, 2 * channels, length)), draw((channels, 1, 3)), draw((channels,)), draw((rows, channels)),
        draw((channels, rank)), draw((width, channels)), draw((width,)), -torch.rand(channels, states),
    ]  # fmt: skip
    given += [draw((channels, states)), draw((channels, states))] if fixed else []
    results = []
    for function in (interface().mamba_inner_fn, interface().mamba_inner_ref):
        leaves = [t.detach().requires_grad_() for t in given]
        extra = {"D": torch.ones(channels), "delta_bias": torch.zeros(channels)}
        y = function(*leaves, **extra, delta_softplus=True)
        y.square().sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-3)


def build(file: golden.Golden) -> torch.nn.Module:
    config = dict(file.facts["config"])
    if "vocab_size" in config:
        models = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
        network = models.MambaLMHeadModel(models.MambaConfig(**config))
    else:
        network = importlib.import_module("mamba_ssm.modules.mamba_simple").Mamba(**config)
    network.load_state_dict(file.group("param/"), strict=True)
    network.eval()
    return network


@pytest.mark.parametrize("path", golden.parameters("bimamba_*"))
def test_blocks_of_the_forks_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    block = build(file)
    x = file.tensors["input/hidden_states"].requires_grad_()
    y = block(x)
    expected = file.tensors["output/out"]
    errors = file.facts["fp32_vs_fp64"]
    allowed = 10 * errors["output/out"]["max_abs"] if "output/out" in errors else 3e-6 * float(expected.abs().max())
    assert float((y.detach() - expected).abs().max()) <= allowed
    y.backward(next(iter(file.group("input/upstream_grad/").values())))
    for name, grad in {"": x.grad, **{n: p.grad for n, p in block.named_parameters()}}.items():
        true = file.tensors[f"grad/param/{name}"] if name else file.tensors["grad/input/hidden_states"]
        assert grad is not None, name
        assert float((grad - true).abs().max()) <= 1e-5 * float(true.abs().max()) + 1e-7, name


@pytest.mark.parametrize("path", golden.parameters("mamba_block"))
def test_block_goes_on_from_its_cache(path: Path) -> None:
    file = golden.load(path)
    facts = {**file.facts["config"], "layer_idx": 0}
    block = importlib.import_module("mamba_ssm").Mamba(**facts)
    block.load_state_dict(file.group("param/"))
    state = importlib.import_module("mamba_ssm.utils.generation").InferenceParams(100, 2)
    with torch.no_grad():
        torch.testing.assert_close(block(file.tensors["input/hidden_states"]), file.tensors["output/out"])
        prefill = block(file.tensors["input/hidden_states"], inference_params=state)
        conv_state, ssm_state = (t.clone() for t in state.key_value_memory_dict[0])
        state.seqlen_offset = prefill.shape[1]
        steps = [block(token, inference_params=state) for token in file.tensors["input/steps"].split(1, dim=1)]
    for own, name in ((prefill, "prefill_out"), (conv_state, "conv_state_prefill"), (ssm_state, "ssm_state_prefill")):
        torch.testing.assert_close(own, file.tensors[f"output/{name}"])
    torch.testing.assert_close(torch.cat(steps, dim=1), file.tensors["output/steps_out"])


@pytest.mark.parametrize("path", golden.parameters("mamba_lm"))
def test_language_model_is_reproduced_and_generates(path: Path) -> None:
    file = golden.load(path)
    model = build(file)
    ids = file.tensors["input/input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
    expected = file.tensors["output/out"]
    assert float((logits - expected).abs().max()) <= 2e-5 * float(expected.abs().max())
    greedy = file.tensors["output/greedy"]
    assert torch.equal(model.generate(ids, max_length=greedy.shape[1]), greedy)


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_causal_conv1d_is_the_padded_convolution(taps: int, activation: str | None) -> None:
    conv = importlib.import_module("causal_conv1d")
    torch.manual_seed(0)
    x, weight, bias = draw((2, 5, 19)), draw((5, taps)), draw((5,))
    y, final = conv.causal_conv1d_fn(x, weight, bias, activation=activation, return_final_states=True)
    expected = F.conv1d(F.pad(x, (taps - 1, 0)), weight[:, None], bias, groups=5)
    expected = F.silu(expected) if activation else expected
    torch.testing.assert_close(y, expected)
    assert torch.equal(final, x[..., -(taps - 1) :])
    # In two goes, the second with the state of the first; then token by token.
    first, state = conv.causal_conv1d_fn(x[..., :7], weight, bias, activation=activation, return_final_states=True)
    second = conv.causal_conv1d_fn(x[..., 7:], weight, bias, initial_states=state, activation=activation)
    torch.testing.assert_close(torch.cat([first, second], dim=-1), expected)
    held = torch.zeros(2, 5, taps)
    tokens = [conv.causal_conv1d_update(t, held, weight, bias, activation) for t in x.unbind(-1)]
    torch.testing.assert_close(torch.stack(tokens, dim=-1), expected)


def test_norms_add_the_residual_first() -> None:
    norms = importlib.import_module("mamba_ssm.ops.triton.layer_norm")
    x, residual, weight, bias = draw((3, 8)), draw((3, 8)), draw((8,)), draw((8,))
    y, total = norms.layer_norm_fn(x, weight, bias, residual, eps=1e-5, prenorm=True)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(y, F.layer_norm(x + residual, (8,), weight, bias, 1e-5))
    torch.testing.assert_close(norms.rms_norm_fn(x, weight, None, eps=1e-6), F.rms_norm(x, (8,), weight, 1e-6))
    assert norms.RMSNorm(8)(x.bfloat16(), residual, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [
        "selective_scan_cuda_core",
        "selective_scan_cuda_oflex",
        "selective_scan_cuda_nrow",
        "selective_scan_cuda_ndstate",
    ],
)
def test_compiled_modules_of_vmamba_agree_with_the_scan(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)
    states = 1 if name.endswith("ndstate") else 3
    u, delta, A = draw((2, 8, 11)), draw((2, 8, 11)), -torch.rand(8, states)
    B, C, D, bias, grad = draw((2, 4, states, 11)), draw((2, 4, states, 11)), draw((8,)), draw((8,)), draw((2, 8, 11))
    leaves = [t.requires_grad_() for t in (u, delta, A, B, C, D)]
    expected = interface().selective_scan_ref(*leaves, None, bias.requires_grad_(), True)
    true = torch.autograd.grad(expected, [*leaves, bias], grad)
    given = [t.detach() for t in leaves]
    if states == 1:
        given = [*given[:2], given[2][:, 0], given[3][:, :, 0], given[4][:, :, 0], given[5]]
    y, x = module.fwd(*given, bias.detach(), True, 1, *([True] if "oflex" in name else []))
    torch.testing.assert_close(y, expected.detach())
    for form in ((True,), (True, 1), (None, True), (y, True, False)):  # older code hands over the result before it
        for own, right in zip(module.bwd(*given, bias.detach(), grad, x, *form), true, strict=True):
            torch.testing.assert_close(own, right.reshape(own.shape), rtol=1e-4, atol=1e-4)


def test_compiled_module_of_mamba_ssm_gives_the_gate_its_gradient() -> None:
    module = importlib.import_module("selective_scan_cuda")
    torch.manual_seed(0)
    given = [draw((2, 4, 9)), draw((2, 4, 9)), -torch.rand(4, 3), draw((2, 1, 3, 9)), draw((2, 1, 3, 9)), draw((4,))]
    z, bias, grad = draw((2, 4, 9)), draw((4,)), draw((2, 4, 9))
    leaves = [t.clone().requires_grad_() for t in (*given, z, bias)]
    y, last = interface().selective_scan_ref(*leaves, True, return_last_state=True)
    true = torch.autograd.grad(y, leaves, grad)
    plain, x, gated = module.fwd(*given, z, bias, True)
    torch.testing.assert_close(gated, y.detach())
    torch.testing.assert_close(x[:, :, -1, 1::2], last.detach())
    *own, gz, again = module.bwd(*given, z, bias, grad, x, plain, None, True, True)
    torch.testing.assert_close(again, gated)
    for mine, right in zip([*own, gz], [*true[:6], true[7], true[6]], strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


def test_complex_decays_are_refused() -> None:
    u, B = draw((1, 2, 3)), draw((1, 2, 3))
    with pytest.raises(TypeError, match="must be real"):
        interface().selective_scan_fn(u, u, torch.randn(2, 2, dtype=torch.complex64), B, B)


def test_installed_packages_are_not_hidden_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    compat.uninstall()
    assert "mamba_ssm" not in sys.modules
    real = ModuleType("mamba_ssm")
    monkeypatch.setitem(sys.modules, "mamba_ssm", real)
    with pytest.raises(RuntimeError, match="mamba_ssm is installed"):
        compat.install()
    assert sys.modules["mamba_ssm"] is real
    compat.install(force=True)
    assert sys.modules["mamba_ssm"] is not real
    compat.uninstall()
    assert sys.modules["mamba_ssm"] is real


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medmamba.kernels.compat", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_script_runs_with_its_own_arguments(tmp_path: Path) -> None:
    script = tmp_path / "uses_mamba.py"
    script.write_text(
        "import sys, torch\nfrom mamba_ssm import Mamba\nfrom mamba_ssm.modules.mamba_simple import Mamba as Same\n"
        "from causal_conv1d import causal_conv1d_fn\n"
        "assert Mamba is Same\nprint(sys.argv[1:], tuple(Mamba(8)(torch.randn(1, 5, 8)).shape))\n"
    )
    result = run(str(script), "--epochs", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['--epochs', '3'] (1, 5, 8)"


def test_missing_script_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compat", "nowhere.py"])
    with pytest.raises(SystemExit) as ended:
        compat_main()
    assert ended.value.code == 2
    assert "there is no script nowhere.py" in capsys.readouterr().err


def test_example_written_against_mamba_ssm_learns() -> None:
    result = run(str(EXAMPLE), "--steps", "60", "--length", "10", "--letters", "2")
    assert result.returncode == 0, result.stderr
    losses = [float(line.split("loss")[1].split()[0]) for line in result.stdout.splitlines() if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
