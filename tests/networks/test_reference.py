"""The slow reference agrees with the originals' files, and the product with the files that the reference writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import golden
from tests.golden import Golden, class_of
from tests.networks.reference import images, texts, volumes
from tests.networks.reference.files import CASES, Case, write
from tests.networks.reference.scan import mamba, ss2d, three_ways
from tests.networks.reference.weights import Weights
from tests.networks.test_golden_all import check_gradients, check_outputs, error_of

#: Runs the reference on a file: weights, the only input, the file.
Run = Callable[[Weights, Tensor, Golden], Any]


def fork(scale: float, pieces: str) -> Run:
    """The Mamba block for three orders."""

    def run(w: Weights, x: Tensor, file: Golden) -> Tensor:
        config = file.facts["config"]
        return mamba(w, x, config, three_ways(x.shape[1], config[pieces]), scale)

    return run


def stacked(w: Weights) -> Weights:
    """VMamba's weights by the names of its earlier releases, in which orders have an axis of their own."""
    for key in list(w.tensors):
        if key.endswith(("x_proj.weight", "dt_projs.weight")):
            tensor = w.tensors.pop(key)
            w.tensors[key.replace("proj.weight", "proj_weight").replace("projs.weight", "projs_weight")] = (
                tensor.unflatten(0, (4, -1))
            )
    return w


def scan_of_maps(w: Weights, x: Tensor, config: Mapping[str, Any]) -> Tensor:
    """In either layout."""
    return ss2d(w, x.movedim(1, -1), config).movedim(-1, 1) if config.get("channel_first") else ss2d(w, x, config)


def placed(placement: str) -> Run:
    return lambda w, x, file: volumes.umamba(w, x, file.facts["config"], placement)


#: By repository and class; what is not here is of a system that the reference leaves to the originals' files.
ORIGINALS: dict[tuple[str, str], Run] = {
    ("hustvl+Vim", "VisionMamba"): lambda w, x, file: images.vim(w, x, file.facts["config"]),
    ("hustvl+Vim", "Mamba"): lambda w, x, file: images.vim_mixer(w, x, file.facts["config"]),
    ("MzeroMiko+VMamba", "VSSM"): lambda w, x, file: images.vmamba(stacked(w), x, file.facts["config"]),
    ("MzeroMiko+VMamba", "SS2D"): lambda w, x, file: scan_of_maps(stacked(w), x, file.facts["config"]),
    ("ge-xing+SegMamba", "SegMamba"): lambda w, x, file: volumes.segmamba(
        w, x, file.facts["config"], file.facts["nslices"]
    ),
    ("ge-xing+SegMamba", "Mamba"): fork(1.0, "nslices"),
    ("ge-xing+SegMamba", "GSC"): lambda w, x, file: volumes.gsc(w, x),
    ("ge-xing+SegMamba", "MambaLayer"): lambda w, x, file: volumes.segmamba_layer(
        w, x, file.facts["config"], file.facts["config"]["num_slices"]
    ),
    ("scott-yjyang+Vivim", "Mamba"): fork(1 / 3, "nframes"),
    ("scott-yjyang+Vivim", "MambaLayer"): lambda w, x, file: volumes.vivim_layer(w, x, file.facts["config"], 5),
    ("bowang-lab+U-Mamba", "UMambaBot_2d"): placed("bottleneck"),
    ("bowang-lab+U-Mamba", "UMambaBot_3d"): placed("bottleneck"),
    ("bowang-lab+U-Mamba", "UMambaEnc_2d"): placed("encoder"),
    ("bowang-lab+U-Mamba", "UMambaEnc_3d"): placed("encoder"),
    ("state-spaces+mamba", "MambaLMHeadModel"): lambda w, x, file: texts.mamba_lm(w, x, file.facts["config"]),
    ("kyegomez+MambaByte", "Mamba"): lambda w, x, file: texts.mamba_stack(w, x, file.facts["config"]),
    ("llm-random+llm-random", "LLM"): lambda w, x, file: texts.moe_lm(w, x, file.facts["config"]),
    ("llm-random+llm-random", "TokenChoiceFF"): lambda w, x, file: texts.switch(w, x, file.facts["config"]),
}


def is_judged(file: Golden) -> bool:
    """Whether the reference has what the file is of; which tokens find no room the original leaves to its device."""
    config = file.facts["config"]
    dropping = config.get("capacity_factor", 9) < config.get("n_experts", 0)
    return (file.facts["repo"], class_of(file)) in ORIGINALS and not dropping


@pytest.mark.parametrize("path", golden.parameters(wanted=is_judged))
def test_reference_is_the_original(path: Path) -> None:
    file = golden.load(path)
    [x] = [value for key, value in file.group("input/").items() if "upstream_grad" not in key and key != "steps"]
    w = Weights({key: value.double() for key, value in file.group("param/").items()})
    run = ORIGINALS[file.facts["repo"], class_of(file)]
    with torch.no_grad():
        found = run(w, x.double() if x.is_floating_point() else x, file)
    outputs: Mapping[str, Tensor] = found if isinstance(found, Mapping) else {"out": found}
    unused = [key for key in w.tensors.keys() - w.used if not re.search(r"all_modules\.|^lm_head\.", key)]
    assert not unused, f"the reference never reads {unused}"
    compared = [key for key in outputs if f"output/{key}" in file.tensors]
    assert compared
    for key in compared:
        expected = file.tensors[f"output/{key}"]
        largest = expected.abs().max().item()
        golden.assert_close(outputs[key], expected, error_of(file, key) * largest, largest, key)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_product_gives_the_outputs_and_gradients_of_the_reference(case: Case, tmp_path: Path) -> None:
    file = golden.load(write(case, tmp_path))
    check_outputs(file)
    check_gradients(file)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
