"""Golden files of modules: ours with the original weights gives the original outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from medmamba.networks import from_upstream
from tests import golden
from tests.golden import assert_close

#: Makes our module's output, in upstream's layout, of an input in upstream's layout.
Call = Callable[[nn.Module, Tensor], Tensor]
Renamed = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def check_golden_module(
    path: Path, system: str, call: Call, renamed: Renamed, *, left_out: tuple[str, ...] = ()
) -> None:
    """Compare the output, and all gradients by our names.

    Args:
        path: of the golden file, which has one input and one output.
        system: of `from_upstream`.
        call: runs our module.
        renamed: upstream's gradients by our names.
        left_out: keys of the file's configuration that are no arguments of upstream's constructor.
    """
    file = golden.load(path)
    config = {key: value for key, value in file.facts["config"].items() if key not in left_out}
    module = from_upstream(system, config, file.group("param/"))
    assert sum(parameter.numel() for parameter in module.parameters()) == file.facts["param_count"]
    [(name, x)] = [item for item in file.group("input/").items() if "upstream_grad" not in item[0]]
    output = call(module, x.requires_grad_())
    error = file.facts["fp32_vs_fp64"]["output"]
    assert_close(output, file.tensors["output/out"], error["max_abs"], error["ref_absmax"], "output")
    torch.autograd.backward(output, file.tensors["input/upstream_grad/out"])
    relative, _ = file.facts["fp32_vs_fp64"]["worst_grad"]
    gradients = {key: parameter.grad for key, parameter in module.named_parameters()} | {"x": x.grad}
    expected = renamed(file.group("grad/param/")) | {"x": file.tensors[f"grad/input/{name}"]}
    assert gradients.keys() == expected.keys()
    for key, theirs in expected.items():
        gradient = gradients[key]
        assert gradient is not None, key
        largest = theirs.abs().max().item()
        assert_close(gradient, theirs, relative * largest, largest, f"gradient of {key}")
