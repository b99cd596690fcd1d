"""A U-Mamba that its authors' code trained, as a run of ours that predicts as it is.

Their code is a copy of nnU-Net, which leaves a folder for each model::

    nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres/
      plans.json  dataset.json
      fold_0/checkpoint_final.pth

A checkpoint holds the two files' contents once more, so that it is enough by itself.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch import Tensor

from medmamba.case import Split
from medmamba.exchange.state_dicts import find_weights
from medmamba.exchange.weight_files import CheckpointError, read_checkpoint
from medmamba.files import OutputError
from medmamba.networks import UpstreamError, from_upstream
from medmamba.networks.umamba import UMamba, block_options
from medmamba.plans.from_nnunet import plan_from_nnunet
from medmamba.plans.plan import Plan
from medmamba.records import write_json
from medmamba.training.run import Position, Run, RunInfo, Schedule, Weights, versions

log = logging.getLogger(__name__)

#: How the names of the authors' trainers begin, those without mixed precision included, and our networks for them.
TRAINERS = {"nnUNetTrainerUMambaBot": "umamba_bot", "nnUNetTrainerUMambaEnc": "umamba_enc"}
#: Steps in an epoch of nnU-Net.
STEPS = 250
_FILES: dict[Weights, str] = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
#: In the versions of a run: the trainer of nnU-Net that made it.
IMPORTED = "imported from"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fold:
    """What there is of one fold: its name, the checkpoint, and which weights that is."""

    name: str
    checkpoint: Path
    weights: Weights


def import_model(path: Path, output: Path, *, overwrite: bool = False, trust_pickle: bool = False) -> list[Run]:
    """Convert a trained U-Mamba, its plan and its folds.

    Args:
        path: the folder of the model, for all its folds; of one fold; or one checkpoint. What of plans.json and
            dataset.json is not there is taken from the checkpoint.
        output: becomes the folder of our plan, with a run folder for each fold.
        overwrite: replace all folds that are there.
        trust_pickle: see `medmamba.exchange.weight_files.read_checkpoint`.

    Returns:
        The runs, one for each fold.

    Raises:
        CheckpointError: if a checkpoint cannot be read, or is not of U-Mamba.
        OutputError: if there is something in ``output``, or, with ``overwrite``, something else than was imported.
        FileNotFoundError: if there is no model or no checkpoint.
        DataError: if its plan prepares images in a way that ours cannot.
        UpstreamError: if the weights are of the first version of U-Mamba, or do not fit the plan.
    """
    path = path.resolve()  # what is above it is looked at
    folder = _model_folder(path)
    folds = _folds(path, folder, trust_pickle)
    _check_output(output, overwrite, path)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", ignore_cleanup_errors=True) as scratch:
        temporary = Path(scratch)
        for fold in folds:
            _convert(fold, folder, temporary / f"fold_{fold.name}", trust_pickle)
        Run(temporary / f"fold_{folds[0].name}").plan.save(temporary / "plan.json")
        output.mkdir(parents=True, exist_ok=True)
        for old in output.glob("fold_*"):
            shutil.rmtree(old)
        for done in sorted(temporary.glob("fold_*")):
            os.replace(done, output / done.name)
        os.replace(temporary / "plan.json", output / "plan.json")
    return [Run(output / f"fold_{fold.name}") for fold in folds]


def _model_folder(path: Path) -> Path:
    """The folder of the model to which a path belongs.

    Raises:
        FileNotFoundError: if there is none.
    """
    for place in (path, *path.parents[:2]):
        if (place / "plans.json").is_file() or any(place.glob("fold_*/*.pth")):
            return place
    if path.is_file():
        return path.parent
    below = sorted(str(place.parent.relative_to(path)) for place in path.glob("*/plans.json"))
    raise FileNotFoundError(
        f"{path} is no model that nnU-Net trained: there is no plans.json; give the folder that has it, such as "
        f"{', '.join(below) or 'nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres'}"
    )


def _folds(path: Path, folder: Path, trust_pickle: bool) -> list[_Fold]:
    """The checkpoints that are asked for: of each fold the final one, else the best."""
    if path.is_file():
        best = path.name == _FILES["best"]
        name = path.parent.name.removeprefix("fold_")
        if name == path.parent.name:
            name = str(_checked(path, trust_pickle)["init_args"].get("fold", "0"))
        return [_Fold(name=name, checkpoint=path, weights="best" if best else "final")]
    found = []
    for place in sorted(folder.glob("fold_*")) if path == folder else [path]:
        present = [(weights, place / name) for weights, name in _FILES.items() if (place / name).is_file()]
        if present:
            found.append(_Fold(name=place.name.removeprefix("fold_"), checkpoint=present[0][1], weights=present[0][0]))
    if not found:
        raise FileNotFoundError(f"{path} has no {' or '.join(_FILES.values())} in any fold; copy one there")
    return found


def _check_output(output: Path, overwrite: bool, source: Path) -> None:
    """Only imported runs are ever replaced, and only when that is asked for."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{output} is already there; choose another output, or replace it with --overwrite")
    places = list(output.glob("fold_*"))
    if other := [place for place in places if not Run.exists(place)] or ([] if places else [output]):
        raise OutputError(f"{other[0]} cannot be replaced, because it is no run; choose another output")
    if trained := [place for place in places if IMPORTED not in Run(place).info.versions]:
        raise OutputError(f"{trained[0]} cannot be replaced, because it was trained here; choose another output")
    if any(source.is_relative_to(place.resolve()) for place in places):
        raise OutputError(f"{source} would be replaced by what is made of it; choose another output")


