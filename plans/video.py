"""From measured clips to a plan for video, each decision with a reason to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medmamba.case import Dataset
from medmamba.errors import DataError
from medmamba.labels import Labels
from medmamba.plans import budget
from medmamba.plans.clips_fingerprint import ClipsFingerprint
from medmamba.plans.decisions import Decision, folds_decision, times
from medmamba.plans.plan import (
    ChannelPlan,
    NetworkPlan,
    Normalization,
    Plan,
    Resampling,
    Topology,
    TrainSettings,
    VideoPlan,
)
from medmamba.plans.planner import NORMALIZATIONS
from medmamba.plans.topology import largest_topology

#: Frames of a clip, as published for Vivim; more where memory is left over, up to the second number.
CLIP_LENGTH, LONGEST_CLIP = 5, 16
#: From frame to frame of a clip, at least this share of the pixels should change; a stride gets no larger than this.
LEAST_MOTION, LARGEST_STRIDE = 0.01, 4
#: Clips of a batch before a clip gets longer.
MANY_CLIPS = 4
#: A frame's edges are shortened by this much until training fits, and not below this many pixels.
SHORTER, MIN_EDGE = 0.97, 64
#: Films whose rates differ by more than this show the same movement as others.
ODD_RATE = 1.5
#: The pyramid of the authors' SegFormer, B3.
PYRAMID_STRIDES, PYRAMID_FEATURES = (4, 2, 2, 2), (64, 128, 320, 512)
#: Vivim's weights with their moments, and bytes for each pixel of each frame: 19.2 GB were measured by its authors for
#: 32 frames of 256 x 256.
PYRAMID_FIXED, PYRAMID_BYTES = 1.0e9, 8700.0

_SCHEMES: dict[Normalization, str] = {
    "ct": "clipped to the data set's 0.5 to 99.5 percentile, then its z-score: the same for every frame",
    "none": "as it is",
    "rescale_0_1": "minimum to maximum of each frame becomes 0 to 1",
    "rgb_0_1": "0 to 255 becomes 0 to 1",
    "zscore": "z-score of each frame by itself",
}


def make_video_plan(
    fingerprint: ClipsFingerprint,
    dataset: Dataset,
    *,
    network: str,
    gpu_memory_gb: float = budget.GPU_MEMORY_GB,
    network_options: dict[str, Any] | None = None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """Decide everything between films and a trained network.

    Args:
        fingerprint: measurements of the data set's clips.
        dataset: of video.
        network: name in the registry; Vivim's pyramid for it, and nnU-Net's topology of slices for others.
        gpu_memory_gb: memory that training may take.
        network_options: passed on to the network.

    Returns:
        The plan, and the decisions in it with their reasons.

    Raises:
        DataError: if the frames or the memory are too small.
    """
    if not 0 < gpu_memory_gb < math.inf:
        raise DataError(f"GPU memory must be more than 0 GB and finite, got {gpu_memory_gb:g}")
    clips = fingerprint.clips
    stride, why_stride = _stride(fingerprint)
    length = max(1, min(CLIP_LENGTH, math.ceil(_usual_frames(fingerprint) / stride)))
    height, width = np.median([clip.size for clip in clips], axis=0)
    topology, fits = _topology(network, (height, width), dataset.labels, length, gpu_memory_gb)
    length, batch, why_length, why_batch = _batch(fingerprint, length, stride, fits, gpu_memory_gb)
    rates = sorted(clip.rate for clip in clips if clip.rate is not None)
    factor = min(1.0, min(n / size for n, size in zip(topology.patch_size, (height, width), strict=True)))
    spacings = [clip.spacing_mm for clip in clips if clip.spacing_mm is not None]
    rows, columns = np.median(spacings, axis=0) / factor if len(spacings) == len(clips) else (1.0, 1.0)
    plan = Plan(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        configuration="2d",
        channels=_channels(fingerprint),
        labels=dataset.labels,
        axes=(0, 1, 2),
        spacing_mm=(float(rows), float(columns)),
        median_shape=(float(height), float(width)),
        resampling=Resampling(image_order=1, label_order=0),
        network=NetworkPlan(name=network, options=dict(network_options or {})),
        topology=topology,
        train=TrainSettings(
            batch_size=batch,
            # Frames often lack a structure, and Dice of an absent structure is noise.
            batch_dice=True,
            epochs=200,
            learning_rate=3e-4,
            momentum=0.9,
            weight_decay=0.0,
            deep_supervision=False,
            mirror_axes=(0, 1),
            rotation_degrees=15.0,
            optimizer="adam",
        ),
        file_ending=dataset.file_ending,
        task="video",
        video=VideoPlan(clip_length=length, stride=stride, rate=rates[len(rates) // 2] if rates else None),
    )
    return plan, (
        *_labels(fingerprint, dataset.labels),
        *_channels_in_words(plan),
        Decision("frames", *_frames_in_words(fingerprint, plan, factor, gpu_memory_gb)),
        _stages(topology, network),
        Decision("clips", f"{length} frames", why_length),
        Decision("stride", f"{stride}", why_stride),
        *_rates(rates, len(clips)),
        Decision("batch", f"{batch} clips", why_batch),
        Decision("masks", *_masks_in_words(fingerprint)),
        Decision("optimiser", f"Adam, learning rate {plan.train.learning_rate:g}", "usual for transformers"),
        folds_decision(dataset),
    )


def _stages(topology: Topology, network: str) -> Decision:
    features = topology.features
    value = f"{len(features)}, {features[0]} to {features[-1]} features, strides {times(topology.total_stride)}"
    return Decision("stages", value, "as published for it" if network == "vivim" else "as nnU-Net has them for slices")


def _usual_frames(fingerprint: ClipsFingerprint) -> int:
    """Three of four films have as many frames or more."""
    return int(np.percentile([clip.frames for clip in fingerprint.clips], 25))


def _stride(fingerprint: ClipsFingerprint) -> tuple[int, str]:
    """Frames from one of a clip to the next, so that something moves between them."""
    shares = [clip.motion for clip in fingerprint.clips if clip.motion is not None]
    what = "their label"
    if not shares:
        shares = [clip.flicker for clip in fingerprint.clips if clip.flicker is not None]
        what = "their intensity, no two frames in a row having masks,"
    if not shares:
        return 1, "films of a single frame"
    share = float(np.median(shares))
    words = f"{share:.2%} of the pixels change {what} from frame to frame"
    longest = max(1, _usual_frames(fingerprint) // CLIP_LENGTH)
    stride = min(math.ceil(LEAST_MOTION / share) if share else LARGEST_STRIDE, LARGEST_STRIDE, longest)
    return stride, words if stride == 1 else f"{words}, {LEAST_MOTION:.0%} are wanted"


def _topology(
    network: str, size: tuple[float, float], labels: Labels, length: int, memory_gb: float
) -> tuple[Topology, int]:
    """The largest frame of which two clips train, at most the median one; and how many such frames do."""
    outputs = len(labels.foreground) + 1
    least = budget.MIN_BATCH_SIZE * length
    if network != "vivim":
        topology = largest_topology((1, 1), size, output_channels=outputs, memory_gb=memory_gb / length)
        reference = budget.REFERENCES[2]
        values = reference.values_in(memory_gb) * reference.batch_size
        return topology, max(least, int(values / budget.feature_values(topology, outputs)))
    divisor, factor = math.prod(PYRAMID_STRIDES), 1.0
    while True:
        height, width = (math.ceil(edge * factor / divisor) * divisor for edge in size)
        frames = int((memory_gb * 1e9 - PYRAMID_FIXED) / (PYRAMID_BYTES * height * width))
        if frames >= least:
            return _pyramid((height, width)), frames
        factor *= SHORTER
        if min(size) * factor < MIN_EDGE:
            raise DataError(
                f"two clips of {length} frames do not train in {memory_gb:g} GB, however small; plan for more (8 GB is "
                "common), or choose another network"
            )


def _pyramid(size: tuple[int, int]) -> Topology:
    return Topology(
        patch_size=size,
        strides=tuple((stride, stride) for stride in PYRAMID_STRIDES),
        kernel_sizes=((7, 7), (3, 3), (3, 3), (3, 3)),
        features=PYRAMID_FEATURES,
    )


def _batch(
    fingerprint: ClipsFingerprint, length: int, stride: int, fits: int, memory_gb: float
) -> tuple[int, int, str, str]:
    """Clip length and batch size, and why: longer clips where many fit, more clips up to a share of the data set."""
    reach = max(length, min(LONGEST_CLIP, _usual_frames(fingerprint) // stride))
    longer = min(reach, max(length, fits // MANY_CLIPS))
    if longer > length:
        why_length = f"as many as {MANY_CLIPS} clips of them train in {memory_gb:g} GB, up to {reach}"
    else:
        why_length = "as published for Vivim" if length == CLIP_LENGTH else "films have no more"
    held = fits // longer
    wanted = round(sum(clip.frames for clip in fingerprint.clips) * budget.MAX_SHARE_OF_DATASET / longer)
    batch = max(budget.MIN_BATCH_SIZE, min(wanted, held))
    share = f"{budget.MAX_SHARE_OF_DATASET:.0%} of all frames"
    if batch == held:
        why = f"as many as train in {memory_gb:g} GB"
    else:
        why = f"{share}; memory would hold {held}" if batch == wanted else f"never fewer, though more than {share}"
    return longer, batch, why_length, why


def _channels(fingerprint: ClipsFingerprint) -> tuple[ChannelPlan, ...]:
    """Normalisation by the channel's name; else by the whole data set, so that all frames are treated alike."""
    return tuple(
        ChannelPlan(
            name=name, normalization=NORMALIZATIONS.get(name.casefold(), "ct"), use_mask=False, intensities=found
        )
        for name, found in zip(fingerprint.channels, fingerprint.intensities, strict=True)
    )


