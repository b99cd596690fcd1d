"""Weights on disk: tensors in safetensors files, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medmamba.errors import DataError
from medmamba.files import replacing


class WeightsError(DataError):
    """A file of weights is damaged, or belongs to another network."""


def write_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str], *, mode_like: Path | None = None
) -> None:
    """Write a safetensors file whole or not at all.

    Args:
        tensors: contiguous, on the CPU, none sharing memory with another.
        path: of the file.
        metadata: texts to go with them.
        mode_like: a file whose permissions to copy; safetensors keeps its own from everybody else.

    Raises:
        OSError: if the disk is full or does not allow it.
    """
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            # Its errors do not say which of the system's they are but in their text.
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        if mode_like is not None:
            shutil.copymode(mode_like, temporary)


def weights_digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits that change with any weight, wherever and in whatever file the weights are kept."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts of a file.

    Raises:
        WeightsError: if it is damaged, with what to do then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}); {remedy}") from error


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_network(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors into a network.

    Raises:
        WeightsError: if they are another network's, naming the file they are from.
    """
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not fit the network of its plan: missing {missing[:5]}, unexpected {unexpected[:5]}; "
            "was it written by another version?"
        )
