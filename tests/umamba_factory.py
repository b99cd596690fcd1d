"""Model folders as U-Mamba's code leaves them, with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmamba import networks
from medmamba.plans.plan import Topology

LABELS: dict[str, Any] = {"background": 0, "block": 1, "core": 2}
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
INTENSITIES = {
    "max": 400.0,
    "mean": 180.0,
    "median": 170.0,
    "min": -20.0,
    "percentile_00_5": 60.0,
    "percentile_99_5": 330.0,
    "std": 70.0,
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a folder is made for."""

    trainer: str = "nnUNetTrainerUMambaBot"
    patch: tuple[int, ...] = (16, 24, 16)
    spacing: tuple[float, ...] = (1.6, 1.1, 1.2)
    transpose_forward: tuple[int, int, int] = (1, 0, 2)
    channels: tuple[str, ...] = ("CT", "T2")
    schemes: tuple[str, ...] = ("CTNormalization", "ZScoreNormalization")
    use_mask: tuple[bool, ...] = (False, True)
    labels: dict[str, Any] = field(default_factory=lambda: LABELS)
    folds: tuple[str, ...] = ("0",)
    mirror_axes: tuple[int, ...] | None = (0, 2)
    #: Numbers of blocks of encoder and decoder stages that the code was patched to build; empty: the authors'.
    blocks: dict[str, list[int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "umamba_enc" if "Enc" in self.trainer else "umamba_bot"

    @property
    def configuration(self) -> str:
        return "2d" if len(self.patch) == 2 else "3d_fullres"

    @property
    def topology(self) -> Topology:
        dims = len(self.patch)
        return Topology(
            patch_size=self.patch,
            strides=((1,) * dims, (2,) * dims, (2,) * dims),
            kernel_sizes=((3,) * dims,) * 3,
            features=(4, 8, 12),
        )

    @property
    def outputs(self) -> int:
        return len([name for name in self.labels if name not in ("background", "ignore")]) + (self.labels is LABELS)

    def network(self, fold: str) -> nn.Module:
        """Of a fold, random, with heads that favour no class."""
        torch.manual_seed(sum(map(ord, fold)))
        network = networks.create(self.name, len(self.channels), self.outputs, self.topology, **self.blocks)
        with torch.no_grad():
            for head in network.get_submodule("decoder.seg_layers").children():
                for parameter in head.parameters():
                    parameter -= parameter.mean(dim=0 if parameter.ndim == 1 else 1, keepdim=True)
        return network


def plans(model: Model) -> dict[str, Any]:
    """As nnU-Net 2.1 wrote them, from which U-Mamba's code is copied."""
    resampling: dict[str, Any] = {}
    for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{kind}_kwargs"] = {
            "is_seg": kind == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(model.patch),
        "median_image_size_in_voxels": list(model.patch),
        "spacing": list(model.spacing),
        "normalization_schemes": list(model.schemes),
        "use_mask_for_norm": list(model.use_mask),
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "n_conv_per_stage_encoder": [2, 2, 1],
        "n_conv_per_stage_decoder": [2, 1],
        "num_pool_per_axis": [2] * len(model.patch),
        "pool_op_kernel_sizes": [list(row) for row in model.topology.strides],
        "conv_kernel_sizes": [list(row) for row in model.topology.kernel_sizes],
        "unet_max_num_features": 12,
        **resampling,
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset701_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [16, 24, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(model.transpose_forward),
        "transpose_backward": [int(axis) for axis in np.argsort(model.transpose_forward)],
        "configurations": {
            "parent": configuration,
            model.configuration: {"inherits_from": "parent", "data_identifier": f"nnUNetPlans_{model.configuration}"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): INTENSITIES for i in range(len(model.channels))},
    }


def description(model: Model) -> dict[str, Any]:
    """The data set's."""
    facts: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(model.channels)},
        "labels": model.labels,
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    return facts | ({} if model.labels is LABELS else {"regions_class_order": [1, 2]})


def upstream_weights(network: nn.Module) -> dict[str, Tensor]:
    """As their code saves them: the encoder again in the decoder, and layers a second time in a list."""
    theirs = dict(network.state_dict())
    for key, tensor in list(theirs.items()):
        for number, part in enumerate((".conv.", ".norm.")):
            place, found, last = key.rpartition(part)
            if found and place.endswith(("conv1", "conv2")):
                theirs[f"{place}.all_modules.{number}.{last}"] = tensor
    return theirs | {f"decoder.{key}": tensor for key, tensor in theirs.items() if key.startswith("encoder.")}


def checkpoint(model: Model, network: nn.Module, fold: str) -> dict[str, Any]:
    """With all that nnU-Net keeps beside the weights, numbers of NumPy included."""
    return {
        "network_weights": upstream_weights(network),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": {"scale": 65536.0},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.6)], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float64(0.55),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans(model),
            "configuration": model.configuration,
            "fold": int(fold) if fold.isdecimal() else fold,
            "dataset_json": description(model),
            "unpack_dataset": True,
            "device": torch.device("cpu"),
        },
        "trainer_name": model.trainer,
        "inference_allowed_mirroring_axes": model.mirror_axes,
    }


def write_model(folder: Path, model: Model, names: Sequence[str] = ("checkpoint_final.pth",)) -> Path:
    """The folder, with checkpoints of these names in each fold."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(model)))
    (folder / "dataset.json").write_text(json.dumps(description(model)))
    for fold in model.folds:
        (folder / f"fold_{fold}").mkdir()
        for name in names:
            torch.save(checkpoint(model, model.network(fold), fold), folder / f"fold_{fold}" / name)
    return folder