def _channels_in_words(plan: Plan) -> list[Decision]:
    alike: dict[str, list[str]] = {}
    for channel in plan.channels:
        alike.setdefault(_SCHEMES[channel.normalization], []).append(channel.name)
    told = {name.casefold() for name in NORMALIZATIONS}
    return [
        Decision(
            f"channel {', '.join(names)}",
            value,
            f"the channel is called {names[0]}" if names[0].casefold() in told else "a stream needs no frame to come",
        )
        for value, names in alike.items()
    ]


def _labels(fingerprint: ClipsFingerprint, labels: Labels) -> list[Decision]:
    """Of each label the share of all pixels, and in how many clips it is; a warning for one in none."""
    total = sum(n for clip in fingerprint.clips for n in clip.label_pixels.values())
    words, absent = [], []
    for label in labels.foreground:
        found = [sum(clip.label_pixels.get(str(v), 0) for v in label.values) for clip in fingerprint.clips]
        words.append(f"{label.name} {sum(found) / total:.2%} in {sum(map(bool, found))}")
        absent += [] if any(found) else [label.name]
    reason = f"{', '.join(words)} of {len(fingerprint.clips)} clips"
    told = [Decision("labels", f"{len(labels.foreground)} besides background", reason)]
    if absent:
        reason = "a network cannot learn a label that occurs in no mask; check names and values"
        told.append(Decision("warning", f"no pixel of {', '.join(absent)}", reason, is_warning=True))
    return told


