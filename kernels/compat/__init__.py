"""Existing Mamba code without CUDA: what imports `mamba_ssm` and `causal_conv1d` runs on our kernels, unchanged.

After `install`, or under ``python -m medmamba.kernels.compat script.py``, these names can be imported wherever Python
runs, and no compiler was needed: `mamba_ssm` with its operations, blocks (those of the forks of Vim, SegMamba and Vivim
included), norms and language model; `causal_conv1d`; and the compiled modules that VMamba imports.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import _block, _convolution, _extensions, _models, _norms, _operations

__all__ = ["install", "uninstall"]

#: What code asks for that wants to know which release it has.
VERSION = "2.2.2"
_OPERATIONS = (
    "selective_scan_fn", "selective_scan_ref", "mamba_inner_fn", "mamba_inner_fn_no_out_proj", "mamba_inner_ref",
    "bimamba_inner_fn", "bimamba_inner_ref",
)  # fmt: skip
_NORMS = ("RMSNorm", "layer_norm_fn", "rms_norm_fn", "layer_norm_ref", "rms_norm_ref")
_CONVOLUTIONS = ("causal_conv1d_fn", "causal_conv1d_ref", "causal_conv1d_update", "causal_conv1d_update_ref")


def _take(source: ModuleType, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _contents() -> dict[str, dict[str, Any]]:
    """What each module that is stood in for holds."""
    operations, norms = _take(_operations, *_OPERATIONS), _take(_norms, *_NORMS)
    blocks, models = _take(_block, "Mamba", "Block"), _take(_models, "MixerModel", "MambaLMHeadModel", "create_block")
    update = {
        "selective_state_update": _operations.selective_state_update,
        "selective_state_update_ref": _operations.selective_state_update,
    }
    convolutions = _take(_convolution, *_CONVOLUTIONS)
    modules = {
        "mamba_ssm": {**operations, **blocks, **models},
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.selective_scan_interface": operations,
        "mamba_ssm.ops.triton": {},
        "mamba_ssm.ops.triton.layernorm": norms,
        "mamba_ssm.ops.triton.layer_norm": norms,
        "mamba_ssm.ops.triton.selective_state_update": update,
        "mamba_ssm.modules": {},
        "mamba_ssm.modules.mamba_simple": {**blocks, **norms},
        "mamba_ssm.modules.block": {"Block": _block.Block},
        "mamba_ssm.models": {},
        "mamba_ssm.models.config_mamba": {"MambaConfig": _models.MambaConfig},
        "mamba_ssm.models.mixer_seq_simple": {**models, **blocks, "MambaConfig": _models.MambaConfig},
        "mamba_ssm.utils": {},
        "mamba_ssm.utils.generation": {"InferenceParams": _models.InferenceParams},
        "causal_conv1d": convolutions,
        "causal_conv1d.causal_conv1d_interface": convolutions,
    }
    for compiled in _extensions.COMPILED:
        modules[compiled.__name__] = {
            name: getattr(compiled, name) for name in ("fwd", "bwd") if hasattr(compiled, name)
        }
    return modules


#: What stood where ours stand now; None: nothing.
_before: dict[str, ModuleType | None] = {}


def install(*, force: bool = False) -> None:
    """Make `mamba_ssm`, `causal_conv1d` and VMamba's compiled modules importable, on our kernels.

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
    for name, values in contents.items():
        _before[name] = sys.modules.get(name)
        module = ModuleType(name, f"Stands in for {name}, on medmamba's kernels.")
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__version__ = VERSION  # type: ignore[attr-defined]  # modules may have any
        vars(module).update(values)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def uninstall() -> None:
    """Undo `install`."""
    for name, module in _before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module
    _before.clear()


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None
