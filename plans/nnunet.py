"""Plans as stock nnU-Net reads them, with one of our networks in the place of its own.

nnU-Net builds whatever class a plan names, so `nnUNetv2_preprocess`, `nnUNetv2_train` and `nnUNetv2_predict` work on
these files as they are.

References:
    nnunetv2 2.8, `get_network_from_plans` and `PlansManager`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medmamba.case import Dataset
from medmamba.errors import DataError
from medmamba.files import OutputError
from medmamba.io.places import check_output_folder, places_of
from medmamba.plans.fingerprint import Fingerprint
from medmamba.plans.plan import Normalization, Plan
from medmamba.plans.splits import folds, patients_of
from medmamba.records import write_json

#: What nnU-Net's ``-p`` is given.
PLANS_NAME = "MedMambaPlans"
#: What nnU-Net calls to make a network.
NETWORK = "medmamba.networks.nnunet.build"
#: nnU-Net's names of our normalisations.
SCHEMES: dict[Normalization, str] = {
    "zscore": "ZScoreNormalization",
    "ct": "CTNormalization",
    "none": "NoNormalization",
    "rescale_0_1": "RescaleTo01Normalization",
    "rgb_0_1": "RGBTo01Normalization",
}
#: It keeps prepared label maps as int16.
NNUNET_LARGEST_VALUE = 32767
#: Its function for resampling, which is ours, too.
RESAMPLE = "resample_data_or_seg_to_shape"


def nnunet_name(name: str) -> str:
    """A data set's name as nnU-Net wants it: its number is taken from the name, 999 where there is none."""
    match = re.fullmatch(r"(?:Dataset|Task)(\d{1,3})_(.+)", name)
    number, rest = (int(match[1]), match[2]) if match else (999, name)
    return f"Dataset{number:03d}_{re.sub(r'[^A-Za-z0-9]+', '', rest) or 'Unnamed'}"


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    """Where stock nnU-Net looks for the description of a data set, and for its plans."""
    return folder / "nnUNet_raw" / name, folder / "nnUNet_preprocessed" / name


def check_export(folder: Path, dataset: Dataset) -> None:
    """Refuse to export over files of a data set, or over what nnU-Net itself planned.

    Args:
        folder: as for `export_nnunet`.
        dataset: the data set.

    Raises:
        OutputError: naming the folder that is not ours to write into.
    """
    raw, preprocessed = _places(folder, nnunet_name(dataset.name))
    for place in (raw, preprocessed):
        check_output_folder(place, inputs=places_of(dataset))
        if (place / "dataset.json").is_file() and not (preprocessed / f"{PLANS_NAME}.json").is_file():
            raise OutputError(f"{place} is nnU-Net's own and would be overwritten; export into another folder")


def export_nnunet(folder: Path, dataset: Dataset, fingerprint: Fingerprint, plans: Sequence[Plan]) -> int:
    """Write plans, measurements and a description of a data set where stock nnU-Net looks for them.

    Folds are written where its own would be others: those of the author, and those that keep patients together. Images
    stay where they are: the description names their paths.

    Args:
        folder: becomes the parent of nnUNet_raw, nnUNet_preprocessed and nnUNet_results.
        dataset: the data set.
        fingerprint: its measurements.
        plans: one for each configuration, all for this data set.

    Returns:
        The number of the data set, which nnU-Net's ``-d`` is given.

    Raises:
        OutputError: if there is something else than an earlier export.
        DataError: if nnU-Net would make other values of the labels.
    """
    if (largest := max(dataset.labels.allowed_values)) > NNUNET_LARGEST_VALUE:
        raise DataError(
            f"stock nnU-Net keeps labels as 16 bits, in which {largest} becomes another value; number them from 1"
        )
    check_export(folder, dataset)
    name, description = nnunet_name(dataset.name), _description(dataset)
    raw, preprocessed = _places(folder, name)
    for place in (raw, preprocessed, folder / "nnUNet_results"):
        place.mkdir(parents=True, exist_ok=True)
    # The plans first: by them `check_export` knows the rest for ours when the export was interrupted.
    write_json(_plans(name, fingerprint, plans), preprocessed / f"{PLANS_NAME}.json")
    write_json(description, raw / "dataset.json")
    write_json(description, preprocessed / "dataset.json")
    write_json(_measurements(fingerprint), preprocessed / "dataset_fingerprint.json")
    if dataset.splits or 1 < len(patients_of(dataset)) < len(dataset.training):  # nnU-Net's own would part patients
        splits = [{"train": list(fold.train), "val": list(fold.validation)} for fold in folds(dataset)]
        write_json(splits, preprocessed / "splits_final.json")
    return int(name.removeprefix("Dataset")[:3])


