"""Golden files where those of the originals do not reach: odd maps, other norms, ranks, depths and numbers of blocks.

``python -m tests.networks.reference.files FOLDER`` writes them, with the structure of the originals' files; then
``MEDMAMBA_GOLDEN=FOLDER pytest tests/networks/test_golden_all.py tests/kernels`` compares the product with them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.networks.reference import images, texts, volumes
from tests.networks.reference.scan import mamba, ss2d, three_ways
from tests.networks.reference.weights import Weights

#: Runs the original in slow motion: weights and inputs to outputs.
Run = Callable[[Weights, Mapping[str, Tensor]], dict[str, Tensor]]
#: A gradient is judged beside the largest of all where it is less than this share of it.
SMALLEST_GRADIENT = 1e-2


@dataclass(frozen=True)
class Case:
    """One file: which original, with which arguments, on what.

    Args:
        name: of the file.
        repo: of the original.
        cls: its class there.
        config: arguments of its constructor.
        inputs: shapes of numbers, or for token numbers (largest + 1, *shape).
        run: see `Run`.
        facts: what the file's header says beside.
    """

    name: str
    repo: str
    cls: str
    config: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    run: Run
    facts: dict[str, Any] = field(default_factory=dict)


def one(function: Callable[..., Any], config: dict[str, Any], *others: Any) -> Run:
    """A run whose only input goes first and whose output may be bare."""

    def run(w: Weights, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        [x] = inputs.values()
        found = function(w, x, config, *others)
        return found if isinstance(found, dict) else {"out": found}

    return run


VIM, VMAMBA = ("hustvl+Vim", "vim.models_mamba.VisionMamba"), ("MzeroMiko+VMamba", "vmamba.VSSM (root vmamba.py)")
VIM_BLOCK = ("hustvl+Vim", "mamba-1p1p1 mamba_ssm.modules.mamba_simple.Mamba")
SEGMAMBA, UMAMBA = "ge-xing+SegMamba", "bowang-lab+U-Mamba"
FORK = "mamba/mamba_ssm.modules.mamba_simple.Mamba"
MOE = "llm-random+llm-random"
IMAGE: dict[str, Any] = {
    **{"patch_size": 4, "stride": 4, "embed_dim": 12, "depth": 2, "num_classes": 5, "channels": 2, "d_state": 3},
    **{"rms_norm": True, "bimamba_type": "v2", "if_abs_pos_embed": True, "if_divide_out": True},
    **{"if_cls_token": True, "use_middle_cls_token": True},
}
MAPS: dict[str, Any] = {
    **{"dims": 4, "depths": [1, 2, 1], "in_chans": 2, "num_classes": 5, "ssm_d_state": 2},
    **{"norm_layer": "ln", "patchembed_version": "v1", "forward_type": "v0", "mlp_ratio": 0.0},
}
LANGUAGE: dict[str, Any] = {"d_model": 12, "n_layer": 2, "vocab_size": 13, "rms_norm": True}
TOWER: dict[str, Any] = {
    **{"vocab": 11, "dmodel": 8, "n_experts": 3, "expert_size": 10, "n_blocks": 2, "mamba_expand": 2, "max_length": 9},
    **{"capacity_factor": 3, "load_balancing_loss_weight": 0.01, "zloss_weight": 0.001, "norm": "RMSNorm 1e-5"},
}


def vim(name: str, size: tuple[int, int], **options: Any) -> Case:
    config = {**IMAGE, "img_size": list(size), **options}
    return Case(f"vim_{name}", *VIM, config, {"x": (2, 2, *size)}, one(images.vim, config))


def vim_block(name: str, length: int, **options: Any) -> Case:
    config = {"d_model": 6, "d_state": 3, **options}
    return Case(f"bimamba_{name}", *VIM_BLOCK, config, {"hidden_states": (2, length, 6)}, one(images.vim_mixer, config))


def vmamba(name: str, size: tuple[int, int], **options: Any) -> Case:
    config = {**MAPS, **options}
    return Case(f"vmamba_{name}", *VMAMBA, config, {"x": (2, 2, *size)}, one(images.vmamba, config))


def scan_of_maps(name: str, size: tuple[int, int], **options: Any) -> Case:
    config = {"d_model": 6, "d_state": 3, "ssm_ratio": 1.5, **options}
    return Case(f"ss2d_{name}", "MzeroMiko+VMamba", "vmamba.SS2D", config, {"x": (2, *size, 6)}, one(ss2d, config))


def umamba(kind: str, name: str, patch: tuple[int, ...], strides: list[list[int]], **options: Any) -> Case:
    dims, stages = len(patch), len(strides)
    config: dict[str, Any] = {
        **{"patch": list(patch), "strides": strides, "kernels": [[3] * dims] * stages, "in_ch": 2, "ncls": 3},
        **{"features_per_stage": [3, 4, 5, 6, 6][:stages], "deep_supervision": True, "conv_bias": True},
        **{"norm": "InstanceNorm eps 1e-5 affine", "nonlin": "LeakyReLU 0.01", **options},
    }
    placement = "bottleneck" if kind == "Bot" else "encoder"
    cls = f"nnunetv2.nets.UMamba{kind}_{dims}d via get_umamba_{kind.lower()}_{dims}d_from_plans"
    file = f"umamba_{kind.lower()}{dims}d_{name}"
    return Case(file, UMAMBA, cls, config, {"x": (2, 2, *patch)}, one(volumes.umamba, config, placement))


def segmamba(name: str, size: tuple[int, int, int], slices: list[int], **options: Any) -> Case:
    config = {"in_chans": 2, "out_chans": 3, **options}
    run = one(volumes.segmamba, config, slices)
    shape = {"x_in": (1, 2, *size)}
    return Case(
        f"segmamba_{name}", SEGMAMBA, "model_segmamba.segmamba.SegMamba", config, shape, run, {"nslices": slices}
    )


def fork(name: str, repo: str, length: int, pieces: dict[str, int], scale: float, **options: Any) -> Case:
    """The Mamba block for three orders of SegMamba and of Vivim."""
    [count] = pieces.values()
    config = {"d_model": 6, "d_state": 3, "bimamba_type": "v3", **pieces, **options}

    def run(w: Weights, x: Tensor, options: Mapping[str, Any]) -> Tensor:
        return mamba(w, x, options, three_ways(length, count), scale)

    return Case(f"bimamba_{name}", repo, FORK, config, {"hidden_states": (2, length, 6)}, one(run, config))


def text(name: str, length: int, **options: Any) -> Case:
    config = {**LANGUAGE, **options}
    cls = "mamba_ssm.models.mixer_seq_simple.MambaLMHeadModel"
    shape = {"input_ids": (config["vocab_size"], 2, length)}
    return Case(f"mamba_lm_{name}", "state-spaces+mamba", cls, config, shape, one(texts.mamba_lm, config))


def block(name: str, length: int, **options: Any) -> Case:
    config = {"d_model": 6, "d_state": 3, **options}
    cls = "mamba_ssm.modules.mamba_simple.Mamba"
    shape = {"hidden_states": (2, length, 6)}
    return Case(f"mamba_block_{name}", "state-spaces+mamba", cls, config, shape, one(mamba, config))


def stack(name: str, length: int, **options: Any) -> Case:
    config = {"dim": 6, "depth": 3, "d_state": 3, **options}
    run = one(texts.mamba_stack, config)
    return Case(f"mambabyte_{name}", "kyegomez+MambaByte", "mambabyte.model.Mamba", config, {"x": (2, length, 6)}, run)


def tower(name: str, **options: Any) -> Case:
    config = {**TOWER, **options}
    cls = "lizrd.core.llm.LLM(TransformerTower block_modules=[mamba, feedforward=token_choice])"
    return Case(f"moe_mamba_{name}", MOE, cls, config, {"ids": (11, 2, 7)}, one(texts.moe_lm, config))


def switch(name: str, **options: Any) -> Case:
    config = {"dmodel": 6, "n_experts": 3, "expert_size": 8, "capacity_factor": 3.0, **options}
    cls = "research.conditional.moe_layers.token_choice.TokenChoiceFF"
    return Case(f"moe_switch_{name}", MOE, cls, config, {"x": (2, 5, 6)}, one(texts.switch, config))


def layer_of_segmamba(name: str, size: tuple[int, int, int], slices: int, **options: Any) -> Case:
    config = {"dim": 4, "num_slices": slices, **options}
    run = one(volumes.segmamba_layer, config, slices)
    cls = "model_segmamba.segmamba.MambaLayer"
    return Case(f"segmamba_layer_{name}", SEGMAMBA, cls, config, {"x": (2, 4, *size)}, run)


def layer_of_vivim(name: str, size: tuple[int, int, int], frames: int, **options: Any) -> Case:
    config = {"dim": 4, "nframes_set_after_construction": frames, **options}
    run = one(volumes.vivim_layer, config, frames)
    cls, shape = "modeling.vivim.MambaLayer", {"x": (2, 4, *size)}
    return Case(f"vivim_layer_{name}", "scott-yjyang+Vivim", cls, config, shape, run)


def strides(*rows: int, flat: tuple[int, ...] = (), dims: int = 3) -> list[list[int]]:
    """Of each stage, the same along all axes; 1 along the first axis in the stages that are named flat."""
    return [[1 if stage in flat else step, *[step] * (dims - 1)] for stage, step in enumerate(rows)]


CASES = (
    vim("odd", (12, 20)),
    vim("odd_overlapping", (10, 12), stride=2),
    vim("one_patch", (4, 4)),
    vim("layernorm", (12, 8), rms_norm=False, norm_epsilon=1e-3, fused_add_norm=False, residual_in_fp32=False),
    vim("first_token", (8, 12), use_middle_cls_token=False),
    vim("double_tokens", (12, 12), use_double_cls_token=True),
    vim("mean", (12, 4), if_cls_token=False, final_pool_type="mean"),
    vim("last", (4, 12), if_cls_token=False, final_pool_type="none", if_abs_pos_embed=False),
    vim("max", (12, 8), if_cls_token=False, final_pool_type="max", if_divide_out=False),
    vim("all", (12, 12), if_cls_token=False, final_pool_type="all", bimamba_type="v1"),
    vim("forwards", (8, 12), bimamba_type="none", init_layer_scale=0.3),
    vim("other_blocks", (12, 12), ssm_cfg={"d_conv": 3, "expand": 1, "dt_rank": 3, "conv_bias": False, "bias": True}),
    vim_block("v2_layerscale", 7, bimamba_type="v2", if_divide_out=True, init_layer_scale=0.1),
    vim_block("v1_layerscale", 5, bimamba_type="v1", init_layer_scale=2.0),
    vim_block("v2_rank", 1, bimamba_type="v2", dt_rank=4, d_conv=2, conv_bias=False, bias=True),
    fork("v3_segmamba_rank", SEGMAMBA, 15, {"nslices": 5}, 1.0, dt_rank=2, d_conv=3),
    fork("v3_vivim_rank", "scott-yjyang+Vivim", 21, {"nframes": 7}, 1 / 3, dt_rank=3, expand=3),
    vmamba("v1_odd", (28, 20), downsample_version="v1"),
    vmamba("v1_one_token", (4, 4), downsample_version="v1", depths=[1, 1], dims=[4, 6]),
    vmamba("v1_row", (4, 20), downsample_version="v1", depths=[1, 1, 1, 1, 1], dims=[4, 5, 6, 7, 8]),
    vmamba("v2_odd", (28, 20), downsample_version="v2", forward_type="v05", ssm_dt_rank=3, mlp_ratio=1.5),
    vmamba("v3_odd", (27, 21), downsample_version="v3", patchembed_version="v2", norm_layer="ln2d",
           forward_type="v05_noz", ssm_ratio=1.0, ssm_conv_bias=False, mlp_ratio=2.0),
    vmamba("v3_rank", (9, 13), downsample_version="v3", patchembed_version="v2", forward_type="v04_noz", ssm_dt_rank=2,
           ssm_conv=5),
    vmamba("v3_one_pixel", (1, 1), downsample_version="v3", patchembed_version="v2", forward_type="v05_noz",
           mlp_ratio=4.0),
    vmamba("without_scans", (16, 8), downsample_version="v1", ssm_ratio=0.0, mlp_ratio=4.0),
    scan_of_maps("v0_rank", (3, 5), forward_type="v0", dt_rank=4),
    scan_of_maps("v05_rank", (1, 7), forward_type="v05", dt_rank=2, d_conv=5, conv_bias=False, bias=True),
    scan_of_maps("v05_noz_point", (1, 1), forward_type="v05_noz"),
    umamba("Bot", "blocks", (6, 12, 20), strides(1, 2, 2, flat=(1,)), ne=[1, 3, 4], nd=[2, 3]),
    umamba("Bot", "blocks", (12, 20), strides(1, 2, 2, dims=2), ne=[3, 2, 6], nd=[1, 4], deep_supervision=False),
    umamba("Bot", "two_stages", (3, 4, 10), strides(1, 2, flat=(1,)), ne=[4, 1], nd=[3]),
    umamba("Enc", "blocks", (3, 12, 20), strides(1, 2, 2, flat=(1, 2)), ne=[1, 3, 4], nd=[6, 2]),
    umamba("Enc", "blocks", (8, 24), strides(1, 2, 2, 2, dims=2), ne=[1, 3, 4, 6], nd=[2, 5, 3]),
    umamba("Enc", "row", (12, 4), strides(1, 2, 2, dims=2), ne=[2, 1, 1], nd=[1, 2],
           kernels=[[3, 3], [3, 1], [1, 3]]),
    segmamba("three_stages", (24, 8, 8), [3, 2, 3], feat_size=[3, 4, 5], hidden_size=6, depths=[1, 2, 0]),
    segmamba("two_stages", (12, 4, 20), [5, 3], feat_size=[4, 3], hidden_size=4, depths=[2, 1]),
    layer_of_segmamba("odd", (3, 5, 1), 3, d_state=3, d_conv=3, expand=3),
    layer_of_vivim("odd", (3, 1, 5), 3, d_state=3, mlp_ratio=2),
    layer_of_vivim("other_frames", (2, 5, 3), 5, d_state=2),
    block("odd", 1, dt_rank=2, d_conv=3, conv_bias=False, bias=True, expand=1.5),
    text("odd", 7, rms_norm=False, tie_embeddings=False, pad_vocab_size_multiple=5,
         ssm_cfg={"d_state": 3, "d_conv": 3, "dt_rank": 4}),
    text("one_token", 1, n_layer=3),
    stack("odd", 5, dt_rank=3, d_conv=3, expand_factor=3, conv_bias=False, bias=True),
    tower("rmsnorm"),
    tower("layernorm", norm="LayerNorm 1e-3", zloss_weight=0.0, load_balancing_loss_weight=0.1, n_blocks=1),
    switch("zloss", zloss_weight=0.01, load_balancing_loss_weight=0.02),
)  # fmt: skip


def write(case: Case, folder: Path) -> Path:
    """Write a case's file: outputs and gradients in double precision, and what float32 costs them."""
    generator = torch.Generator().manual_seed(sum(map(ord, case.name)))
    inputs: dict[str, Tensor] = {}
    for name, shape in case.inputs.items():
        if name in ("ids", "input_ids"):
            inputs[name] = torch.randint(shape[0], shape[1:], generator=generator)
        else:
            inputs[name] = torch.randn(shape, generator=generator).double()
    w = Weights(seed=len(case.name))
    outputs = case.run(w, inputs)  # draws the weights
    floats = [name for name, output in outputs.items() if output.is_floating_point() and not name.startswith("gate_")]
    pulls = {
        f"input/upstream_grad/{name}": torch.randn(outputs[name].shape, generator=generator)
        for name in floats
        if name not in ("features", *(key for key in outputs if key.startswith("layer")))
    }
    exact, rough = (_computed(case, w.tensors, inputs, pulls, kind) for kind in (torch.float64, torch.float32))
    tensors = {f"param/{name}": value.float() for name, value in w.tensors.items()}
    tensors |= {
        f"input/{name}": value.float() if value.is_floating_point() else value for name, value in inputs.items()
    }
    tensors |= {key: value.float() if value.is_floating_point() else value for key, value in exact.items()}
    tensors |= pulls
    facts = {
        **{"name": case.name, "repo": case.repo, "cls": case.cls, "config": case.config, "notes": __doc__},
        **{"param_count": sum(value.numel() for value in w.tensors.values()), **case.facts},
        "fp32_vs_fp64": _errors(exact, rough),
    }
    path = folder / f"{case.name}.safetensors"
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, path, {"json": json.dumps(facts)})
    return path


