"""Every golden file of a module, whatever its name: ours with the original's weights gives the original's outputs.

And the original's gradients, where the file has them. The files name the class they were made with, and its
configuration. `MEDMAMBA_GOLDEN` names another folder of such files. What else the files of one system hold (states,
choices on the way) its own tests compare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.networks import from_upstream
from medmamba.networks.experts import BALANCE_WEIGHT, Routing, SwitchFeedForward, balancing_loss, router_z_loss
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.mambamorph import Registration
from medmamba.networks.vmamba import VMamba
from tests import golden
from tests.golden import Golden, class_of

#: Runs a module on a file's inputs, outputs by the file's names.
Run = Callable[[Any, Golden], dict[str, Tensor]]


def only_input(file: Golden) -> Tensor:
    """The file's one input."""
    [x] = [value for key, value in file.group("input/").items() if "upstream_grad" not in key]
    return x


def plain(module: nn.Module, file: Golden) -> dict[str, Tensor]:
    """One input; one output, or a list of them, of any length."""
    outputs = module(only_input(file))
    if isinstance(outputs, Tensor):
        return {"out": outputs}
    if len(outputs) == 1 and "output/out" in file.tensors:
        return {"out": outputs[0]}
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


def stages(module: VMamba, file: Golden) -> dict[str, Tensor]:
    """And each stage with the downsampling after it, in the layout of the original's norms."""
    outputs = plain(module, file)
    if not file.group("output/layer"):
        return outputs
    maps = module.features(only_input(file))
    downs = [entry(x.movedim(1, -1)).movedim(-1, 1) for entry, x in zip(module.entries[1:], maps, strict=False)]
    first = file.facts["config"].get("norm_layer", "ln").lower() == "ln2d"
    return outputs | {f"layer{index}": x if first else x.movedim(1, -1) for index, x in enumerate([*downs, maps[-1]])}


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
        "expert_index": routing.expert,
        "gate_probs": routing.probabilities,
    } | {name: loss[0] for name, loss in losses([routing], file).items()}


def expert_language(module: Any, file: Golden) -> dict[str, Tensor]:
    routings: list[Routing] = []
    hooks = [
        part.register_forward_pre_hook(
            lambda layer, given: routings.append(layer.route(given[0].flatten(0, -2), layer.capacity))
        )
        for part in module.modules()
        if isinstance(part, SwitchFeedForward)
    ]
    logits = module(only_input(file))
    for hook in hooks:
        hook.remove()
    return {"logits": logits, **losses(routings, file)}


def losses(routings: list[Routing], file: Golden) -> dict[str, Tensor]:
    """What each layer adds to the original's loss: (M,), by the file's names."""
    config = file.facts["config"]
    balance = config.get("load_balancing_loss_weight", BALANCE_WEIGHT)
    found = {"load_balancing_loss": balance * torch.stack([balancing_loss(routing) for routing in routings])}
    for name in file.group("output/"):
        if re.fullmatch(r"(router_)?z_?loss(es)?", name):
            found[name] = config.get("zloss_weight", 0) * torch.stack([router_z_loss(each) for each in routings])
    return found


#: By repository and class: the system of `from_upstream`, how to run it, and what in the file's configuration is no
#: argument of the class, but of the call.
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
    ("scott-yjyang+Vivim", "MambaLayer"): ("vivim_layer", channels_last, ()),
    ("scott-yjyang+Vivim", "Mamba"): ("vivim_mixer", sequence, ()),
    ("hustvl+Vim", "VisionMamba"): ("vim", classifier, ()),
    ("hustvl+Vim", "Mamba"): ("vim_mamba", sequence, ()),
    ("MzeroMiko+VMamba", "VSSM"): ("vmamba", stages, ()),
    ("MzeroMiko+VMamba", "SS2D"): ("vmamba_ss2d", grid_mixer, ()),
    ("MIC-DKFZ+dynamic-network-architectures", "PlainConvUNet"): ("unet", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaBot_2d"): ("umamba_bot", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaBot_3d"): ("umamba_bot", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaEnc_2d"): ("umamba_enc", plain, ()),
    ("bowang-lab+U-Mamba", "UMambaEnc_3d"): ("umamba_enc", plain, ()),
}
#: Outputs that only a system's own tests compare.
ELSEWHERE = re.compile(
    r"prefill_out|conv_state_\w+|ssm_state_\w+|steps_out|full_sequence_out|greedy|decode_logits|kept_mask"
)
#: Biases before a normalisation have a gradient of 0, of which arithmetic leaves noise: a gradient is judged by its
#: own largest element, but by no less than this share of the largest of all.
SMALLEST_GRADIENT = 1e-2
#: Share of the largest gradient that the originals' own error stays below, wherever a gradient is not noise.
LARGEST_ERROR = 1e-5
#: Share of a tensor beyond which its difference to double precision is no rounding.
LARGEST_NOISE = 0.02