def _checked(checkpoint: Path, trust_pickle: bool) -> Mapping[str, Any]:
    """What a checkpoint holds.

    Raises:
        CheckpointError: if it is none of nnU-Net, or something in it is of another kind than there.
    """
    content = read_checkpoint(checkpoint, trust_pickle=trust_pickle)
    if not isinstance(content, Mapping) or not {"network_weights", "trainer_name", "init_args"} <= content.keys():
        raise CheckpointError(f"{checkpoint} is no checkpoint of nnU-Net; give one that its training wrote")
    arguments, axes = content["init_args"], content.get("inference_allowed_mirroring_axes")
    wrong = {
        "init_args": not isinstance(arguments, Mapping) or not isinstance(arguments.get("configuration"), str),
        "current_epoch": not isinstance(content.get("current_epoch", 0), int),
        "inference_allowed_mirroring_axes": not isinstance(axes, tuple | list | None),
    }
    if any(wrong.values()):
        names = ", ".join(name for name in wrong if wrong[name])
        raise CheckpointError(f"{checkpoint}: {names} is not what nnU-Net writes; give one that its training wrote")
    return content


def _described(folder: Path, content: Mapping[str, Any], scratch: Path) -> Path:
    """A folder with plans.json and dataset.json: the model's own, or one with what the checkpoint says.

    Raises:
        FileNotFoundError: if one of them is neither here nor there.
    """
    names = {"plans.json": "plans", "dataset.json": "dataset_json"}
    if all((folder / name).is_file() for name in names):
        return folder
    for name, key in names.items():
        if (folder / name).is_file():
            shutil.copyfile(folder / name, scratch / name)
        elif isinstance(kept := content["init_args"].get(key), Mapping):
            log.info("%s: %s from the checkpoint", folder, name)
            write_json(kept, scratch / name)
        else:
            raise FileNotFoundError(f"{folder} has no {name}, and the checkpoint does not hold it; copy it there")
    return scratch


def _convert(fold: _Fold, folder: Path, target: Path, trust_pickle: bool) -> None:
    content = _checked(fold.checkpoint, trust_pickle)
    trainer = str(content["trainer_name"])
    network = next((ours for name, ours in TRAINERS.items() if trainer.startswith(name)), None)
    if network is None:
        raise CheckpointError(
            f"{fold.checkpoint} was trained by {trainer}, whose network is not known here; known are "
            f"{', '.join(TRAINERS)} and what their names begin"
        )
    plan = plan_from_nnunet(
        _described(folder, content, target.parent),
        content["init_args"]["configuration"],
        network,
        mirror_axes=content.get("inference_allowed_mirroring_axes") or (),
    )
    try:
        converted = _network(plan, find_weights(content, fold.checkpoint, "umamba"))
    except UpstreamError as error:
        raise UpstreamError(f"{fold.checkpoint}: {error}") from error
    plan = replace(plan, dataset_root=str(folder), network=replace(plan.network, options=block_options(converted)))
    info = RunInfo(
        fold=fold.name,
        split=Split(train=(), validation=()),  # which nnU-Net does not keep with the model
        schedule=Schedule(steps=max(1, content.get("current_epoch", 0) * STEPS)),
        precision="fp32",
        overrides={},
        versions=versions() | {IMPORTED: trainer},
    )
    Run.create(target, plan, info).save_weights(fold.weights, converted.state_dict(), Position())
    log.info("%s: fold %s of %s", fold.checkpoint, fold.name, trainer)


def _network(plan: Plan, tensors: Mapping[str, Tensor]) -> UMamba:
    config: dict[str, Any] = {
        "patch": plan.topology.patch_size,
        "strides": plan.topology.strides,
        "kernels": plan.topology.kernel_sizes,
        "features_per_stage": plan.topology.features,
        "in_ch": len(plan.channels),
        "ncls": plan.labels.output_channels,
    }
    return cast(UMamba, from_upstream(plan.network.name, config, tensors))
