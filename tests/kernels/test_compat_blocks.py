"""Blocks whose layers were changed from outside: parametrised, hooked, replaced; and blocks that were pickled."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from medmamba.kernels import compat
from medmamba.kernels.compat import _block

pytestmark = pytest.mark.usefixtures("installed")
KINDS = ("none", "v1", "v2", "v3")


def block_of(kind: str = "none", **options: Any) -> Any:
    from mamba_ssm import Mamba

    torch.manual_seed(0)
    return Mamba(8, bimamba_type=kind, nslices=3 if kind == "v3" else None, **options)


def tokens() -> Tensor:
    return torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))


class Adapted(nn.Module):
    """A layer and what was learnt beside it."""

    def __init__(self, base: nn.Module, strength: float) -> None:
        super().__init__()
        self.base, self.strength = base, nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * (1 + self.strength)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_given_from_outside_are_those_that_count(kind: str) -> None:
    block, x = block_of(kind), tokens()
    doubled = {name: 1.5 * p.detach() for name, p in block.named_parameters()}
    y = torch.func.functional_call(block, doubled, (x,))
    other = block_of(kind)
    other.load_state_dict(doubled)
    torch.testing.assert_close(y, other(x))
    grads = torch.func.grad(lambda p: torch.func.functional_call(block, p, (x,)).square().sum())(doubled)
    other(x).square().sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_parametrised_and_pruned_layers_count_as_they_are() -> None:
    x = tokens()
    weighed = block_of()
    parametrizations.weight_norm(weighed.conv1d)
    with torch.no_grad():
        weighed.conv1d.parametrizations.weight.original0.mul_(2)  # the lengths of the kernels
    right = block_of()
    with torch.no_grad():
        right.conv1d.weight.mul_(2)
    torch.testing.assert_close(weighed(x), right(x))

    pruned, right = block_of(), block_of()
    prune.l1_unstructured(pruned.dt_proj, "weight", 0.5)
    with torch.no_grad():
        pruned.dt_proj.weight_orig.mul_(2)  # as a step of training would; the layer makes its weight when it is called
        right.dt_proj.weight.mul_(2 * pruned.dt_proj.weight_mask)
    torch.testing.assert_close(pruned(x), right(x))

    normed = block_of().eval()
    parametrizations.spectral_norm(normed.x_proj)
    normed.eval()
    right = block_of()
    with torch.no_grad():
        right.x_proj.weight.copy_(normed.x_proj.weight)
    torch.testing.assert_close(normed(x), right(x))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_replaced_layers_are_called_and_learn(kind: str, fast: bool) -> None:
    """Adapters of strength 0 change nothing; with another one they act as scaled weights do."""
    x, plain = tokens(), block_of(kind, use_fast_path=fast)
    suffixes = _block._SUFFIXES[kind]
    for strength in (0.0, 0.5):
        adapted, scaled = block_of(kind, use_fast_path=fast), copy.deepcopy(plain)
        for part in ("conv1d", "x_proj", "dt_proj", "in_proj", "out_proj"):
            for suffix in suffixes if part not in ("in_proj", "out_proj") else ("",):
                layer, own = getattr(adapted, part + suffix), getattr(scaled, part + suffix)
                setattr(adapted, part + suffix, Adapted(layer, strength))
                with torch.no_grad():
                    for parameter in own.parameters():
                        parameter.mul_(1 + strength)
        y = adapted(x)
        torch.testing.assert_close(y, scaled(x), rtol=1e-4, atol=1e-5)
        y.square().sum().backward()
        grads = {name: p.grad for name, p in adapted.named_parameters() if name.endswith("strength")}
        assert len(grads) == 2 + 3 * len(suffixes)
        assert all(grad is not None and grad != 0 for grad in grads.values())


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_fire_and_may_change_what_a_layer_gives(kind: str) -> None:
    block, x, seen = block_of(kind), tokens(), []
    before = block(x)
    block.x_proj.register_forward_hook(lambda *_: seen.append("x_proj"))
    block.dt_proj.register_forward_pre_hook(lambda *_: seen.append("dt_proj"))
    torch.testing.assert_close(block(x), before, rtol=1e-5, atol=1e-6)
    assert {"x_proj", "dt_proj"} == set(seen)
    block.x_proj.register_forward_hook(lambda module, given, result: torch.zeros_like(result))
    zeroed = block_of(kind)
    nn.init.zeros_(zeroed.x_proj.weight)
    torch.testing.assert_close(block(x), zeroed(x), rtol=1e-5, atol=1e-6)


def test_replaced_layers_decode_as_they_train() -> None:
    from mamba_ssm.utils.generation import InferenceParams

    block, x = block_of(layer_idx=0).eval(), tokens()
    for part in ("conv1d", "x_proj", "dt_proj"):
        setattr(block, part, Adapted(getattr(block, part), 0.3))
    with torch.no_grad():
        expected, state = block(x), InferenceParams(9, 2)
        parts = [block(x[:, :5], inference_params=state)]
        for i in range(5, 9):
            state.seqlen_offset = i
            parts.append(block(x[:, i : i + 1], inference_params=state))
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_sister_forks_name_the_directions_their_way() -> None:
    x = tokens()
    right = block_of("v2", if_divide_out=True)
    for options in ({"bimamba_type": "v2", "if_devide_out": True}, {"bimamba": True, "if_divide_out": True}):
        from mamba_ssm import Mamba

        torch.manual_seed(0)
        assert torch.equal(Mamba(8, **options)(x), right(x))
    with pytest.raises(ValueError, match="bimamba means bimamba_type 'v2'"):
        Mamba(8, bimamba=True, bimamba_type="v3")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_block_is_pickled_and_copied(kind: str) -> None:
    block, x = block_of(kind), tokens()
    buffer = io.BytesIO()
    torch.save(block, buffer)
    assert b"mamba_ssm.modules.mamba_simple" in buffer.getvalue()
    assert b"medmamba" not in buffer.getvalue()
    buffer.seek(0)
    for again in (torch.load(buffer, weights_only=False), copy.deepcopy(block)):
        assert torch.equal(again(x), block(x))


def test_block_that_an_older_release_pickled_is_read() -> None:
    """It said that its class is in our package."""
    block, x = block_of("v2"), tokens()
    expected = block(x).detach()
    compat.uninstall()
    try:
        old = pickle.dumps(block)
    finally:
        compat.install()
    assert b"medmamba.kernels.compat._block" in old
    from mamba_ssm.modules.block import Block

    assert _block.Block is Block  # whose home it was too
    assert torch.equal(pickle.loads(old)(x), expected)


def as_upstream_pickles(block: nn.Module, drop: tuple[str, ...], **renamed: str) -> nn.Module:
    """A block through a pickle whose state has only what upstream's class sets."""
    state = block.__getstate__()  # type: ignore[attr-defined]  # every object has it
    state = {k: v for k, v in state.items() if k not in drop}
    for theirs, ours in renamed.items():
        state[theirs] = block.__getstate__()[ours]  # type: ignore[attr-defined]  # every object has it
    made = type(block).__new__(type(block))
    made.__setstate__(pickle.loads(pickle.dumps(state)))
    return made


