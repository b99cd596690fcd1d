"""From what was measured to what is done: nnU-Net's rules, each a small function, each with a reason to show.

Sources: Isensee et al., nnU-Net, Nature Methods 2021, and the planner and trainer of nnunetv2 2.8, with which the tests
compare every number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medmamba.case import Dataset
from medmamba.errors import DataError
from medmamba.labels import Label
from medmamba.plans import budget
from medmamba.plans.decisions import (
    LOW_RESOLUTION_BELOW_SHARE,
    MASK_BELOW_RELATIVE_SIZE,
    Decision,
    decisions,
    times,
)
from medmamba.plans.fingerprint import Fingerprint
from medmamba.plans.grid import ANISOTROPY, Grid, target_grid
from medmamba.plans.plan import (
    ChannelPlan,
    Configuration,
    NetworkPlan,
    Normalization,
    Plan,
    Resampling,
    Topology,
    TrainSettings,
)
from medmamba.plans.topology import largest_topology, share_of_case

#: Name of a channel, in any case -> its normalisation; every other name means z-score.
NORMALIZATIONS: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_0_1",
    "rgb_to_0_1": "rgb_0_1",
}


def make_plan(
    fingerprint: Fingerprint,
    dataset: Dataset,
    *,
    network: str,
    configuration: Configuration = "3d_fullres",
    gpu_memory_gb: float = budget.GPU_MEMORY_GB,
    network_options: dict[str, Any] | None = None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """Decide everything between a folder of scans and a trained network.

    Args:
        fingerprint: measurements of the data set's training cases.
        dataset: where channels, labels and names come from.
        network: name in the registry of networks; it does not influence the other decisions.
        configuration: slices or volumes.
        gpu_memory_gb: memory that training may take.
        network_options: passed on to the network.

    Returns:
        The plan, and the decisions in it with their reasons.

    Raises:
        DataError: if the fingerprint is not of this data set, its labels are not explained, 3D is asked of
            single slices, or the cases or the memory are too small.
    """
    _check(fingerprint, dataset, gpu_memory_gb)
    grid = _grid(fingerprint)
    if configuration not in (possible := _configurations(grid)):
        raise DataError(
            f"the cases of {dataset.name} are single slices (their median size is {times(grid.median_shape)} voxels), "
            f"for which there is no {configuration} plan; choose configuration {possible[0]}"
        )
    # A 2D network works on slices across the first network axis.
    axes = slice(1 if configuration == "2d" else 0, 3)
    # As nnU-Net counts for its memory estimate: every key of ``labels``, background and ignore included.
    outputs = len(dataset.labels.foreground) + 1 + (dataset.labels.ignore is not None)
    topology = largest_topology(
        grid.spacing_mm[axes], grid.median_shape[axes], output_channels=outputs, memory_gb=gpu_memory_gb
    )
    dataset_voxels = float(np.prod(grid.median_shape, dtype=np.float64) * len(dataset.training))
    batch = budget.batch_size(topology, outputs, gpu_memory_gb, dataset_voxels)
    low_resolution = None if configuration == "2d" else _low_resolution(grid, topology, outputs, gpu_memory_gb)
    rotation_degrees, in_plane = _rotation(topology)
    plan = Plan(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        configuration=configuration,
        channels=_channels(fingerprint),
        labels=dataset.labels,
        axes=grid.axes,
        spacing_mm=tuple(grid.spacing_mm[axes].tolist()),
        median_shape=tuple(grid.median_shape[axes].tolist()),
        resampling=Resampling(anisotropy_threshold=ANISOTROPY),
        network=NetworkPlan(name=network, options=dict(network_options or {})),
        topology=topology,
        train=TrainSettings(
            batch_size=batch.patches,
            # Over the batch where a patch often lacks a structure: Dice of an absent structure is noise.
            batch_dice=configuration == "2d" or low_resolution is not None,
            mirror_axes=tuple(range(topology.dims)),
            rotation_degrees=rotation_degrees,
            in_plane_augmentation=in_plane,
        ),
        file_ending=dataset.file_ending,
        edition=dataset.edition,
    )
    return plan, decisions(
        plan,
        dataset,
        grid=grid,
        batch=batch,
        occurrences={label.name: _occurrences(label, fingerprint) for label in dataset.labels.foreground},
        relative_size=fingerprint.median_relative_size,
        low_resolution_mm=low_resolution,
        memory_gb=gpu_memory_gb,
    )


def possible_configurations(fingerprint: Fingerprint) -> tuple[Configuration, ...]:
    """What can be planned for this data set, the usual choice first."""
    return _configurations(_grid(fingerprint))


def _grid(fingerprint: Fingerprint) -> Grid:
    cases = fingerprint.cases
    return target_grid([case.spacing_mm for case in cases], [case.cropped_shape for case in cases])


def _occurrences(label: Label, fingerprint: Fingerprint) -> int:
    """In how many cases a label has a voxel."""
    values = set(map(str, label.values))
    return sum(not values.isdisjoint(case.label_voxels) for case in fingerprint.cases)


def _configurations(grid: Grid) -> tuple[Configuration, ...]:
    return ("2d",) if grid.is_flat else ("3d_fullres", "2d")


def _channels(fingerprint: Fingerprint) -> tuple[ChannelPlan, ...]:
    """Normalisation by the channel's name; within a mask when images are mostly empty."""
    mostly_empty = fingerprint.median_relative_size < MASK_BELOW_RELATIVE_SIZE
    plans = []
    for name, intensities in zip(fingerprint.channels, fingerprint.intensities, strict=True):
        scheme: Normalization = NORMALIZATIONS.get(name.casefold(), "zscore")
        # The other schemes would move the zeros around the patient to another value.
        use_mask = mostly_empty and scheme == "zscore"
        plans.append(ChannelPlan(name=name, normalization=scheme, use_mask=use_mask, intensities=intensities))
    return tuple(plans)


