"""Every golden file, whatever its sizes: our network with the original's weights gives the original's outputs.

And the original's gradients, where the file has them. The files name the class they were made with, and its
configuration. `MEDMAMBA_GOLDEN` names another folder of such files. What else the files of one system hold (states,
choices on the way) its own tests compare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from safetensors import safe_open
from torch import Tensor, nn

from medmamba.kernels import selective_scan
from medmamba.networks import from_upstream
from medmamba.networks.mambamorph import Registration
from medmamba.networks.moe import Routing, SwitchFeedForward, balancing_loss
from tests import golden
from tests.golden import Golden

#: Runs a module on a file's inputs, outputs by the file's names.
Run = Callable[[Any, Golden], dict[str, Tensor]]


def only_input(file: Golden) -> Tensor:
    """The file's one input."""
    [x] = [value for key, value in file.group("input/").items() if "upstream_grad" not in key]
    return x


def plain(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """One input; one output, or a list of them."""
    outputs = module(only_input(file))
    if isinstance(outputs, Tensor):
        return {"out": outputs}
    return {str(index): output for index, output in enumerate(outputs)}


def block(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    return {"out": module(file.tensors["input/hidden_states"])}


def sequence(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """Mixers of grids, given a sequence."""
    x = only_input(file)
    return {"out": module(x, x.shape[1:2])}


def stack(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """Modules that give a state, too."""
    return {"out": module(only_input(file))[0]}


def classifier(module: Any, file: Golden) -> dict[str, Tensor]:
    outputs = plain(module, file)
    if "output/features" in file.tensors:
        outputs["features"] = module.represent(only_input(file))
    return outputs


def channels_last(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """Modules for which the file has the channels first."""
    return {"out": module(only_input(file).movedim(1, -1)).movedim(-1, 1)}


def grid_mixer(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    return channels_last(module, file) if file.facts["config"].get("channel_first") else plain(module, file)


def frames(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """Frames are a clip's for us and a batch's for the original."""
    return {key: output.flatten(0, 1) for key, output in plain(module, file).items()}


def registration(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    result = cast(Registration, module(file.tensors["input/source"], file.tensors["input/target"]))
    outputs = {"moved_vol": result.moved, "preint_flow": result.velocity}
    if "output/pos_flow" in file.tensors:
        outputs["pos_flow"] = result.displacement
    return outputs if result.features is None else outputs | {"feature": result.features}


def registration_layer(module: Any, file: Golden) -> dict[str, Tensor]:
    out = module(only_input(file).unflatten(1, [file.facts["config"][axis] for axis in "HWT"]))
    outputs = {"out": out} if module.downsample is None else {"out": out, "down": module.downsample(out)}
    return {key: output.flatten(1, 3) for key, output in outputs.items()}


def switch(module: SwitchFeedForward, file: Golden) -> dict[str, Tensor]:
    """With the original's choice among tokens that are too many for an expert, which depends on its device."""
    x = only_input(file)
    routing = module.route(x.flatten(0, 1), module.capacity)
    mask = file.tensors["output/kept_mask"]
    served = F.one_hot(routing.expert, mask.shape[1]) * routing.kept[:, None]
    assert torch.equal(served.sum(0), mask.long().sum(0)), "an expert must serve as many tokens as the original's"
    theirs = Routing(routing.probabilities, routing.expert, mask.bool().any(1))
    return {
        "out": module.mix(x.flatten(0, 1), theirs).view(x.shape),
        "load_balancing_loss": file.facts["config"]["load_balancing_loss_weight"] * balancing_loss(routing),
        "expert_index": routing.expert,
        "gate_probs": routing.probabilities,
    }


def expert_language(module: Any, file: Golden) -> dict[str, Tensor]:
    logits, balance = module.balanced(only_input(file))
    return {
        "logits": logits,
        "load_balancing_loss": file.facts["config"].get("load_balancing_loss_weight", 0.01) * balance,
    }


#: By repository and class: the system of `from_upstream`, how to run it, and what in the file's configuration is no
#: argument of the class.
TABLE: dict[tuple[str, str], tuple[str, Run, tuple[str, ...]]] = {
    ("state-spaces+mamba", "Mamba"): ("mamba", block, ()),
    ("state-spaces+mamba", "MambaLMHeadModel"): ("mamba_lm", plain, ()),
    ("kyegomez+MambaByte", "Mamba"): ("mambabyte", stack, ()),
    ("llm-random+llm-random", "LLM"): ("moe_mamba_lm", expert_language, ()),
    ("llm-random+llm-random", "TokenChoiceFF"): ("moe_switch_ff", switch, ()),
    ("Guo-Stone+MambaMorph", "MambaMorph"): ("mambamorph", registration, ()),
    ("Guo-Stone+MambaMorph", "MambaMorphFeat"): ("mambamorph_feat", registration, ()),
    ("Guo-Stone+MambaMorph", "MambaMorphOri"): ("mambamorph_ori", registration, ()),
    ("Guo-Stone+MambaMorph", "MambaLayer"): ("mambamorph_layer", registration_layer, ("H", "W", "T")),
    ("ge-xing+SegMamba", "SegMamba"): ("segmamba", plain, ()),
    ("ge-xing+SegMamba", "GSC"): ("segmamba_gsc", plain, ()),
    ("ge-xing+SegMamba", "MambaLayer"): ("segmamba_layer", plain, ()),
    ("ge-xing+SegMamba", "Mamba"): ("segmamba_mixer", sequence, ()),
    ("scott-yjyang+Vivim", "Vivim"): ("vivim", frames, ()),
    ("scott-yjyang+Vivim", "MambaLayer"): ("vivim_layer", channels_last, ("nframes_set_after_construction",)),
    ("scott-yjyang+Vivim", "Mamba"): ("vivim_mixer", sequence, ()),
    ("hustvl+Vim", "VisionMamba"): ("vim", classifier, ()),
    ("hustvl+Vim", "Mamba"): ("vim_mamba", sequence, ()),
    ("MzeroMiko+VMamba", "VSSM"): ("vmamba", plain, ()),
    ("MzeroMiko+VMamba", "SS2D"): ("vmamba_ss2d", grid_mixer, ()),
    ("bowang-lab+U-Mamba", "UMambaBot_2d"): ("umamba_bot", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaBot_3d"): ("umamba_bot", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaEnc_2d"): ("umamba_enc", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaEnc_3d"): ("umamba_enc", plain, ()),
}
#: Outputs that only a system's own tests compare.
ELSEWHERE = re.compile(
    r"prefill_out|conv_state_\w+|ssm_state_\w+|steps_out|full_sequence_out|greedy|decode_logits|layer\d+|kept_mask"
)
#: Biases before a normalisation have a gradient of 0, of which arithmetic leaves noise: a gradient is judged by its
#: own largest element, but by no less than this share of the largest of all.
SMALLEST_GRADIENT = 1e-2
#: Share of the largest gradient that the originals' own error stays below, wherever a gradient is not noise.
LARGEST_ERROR = 1e-5


def class_of(file: Golden) -> str:
    """The class's own name, without the path to it and remarks about it."""
    found = re.search(r"[A-Za-z_]\w*(?=\s*\(|\s+via\b|\s*$)", file.facts["cls"])
    assert found, f"{file.name}: no class in {file.facts['cls']!r}"
    return found[0]


def scanned(file: Golden) -> dict[str, Tensor]:
    """Outputs of the scan itself."""
    inputs = {key: value for key, value in file.group("input/").items() if "upstream_grad" not in key}
    softplus = file.facts["config"]["delta_softplus"]
    y, state = selective_scan(**inputs, delta_softplus=softplus, return_last_state=True)
    return {"out": y, "last_state": state}


def loaded(file: Golden, group: str = "param/") -> tuple[nn.Module, Run]:
    """The network or module that the file is of, with a group of its tensors for weights, and how to run it."""
    key = (file.facts["repo"], class_of(file))
    if key not in TABLE:
        pytest.fail(f"{file.name}: no system for {file.facts['cls']} of {file.facts['repo']}; add it to TABLE")
    system, run, left_out = TABLE[key]
    config = {name: value for name, value in file.facts["config"].items() if name not in left_out}
    if system == "segmamba" and "nslices" in file.facts:
        config["num_slices"] = file.facts["nslices"]  # no argument of the original, where numbers stand in the code
    module = from_upstream(system, config, file.group(group)).eval()
    if system != "vivim":  # whose original has parameters that nothing uses
        assert sum(parameter.numel() for parameter in module.parameters()) == file.facts["param_count"]
    return module, run


def modelled(file: Golden) -> dict[str, Tensor]:
    """Outputs of the network or module that the file is of."""
    module, run = loaded(file)
    return run(module, file)


def has_gradients(parameter: Any) -> bool:
    """Whether the file of a pytest parameter holds gradients of parameters; also the parameter that skips does."""
    path = parameter.values[0]
    if path is None:
        return True
    with safe_open(path, framework="pt") as file:
        return any(key.startswith("grad/param/") for key in file.keys())  # noqa: SIM118


def error_of(file: Golden, key: str) -> float:
    """What float32 costs the original, relative to its largest output."""
    errors = file.facts["fp32_vs_fp64"]
    known = next((errors[name] for name in (f"output/{key}", key, "output") if name in errors), None)
    return known["max_abs"] / known["ref_absmax"] if known and known["ref_absmax"] else 0.0


@pytest.mark.parametrize("path", golden.parameters("*"))
def test_golden_outputs_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    with torch.no_grad():
        ours = scanned(file) if class_of(file) == "selective_scan_ref" else modelled(file)
    expected = file.group("output64/") or file.group("output/")
    assert ours.keys() <= expected.keys()
    assert all(ELSEWHERE.fullmatch(key) for key in expected.keys() - ours.keys()), expected.keys() - ours.keys()
    for key, output in ours.items():
        largest = expected[key].abs().max().item()
        golden.assert_close(output, expected[key], error_of(file, key) * largest, largest, key)


@pytest.mark.parametrize("path", [parameter for parameter in golden.parameters("*") if has_gradients(parameter)])
def test_golden_gradients_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    module, run = loaded(file)
    inputs = {name: file.tensors[f"input/{name}"].requires_grad_() for name in file.group("grad/input/")}
    outputs = run(module, file)
    upstream = file.group("input/upstream_grad/")
    torch.autograd.backward([outputs[key] for key in upstream], list(upstream.values()))
    # Gradients go by the names of their parameters, so what renames and joins weights does it to them as well.
    theirs = dict(loaded(file, "grad/param/")[0].named_parameters())
    ours = dict(module.named_parameters())
    assert ours.keys() == theirs.keys()
    pairs = {key: (ours[key].grad, theirs[key].detach()) for key in ours}
    pairs |= {f"input {name}": (x.grad, file.tensors[f"grad/input/{name}"]) for name, x in inputs.items()}
    relative = min(file.facts["fp32_vs_fp64"]["worst_grad"][0], LARGEST_ERROR)
    floor = SMALLEST_GRADIENT * max(expected.abs().max().item() for _, expected in pairs.values())
    for key, (gradient, expected) in pairs.items():
        assert gradient is not None, key
        largest = max(expected.abs().max().item(), floor)
        golden.assert_close(gradient, expected, relative * largest, largest, f"gradient of {key}")


def test_folder_that_is_named_holds_files() -> None:
    if "MEDMAMBA_GOLDEN" not in os.environ:
        pytest.skip("MEDMAMBA_GOLDEN is not set")
    assert list(golden.FOLDER.glob("*.safetensors")), f"no golden files in {golden.FOLDER}"


def test_file_of_an_unknown_system_is_named() -> None:
    facts = {"repo": "somebody+something", "cls": "something.nets.Other (a remark)", "config": {}}
    with pytest.raises(pytest.fail.Exception, match=r"strange: no system for .*Other .* of somebody"):
        modelled(Golden("strange", facts, {}))
