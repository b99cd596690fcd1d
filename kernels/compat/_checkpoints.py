"""`mamba_ssm.utils.hf`: the configuration and weights of a published model, from a folder on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG, WEIGHTS = "config.json", "pytorch_model.bin"
#: Files that weights may lie in, in the order of preference; an index names the parts.
_FILES = ("model.safetensors", "model.safetensors.index.json", WEIGHTS, f"{WEIGHTS}.index.json")


def _folder(model_name: str | Path) -> Path:
    folder = Path(model_name)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"from_pretrained: there is no folder {folder}, and nothing is fetched from the net; download the model, "
            f"say with 'hf download {model_name} --local-dir DIR', and name that folder"
        )
    return folder


def load_config_hf(model_name: str | Path) -> dict[str, Any]:
    """The content of a model folder's config.json.

    Raises:
        FileNotFoundError: if there is no such folder or file.
    """
    content: dict[str, Any] = json.loads((_folder(model_name) / CONFIG).read_text(encoding="utf-8"))
    return content


def load_state_dict_hf(
    model_name: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The weights of a model folder, safetensors or pytorch_model.bin, in parts or not; pickled code is not run.

    Args:
        model_name: the folder.
        device: where to load them; None: the CPU.
        dtype: of the weights; None: as they are stored.

    Raises:
        FileNotFoundError: if there is no such folder, or no file of weights in it.
    """
    folder = _folder(model_name)
    found = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"from_pretrained: {folder} must hold one of {', '.join(_FILES)}, but holds none")
    parts = [found]
    if found.suffix == ".json":
        index = json.loads(found.read_text(encoding="utf-8"))["weight_map"]
        parts = [folder / name for name in sorted(set(index.values()))]
    weights: dict[str, Tensor] = {}
    for part in parts:
        if part.suffix == ".safetensors":
            from safetensors.torch import load_file  # late: nothing else of the kernels needs it

            weights |= load_file(part)
        else:
            weights |= torch.load(part, map_location="cpu", weights_only=True)
    return {name: tensor.to(device=device, dtype=dtype) for name, tensor in weights.items()}
