"""What the planner decided and why, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medmamba.case import Dataset
from medmamba.plans.budget import MAX_SHARE_OF_DATASET, BatchSize
from medmamba.plans.grid import Grid
from medmamba.plans.plan import ChannelPlan, Normalization, Plan
from medmamba.plans.splits import FOLDS, folds, patients_of, possible_folds
from medmamba.plans.topology import MIN_FEATURE_MAP_EDGE, share_of_case

#: Normalise with the statistics of non-zero voxels when cropping leaves less than this share of a case.
MASK_BELOW_RELATIVE_SIZE = 0.75

#: A patch that covers less than this share of a case sees too little of its surroundings.
LOW_RESOLUTION_BELOW_SHARE = 0.25

_SCHEMES: dict[Normalization, str] = {
    "ct": "clipped to the foreground's 0.5 to 99.5 percentile, then its z-score",
    "none": "as it is",
    "rescale_0_1": "minimum to maximum of a case becomes 0 to 1",
    "rgb_0_1": "0 to 255 becomes 0 to 1",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the planner, to be shown.

    Args:
        what: what was decided, a word or two.
        value: the outcome, in words.
        reason: why, in one line.
        is_warning: something is wrong with the data, and nothing was decided.
    """

    what: str
    value: str
    reason: str
    is_warning: bool = False


def decisions(
    plan: Plan,
    dataset: Dataset,
    *,
    grid: Grid,
    batch: BatchSize,
    occurrences: Mapping[str, int],
    relative_size: float,
    low_resolution_mm: tuple[float, ...] | None,
    memory_gb: float,
) -> tuple[Decision, ...]:
    """Every decision in a plan, in the order in which they follow from each other.

    Args:
        plan: the outcome.
        dataset: that was planned for.
        grid: that cases are resampled to.
        batch: the size of a batch and its limits.
        occurrences: in how many cases each label has a voxel, by its name.
        relative_size: median share of a case that cropping leaves.
        low_resolution_mm: spacing of a stage at low resolution, if one would be advised.
        memory_gb: that was planned for.
    """
    share = share_of_case(plan.topology, plan.median_shape)
    cases = len(dataset.training)
    found = [
        *_labels(plan, occurrences, cases),
        *_channels(plan.channels, relative_size),
        _axes(grid),
        _spacing(plan, grid, cases),
        Decision(
            "median size",
            f"{times(grid.median_shape)} voxels",
            f"{times(grid.original_shape)} before resampling; cropped to non-zero voxels",
        ),
        _patch(plan, share, memory_gb),
        _stages(plan),
        _batch(batch, memory_gb),
        _dice(plan, share),
        _augmentation(plan),
        folds_decision(dataset),
    ]
    if low_resolution_mm:
        advised = f"a stage at {times(low_resolution_mm)} mm would be advised; not available yet"
        reason = f"a patch covers {share:.0%} of the median case, less than {LOW_RESOLUTION_BELOW_SHARE:.0%}"
        found.append(Decision("low resolution", advised, reason))
    return tuple(found)


def first_fold(dataset: Dataset) -> str:
    """The fold to begin with: ``all`` where the cases of a single patient cannot be divided."""
    return "0" if dataset.splits or possible_folds(dataset) > 1 else "all"


def times(values: Iterable[float]) -> str:
    """Sizes as people write them: ``128 x 96 x 0.5``."""
    return " x ".join(f"{float(value):.4g}" for value in values)


def _labels(plan: Plan, occurrences: Mapping[str, int], cases: int) -> list[Decision]:
    labels = plan.labels
    found = [
        Decision(
            "labels",
            f"{len(labels.foreground)} besides background{', may overlap' if labels.has_regions else ''}",
            ", ".join(f"{name} in {n}" for name, n in occurrences.items()) + f" of {cases} cases",
        )
    ]
    if absent := [name for name, n in occurrences.items() if not n]:
        reason = "a network cannot learn a label that occurs in no training case; check names and values"
        found.append(Decision("warning", f"no voxel of {', '.join(absent)}", reason, is_warning=True))
    return found