def _low_resolution(grid: Grid, topology: Topology, output_channels: int, memory_gb: float) -> tuple[float, ...] | None:
    """Spacing in mm of the stage at low resolution that nnU-Net would add because patches see too little, or None.

    Voxels are made coarser by 3 % at a time, along coarse axes last, until a patch covers a quarter of the case. A
    stage that ends up with more than half of the voxels is not worth its time.
    """
    spacing, shape = grid.spacing_mm.copy(), grid.median_shape
    while share_of_case(topology, shape) < LOW_RESOLUTION_BELOW_SHARE:
        finer = spacing.max() / spacing > 2
        spacing[finer if finer.any() else slice(None)] *= 1.03
        shape = grid.spacing_mm / spacing * grid.median_shape
        whole_voxels = [round(size) for size in shape]
        topology = largest_topology(spacing, whole_voxels, output_channels=output_channels, memory_gb=memory_gb)
    return tuple(spacing.tolist()) if np.prod(grid.median_shape) / np.prod(shape) >= 2 else None


def _rotation(topology: Topology) -> tuple[float, bool]:
    """Largest angle of augmentation in degrees, and whether it stays within slices.

    Elongated slices are hardly rotated, because most of the rotated patch would be padding.
    """
    longest, shortest, first = max(topology.patch_size), min(topology.patch_size), topology.patch_size[0]
    if topology.dims == 2:
        return (15.0 if longest / shortest > 1.5 else 180.0), False
    in_plane = longest / first > ANISOTROPY
    return (180.0 if in_plane else 30.0), in_plane


def _check(fingerprint: Fingerprint, dataset: Dataset, memory_gb: float) -> None:
    measured, present = {case.id for case in fingerprint.cases}, {case.id for case in dataset.training}
    if measured != present or fingerprint.channels != dataset.channels:
        raise DataError(
            f"the fingerprint describes {len(measured)} cases with channels {', '.join(fingerprint.channels)}, which "
            f"are not the {len(present)} training cases of {dataset.root} with {', '.join(dataset.channels)}; measure "
            "the data set again"
        )
    if not 0 < memory_gb < math.inf:
        raise DataError(f"GPU memory must be more than 0 GB and finite, got {memory_gb:g}")
    fingerprint.check_labels(dataset.labels, dataset.edition)
