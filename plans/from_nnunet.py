"""The plan of a model that nnU-Net trained, as ours.

References:
    nnunetv2 2.1 to 2.8, `PlansManager` and `ConfigurationManager`; before version 2.4 a configuration names the parts
    of a U-Net rather than an architecture.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmamba import io
from medmamba.errors import DataError
from medmamba.io.layouts.description import channel_names, nnunet_labels
from medmamba.plans.nnunet import RESAMPLE, SCHEMES
from medmamba.plans.plan import Normalization, Plan
from medmamba.records import from_json, read_json, to_json

log = logging.getLogger(__name__)

#: nnU-Net's readers that leave the axes of an image as they are stored.
READERS = ("SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO")
_NORMALIZATIONS: dict[str, Normalization] = {theirs: ours for ours, theirs in SCHEMES.items()}


class _Facts(dict[str, Any]):
    """A JSON object whose missing keys are told by the name of its file."""

    def __init__(self, values: Mapping[str, Any], where: Path) -> None:
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise DataError(f"{self.where} has no {key!r}; it must be of a model that nnU-Net v2 trained")


def plan_from_nnunet(folder: Path, configuration: str, network: str, *, mirror_axes: Sequence[int] = ()) -> Plan:
    """The plan that predicts as nnU-Net would.

    Args:
        folder: of the trained model, with plans.json and dataset.json.
        configuration: name in the plans, such as ``3d_fullres``.
        network: name in our registry of what stands in for the U-Net.
        mirror_axes: axes of the patch that may be flipped, as the checkpoint says.

    Raises:
        FileNotFoundError: if one of the files is missing.
        DataError: if the plans have no such configuration, or it prepares images in a way that ours cannot, naming it.
    """
    where, described = folder / "plans.json", folder / "dataset.json"
    plans, facts = _Facts(read_json(where), where), _Facts(read_json(described), described)
    settings = _Facts(_inherited(plans["configurations"], configuration, where), where)
    _check(plans, settings, where)
    splines = {kind: settings[f"resampling_fn_{kind}_kwargs"] for kind in ("data", "seg", "probabilities")}
    return from_json(
        Plan,
        {
            "dataset": plans["dataset_name"],
            "dataset_root": str(folder),
            "configuration": "2d" if len(settings["patch_size"]) == 2 else "3d_fullres",
            "channels": _channels(plans, settings, channel_names(described, facts["channel_names"])),
            "labels": to_json(nnunet_labels(described, facts)),
            "axes": [2 - axis for axis in plans["transpose_forward"]],  # nnU-Net's arrays have ours reversed
            "spacing_mm": settings["spacing"],
            "median_shape": settings["median_image_size_in_voxels"],
            "resampling": {
                "image_order": splines["data"]["order"],
                "label_order": splines["seg"]["order"],
                "logits_order": splines["probabilities"]["order"],
                "coarse_axis_order": splines["data"]["order_z"],
            },
            "network": {"name": network},
            "topology": {"patch_size": settings["patch_size"], **_stages(settings)},
            "train": {
                "batch_size": settings["batch_size"],
                "batch_dice": settings["batch_dice"],
                "mirror_axes": list(mirror_axes),
            },
            "file_ending": _file_ending(facts["file_ending"]),
        },
        str(where),
    )


def _inherited(configurations: Mapping[str, Any], name: str, where: Path) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    chain: list[str] = []
    parent: str | None = name
    while parent is not None:
        if parent not in configurations or parent in chain:
            raise DataError(f"{where} has no configuration {parent!r}; it has {', '.join(configurations)}")
        chain.append(parent)
        parent = configurations[parent].get("inherits_from")
    return {key: value for name in reversed(chain) for key, value in configurations[name].items()}


def _check(plans: _Facts, settings: _Facts, where: Path) -> None:
    """Refuse what our preparation of images does otherwise."""
    if settings.get("previous_stage"):
        raise DataError(f"{where}: a cascade's second stage needs the first one's segmentation, which is not there")
    if settings["preprocessor_name"] != "DefaultPreprocessor":
        raise DataError(f"{where}: only DefaultPreprocessor is known here, got {settings['preprocessor_name']}")
    if plans["image_reader_writer"] not in READERS:
        raise DataError(
            f"{where}: images were read by {plans['image_reader_writer']}, which turns them in another way than here; "
            f"known are {', '.join(READERS)}"
        )
    kinds = [(kind, settings[f"resampling_fn_{kind}_kwargs"]) for kind in ("data", "seg", "probabilities")]
    coarse = {arguments["order_z"] for _, arguments in kinds}
    for kind, arguments in kinds:
        function = settings[f"resampling_fn_{kind}"]
        if function != RESAMPLE or arguments.get("force_separate_z") is not None or len(coarse) > 1:
            raise DataError(
                f"{where}: only {RESAMPLE} with one order_z and without force_separate_z is known here, got "
                f"resampling_fn_{kind} {function} with {arguments}"
            )


def _stages(settings: _Facts) -> dict[str, Any]:
    if "architecture" in settings:
        parts = _Facts(settings["architecture"]["arch_kwargs"], settings.where)
        strides, kernels, features = parts["strides"], parts["kernel_sizes"], parts["features_per_stage"]
    else:
        strides, kernels = settings["pool_op_kernel_sizes"], settings["conv_kernel_sizes"]
        first, largest = settings["UNet_base_num_features"], settings["unet_max_num_features"]
        features = [min(first * 2**stage, largest) for stage in range(len(kernels))]
    return {"strides": strides, "kernel_sizes": kernels, "features": features}


def _channels(plans: _Facts, settings: _Facts, names: Sequence[str]) -> list[dict[str, Any]]:
    schemes, masks = settings["normalization_schemes"], settings["use_mask_for_norm"]
    if not len(names) == len(schemes) == len(masks):
        raise DataError(
            f"{plans.where} normalises {len(schemes)} channels, but dataset.json names {', '.join(names)}; the two "
            "must be of one model"
        )
    if unknown := sorted(set(schemes) - set(_NORMALIZATIONS)):
        raise DataError(
            f"{plans.where}: normalisation {', '.join(unknown)} is not known here; known are "
            f"{', '.join(_NORMALIZATIONS)}"
        )
    statistics = _Facts(plans["foreground_intensity_properties_per_channel"], plans.where)
    return [
        {
            "name": name,
            "normalization": _NORMALIZATIONS[scheme],
            "use_mask": mask,
            "intensities": statistics[str(index)],
        }
        for index, (name, scheme, mask) in enumerate(zip(names, schemes, masks, strict=True))
    ]


def _file_ending(ending: str) -> str:
    if ending in io.suffixes():
        return ending
    log.warning("the model was trained on %s files, which are not read here; give it the same images as NIfTI", ending)
    return ".nii.gz"
