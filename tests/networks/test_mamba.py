"""The S6 block by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.networks import from_upstream
from medmamba.networks.mamba import MambaBlock
from tests import golden
from tests.golden import assert_close

VARIANTS: list[dict[str, Any]] = [
    {},
    {"d_state": 5, "d_conv": 3, "expand": 1.5, "dt_rank": 3, "conv_bias": False, "bias": True},
]


def block_and_tokens(length: int = 11, **options: Any) -> tuple[MambaBlock, Tensor]:
    torch.manual_seed(0)
    return MambaBlock(6, **options), torch.randn(2, length, 6)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("prompt", [1, 2, 7])
def test_steps_after_a_prompt_give_what_the_whole_sequence_gives(options: dict[str, Any], prompt: int) -> None:
    block, x = block_and_tokens(**options)
    with torch.no_grad():
        whole = block(x)
        output, state = block.prefill(x[:, :prompt])
        outputs = [output]
        for token in x[:, prompt:].split(1, dim=1):
            output, state = block.prefill(token, state)
            outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole)


def test_token_does_not_see_later_ones() -> None:
    block, x = block_and_tokens()
    changed = x.clone()
    changed[:, 6:] += 1
    with torch.no_grad():
        before, after = block(x), block(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("options", VARIANTS)
def test_gradients_are_the_differences_in_double_precision(options: dict[str, Any]) -> None:
    block, x = block_and_tokens(length=4, **options)
    block = block.double()
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: block(x), (x, *block.parameters()), fast_mode=True)


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    block = MambaBlock(512)
    step = F.softplus(block.dt_proj.bias)
    assert 0.9e-3 < step.min() < 1.1e-3
    assert 0.09 < step.max() < 0.11
    torch.testing.assert_close(step.log().mean(), torch.tensor(0.01).log(), atol=0.1, rtol=0)
    torch.testing.assert_close(block.A_log[7].exp(), torch.arange(1.0, 17.0))
    assert (block.D == 1).all()
    assert 0.9 * 32**-0.5 < block.dt_proj.weight.abs().max() < 32**-0.5
    assert block.dt_proj.bias._no_reinit  # type: ignore[attr-defined]  # what others' code looks for


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_conversion_to_16_bits_leaves_the_recurrence_in_float32(kind: torch.dtype) -> None:
    block, x = block_and_tokens()
    with torch.no_grad():
        exact = block(x)
        exact_a = block.A_log.clone()
        block.to(kind)
        rough = block(x.to(kind))
    kept = {name for name, parameter in block.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_proj.bias"}
    assert torch.equal(block.A_log, exact_a)
    assert rough.dtype == kind
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.01)
    assert all(parameter.dtype == torch.float64 for parameter in block.double().parameters())


def test_conversion_with_gradients_keeps_them_beside_their_weights() -> None:
    block, x = block_and_tokens()
    block(x).sum().backward()
    block.bfloat16()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == parameter.dtype, name


def test_autocast_block_is_close_to_float32() -> None:
    block, x = block_and_tokens(bias=True)
    exact = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = block(x)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("path", golden.parameters("mamba_block"))
def test_golden_mamba_block_steps_continue_the_sequence(path: Path) -> None:
    file = golden.load(path)
    block = cast(MambaBlock, from_upstream("mamba", file.facts["config"], file.group("param/")))
    errors = file.facts["rollout_fp32_vs_fp64"]

    def check(ours: Tensor, key: str) -> None:
        assert_close(ours, file.tensors[key], errors[key]["max_abs"], errors[key]["ref_absmax"], key)

    with torch.no_grad():
        output, state = block.prefill(file.tensors["input/hidden_states"])
        check(output, "output/prefill_out")
        check(state.conv, "output/conv_state_prefill")
        check(state.ssm, "output/ssm_state_prefill")
        outputs = []
        for index, token in enumerate(file.tensors["input/steps"].split(1, dim=1)):
            output, state = block.prefill(token, state)
            outputs.append(output)
            check(state.conv, f"output/conv_state_step{index}")
            check(state.ssm, f"output/ssm_state_step{index}")
        check(torch.cat(outputs, dim=1), "output/steps_out")
