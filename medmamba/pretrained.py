"""Weights trained elsewhere: from a file to a network of ours.

A checkpoint is a state dict inside whatever its training code keeps beside it. What is imported is a pair of files: the
weights as safetensors, by their authors' names, and beside them a JSON file with what `from_upstream` needs to know::

    vim_tiny.safetensors
    vim_tiny.json               {"system": "vim", "config": {...}, "source": "vim_t.pth"}
"""

from __future__ import annotations

import _codecs
import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import medmamba
from medmamba.networks import from_upstream
from medmamba.networks._upstream import SYSTEMS
from medmamba.plans._json import from_json, read_json, to_json, write_json

#: Where training code keeps the state dict, most telling first.
ENTRIES = ("network_weights", "state_dict", "model_state_dict", "model", "net", "module", "model_ema")
#: What wrappers put before every key: parallel training, compilation, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
#: Harmless things that checkpoints hold beside tensors and PyTorch does not know to be so: numbers of NumPy, which
#: nnU-Net logs, by their names before and since NumPy 2; and arguments of a command line.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]  # pickles name it
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]  # pickles name it
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    _codecs.encode,
    argparse.Namespace,
]


class CheckpointError(ValueError):
    """A file is no checkpoint that can, or should, be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What belongs to a file of imported weights.

    Args:
        system: one that `from_upstream` knows.
        config: arguments of the upstream constructor.
        source: name of the file that the weights came from.
    """

    system: str
    config: dict[str, Any]
    source: str


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Any:
    """What a ``.safetensors`` file, or any file that PyTorch wrote, holds.

    Args:
        path: of the file.
        trust_pickle: read it even if its objects can run programs, which PyTorch's files may hold.

    Returns:
        Tensors by their names, or whatever was saved, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is no checkpoint, is damaged, or holds objects that must be trusted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file, or is damaged ({error}); fetch it again") from error
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError(f"{path} is no checkpoint of PyTorch, or is damaged; fetch it again") from error
        raise CheckpointError(
            f"{path} holds more than weights ({found[1]}), and to read such objects is to run whatever program they "
            "bring along; if you trust where the file is from, read it with --trust-pickle (trust_pickle=True)"
        ) from error
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} holds objects of the package {error.name}, which is not installed; install it, or save the state "
            "dict alone where it is"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is no checkpoint of PyTorch, or is damaged ({error}); fetch it again") from error


def find_weights(content: Any, where: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, without what wrappers put before its names.

    Args:
        content: what `read_checkpoint` gave.
        where: the file, for errors.

    Raises:
        CheckpointError: if there is none, naming what there is.
    """
    place = content
    while True:
        if isinstance(place, nn.Module):
            place = place.state_dict()
        if not isinstance(place, Mapping):
            raise CheckpointError(f"{where} holds no state dict but a {type(place).__name__}")
        if place and all(isinstance(value, Tensor) for value in place.values()):
            break
        entry = next((name for name in ENTRIES if isinstance(place.get(name), (Mapping, nn.Module))), None)
        if entry is None:
            raise CheckpointError(
                f"{where} holds no state dict in any of {', '.join(ENTRIES)}; it has "
                f"{', '.join(str(name) for name in list(place)[:8]) or 'nothing'}"
            )
        place = place[entry]
    tensors = dict(place)
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def system_of(family: str, tensors: Mapping[str, Tensor]) -> str:
    """Which of a family of networks the weights are of.

    Args:
        family: ``umamba``, ``mamba``, ``mambamorph``, or a system of `from_upstream`.
        tensors: a state dict.

    Raises:
        ValueError: if there is no such family, naming those there are.
    """
    if family == "umamba":
        return "umamba_enc" if any(key.startswith("encoder.mamba_layers.") for key in tensors) else "umamba_bot"
    if family == "mamba":
        return "mamba_lm" if any(key.startswith("backbone.") for key in tensors) else "mamba"
    if family == "mambamorph":
        return "mambamorph_feat" if any(key.startswith("feature_extractor.") for key in tensors) else "mambamorph"
    if family not in SYSTEMS:
        raise ValueError(f"no weights of {family!r} are known; choose one of umamba, {', '.join(SYSTEMS)}")
    return family


def import_weights(
    family: str,
    checkpoint: Path,
    output: Path,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
    trust_pickle: bool = False,
) -> nn.Module:
    """Check published weights by loading them, and write them as safetensors with a description beside.

    Args:
        family: see `system_of`.
        checkpoint: the authors' file.
        output: a ``.safetensors`` file; the description gets the same name with ``.json``.
        config: arguments of the upstream constructor, see `medmamba.networks.from_upstream`.
        overwrite: replace files that are there.
        trust_pickle: see `read_checkpoint`.

    Returns:
        The network.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        FileExistsError: if output is there.
        FileNotFoundError: if the checkpoint is not.
        ValueError: if output has another suffix, or there is no such family.
        UpstreamError: if weights and configuration do not belong together.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"imported weights are safetensors, got {output}; end the name in .safetensors")
    described = output.with_suffix(".json")
    for path in (output, described):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is already there; choose another output, or replace it with --overwrite")
    tensors = find_weights(read_checkpoint(checkpoint, trust_pickle=trust_pickle), checkpoint)
    system = system_of(family, tensors)
    network = from_upstream(system, config, tensors)
    output.parent.mkdir(parents=True, exist_ok=True)
    description = Description(system=system, config=dict(config), source=checkpoint.name)
    _write(tensors, output, {"system": system, "medmamba": medmamba.__version__})
    write_json(to_json(description), described)
    return network


def load(path: Path) -> nn.Module:
    """The network of imported weights.

    Args:
        path: of the ``.safetensors`` file; its description is beside it.

    Raises:
        FileNotFoundError: if one of the two is missing.
        ValueError: if they are damaged or do not belong together.
    """
    described = path.with_suffix(".json")
    description = from_json(Description, read_json(described), str(described))
    return from_upstream(description.system, description.config, read_checkpoint(path))


def _write(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Copies, because tensors may share memory, which the format does not allow.
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        save_file(copies, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