def _frames_in_words(fingerprint: ClipsFingerprint, plan: Plan, factor: float, memory_gb: float) -> tuple[str, str]:
    sizes = {clip.size for clip in fingerprint.clips}
    own = f"{times(plan.median_shape)} pixels are the {'median' if len(sizes) > 1 else 'size'} of the films"
    if factor < 1:
        own += f", scaled by {factor:.3g} so that two clips train in {memory_gb:g} GB"
    return f"{times(plan.topology.patch_size)} pixels", f"{own}; padded to what the strides divide"


def _masks_in_words(fingerprint: ClipsFingerprint) -> tuple[str, str]:
    clips = fingerprint.clips
    labelled, frames = sum(clip.labelled for clip in clips), sum(clip.frames for clip in clips)
    if labelled == frames:
        return f"all {frames} frames", f"of {len(clips)} clips; each of them counts"
    return f"{labelled} of {frames} frames", f"of {len(clips)} clips; frames without a mask are left out of the loss"


def _rates(rates: Sequence[float], clips: int) -> list[Decision]:
    if not rates:
        return [Decision("rate", "unknown", "the films do not say; steps are from frame to frame")]
    usual, reason = rates[len(rates) // 2], f"the median of {len(rates)} of {clips} clips that tell"
    found = [Decision("rate", f"{usual:.4g} frames a second", reason)]
    if rates[-1] > ODD_RATE * rates[0]:
        value = f"rates from {rates[0]:.4g} to {rates[-1]:.4g} frames a second"
        found.append(
            Decision("warning", value, "the same movement takes other numbers of frames; bring films to one rate", True)
        )
    return found