def test_states_of_upstreams_and_the_forks_blocks_are_taken() -> None:
    x, own = tokens(), ("bimamba_type", "if_divide_out", "init_layer_scale", "nslices", "nframes")
    plain = block_of()
    assert torch.equal(as_upstream_pickles(plain, own)(x), plain(x))
    vim = block_of("v2", if_divide_out=True)
    older = as_upstream_pickles(vim, ("if_divide_out", "nslices", "nframes"), if_devide_out="if_divide_out")
    assert torch.equal(older(x), vim(x))
    video = block_of("v2")
    theirs = as_upstream_pickles(video, own, bimamba="use_fast_path")  # true
    assert torch.equal(theirs(x), video(x))


def test_state_of_upstreams_residual_block_is_taken() -> None:
    from mamba_ssm.models.mixer_seq_simple import create_block

    block = create_block(8, rms_norm=True, layer_idx=0)
    older = as_upstream_pickles(block, ("mlp",))
    for own, expected in zip(older(tokens()), block(tokens()), strict=True):
        assert torch.equal(own, expected)
    norm = as_upstream_pickles(block.norm, ("zero_centered_weight", "drop"))
    assert torch.equal(norm(tokens()), block.norm(tokens()))


def test_pickled_model_is_read_by_a_fresh_process(tmp_path: Path) -> None:
    block, x = block_of("v2"), tokens()
    model = nn.Sequential(nn.Linear(8, 8), block)
    torch.save(model, tmp_path / "model.pt")
    torch.save((x, model(x)), tmp_path / "expected.pt")
    script = tmp_path / "read.py"
    script.write_text(
        "import sys, torch\nfolder = sys.argv[1]\nmodel = torch.load(folder + '/model.pt', weights_only=False)\n"
        "x, expected = torch.load(folder + '/expected.pt')\nassert torch.equal(model(x), expected)\nprint('the same')\n"
    )
    command = [sys.executable, "-m", "medmamba.kernels.compat", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "the same", done.stderr


def test_initial_step_sizes_lie_between_the_bounds() -> None:
    block = block_of(dt_min=0.01, dt_max=0.02)
    steps = nn.functional.softplus(block.dt_proj.bias.detach())
    assert 0.01 - 1e-6 <= float(steps.min()) <= float(steps.max()) <= 0.02 + 1e-6
    assert block.dt_rank == math.ceil(8 / 16)