def _channels(channels: tuple[ChannelPlan, ...], relative_size: float) -> list[Decision]:
    """One line for all channels that are treated alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    for channel in channels:
        if channel.normalization == "zscore":
            value = "z-score over non-zero voxels" if channel.use_mask else "z-score over all voxels"
            reason = (
                f"usual for all but CT; the box of non-zero voxels is {relative_size:.0%} of a case "
                f"(mask below {MASK_BELOW_RELATIVE_SIZE:.0%})"
            )
        else:
            value, reason = _SCHEMES[channel.normalization], f"the channel is called {channel.name}"
        alike.setdefault((value, reason), []).append(channel.name)
    return [Decision(f"channel {', '.join(names)}", value, reason) for (value, reason), names in alike.items()]


def _axes(grid: Grid) -> Decision:
    if grid.is_flat:
        reason = "the cases are single slices across the first"
    elif grid.spacing_mm.max() / grid.spacing_mm.min() < 1 + 1e-6:
        reason = "all have the same spacing, so nnU-Net's order is kept"
    else:
        reason = "the coarsest goes first, so that 2D patches are the sharpest slices"
    return Decision("axes", "array axes {}, {}, {}".format(*grid.axes), reason)


def _spacing(plan: Plan, grid: Grid, cases: int) -> Decision:
    reason = f"median of {cases} case{'s' * (cases != 1)}"
    if grid.coarse_median_mm is not None:
        reason += f"; across the coarse slices their 10th percentile (median {grid.coarse_median_mm:.4g} mm)"
    return Decision("spacing", f"{times(plan.spacing_mm)} mm", reason)


def _patch(plan: Plan, share: float, memory_gb: float) -> Decision:
    memory = f"{memory_gb:g} GB, as nnU-Net counts memory"
    if all(patch >= median for patch, median in zip(plan.topology.patch_size, plan.median_shape, strict=True)):
        covers, reason = "the whole median case", f"trains in {memory}; rounded up to what the strides divide"
    else:
        covers, reason = (
            f"{share:.0%} of the median case",
            f"the largest of a case's proportions that trains in {memory}",
        )
    return Decision("patch", f"{times(plan.topology.patch_size)} voxels, {covers}", reason)


def _stages(plan: Plan) -> Decision:
    features = plan.topology.features
    return Decision(
        "stages",
        f"{len(features)}, {features[0]} to {features[-1]} features, strides {times(plan.topology.total_stride)}",
        f"halved along the finest axes first, while feature maps keep {MIN_FEATURE_MAP_EDGE} voxels",
    )


def _batch(batch: BatchSize, memory_gb: float) -> Decision:
    if batch.patches == batch.fits:
        reason = f"as many as train in {memory_gb:g} GB"
    elif batch.patches == batch.share_of_dataset:
        reason = f"{MAX_SHARE_OF_DATASET:.0%} of the data set's voxels; memory would hold {batch.fits}"
    else:
        reason = f"never fewer, though they are more than {MAX_SHARE_OF_DATASET:.0%} of the data set's voxels"
    return Decision("batch", f"{batch.patches} patches", reason)


def _dice(plan: Plan, share: float) -> Decision:
    if not plan.train.batch_dice:
        return Decision("Dice loss", "per patch", "patches cover enough of a case, as nnU-Net sees it")
    reason = (
        "slices often lack a structure, and Dice of an absent structure is noise"
        if plan.topology.dims == 2
        else f"patches cover {share:.0%} of a case and often lack a structure"
    )
    return Decision("Dice loss", "over the batch", reason)


def _augmentation(plan: Plan) -> Decision:
    recipe = plan.train
    if plan.topology.dims == 2:
        reason = "slices are elongated" if recipe.rotation_degrees < 180 else "slices are about as long as wide"
    elif recipe.in_plane_augmentation:
        reason = "the patch is more than 3 times as wide as it has slices"
    else:
        reason = "the patch is no more than 3 times as wide as it has slices"
    where = " within slices" if recipe.in_plane_augmentation else ""
    value = f"rotation up to {recipe.rotation_degrees:g} degrees{where}, mirroring"
    return Decision("augmentation", value, reason)


def folds_decision(dataset: Dataset) -> Decision:
    """How many folds there are, and why."""
    cases = len(dataset.training)
    if first_fold(dataset) == "all":
        alone = f"{cases} images leave no pairs on one of the sides"
        return Decision("folds", "only 'all'", alone if dataset.pairs else f"{cases} training case cannot be divided")
    splits, patients = folds(dataset), len(patients_of(dataset))
    if dataset.splits:
        reason = "fixed by the author of the data set"
    elif dataset.pairs:
        reason = f"{patients} subjects shuffled; a pair is of images on one side"
    elif patients < cases:
        reason = f"{cases} cases of {patients} patients, shuffled by patient: those of one stay on one side"
    elif len(splits) < FOLDS:
        reason = f"as many as training cases, {FOLDS} need at least {FOLDS}"
    else:
        reason = f"{cases} cases shuffled as nnU-Net does; each case is judged on once"
    return Decision("folds", str(len(splits)), reason)
