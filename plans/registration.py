"""From measured pairs to a plan for registration, each decision with a reason to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Dataset
from medmamba.errors import DataError
from medmamba.labels import UNLABELLED
from medmamba.plans import budget
from medmamba.plans.decisions import Decision, folds_decision, times
from medmamba.plans.pairs_fingerprint import UNKNOWN, ImageFingerprint, PairsFingerprint
from medmamba.plans.plan import (
    ChannelPlan,
    IntensityStatistics,
    NetworkPlan,
    Plan,
    RegistrationPlan,
    Resampling,
    Similarity,
    Topology,
    TrainSettings,
)

#: What a network of a topology keeps for its backward pass, bytes for each voxel of a pair.
NetworkBytes = Callable[[Topology], float]

#: Channels of the stages, by network; of others the widths of VoxelMorph.
FEATURES = {"mambamorph": (16, 48, 96, 192, 384), "pyramid": (8, 16, 32, 32, 32)}
USUAL_FEATURES = (16, 32, 32, 32, 32)
#: No axis of the deepest feature map gets shorter than this.
MIN_EDGE = 4
#: An axis is not halved while its voxels are this many times as long as the shortest ones.
COARSE = 1.75
#: A voxel of the working grid grows by this much until training fits into memory.
COARSER = 1.05
#: Around what is not background, on either side.
MARGIN_MM = 6.0
#: Bytes a voxel takes in the losses: windows of the similarity, and eight corners with weights for warped labels.
LOSS_BYTES = 500.0
#: Hounsfield units that a window for CT reaches to at most; and for CT beside another kind of image, in which air is
#: like lungs, and bones are like one another, so that fat and muscle get most of the range.
CT_WINDOW = (-1000.0, 1500.0)
SOFT_TISSUE = (-200.0, 400.0)
#: Weight of each similarity beside a smoothness of 1: local correlations and mutual information range over about 1,
#: mean squares of intensities from 0 to 1 and of descriptors over a few hundredths.
WEIGHTS: dict[Similarity, float] = {"lncc": 1.0, "mi": 1.0, "mse": 20.0, "mind": 10.0}


def make_registration_plan(
    fingerprint: PairsFingerprint,
    dataset: Dataset,
    *,
    network: str,
    gpu_memory_gb: float = budget.GPU_MEMORY_GB,
    network_options: dict[str, Any] | None = None,
    network_bytes: NetworkBytes | None = None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """Decide everything between pairs of images and a trained network.

    Args:
        fingerprint: measurements of the data set's images.
        dataset: with pairs.
        network: name in the registry, of one for registration.
        gpu_memory_gb: memory that training may take.
        network_options: passed on to the network.
        network_bytes: what the network keeps for each voxel in training, by its topology; None: about as much as a
            plain U-Net.

    Returns:
        The plan, and the decisions in it with their reasons.

    Raises:
        DataError: if the images or the memory are too small.
    """
    if not 0 < gpu_memory_gb < math.inf:
        raise DataError(f"GPU memory must be more than 0 GB and finite, got {gpu_memory_gb:g}")
    options = dict(network_options or {})
    fixed = fingerprint.of([pair.fixed for pair in dataset.pairs])
    moving = fingerprint.of([pair.moving for pair in dataset.pairs])
    reference, why_reference = _reference(fingerprint, dataset)
    ground = fingerprint.of([case for case in dataset.training if case.id == reference]) if reference else fixed
    grid = _grid(ground, fingerprint.images, network, network_bytes or _as_unet, gpu_memory_gb)
    similarity, why_similarity = similarity_of(fixed, moving)
    has_labels = dataset.labels != UNLABELLED
    channels = channel_of("fixed", fixed, moving), channel_of("moving", moving, fixed)
    plan = Plan(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        configuration="3d_fullres",
        channels=(channels[0][0], channels[1][0]),
        labels=dataset.labels,
        axes=(0, 1, 2),
        spacing_mm=grid.spacing_mm,
        median_shape=grid.whole,
        resampling=Resampling(image_order=1, label_order=0),
        network=NetworkPlan(name=network, options=options),
        topology=grid.topology,
        train=TrainSettings(
            batch_size=1,
            batch_dice=False,
            epochs=200,
            validation_steps=20,
            learning_rate=1e-3,
            momentum=0.9,
            weight_decay=0.0,
            oversample_foreground=0.0,
            deep_supervision=False,
            mirror_axes=(0,),
            rotation_degrees=0.0,
            optimizer="adam",
        ),
        file_ending=dataset.file_ending,
        task="registration",
        registration=RegistrationPlan(
            similarity=similarity,
            similarity_weight=WEIGHTS[similarity],
            dice_weight=1.0 if has_labels else 0.0,
            reference=reference,
            pairing=dataset.pairing,
        ),
    )
    return plan, _decisions(
        plan, dataset, fingerprint, grid, (channels[0][1], channels[1][1], why_similarity, why_reference)
    )


def _decisions(
    plan: Plan, dataset: Dataset, fingerprint: PairsFingerprint, grid: _Grid, reasons: tuple[str, str, str, str]
) -> tuple[Decision, ...]:
    assert plan.registration is not None
    settings, topology = plan.registration, plan.topology
    why_fixed, why_moving, why_similarity, why_reference = reasons
    images = len(dataset.training)
    labelled = sum(case.label is not None for case in dataset.training)
    orientations = sorted({image.orientation for image in fingerprint.images})
    shared = f"; {dataset.atlas} is in all of them, as an atlas" if dataset.atlas else ""
    return (
        Decision("pairs", str(len(dataset.pairs)), f"of {images} images{shared}"),
        Decision("fixed image", plan.channels[0].name, why_fixed),
        Decision("moving image", plan.channels[1].name, why_moving),
        Decision("similarity", settings.similarity, why_similarity),
        Decision(
            "labels",
            f"{len(dataset.labels.foreground)} structures" if settings.dice_weight else "none",
            f"{labelled} of {images} images have a map; Dice of up to {settings.structures_per_step} structures a step "
            "joins the loss"
            if settings.dice_weight
            else "the images alone are compared",
        ),
        Decision("working grid", f"{times(grid.spacing_mm)} mm along R, A, S", grid.why),
        Decision("orientation", "closest to R, A, S", f"stored as {', '.join(orientations)}; turned, never rotated"),
        Decision(
            "training size",
            f"{times(topology.patch_size)} voxels",
            f"what is not background with {MARGIN_MM:g} mm around it; whole images are {times(grid.whole)} voxels",
        ),
        Decision(
            "alignment",
            f"{settings.affine}, before the network",
            f"all images to {settings.reference} ({why_reference}), so any two make a pair"
            if settings.reference
            else "each moving image to its fixed one, by mutual information",
        ),
        Decision(
            "stages",
            f"{len(topology.features)}, {topology.features[0]} to {topology.features[-1]} features, strides "
            f"{times(topology.total_stride)}",
            f"halved while feature maps keep {MIN_EDGE} voxels, along the finest axes first",
        ),
        Decision(
            "memory",
            f"{grid.bytes_per_voxel * math.prod(topology.patch_size) / 1e9:.2g} GB",
            f"{grid.bytes_per_voxel:.0f} bytes for each voxel of a pair, in network and losses",
        ),
        Decision("optimiser", f"Adam, learning rate {plan.train.learning_rate:g}", "usual for registration"),
        folds_decision(dataset),
    )


def _reference(fingerprint: PairsFingerprint, dataset: Dataset) -> tuple[str, str]:
    """Whom all images are brought to, where there are more pairs than images; empty where each pair is by itself."""
    if dataset.atlas:
        return dataset.atlas, "the atlas"
    if len(dataset.pairs) <= len(dataset.training):
        return "", ""
    sizes = np.array([image.body_mm for image in fingerprint.images])
    away = np.abs(np.log(sizes / np.median(sizes, axis=0))).sum(axis=1)
    return fingerprint.images[int(np.argmin(away))].id, "whose size is closest to the median"


def similarity_of(fixed: Sequence[ImageFingerprint], moving: Sequence[ImageFingerprint]) -> tuple[Similarity, str]:
    """By what the images of two sides are compared, and why."""
    names = {image.modality for image in (*fixed, *moving)}
    if {image.id for image in fixed} & {image.id for image in moving} and len(names) == 1:
        return "lncc", "images of one kind on both sides: local correlation"
    listed = " and ".join(sorted(names))
    if len(names) == 1 and names != {UNKNOWN}:
        return "lncc", f"{listed} on both sides, as intensities or names tell: local correlation"
    if names == {UNKNOWN}:
        return "mind", "nothing tells whether both sides are of one contrast, and MIND-SSC needs not know"
    return "mind", f"{listed}: MIND-SSC compares contrasts of different kinds"


def channel_of(
    side: str, images: Sequence[ImageFingerprint], beside: Sequence[ImageFingerprint]
) -> tuple[ChannelPlan, str]:
    """How the images of a side are normalised beside those of the other one, and why."""
    kinds = [image.modality for image in images]
    name = max(sorted(set(kinds)), key=kinds.count)
    pooled = _pooled([image.intensities for image in images])
    if name == "CT" and len(set(kinds)) == 1:
        others = {image.modality for image in beside} - {"CT"}
        reach = SOFT_TISSUE if others else CT_WINDOW
        low, high = reach[0], float(np.clip(pooled.percentile_99_5, reach[0] + 1, reach[1]))
        window = IntensityStatistics(
            mean=pooled.mean, median=pooled.median, std=pooled.std, min=pooled.min, max=pooled.max,
            percentile_00_5=low, percentile_99_5=high,
        )  # fmt: skip
        channel = ChannelPlan(name=name, normalization="window", use_mask=False, intensities=window)
        told = f", as for soft tissue, beside {' and '.join(sorted(others))}" if others else ""
        return channel, f"Hounsfield units {low:.0f} to {high:.0f} become 0 to 1, the same in all{told}"
    told = "as names tell" if name != UNKNOWN else "names do not tell which"
    mixed = (
        f" ({', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))})" if len(set(kinds)) > 1 else ""
    )
    channel = ChannelPlan(name=name, normalization="percentiles", use_mask=False, intensities=pooled)
    return channel, f"{told}{mixed}; each image's 0.5 to 99.5 percentile becomes 0 to 1"


def _pooled(found: Sequence[IntensityStatistics]) -> IntensityStatistics:
    """Medians over the images, of ends the outermost."""

    def median(name: str) -> float:
        return float(np.median([getattr(each, name) for each in found]))

    return IntensityStatistics(
        mean=median("mean"),
        median=median("median"),
        std=median("std"),
        min=min(each.min for each in found),
        max=max(each.max for each in found),
        percentile_00_5=median("percentile_00_5"),
        percentile_99_5=median("percentile_99_5"),
    )


class _Grid(NamedTuple):
    """The working grid: spacing, size of a whole image, what is trained on of it, what a voxel costs, and why."""

    spacing_mm: tuple[float, float, float]
    whole: tuple[float, float, float]
    topology: Topology
    bytes_per_voxel: float
    why: str


def _grid(
    ground: Sequence[ImageFingerprint],
    images: Sequence[ImageFingerprint],
    network: str,
    network_bytes: NetworkBytes,
    memory_gb: float,
) -> _Grid:
    """The finest grid, from the median spacing on, whose images train as a whole."""
    own = np.array([float(f"{each:.6g}") for each in np.median([image.spacing_mm for image in ground], axis=0)])
    extent = np.median([np.multiply(image.shape, image.spacing_mm) for image in ground], axis=0)
    body = np.percentile([image.body_mm for image in images], 95, axis=0) + 2 * MARGIN_MM
    told = f"{len(ground)} images" if len(ground) > 1 else "the reference"
    spacing, bytes_per_voxel = own.copy(), 0.0
    for _ in range(200):
        topology = _topology(spacing, np.minimum(body, extent + 2 * spacing) / spacing, network)
        bytes_per_voxel = bytes_per_voxel or LOSS_BYTES + network_bytes(topology)
        if math.prod(topology.patch_size) * bytes_per_voxel <= memory_gb * 1e9:
            a, b, c = (float(f"{each:.6g}") for each in spacing)
            x, y, z = (float(math.ceil(size)) for size in extent / spacing + 2)
            why = f"median of {told}"
            if (a, b, c) != tuple(own.tolist()):
                why = f"coarser than the {times(own)} mm of {told}, so that whole images train in {memory_gb:g} GB"
            return _Grid((a, b, c), (x, y, z), topology, bytes_per_voxel, why)
        spacing = np.where(spacing < spacing.min() * COARSER, spacing * COARSER, spacing)
    raise DataError(f"no grid is coarse enough to train on in {memory_gb:g} GB; plan for more (8 GB is common)")


def _topology(spacing: NDArray[np.float64], size: NDArray[np.float64], network: str) -> Topology:
    """Stages whose voxels become about as long as wide, while they keep `MIN_EDGE` voxels."""
    features = FEATURES.get(network, USUAL_FEATURES)
    strides, total = [(1, 1, 1)], np.ones(3, dtype=int)
    while len(strides) < len(features):
        long = spacing * total
        stride = np.where((long < COARSE * long.min()) & (np.ceil(size / (2 * total)) >= MIN_EDGE), 2, 1)
        if stride.max() == 1:
            break
        strides.append((int(stride[0]), int(stride[1]), int(stride[2])))
        total = total * stride
    if len(strides) < 3:
        raise DataError(
            f"the images are too small to register with a network: on the working grid they have {times(size)} voxels, "
            f"and one axis needs {4 * MIN_EDGE - 3}; check the voxel size in the image headers"
        )
    patch = tuple(int(math.ceil(n / t) * t) for n, t in zip(size, total, strict=True))
    return Topology(
        patch_size=patch,
        strides=tuple(strides),
        kernel_sizes=((3, 3, 3),) * len(strides),
        features=features[: len(strides)],
    )


def _as_unet(topology: Topology) -> float:
    """Of a plain U-Net, whose maps are kept as they are and normalised."""
    return 8.0 * budget.feature_values(topology, 3) / math.prod(topology.patch_size)
