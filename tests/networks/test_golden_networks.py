"""Networks with the original weights give the original outputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from medmamba.networks import from_upstream
from medmamba.networks.mamba import MambaBlock
from tests import golden

#: Times the difference of the original's float32 run to its float64 run.
MARGIN = 10


def assert_close(ours: Tensor, theirs: Tensor, error: float, largest: float, what: str) -> None:
    """Worst element within the margin of the file's own rounding error, both relative to the largest output."""
    assert ours.shape == theirs.shape, what
    worst = (ours.double() - theirs.double()).abs().max().item()
    # A file's own error can be accidentally tiny; float32 cannot promise less than a few units of its last place.
    bound = MARGIN * max(error, 2 * torch.finfo(torch.float32).eps * largest)
    assert worst <= bound, f"{what}: worst element off by {worst:.3g}, allowed {bound:.3g} of {largest:.3g}"


@pytest.mark.parametrize("path", golden.parameters("umamba_*"))
def test_golden_umamba_outputs_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    system = "umamba_bot" if "_bot" in file.name else "umamba_enc"
    network = from_upstream(system, file.facts["config"], file.group("param/")).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == file.facts["param_count"]
    with torch.no_grad():
        outputs = network(file.tensors["input/x"])
    expected = file.group("output/")
    assert len(outputs) == len(expected)
    for index, output in enumerate(outputs):
        error = file.facts["fp32_vs_fp64"][f"output/{index}"]
        assert_close(output, expected[str(index)], error["max_abs"], error["ref_absmax"], f"output {index}")


@pytest.mark.parametrize("path", golden.parameters("mamba_block"))
def test_golden_mamba_block_outputs_and_gradients_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    block = from_upstream("mamba", file.facts["config"], file.group("param/"))
    hidden = file.tensors["input/hidden_states"].requires_grad_()
    output = block(hidden)
    error = file.facts["fp32_vs_fp64"]["output"]
    assert_close(output, file.tensors["output/out"], error["max_abs"], error["ref_absmax"], "output")
    torch.autograd.backward(output, file.tensors["input/upstream_grad/out"])
    relative, _ = file.facts["fp32_vs_fp64"]["worst_grad"]
    gradients = {f"param/{name}": parameter.grad for name, parameter in block.named_parameters()}
    gradients["input/hidden_states"] = hidden.grad
    for name, expected in file.group("grad/").items():
        gradient = gradients[name]
        assert gradient is not None, name
        largest = expected.abs().max().item()
        assert_close(gradient, expected, relative * largest, largest, f"gradient of {name}")


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
            output, state = block.step(token, state)
            outputs.append(output)
            check(state.conv, f"output/conv_state_step{index}")
            check(state.ssm, f"output/ssm_state_step{index}")
        check(torch.cat(outputs, dim=1), "output/steps_out")
