"""Weights trained elsewhere: from a file to a network of ours.

A checkpoint is a state dict inside whatever its training code keeps beside it. What is imported is a pair of files: the
weights as safetensors, by their authors' names, and beside them a JSON file with what `from_upstream` needs to know::

    vim_tiny.safetensors
    vim_tiny.json               {"system": "vim", "config": {...}, "source": "vim_t.pth"}
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import medmamba
from medmamba.errors import DataError, UsageError
from medmamba.exchange.state_dicts import check_family, find_segformer, find_weights, looks_like
from medmamba.exchange.weight_files import STANDARD, CheckpointError, files_of, read_checkpoint
from medmamba.files import OutputError
from medmamba.networks.published import FAMILIES, SYSTEMS, UpstreamError, from_upstream, says
from medmamba.networks.published.vivim import load_segformer
from medmamba.networks.vivim import Vivim
from medmamba.records import from_json, read_json, to_json, write_json
from medmamba.training.weights import write_tensors

log = logging.getLogger(__name__)


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


def system_of(family: str, tensors: Mapping[str, Tensor]) -> str:
    """Which of a family of networks the weights are of.

    Args:
        family: ``umamba``, ``mamba``, ``mambamorph``, or a system of `from_upstream`.
        tensors: a state dict.

    Raises:
        UsageError: if there is no such family, naming those there are.
    """
    check_family(family)
    return FAMILIES[family].system_of(tensors) if family in FAMILIES else family


def import_weights(
    family: str,
    checkpoint: Path,
    output: Path,
    config: Mapping[str, Any] | Path | None = None,
    *,
    entry: str | None = None,
    overwrite: bool = False,
    trust_pickle: bool = False,
) -> nn.Module:
    """Check published weights by loading them, and write them as safetensors with a description beside.

    Args:
        family: see `system_of`.
        checkpoint: the authors' file, an index of files, or a folder that has one of these.
        output: a ``.safetensors`` file; the description gets the same name with ``.json``.
        config: arguments of the upstream constructor, see `medmamba.networks.from_upstream`, or a JSON file of them;
            None: ``config.json`` in the folder, if there is one. What it lacks, and the weights tell by their shapes,
            is taken from the weights and logged.
        entry: see `medmamba.exchange.state_dicts.find_weights`.
        overwrite: replace files that are there.
        trust_pickle: see `medmamba.exchange.weight_files.read_checkpoint`.

    Returns:
        The network.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or holds no such weights or several.
        OutputError: if output is there, or is one of the files to read.
        FileNotFoundError: if the checkpoint is not.
        UsageError: if output has another suffix, or there is no such family.
        DataError: if the configuration is no JSON object.
        UpstreamError: if weights and configuration do not belong together.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"imported weights are safetensors, got {output}; end the name in .safetensors")
    described = output.with_suffix(".json")
    check_family(family)
    config_path = config if isinstance(config, Path) else _config_beside(checkpoint) if config is None else None
    sources = {path.resolve() for path in (*files_of(checkpoint), *([config_path] if config_path else []))}
    for path in (output, described):
        if path.resolve() in sources:
            raise OutputError(f"{path} is read for this import and must not be written over; choose another output")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} is already there; choose another output, or replace it with --overwrite")
    arguments = _arguments(config_path) if config_path else dict(config or {})  # type: ignore[arg-type]  # no path
    tensors = find_weights(read_checkpoint(checkpoint, trust_pickle=trust_pickle), checkpoint, family, entry=entry)
    _check_numbers(tensors, checkpoint)
    system = system_of(family, tensors)
    place = f"{checkpoint} with {config_path}" if config_path else str(checkpoint)
    network, arguments = _build(system, arguments, tensors, place)
    output.parent.mkdir(parents=True, exist_ok=True)
    description = Description(system=system, config=arguments, source=checkpoint.name)
    # Copies, because tensors may share memory, which the format does not allow.
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_tensors(copies, output, {"system": system, "medmamba": medmamba.__version__})
    write_json(to_json(description), described)
    return network


