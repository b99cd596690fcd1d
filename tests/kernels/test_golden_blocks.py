"""Every backend in the published blocks: outputs and gradients with their weights are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medmamba.networks import from_upstream
from tests import golden
from tests.networks.test_golden_all import TABLE, class_of, error_of

BLOCKS = ("bimamba_*", "*_mamba_layer", "*_tsmamba_layer", "mambamorph_layer", "ss2d_*", "mamba_block")


@pytest.mark.parametrize(("backend", "device"), golden.places())
@pytest.mark.parametrize("path", [parameter for pattern in BLOCKS for parameter in golden.parameters(pattern)])
def test_block_gives_the_original_outputs_and_gradients(
    path: Path, backend: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of the convolutions around the scan
    file = golden.load(path).to(device)
    system, run, left_out = TABLE[file.facts["repo"], class_of(file)]
    config = {name: value for name, value in file.facts["config"].items() if name not in left_out}
    module = from_upstream(system, config, file.group("param/")).to(device)
    [x] = [file.tensors["input/" + key.removeprefix("grad/input/")] for key in file.tensors if "grad/input/" in key]
    x.requires_grad_()
    outputs = run(module, file)
    for key, output in outputs.items():
        largest = file.tensors[f"output/{key}"].abs().max().item()
        golden.assert_close(output, file.tensors[f"output/{key}"], error_of(file, key) * largest, largest, key)
    upstream = file.group("input/upstream_grad/")
    torch.autograd.backward([outputs[key] for key in upstream], list(upstream.values()))
    # Gradients go by the names of their parameters, so what renames and joins weights does it to them as well.
    theirs = dict(from_upstream(system, config, file.group("grad/param/")).named_parameters())
    ours = dict(module.named_parameters())
    assert ours.keys() == theirs.keys()
    relative, _ = file.facts["fp32_vs_fp64"]["worst_grad"]
    [grad_x] = file.group("grad/input/").values()
    assert x.grad is not None
    pairs = {"x": (x.grad, grad_x)} | {key: (ours[key].grad, theirs[key].detach()) for key in ours}
    for key, (gradient, expected) in pairs.items():
        assert gradient is not None, key
        largest = expected.abs().max().item()
        golden.assert_close(gradient, expected, relative * largest, largest, f"gradient of {key}")