#: Settings that the originals have no argument for, by what the files call them.
BESIDE = {"nframes_set_after_construction": "nframes"}


def loaded(file: Golden, group: str = "param/") -> tuple[nn.Module, Run]:
    """The network or module that the file is of, with a group of its tensors for weights, and how to run it."""
    key = (file.facts["repo"], class_of(file))
    if key not in TABLE:
        pytest.fail(f"{file.name}: no system for {file.facts['cls']} of {file.facts['repo']}; add it to TABLE")
    system, run, left_out = TABLE[key]
    given = file.facts["config"]
    config = {name: value for name, value in given.items() if name not in (*left_out, *BESIDE)}
    # A number, maybe with a remark.
    config |= {ours: int(re.findall(r"\d+", str(given[name]))[0]) for name, ours in BESIDE.items() if name in given}
    if system == "segmamba" and "nslices" in file.facts:
        config["num_slices"] = file.facts["nslices"]  # no argument of the original, where numbers stand in the code
    weights = file.group(group)
    if group != "param/":
        weights |= unused(file.group("param/"), weights)
    some = next(iter(weights.values()))
    module = from_upstream(system, config, weights).eval().to(some.device, some.dtype)
    if system != "vivim" and "param_count" in file.facts:  # whose original has parameters that nothing uses
        assert sum(parameter.numel() for parameter in module.parameters()) == file.facts["param_count"]
    return module, run


