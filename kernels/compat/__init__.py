"""Existing Mamba code without CUDA: what imports `mamba_ssm` and `causal_conv1d` runs on our kernels, unchanged.

After `install`, or under ``python -m medmamba.kernels.compat script.py``, these names can be imported wherever Python
runs, and no compiler was needed: `mamba_ssm` with its operations, blocks (those of the forks of Vim, SegMamba, Vivim
and VideoMamba included), norms, language model and generation; `causal_conv1d` with its compiled half; and the compiled
modules that `mamba_ssm` and VMamba import. What is Mamba-2's alone cannot be imported, so that callers take their own
way without it.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from . import (
    _block,
    _causal_conv1d_cuda,
    _checkpoints,
    _convolution,
    _extensions,
    _generation,
    _models,
    _norms,
    _operations,
    _residual,
    _state_update,
)

__all__ = ["STANDINS", "install", "uninstall"]

#: Where processes that a program starts find the names, if it is in their path; beside them the releases that callers
#: are told. mamba_ssm's is below 2.0.4, from which on callers take Mamba-2's kernels for granted.
STANDINS = Path(__file__).parent / "standins"
#: The same for a name that programs often give to a module of their own, which comes first.
LAST = Path(__file__).parent / "standins_last"
_OPERATIONS = (
    "selective_scan_fn", "selective_scan_ref", "mamba_inner_fn", "mamba_inner_fn_no_out_proj", "mamba_inner_ref",
    "bimamba_inner_fn", "bimamba_inner_ref", "SelectiveScanFn", "MambaInnerFn", "MambaInnerFnNoOutProj",
    "BiMambaInnerFn",
)  # fmt: skip
_NORMS = ("RMSNorm", "layer_norm_fn", "rms_norm_fn", "layer_norm_ref", "rms_norm_ref", "layer_norm_linear_fn")
_CONVOLUTIONS = ("causal_conv1d_fn", "causal_conv1d_ref", "causal_conv1d_update", "causal_conv1d_update_ref")
_VARLEN = ("causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref")
_COMPILED_CONVOLUTIONS = ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update")
_GENERATION = (
    "InferenceParams", "GenerationMixin", "decode", "sample", "modify_logits_for_min_p_filtering",
    "modify_logits_for_top_k_filtering", "modify_logits_for_top_p_filtering", "modify_logit_for_repetition_penalty",
    "update_graph_cache", "GreedySearchDecoderOnlyOutput", "SampleDecoderOnlyOutput",
)  # fmt: skip
_MODELS = ("MixerModel", "MambaLMHeadModel", "create_block", "_init_weights", "MambaConfig")
#: Where pickled objects say that their class is, as upstream's say it.
_HOMES: dict[type, str] = {
    _block.Mamba: "mamba_ssm.modules.mamba_simple",
    _residual.Block: "mamba_ssm.modules.block",
    _residual.GatedMLP: "mamba_ssm.modules.mlp",
    _norms.RMSNorm: "mamba_ssm.ops.triton.layer_norm",
    _models.MambaConfig: "mamba_ssm.models.config_mamba",
    _models.MixerModel: "mamba_ssm.models.mixer_seq_simple",
    _models.MambaLMHeadModel: "mamba_ssm.models.mixer_seq_simple",
    _generation.InferenceParams: "mamba_ssm.utils.generation",
}


def _take(source: ModuleType, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _contents() -> dict[str, tuple[ModuleType | None, dict[str, Any]]]:
    """What each module that is stood in for holds, and which of ours it is written in."""
    operations, norms = _take(_operations, *_OPERATIONS), _take(_norms, *_NORMS)
    blocks = {"Mamba": _block.Mamba, "Block": _residual.Block}
    models, generation = _take(_models, *_MODELS), _take(_generation, *_GENERATION)
    checkpoints = _take(_checkpoints, "load_config_hf", "load_state_dict_hf")
    update = _take(_state_update, "selective_state_update", "selective_state_update_ref")
    convolutions = _take(_convolution, *_CONVOLUTIONS)
    inner = {**operations, **convolutions, **update}
    compiled = _take(_causal_conv1d_cuda, *_COMPILED_CONVOLUTIONS)
    by_name = _take(_causal_conv1d_cuda, *(f"{name}_function" for name in _COMPILED_CONVOLUTIONS))
    modules: dict[str, tuple[ModuleType | None, dict[str, Any]]] = {
        "mamba_ssm": (None, {**operations, **blocks, **_take(_models, "MambaLMHeadModel")}),
        "mamba_ssm.ops": (None, {}),
        "mamba_ssm.ops.selective_scan_interface": (_operations, {**operations, **convolutions}),
        "mamba_ssm.ops.triton": (None, {}),
        "mamba_ssm.ops.triton.layernorm": (_norms, norms),
        "mamba_ssm.ops.triton.layer_norm": (_norms, norms),
        "mamba_ssm.ops.triton.selective_state_update": (_state_update, update),
        "mamba_ssm.modules": (None, {}),
        "mamba_ssm.modules.mamba_simple": (_block, {**blocks, **norms, **inner}),
        "mamba_ssm.modules.block": (_residual, {"Block": _residual.Block, **norms}),
        "mamba_ssm.modules.mlp": (_residual, {"GatedMLP": _residual.GatedMLP}),
        "mamba_ssm.models": (None, {}),
        "mamba_ssm.models.config_mamba": (_models, {"MambaConfig": _models.MambaConfig}),
        "mamba_ssm.models.mixer_seq_simple": (
            _models,
            {**models, **blocks, **norms, **checkpoints, "GenerationMixin": _generation.GenerationMixin},
        ),
        "mamba_ssm.utils": (None, {}),
        "mamba_ssm.utils.generation": (_generation, generation),
        "mamba_ssm.utils.hf": (_checkpoints, checkpoints),
        "mamba_ssm.utils.torch": (_extensions, _take(_extensions, "custom_fwd", "custom_bwd")),
        "causal_conv1d": (None, convolutions),
        "causal_conv1d.causal_conv1d_interface": (
            _convolution,
            {**convolutions, **by_name, **_take(_convolution, "CausalConv1dFn")},
        ),
        "causal_conv1d.causal_conv1d_varlen": (_convolution, _take(_convolution, *_VARLEN)),
        "causal_conv1d.cpp_functions": (_causal_conv1d_cuda, by_name),
        "causal_conv1d_cuda": (_causal_conv1d_cuda, compiled),
    }
    for extension in _extensions.COMPILED:
        functions = {name: getattr(extension, name) for name in ("fwd", "bwd")}
        modules[extension.__name__] = (_extensions, functions)
    return modules


#: What stood where ours stand now; None: nothing.
_before: dict[str, ModuleType | None] = {}


def install(*, force: bool = False) -> None:
    """Make `mamba_ssm`, `causal_conv1d` and the compiled modules beside them importable, on our kernels.

    Processes that are spawned from this one import them too: what multiprocessing starts takes over the search path.

    Args:
        force: whether to stand in even for packages that are installed.

    Raises:
        RuntimeError: if one of them is installed and ``force`` is not set.
    """
    if _before:
        return
    contents = _contents()
    present = [name for name in contents if "." not in name and _is_installed(name)]
    if present and not force:
        raise RuntimeError(
            f"compat.install: {', '.join(present)} is installed here and would be hidden; uninstall it, or call "
            "install(force=True)"
        )
    if str(STANDINS) not in sys.path:
        sys.path.insert(0, str(STANDINS))
    sys.path.append(str(LAST))
    releases = {found.metadata["Name"]: found.version for found in distributions(path=[str(STANDINS)])}
    for name, (source, values) in contents.items():
        before = sys.modules.get(name)
        _before[name] = None if _is_ours(before) else before
        module = ModuleType(name, f"Stands in for {name}, on medmamba's kernels.")
        origin = __file__ if source is None else source.__file__
        module.__spec__ = ModuleSpec(name, None, origin=origin, is_package=True)
        module.__file__, module.__path__ = origin, []
        vars(module).update(values)
        if name in releases:
            vars(module)["__version__"] = releases[name]
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    for kind, home in _HOMES.items():
        _own_homes[kind], kind.__module__ = kind.__module__, home


#: Where the classes say that they are while nothing is stood in for.
_own_homes: dict[type, str] = {}


def uninstall() -> None:
    """Undo `install`."""
    for name, module in _before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module
    _before.clear()
    for kind, home in _own_homes.items():
        kind.__module__ = home
    _own_homes.clear()
    for folder in (STANDINS, LAST):
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _is_ours(module: ModuleType | None) -> bool:
    """Whether a module is one of those beside which processes find the names, being imported."""
    return module is not None and str(getattr(module, "__file__", "")).startswith(str(STANDINS))


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return not _is_ours(sys.modules[name])
    spec = importlib.util.find_spec(name)
    return spec is not None and not str(spec.origin).startswith(str(STANDINS))
