"""A plan: every decision between a folder of scans and a trained network, as data.

Letters and orders. "Network axis order" is the order of axes in the arrays a network sees: ``axes[i]`` names the array
axis (see `medmamba.volume`) that network axis ``i`` is taken from. nnU-Net reads volumes with the array axes reversed
and moves the coarsest axis to the front; with ``axes`` that becomes one permutation, and patch size, spacing
and strides are the numbers nnU-Net's own plan holds. A 2D plan works on slices across the first network axis:
its patch size, spacing and strides have two entries, those of the other two axes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medmamba.case import Pairing
from medmamba.errors import DataError
from medmamba.labels import Labels
from medmamba.records import from_json, read_json, to_json, write_json

#: Rises with every change of meaning of a field.
SCHEMA = 1

Configuration = Literal["2d", "3d_fullres"]
Normalization = Literal["zscore", "ct", "none", "rescale_0_1", "rgb_0_1", "percentiles", "window"]
Task = Literal["segmentation", "registration", "video"]
Optimizer = Literal["sgd", "adam"]
#: How far images are brought together before a network sees them.
AffineKind = Literal["none", "centres", "rigid", "affine"]
Similarity = Literal["lncc", "mse", "mi", "mind"]
Smoothness = Literal["diffusion", "bending"]


#: Of a part that is there and should not be, or the other way round.
_PART = ("has no use for", "needs")


class _Rule(NamedTuple):
    """What a number must be; no rule holds for NaN."""

    words: str
    holds: Callable[[float], bool]


_SOME = _Rule("1 or more", lambda n: 1 <= n < math.inf)
_COUNT = _Rule("0 or more", lambda n: 0 <= n < math.inf)
_POSITIVE = _Rule("more than 0", lambda n: 0 < n < math.inf)
_SHARE = _Rule("from 0 to 1", lambda n: 0 <= n <= 1)
_BELOW_ONE = _Rule("0 or more and less than 1", lambda n: 0 <= n < 1)
_SPLINE = _Rule("from 0 to 5", lambda n: 0 <= n <= 5)
_RATE = _Rule("more than 0 and at most 1000", lambda n: 0 < n <= 1000)
_ANGLE = _Rule("from 0 to 180", lambda n: 0 <= n <= 180)
#: A step's random numbers begin with the seed times a million, which PyTorch takes below 2^64.
_SEED = _Rule("from 0 to 18000000000000", lambda n: 0 <= n <= 18 * 10**12)


def _check(settings: Any, **rules: _Rule) -> None:
    """Refuse the fields that break their rule."""
    for name, rule in rules.items():
        if not rule.holds(getattr(settings, name)):
            raise DataError(f"{name} must be {rule.words}, got {getattr(settings, name)}")


def _check_rules(rules: Mapping[str, str], channels: Sequence[str]) -> None:
    """Refuse rules for channels that there are not, and what is no regular expression."""
    for channel, rule in rules.items():
        if channel not in channels:
            raise DataError(f"channel_rules must be for {', '.join(channels)}, got one for {channel!r}")
        try:
            re.compile(rule)
        except re.error as error:
            raise DataError(f"the rule of channel {channel} is no regular expression: {rule!r} ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityStatistics:
    """Intensities of one channel inside the foreground labels, over the training cases."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlan:
    """How one image channel is normalised.

    Args:
        name: name of the channel in the data set.
        normalization: the scheme, see `medmamba.data.preprocess`.
        use_mask: normalise with the statistics of non-zero voxels and leave the others at zero.
        intensities: statistics of the training cases' foreground.
    """

    name: str
    normalization: Normalization
    use_mask: bool
    intensities: IntensityStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """Spline orders, and when the coarse axis is resampled on its own.

    Args:
        image_order: spline order for images.
        label_order: spline order for the indicator of each label.
        logits_order: spline order for network outputs on their way back to the case's grid.
        coarse_axis_order: spline order along the coarse axis of anisotropic images.
        anisotropy_threshold: an image is anisotropic when its largest spacing is more than this times its smallest.
    """

    image_order: int = 3
    label_order: int = 1
    logits_order: int = 1
    coarse_axis_order: int = 0
    anisotropy_threshold: float = 3.0

    def __post_init__(self) -> None:
        orders = dict.fromkeys(("image_order", "label_order", "logits_order", "coarse_axis_order"), _SPLINE)
        _check(self, **orders, anisotropy_threshold=_POSITIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The only thing planner and network agree on.

    Args:
        patch_size: voxels of the network's input, two or three entries.
        strides: downsampling at the entry of each stage; the first is all ones.
        kernel_sizes: convolution kernel of each stage, odd numbers.
        features: channels of each stage.

    Raises:
        DataError: if the lists do not fit together or the patch cannot be divided by the strides.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]

    def __post_init__(self) -> None:
        stages = len(self.features)
        if self.dims not in (2, 3) or stages < 2 or len(self.strides) != stages or len(self.kernel_sizes) != stages:
            raise DataError(
                f"a topology needs a 2D or 3D patch, got {self.patch_size}, and as many features as strides and kernel "
                f"sizes, one for each of two or more stages, got {stages} features, {len(self.strides)} strides and "
                f"{len(self.kernel_sizes)} kernel sizes; change the features to as many as there are strides, or "
                "topology.strides and topology.kernel_sizes along"
            )
        if min(self.features) < 1:
            raise DataError(f"features must be 1 or more, got {self.features}")
        for row in (*self.strides, *self.kernel_sizes):
            if len(row) != self.dims or min(row) < 1:
                raise DataError(f"strides and kernel sizes need {self.dims} positive entries, got {row}")
        if any(size % 2 == 0 for row in self.kernel_sizes for size in row):
            raise DataError(f"kernel sizes must be odd, got {self.kernel_sizes}")
        for axis, (size, divisor) in enumerate(zip(self.patch_size, self.total_stride, strict=True)):
            if size < 1 or size % divisor:
                nearest = max(divisor, round(size / divisor) * divisor)
                raise DataError(
                    f"patch size {self.patch_size} must be divisible by the product of strides {self.total_stride}; "
                    f"nearest for axis {axis} is {nearest}"
                )

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of all strides, per axis."""
        return tuple(map(math.prod, zip(*self.strides, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """Which network of the registry, with which options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The recipe; defaults are nnU-Net's.

    Args:
        batch_size: patches per step.
        batch_dice: compute the Dice loss over the whole batch instead of per patch.
        epochs: number of epochs.
        steps_per_epoch: optimiser steps in an epoch; between epochs the network is validated.
        validation_steps: batches in a validation between epochs.
        learning_rate: at the start; decays with ``(1 - progress) ** poly_exponent``.
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 penalty.
        poly_exponent: see ``learning_rate``.
        gradient_clip: largest norm of the gradient.
        oversample_foreground: share of patches centred on a foreground voxel.
        deep_supervision: compute the loss also on coarser outputs, weights 1, 1/2, 1/4, ...
        mirror_axes: network axes of the patch that augmentation and prediction may flip.
        rotation_degrees: largest rotation of augmentation about each axis.
        in_plane_augmentation: rotate, scale and deform a 3D patch within its slices only (across the first network
            axis), because its slices lie too far apart to be mixed.
        seed: of everything random.
        optimizer: SGD with Nesterov momentum, or Adam, of which ``momentum`` is the first beta.
    """

    batch_size: int
    batch_dice: bool
    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps: int = 50
    learning_rate: float = 1e-2
    momentum: float = 0.99
    weight_decay: float = 3e-5
    poly_exponent: float = 0.9
    gradient_clip: float = 12.0
    oversample_foreground: float = 0.33
    deep_supervision: bool = True
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    rotation_degrees: float = 30.0
    in_plane_augmentation: bool = False
    seed: int = 1234
    optimizer: Optimizer = "sgd"

    def __post_init__(self) -> None:
        _check(
            self,
            batch_size=_SOME,
            epochs=_SOME,
            steps_per_epoch=_SOME,
            validation_steps=_COUNT,
            learning_rate=_RATE,
            momentum=_BELOW_ONE,
            weight_decay=_COUNT,
            poly_exponent=_COUNT,
            gradient_clip=_POSITIVE,
            oversample_foreground=_SHARE,
            rotation_degrees=_ANGLE,
            seed=_SEED,
        )

    @property
    def steps_per_validation(self) -> int:
        """Steps of training for each batch of validation."""
        return max(1, self.steps_per_epoch // max(1, self.validation_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """Sliding window: windows overlap by this share, and are averaged over flips of the mirror axes."""

    overlap: float = 0.5
    mirror: bool = True

    def __post_init__(self) -> None:
        _check(self, overlap=_BELOW_ONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationPlan:
    """What a registration is trained for, and how its images are brought together before.

    Args:
        similarity: of the moved and the fixed image: local normalised cross-correlation, mean squared error, global
            mutual information, or MIND-SSC, which compares contrasts of different kinds.
        similarity_weight: in the loss; so are the others.
        smoothness: of the velocity: squared first derivatives, or second ones, which let affine motion be.
        smoothness_weight: of it.
        jacobian_weight: of folds.
        dice_weight: of the Dice of warped labels.
        features_weight: of MambaMorph's contrastive loss of features, for networks that give some.
        inverse_weight: of how far forth and back lead past the start.
        synthetic_mm: how far moving images are deformed in training, at most, by smooth fields that are made up; 0: not
            at all. It is for pairs that lie on one another already, of which the network then learns to find such
            fields.
        synthetic_weight: of the distance from such a field, in mm, where there is one.
        structures_per_step: of the labels, so many are drawn for the Dice of a step.
        affine: alignment of images before the network: none, by centres of mass, rigid or affine by mutual information.
        reference: id of the subject that all images are brought to; empty where each moving image is brought to its own
            fixed one.
        pairing: how images become pairs; where a second folder lies is not part of the digest.
    """

    similarity: Similarity = "lncc"
    similarity_weight: float = 1.0
    smoothness: Smoothness = "diffusion"
    smoothness_weight: float = 1.0
    jacobian_weight: float = 0.0
    dice_weight: float = 0.0
    features_weight: float = 0.0
    inverse_weight: float = 0.0
    synthetic_mm: float = 0.0
    synthetic_weight: float = 1.0
    structures_per_step: int = 16
    affine: AffineKind = "affine"
    reference: str = ""
    pairing: Pairing = field(default_factory=Pairing)

    def __post_init__(self) -> None:
        weights = ("similarity", "smoothness", "jacobian", "dice", "features", "inverse", "synthetic")
        _check(
            self,
            **dict.fromkeys((f"{name}_weight" for name in weights), _COUNT),
            synthetic_mm=_COUNT,
            structures_per_step=_SOME,
        )
        if not (self.similarity_weight or self.dice_weight or (self.synthetic_mm and self.synthetic_weight)):
            raise DataError(
                "a registration needs a similarity_weight or a dice_weight above 0, or synthetic_mm and "
                "synthetic_weight: nothing pulls otherwise"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPlan:
    """How films are cut into the clips that a network sees, and what it is trained for besides masks.

    Each frame is seen as a whole: scaled by one factor so that it fits into the topology's height and width, and padded
    at the bottom and on the right. Normalisations that measure a case measure each frame by itself, so that a stream
    needs no frame to come.

    Args:
        clip_length: frames of a clip.
        stride: frames of the film from one frame of a clip to the next.
        rate: frames a second of the usual film; None where it is not known. For information.
        edge_weight: in the loss, of the boundaries; so are the others. Masks weigh 1.
        temporal_weight: of changes between frames that the reference has not.
        causal: no frame depends on later ones, so that a film can be segmented while it comes.
        window_overlap: share of a clip that it has in common with the next one in prediction.
    """

    clip_length: int
    stride: int = 1
    rate: float | None = None
    edge_weight: float = 0.0
    temporal_weight: float = 0.0
    causal: bool = False
    window_overlap: float = 0.5

    def __post_init__(self) -> None:
        _check(
            self,
            clip_length=_SOME,
            stride=_SOME,
            edge_weight=_COUNT,
            temporal_weight=_COUNT,
            window_overlap=_BELOW_ONE,
            **({} if self.rate is None else {"rate": _POSITIVE}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything between a folder of scans and a trained network.

    Args:
        dataset: name of the data set.
        dataset_root: where it was when the plan was made; not part of the digest.
        configuration: ``2d`` or ``3d_fullres``.
        channels: normalisation of each image channel.
        labels: meaning of the label values.
        axes: array axis that each network axis is taken from.
        spacing_mm: voxel size after resampling, network axis order; the last two axes in a 2D plan.
        median_shape: median size of a case after resampling, same order; for information.
        resampling: spline orders.
        network: the network.
        topology: its shape.
        train: the recipe.
        inference: the sliding window.
        file_ending: of the data set's images.
        edition: of BraTS, whose labels these are, so that the data set is opened so again; not part of the digest, for
            the labels are.
        channel_rules: channel -> regular expression that tells its series in an export in DICOM, by modality,
            description, protocol and sequence; not part of the digest, for it changes nothing in a network.
        task: what the network is for. In registration, channels are those of the fixed and of the moving image, axes
            are those of the working grid (closest to R, A, S), ``spacing_mm`` is its spacing, ``median_shape`` the
            median size of the images on it, and patches are whole images where memory allows. In video, the last two
            axes are rows and columns of a frame, the patch is a whole frame as the network sees it, and batches are of
            clips; ``spacing_mm`` is that of the patch's pixels, 1 where films do not tell it, and ``median_shape`` the
            median height and width of the films' own frames.
        registration: the rest of what a registration needs; None for other tasks.
        video: the rest of what video needs; None for other tasks.
        schema: version of this format.
    """

    dataset: str
    dataset_root: str
    configuration: Configuration
    channels: tuple[ChannelPlan, ...]
    labels: Labels
    axes: tuple[int, int, int]
    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    resampling: Resampling
    network: NetworkPlan
    topology: Topology
    train: TrainSettings
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    file_ending: str = ".nii.gz"
    edition: str = ""
    channel_rules: dict[str, str] = field(default_factory=dict)
    task: Task = "segmentation"
    registration: RegistrationPlan | None = None
    video: VideoPlan | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise DataError(f"plan has schema {self.schema}, this version of medmamba reads {SCHEMA}")
        if sorted(self.axes) != [0, 1, 2]:
            raise DataError(f"axes must be a permutation of 0, 1, 2, got {self.axes}")
        if not self.channels:
            raise DataError("a plan needs at least one channel")
        if len(self.spacing_mm) != self.topology.dims or not all(map(_POSITIVE.holds, self.spacing_mm)):
            raise DataError(f"spacing needs {self.topology.dims} positive entries, got {self.spacing_mm}")
        if not all(map(_SOME.holds, self.median_shape)):
            raise DataError(f"median_shape must have entries of {_SOME.words}, got {self.median_shape}")
        if self.topology.dims != (2 if self.configuration == "2d" else 3):
            raise DataError(f"a {self.configuration} plan cannot have a patch of {self.topology.patch_size}")
        if not set(self.train.mirror_axes) <= set(range(self.topology.dims)):
            raise DataError(f"mirror_axes must be of axes 0 to {self.topology.dims - 1}, got {self.train.mirror_axes}")
        _check_rules(self.channel_rules, [channel.name for channel in self.channels])
        for part, settings in (("registration", self.registration), ("video", self.video)):
            if (self.task == part) != (settings is not None):
                raise DataError(f"a plan for {self.task} {_PART[settings is None]} the part {part!r}")
        if self.task == "video" and self.topology.dims != 2:
            raise DataError(f"a plan for video has a 2D patch, of a frame, got {self.topology.patch_size}")
        if self.task == "registration" and (len(self.channels) != 2 or self.topology.dims != 3):
            raise DataError(
                "a plan for registration has two channels, of the fixed and of the moving image, and a 3D patch, got "
                f"{len(self.channels)} and {self.topology.patch_size}"
            )

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan.

        Raises:
            FileNotFoundError: if there is no such file.
            DataError: if it is not a plan, naming the key that is wrong.
        """
        return from_json(cls, read_json(path), str(path))

    def save(self, path: Path) -> None:
        """Write the plan as readable JSON."""
        write_json(to_json(self), path)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with every decision, and not with the place of the data."""
        decided = to_json(replace(self, dataset_root=""))
        del decided["edition"], decided["channel_rules"]
        # Digests of plans made before there was anything but segmentation, and then registration, stay what they were.
        for part in ("registration", "video"):
            if decided[part] is None:
                del decided[part]
        if self.task == "segmentation":
            del decided["task"]
        if self.registration is not None:
            decided["registration"]["pairing"]["moving"] = bool(self.registration.pairing.moving)
        if self.train.optimizer == "sgd":
            del decided["train"]["optimizer"]
        return _digest(decided)

    def preprocessing_digest(self) -> str:
        """As `digest`, of those decisions alone that preprocessed cases depend on."""
        decided = (self.schema, self.channels, self.labels, self.axes, self.spacing_mm, self.resampling)
        if self.video is not None:
            return _digest((*decided, "video", self.topology.patch_size))
        if self.registration is None:
            return _digest(decided)
        together = (self.registration.affine, self.registration.reference, self.topology.total_stride)
        return _digest((*decided, *together))

    def override(self, key: str, value: Any) -> Plan:
        """A plan with one field changed, e.g. ``plan.override("train.epochs", 250)``; see `overridden`."""
        return self.overridden({key: value})

    def overridden(self, changes: Mapping[str, Any]) -> Plan:
        """A plan with some fields changed, which need to fit one another only when all are.

        Raises:
            DataError: if there is no such field or the value does not fit it.
        """
        data = to_json(self)
        for key, value in changes.items():
            *parents, last = key.split(".")
            node = data
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            # Options of a network are its own business and may name anything.
            if not isinstance(node, dict) or (last not in node and parents[-2:] != ["network", "options"]):
                place = ".".join(parents) if isinstance(node, dict) else ""
                known = sorted(f"{place}.{name}" if place else name for name in (node if place else data))
                raise DataError(f"the plan has no field {key!r}; there are {', '.join(known)}")
            node[last] = value
        return from_json(Plan, data, "plan")


def _digest(value: Any) -> str:
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