def _computed(
    case: Case,
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    pulls: Mapping[str, Tensor],
    kind: torch.dtype,
) -> dict[str, Tensor]:
    """Outputs and gradients in some precision, by a file's keys."""
    leaves = {f"param/{name}": value.detach().to(kind).requires_grad_() for name, value in weights.items()}
    given = {}
    for name, value in inputs.items():
        given[name] = value.detach().to(kind).requires_grad_() if value.is_floating_point() else value
        if value.is_floating_point():
            leaves[f"input/{name}"] = given[name]
    w = Weights({key.removeprefix("param/"): leaf for key, leaf in leaves.items() if key.startswith("param/")})
    outputs = case.run(w, given)
    pulled = [outputs[key.removeprefix("input/upstream_grad/")] for key in pulls]
    pairs = [
        (output, pull.to(kind)) for output, pull in zip(pulled, pulls.values(), strict=True) if output.requires_grad
    ]
    torch.autograd.backward([output for output, _ in pairs], [pull for _, pull in pairs])
    found = {f"output/{name}": output.detach() for name, output in outputs.items()}
    return found | {
        f"grad/{key}": torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in leaves.items()
    }


def _errors(exact: Mapping[str, Tensor], rough: Mapping[str, Tensor]) -> dict[str, Any]:
    """Differences of the two runs: of each output, and the worst of the gradients relative to its size."""
    errors: dict[str, Any] = {}
    gradients = {key: value for key, value in exact.items() if key.startswith("grad/")}
    floor = SMALLEST_GRADIENT * max(float(value.abs().max()) for value in gradients.values())
    worst = (0.0, "")
    for key, value in exact.items():
        if not value.is_floating_point():
            continue
        off, largest = float((rough[key].double() - value).abs().max()), float(value.abs().max())
        if key in gradients:
            worst = max(worst, (off / max(largest, floor), key))
        else:
            errors[key] = {"max_abs": off, "ref_absmax": largest}
    return errors | {"worst_grad": list(worst)}


def write_all(folder: Path) -> list[Path]:
    """Write the files of all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write(case, folder) for case in CASES]


if __name__ == "__main__":
    for written in write_all(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
