"""Every backend in the published blocks: outputs and gradients with their weights are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import golden
from tests.networks.test_golden_all import TABLE, check_gradients, check_outputs

#: Systems that are one block or layer around a scan.
BLOCKS = (
    *("mamba", "vim_mamba", "vmamba_ss2d", "segmamba_mixer", "segmamba_layer", "vivim_mixer", "vivim_layer"),
    "mambamorph_layer",
)


def is_block(file: golden.Golden) -> bool:
    """Whether a file is of one of them, whatever its name; unknown ones `test_golden_all` reports."""
    system, *_ = TABLE.get((file.facts["repo"], golden.class_of(file)), ("",))
    return system in BLOCKS


@pytest.mark.parametrize(("backend", "device"), golden.places())
@pytest.mark.parametrize("path", golden.parameters(wanted=is_block))
def test_block_gives_the_original_outputs_and_gradients(
    path: Path, backend: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMAMBA_SCAN_BACKEND", backend)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of the convolutions around the scan
    file = golden.load(path).to(device)
    check_outputs(file)
    if file.group("grad/"):
        check_gradients(file)