def _description(dataset: Dataset) -> dict[str, Any]:
    labels: dict[str, Any] = {"background": 0}
    for label in dataset.labels.foreground:
        labels[label.name] = list(label.values) if dataset.labels.has_regions else label.values[0]
    if dataset.labels.ignore is not None:
        labels["ignore"] = dataset.labels.ignore
    description = {
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": len(dataset.training),
        "file_ending": dataset.file_ending,
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {
            case.id: {"images": [str(image) for image in case.images], "label": str(case.label)}
            for case in dataset.training
        },
    }
    if dataset.labels.has_regions:
        description["regions_class_order"] = list(dataset.labels.region_order)
    return description


def _measurements(fingerprint: Fingerprint) -> dict[str, Any]:
    """nnU-Net's fingerprint, whose axes run the other way."""
    return {
        "spacings": [list(case.spacing_mm[::-1]) for case in fingerprint.cases],
        "shapes_after_crop": [list(case.cropped_shape[::-1]) for case in fingerprint.cases],
        "foreground_intensity_properties_per_channel": _intensities(fingerprint),
        "median_relative_size_after_cropping": fingerprint.median_relative_size,
    }


def _intensities(fingerprint: Fingerprint) -> dict[str, dict[str, float]]:
    return {str(index): asdict(channel) for index, channel in enumerate(fingerprint.intensities)}  # its names are ours


def _plans(name: str, fingerprint: Fingerprint, plans: Sequence[Plan]) -> dict[str, Any]:
    forward = [2 - axis for axis in plans[0].axes]
    spacing = np.median([case.spacing_mm[::-1] for case in fingerprint.cases], axis=0)[forward]
    shape = np.median([case.cropped_shape[::-1] for case in fingerprint.cases], axis=0)[forward]
    return {
        "dataset_name": name,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": spacing.tolist(),
        "original_median_shape_after_transp": [round(size) for size in shape.tolist()],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": sorted(range(3), key=forward.__getitem__),
        "configurations": {plan.configuration: _configuration(plan) for plan in plans},
        "experiment_planner_used": "MedMamba",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": _intensities(fingerprint),
    }


def _configuration(plan: Plan) -> dict[str, Any]:
    orders = plan.resampling

    def resampling(order: int, is_label: bool) -> dict[str, Any]:
        return {"is_seg": is_label, "order": order, "order_z": orders.coarse_axis_order, "force_separate_z": None}

    return {
        "data_identifier": f"{PLANS_NAME}_{plan.configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.train.batch_size,
        "patch_size": list(plan.topology.patch_size),
        "median_image_size_in_voxels": list(plan.median_shape),
        "spacing": list(plan.spacing_mm),
        "normalization_schemes": [SCHEMES[channel.normalization] for channel in plan.channels],
        "use_mask_for_norm": [channel.use_mask for channel in plan.channels],
        "resampling_fn_data": RESAMPLE,
        "resampling_fn_data_kwargs": resampling(orders.image_order, False),
        "resampling_fn_seg": RESAMPLE,
        "resampling_fn_seg_kwargs": resampling(orders.label_order, True),
        "resampling_fn_probabilities": RESAMPLE,
        "resampling_fn_probabilities_kwargs": resampling(orders.logits_order, False),
        "batch_dice": plan.train.batch_dice,
        "architecture": {
            "network_class_name": NETWORK,
            "arch_kwargs": {
                "network": plan.network.name,
                "options": plan.network.options,
                "patch_size": list(plan.topology.patch_size),
                "strides": [list(row) for row in plan.topology.strides],  # nnU-Net reads these too
                "kernel_sizes": [list(row) for row in plan.topology.kernel_sizes],
                "features_per_stage": list(plan.topology.features),
            },
            "_kw_requires_import": [],
        },
    }