def unused(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the gradients that a file lacks because nothing depends on their parameters; not for second names."""
    named = [parameters[key] for key in gradients]
    return {
        key: torch.zeros_like(value)
        for key, value in parameters.items()
        if key not in gradients and not any(torch.equal(value, other) for other in named)
    }


def modelled(file: Golden) -> dict[str, Tensor]:
    """Outputs of the network or module that the file is of."""
    module, run = loaded(file)
    return run(module, file)


def error_of(file: Golden, key: str) -> float:
    """What float32 costs the original, relative to its largest output."""
    errors = file.facts.get("fp32_vs_fp64", {})
    known = next((errors[name] for name in (f"output/{key}", key, "output") if name in errors), None)
    return known["max_abs"] / known["ref_absmax"] if known and known["ref_absmax"] else 0.0


def outputs_of(file: Golden) -> dict[str, Tensor]:
    """What we make of a file's inputs, in the precision of its tensors."""
    with torch.no_grad():
        return modelled(file)


def gradients_of(file: Golden) -> dict[str, Tensor]:
    """Those of all parameters by our names, and of the inputs, in the precision of the file's tensors."""
    module, run = loaded(file)
    names = file.group("grad/input/")
    inputs = {name: file.tensors[f"input/{name}"].detach().clone().requires_grad_() for name in names}
    outputs = run(module, replace(file, tensors=file.tensors | {f"input/{name}": x for name, x in inputs.items()}))
    upstream = file.group("input/upstream_grad/")
    torch.autograd.backward([outputs[key] for key in upstream], list(upstream.values()))
    leaves = dict(module.named_parameters()) | {f"input {name}": x for name, x in inputs.items()}
    return {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in leaves.items()}


def check_outputs(file: Golden) -> None:
    """Compare all outputs of a file."""
    ours, expected = outputs_of(file), file.group("output64/") or file.group("output/")
    assert ours.keys() <= expected.keys()
    assert all(ELSEWHERE.fullmatch(key) for key in expected.keys() - ours.keys()), expected.keys() - ours.keys()
    sizes = {key: expected[key].abs().max().item() for key in ours}
    errors = {key: error_of(file, key) * sizes[key] for key in ours}
    compare(ours, expected, errors, sizes, lambda: outputs_of(doubled(file)))


def check_gradients(file: Golden) -> None:
    """Compare the gradients of all parameters and inputs of a file."""
    ours = gradients_of(file)
    # Gradients go by the names of their parameters, so what renames and joins weights does it to them as well.
    expected = {key: value.detach() for key, value in loaded(file, "grad/param/")[0].named_parameters()}
    expected |= {f"input {name}": value for name, value in file.group("grad/input/").items()}
    assert ours.keys() == expected.keys()
    worst, _ = file.facts.get("fp32_vs_fp64", {}).get("worst_grad", (LARGEST_ERROR, ""))
    floor = SMALLEST_GRADIENT * max(value.abs().max().item() for value in expected.values())
    sizes = {key: max(value.abs().max().item(), floor) for key, value in expected.items()}
    errors = {key: min(worst, LARGEST_ERROR) * size for key, size in sizes.items()}
    compare(ours, expected, errors, sizes, lambda: gradients_of(doubled(file)))


def doubled(file: Golden) -> Golden:
    """The same numbers in double precision."""
    tensors = {key: value.double() if value.is_floating_point() else value for key, value in file.tensors.items()}
    return replace(file, tensors=tensors)


def compare(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    errors: Mapping[str, float],
    sizes: Mapping[str, float],
    exactly: Callable[[], dict[str, Tensor]],
) -> None:
    """Hold our tensors against a file's.

    Norms over a few voxels amplify rounding without bound. A tensor that is further off than rounding usually comes to
    is computed again in double precision: it must be as near to the file's as ours in float32 is to it.

    Args:
        ours: in float32.
        theirs: by the same names.
        errors: what float32 is known to cost each.
        sizes: what each is judged beside.
        exactly: ours in double precision.
    """
    late = {}
    for key, tensor in ours.items():
        try:
            golden.assert_close(tensor, theirs[key], errors[key], sizes[key], key)
        except AssertionError as error:
            late[key] = error
    exact = exactly() if late else {}
    for key, error in late.items():
        noise = (ours[key].double() - exact[key]).abs().max().item()
        if noise > LARGEST_NOISE * sizes[key]:
            raise error
        golden.assert_close(exact[key], theirs[key], max(errors[key], noise), sizes[key], f"{key}, in double precision")


def is_network(file: Golden) -> bool:
    """Whether a file is of a module; those of the scan itself are for the tests of the kernels, with every backend."""
    return class_of(file) != "selective_scan_ref"


@pytest.mark.parametrize("path", golden.parameters(wanted=is_network))
def test_golden_outputs_and_gradients_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    check_outputs(file)
    if file.group("grad/param/"):
        check_gradients(file)


def test_folder_that_is_named_holds_files() -> None:
    if "MEDMAMBA_GOLDEN" not in os.environ:
        pytest.skip("MEDMAMBA_GOLDEN is not set")
    assert golden.paths(golden.FOLDER), f"no golden files in {golden.FOLDER}"


def test_files_are_found_in_folders_within(tmp_path: Path) -> None:
    (tmp_path / "more" / "odd").mkdir(parents=True)
    for place in ("one", "more/two", "more/odd/three"):
        (tmp_path / f"{place}.safetensors").touch()
    assert [path.stem for path in golden.paths(tmp_path)] == ["three", "two", "one"]


def test_output_that_nothing_compares_fails() -> None:
    module = from_upstream("mamba", {"d_model": 2}, MambaBlock(2).state_dict())
    facts = {"repo": "state-spaces+mamba", "cls": "mamba_ssm.Mamba", "config": {"d_model": 2}}
    tensors = {f"param/{key}": value for key, value in module.state_dict().items()}
    tensors |= {"input/hidden_states": torch.zeros(1, 3, 2), "output/out": torch.zeros(1, 3, 2)}
    check_outputs(Golden("whole", facts, tensors))
    with pytest.raises(AssertionError, match="other"):
        check_outputs(Golden("strange", facts, tensors | {"output/other": torch.zeros(1)}))


def test_file_of_an_unknown_system_is_named() -> None:
    facts = {"repo": "somebody+something", "cls": "something.nets.Other (a remark)", "config": {}}
    with pytest.raises(pytest.fail.Exception, match=r"strange: no system for .*Other .* of somebody"):
        modelled(Golden("strange", facts, {}))