def _config_beside(checkpoint: Path) -> Path | None:
    """The configuration of a folder, or of a file by a name that says it is of such a folder."""
    if checkpoint.is_file() and checkpoint.name not in STANDARD:
        return None
    path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.json"
    if not path.is_file():
        return None
    log.info("configuration from %s", path)
    return path


def _arguments(path: Path) -> dict[str, Any]:
    arguments = read_json(path)
    if not isinstance(arguments, dict):
        raise DataError(f'{path} must hold an object such as {{"embed_dim": 192}}, got {type(arguments).__name__}')
    return arguments


def _check_numbers(tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Refuse what stands for weights only, and say so if weights are no numbers, as after a training that went astray.

    Raises:
        CheckpointError: if weights are empty, or were rounded to whole numbers.
    """
    if empty := [key for key, tensor in tensors.items() if not tensor.numel()]:
        raise CheckpointError(
            f"{checkpoint} holds {len(empty)} empty tensors, such as {empty[0]}: the weights are elsewhere, as with "
            "DeepSpeed's stage 3; put them together with its zero_to_fp32.py, and give that file"
        )
    whole = [key for key, tensor in tensors.items() if tensor.ndim and not tensor.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{checkpoint} holds weights rounded to whole numbers, such as {whole[0]} ({tensors[whole[0]].dtype}); "
            "take the checkpoint from before they were quantised"
        )
    bad = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        log.warning("%s: %d tensors hold NaN or infinity, such as %s", checkpoint, len(bad), ", ".join(bad[:3]))


def _build(
    system: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str
) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and the arguments it was made of: those given, and what only the weights say.

    Raises:
        UpstreamError: if the two do not belong together; naming the place, and the arguments that would fit.
    """
    known = SYSTEMS[system]
    try:
        given = known.translate(config)
        known.check_values(system, given)
    except UpstreamError as error:
        raise UpstreamError(f"{place}: {error}") from error
    facts = known.told(tensors)
    missing = {name: value for name, value in facts.items() if name not in given}
    if missing:
        log.info("%s: from the weights themselves: %s", place, _listed(missing))
    if missing.get("num_classes") == 0:
        log.warning("%s has no head; the network gives what one would read, not logits", place)
    try:
        return from_upstream(system, given | missing, tensors), given | missing
    except UpstreamError as error:
        other = {name: value for name, value in facts.items() if not says(given, name, value)}
        raise UpstreamError(f"{place}: {error}{_hint(system, other, tensors)}") from error


def _hint(system: str, other: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """What would fit: other arguments, or another network."""
    if other:
        return f". The weights themselves say {_listed(other)}, but the configuration does not"
    family = looks_like(tensors)
    if family is not None and not system.startswith(family):
        return f". They look like weights of {family}"
    head = SYSTEMS[system].head
    if head and not any(key.startswith(head) for key in tensors):
        return f". There is no {head}*, which makes the output; take the checkpoint of the whole network"
    return ""


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


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


def load_backbone(network: nn.Module, checkpoint: Path, *, trust_pickle: bool = False) -> None:
    """Give a Vivim the weights of a SegFormer from a file on this machine, and leave the rest as it is.

    Args:
        network: a `medmamba.networks.vivim.Vivim` of the SegFormer's size.
        checkpoint: a file or folder of the transformers library, such as ``nvidia/segformer-b3-finetuned-ade-512-512``,
            or a file of SegFormer's own authors, such as ``mit_b3.pth``; see
            `medmamba.networks.published.vivim.load_segformer`.
        trust_pickle: see `medmamba.exchange.weight_files.read_checkpoint`.

    Raises:
        FileNotFoundError: if the checkpoint is not there.
        CheckpointError: if it cannot be read, or holds no SegFormer.
        UpstreamError: if its sizes are others than the network's, naming weights.
        UsageError: if the network is no Vivim.
    """
    if not isinstance(network, Vivim):
        raise UsageError(f"only Vivim has a SegFormer for its backbone, got {type(network).__name__}")
    tensors = find_segformer(read_checkpoint(checkpoint, trust_pickle=trust_pickle), checkpoint)
    _check_numbers(tensors, checkpoint)
    try:
        load_segformer(network, tensors)
    except UpstreamError as error:
        raise UpstreamError(f"{checkpoint}: {error}") from error
