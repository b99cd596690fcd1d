"""From a case's images to what a network sees, and from what it answers back to the case's grid.

The steps and their order are nnU-Net's: permute axes, crop to the non-zero box, normalise, resample. They go over an
image (C, *S) float32 and a label (1, *S) integers (`label_type`), with S in network axis order (see
`medmamba.plans.plan`); normalisation and resampling are nnU-Net's own functions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    ImageNormalization,
    NoNormalization,
    RescaleTo01Normalization,
    RGBTo01Normalization,
)
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from medmamba.errors import DataError
from medmamba.intensity import measured, no_data_remark, unusable
from medmamba.labels import Labels, integer_type
from medmamba.memory import check_memory, grid
from medmamba.plans.plan import ChannelPlan, Plan
from medmamba.volume import Volume, bounding_box

log = logging.getLogger(__name__)

#: Voxels that are this many times larger or smaller than planned, along every axis, are in another unit.
OTHER_UNIT = 50.0
#: Bytes per voxel of the result while a channel is resampled: the result in float64, and once more.
_RESAMPLING_BYTES = 16
#: The same where one axis is coarse: nnU-Net then holds the coordinates of all voxels, as integers and as floats.
_COARSE_AXIS_BYTES = 64
#: In a label: outside of the non-zero region, neither background nor structure.
OUTSIDE = -1


class ZScore(ImageNormalization):
    """Zero mean and unit variance, over the non-zero region alone with a mask, which then leaves the rest at zero.

    nnU-Net's, but for two things: the sums are kept in float64, and what counts as constant depends on the size
    of the intensities, so that a diffusivity in m2/s (1e-9) is not taken for an empty image.
    """

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = True

    def run(self, image: NDArray[np.float32], seg: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Normalise a channel; ``seg`` is `OUTSIDE` outside of the non-zero region."""
        inside = seg >= 0 if seg is not None and self.use_mask_for_norm else ...
        values = image[inside]
        mean = values.mean(dtype=np.float64)
        values = values - np.float32(mean)
        std = float(np.sqrt(np.square(values).mean(dtype=np.float64)))
        # Less than float32 tells apart at this mean is rounding: the channel is constant.
        if std > abs(mean) * np.finfo(np.float32).eps:
            values /= np.float32(std)
        image[inside] = values
        return image


_SCHEMES: dict[str, type[ImageNormalization]] = {
    "zscore": ZScore,
    "ct": CTNormalization,
    "none": NoNormalization,
    "rescale_0_1": RescaleTo01Normalization,
    "rgb_0_1": RGBTo01Normalization,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What is needed to go back from a sample to the case's grid; all in network axis order.

    Args:
        shape: voxels of the case.
        start: first voxel of the non-zero box.
        stop: behind its last voxel.
        spacing_mm: of the case.
    """

    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def cropped_shape(self) -> tuple[int, int, int]:
        """Voxels of the non-zero box."""
        i, j, k = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A preprocessed case.

    Args:
        image: (C, *S) float32.
        label: (*S) of `label_type`, `OUTSIDE` outside of the non-zero region; None without a reference.
        trail: the way back.
    """

    image: NDArray[np.float32]
    label: NDArray[np.signedinteger[Any]] | None
    trail: Trail


def label_type(labels: Labels) -> np.dtype[Any]:
    """The type of prepared label maps: int16, or the next one that holds every value and `OUTSIDE`."""
    return np.promote_types(np.int16, integer_type(OUTSIDE, max(labels.allowed_values)))


class Preprocessor:
    """Prepares cases as a plan says.

    Args:
        plan: axes, spacing, normalisation and spline orders.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._order = (0, *(axis + 1 for axis in plan.axes))
        #: Of (C, *S), the new shape, the spacing before and after; the order of splines, and whether it is a label.
        self._resample: Callable[..., NDArray[Any]] = partial(
            resample_data_or_seg_to_shape,
            order_z=plan.resampling.coarse_axis_order,
            force_separate_z=None,
            separate_z_anisotropy_threshold=plan.resampling.anisotropy_threshold,
        )

    def forward(
        self,
        image: Volume,
        label: Volume | None = None,
        *,
        on_nonfinite: Literal["refuse", "replace"] = "refuse",
        case: str = "",
    ) -> Sample:
        """Prepare a case.

        Args:
            image: all channels.
            label: (1, ...) the reference on the same grid, or None.
            on_nonfinite: what to do with intensities that are no measurements (NaN, infinite, beyond
                `medmamba.intensity.LARGEST_INTENSITY`): refuse the case, or put the channel's smallest measurement in
                their place and log it, if there is one.
            case: what the case is called in the log.

        Raises:
            TooLittleMemoryError: if resampling needs more memory than is free.
            DataError: for another number of channels than planned, an image and label that do not fit, intensities
                that are no measurements, RGB values outside 0 to 255, label values beyond those of the plan, or voxels
                whose size must be in another unit than the plan's.
        """
        if image.channels != len(self.plan.channels):
            raise DataError(f"the plan is for {len(self.plan.channels)} channels, the image has {image.channels}")
        if label is not None and label.geometry.shape != image.geometry.shape:
            raise DataError(f"label has shape {label.geometry.shape}, its image {image.geometry.shape}")
        array = _finite(image.array.astype(np.float32), self.plan.channels, on_nonfinite, case)
        self._check_rgb(array)
        i, j, k = (image.geometry.spacing_mm[axis] for axis in self.plan.axes)
        _check_unit(self.plan.spacing_mm, (i, j, k))
        reference = None if label is None else self._typed(label.array).transpose(self._order)
        array, marked, trail = _cropped(array.transpose(self._order), reference, (i, j, k))
        self._normalize(array, marked[0])
        array, marked = self._resampled(array, marked, (i, j, k), labelled=label is not None)
        return Sample(
            image=np.ascontiguousarray(array, dtype=np.float32),
            label=None if label is None else np.ascontiguousarray(marked[0]),
            trail=trail,
        )

    def _check_rgb(self, image: NDArray[np.float32]) -> None:
        for channel, values in zip(self.plan.channels, image, strict=True):
            if channel.normalization == "rgb_0_1" and (values.min() < 0 or values.max() > 255):
                raise DataError(
                    f"channel {channel.name} is declared as RGB but has values from {values.min():g} to "
                    f"{values.max():g}; RGB is 0 to 255. Name the channel otherwise in dataset.json, and plan again "
                    "with --force"
                )

    def _typed(self, label: NDArray[Any]) -> NDArray[np.signedinteger[Any]]:
        kind = label_type(self.plan.labels)
        low, high = int(label.min()), int(label.max())
        if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
            raise DataError(f"the label reaches from {low} to {high}, the plan knows {self.plan.labels.allowed_values}")
        typed: NDArray[np.signedinteger[Any]] = label.astype(kind)
        return typed

    def _normalize(self, image: NDArray[np.float32], label: NDArray[np.signedinteger[Any]]) -> None:
        """Normalise each channel by its own scheme, in place."""
        for index, channel in enumerate(self.plan.channels):
            scheme = _SCHEMES[channel.normalization](
                use_mask_for_norm=channel.use_mask, intensityproperties=asdict(channel.intensities)
            )
            if not (channel.use_mask and (label < 0).all()):
                with np.errstate(over="ignore", invalid="ignore"):  # looked at right below
                    image[index] = scheme.run(image[index], label)
            if not np.isfinite(image[index]).all():
                raise DataError(
                    f"channel {channel.name} is not finite after normalisation ({channel.normalization}); look at its "
                    f"intensities and at those in the plan: {channel.intensities}"
                )

    def _resampled(
        self,
        image: NDArray[np.float32],
        label: NDArray[np.signedinteger[Any]],
        before: tuple[float, float, float],
        *,
        labelled: bool,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Image, and label where there is a reference, at the plan's spacing."""
        after = _target_spacing(self.plan.spacing_mm, before)
        settings, size = self.plan.resampling, image.shape[1:]
        shape = tuple(max(1, int(n)) for n in compute_new_shape(size, before, after))
        coarse, _ = determine_do_sep_z_and_axis(None, before, after, settings.anisotropy_threshold)
        needed = resampling_bytes(len(image), size, shape, coarse=coarse, labelled=bool((label > 0).any()))
        check_memory(needed, f"resampling {grid(size, before)} to {grid(shape, after)}")
        image = self._resample(image, shape, before, after, order=settings.image_order)
        if labelled:
            label = self._resample(label, shape, before, after, order=settings.label_order, is_seg=True)
        return image, label

    def restoring_bytes(self, shape: Sequence[int], trail: Trail) -> float:
        """Memory that the logits of a sample and `restore` take at least.

        Args:
            shape: (*S) voxels of the sample.
            trail: of the sample.
        """
        classes = self.plan.labels.output_channels
        prepared, whole = float(math.prod(shape)), float(math.prod(trail.cropped_shape))
        # One class at a time is resampled, in float64, and all of them are joined afterwards.
        resampling = 8 * prepared + (4 * classes + _RESAMPLING_BYTES) * whole
        unchanged = tuple(shape) == trail.cropped_shape
        return 4 * classes * prepared + max(2 * 4 * classes * whole, 0 if unchanged else resampling)

    def restore(self, logits: NDArray[np.float32], trail: Trail) -> NDArray[np.integer[Any]]:
        """Label values on the grid of the case.

        Args:
            logits: (K, *S) of the whole sample.
            trail: of the sample.

        Returns:
            (I, J, K) in the case's array order and the smallest type that holds the plan's values; voxels outside the
            non-zero box are background.
        """
        labels = self.plan.labels
        resampled = self._resample_logits(logits, trail)
        painted = [0, *(labels.region_order or (label.values[0] for label in labels.foreground))]
        dtype = integer_type(min(painted), max(painted))
        values = np.zeros(trail.cropped_shape, dtype=dtype)
        if labels.has_regions:
            for channel, value in enumerate(labels.region_order):
                values[resampled[channel] > 0] = value  # the sigmoid is above a half where the logit is positive
        else:
            values = np.array(painted, dtype=dtype)[resampled.argmax(axis=0)]
        whole: NDArray[np.integer[Any]] = self._uncrop(values[None], trail)[0]
        return whole

    def restore_probabilities(self, logits: NDArray[np.float32], trail: Trail) -> NDArray[np.float32]:
        """Probabilities on the grid of the case.

        Returns:
            (K, I, J, K) float32: of background and each class, summing to one, or of each region; outside the non-zero
            box background is certain.
        """
        tensor = torch.from_numpy(self._resample_logits(logits, trail))
        regions = self.plan.labels.has_regions
        probabilities = (torch.sigmoid(tensor) if regions else torch.softmax(tensor, 0)).numpy()
        whole = self._uncrop(probabilities, trail)
        if not regions:
            whole[0] = 1 - whole[1:].sum(axis=0)
        return whole

    def _resample_logits(self, logits: NDArray[np.float32], trail: Trail) -> NDArray[np.float32]:
        spacing = _target_spacing(self.plan.spacing_mm, trail.spacing_mm)
        order = self.plan.resampling.logits_order
        # Channel by channel: a hundred classes at full size in the function's float64 would not fit into memory.
        channels = [
            self._resample(channel[None], trail.cropped_shape, spacing, trail.spacing_mm, order=order)
            for channel in logits
        ]
        return np.concatenate(channels).astype(np.float32, copy=False)

    def _uncrop(self, array: NDArray[Any], trail: Trail) -> NDArray[Any]:
        """Put the box back into the case and its axes back into array order, (C, *S) to (C, I, J, K)."""
        whole = np.zeros((len(array), *trail.shape), dtype=array.dtype)
        box = tuple(slice(start, stop) for start, stop in zip(trail.start, trail.stop, strict=True))
        whole[(slice(None), *box)] = array
        back = np.argsort(self.plan.axes)
        return np.ascontiguousarray(whole.transpose(0, *(back + 1)))


def resampling_bytes(
    channels: int, before: Sequence[int], after: Sequence[int], *, coarse: bool, labelled: bool
) -> float:
    """Memory that resampling an image and its label takes at least.

    Args:
        channels: of the image.
        before: (*S) voxels.
        after: (*S) voxels.
        coarse: one axis is resampled on its own, which holds the position of every voxel.
        labelled: there are structures in the label, which are resampled one after the other.
    """
    if tuple(before) == tuple(after):
        return 0.0
    each = _COARSE_AXIS_BYTES if coarse else 2 * _RESAMPLING_BYTES if labelled else _RESAMPLING_BYTES
    return 8.0 * channels * math.prod(before) + (4.0 * channels + each) * math.prod(after)


def _cropped(
    image: NDArray[np.float32], label: NDArray[np.signedinteger[Any]] | None, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.signedinteger[Any]], Trail]:
    """Image (C, *S) and label (1, *S) cropped to the box of voxels that are non-zero in any channel, and where it is.

    In the label voxels outside, but for holes, become `OUTSIDE`; without a label one is made, because normalisation
    needs to know them.
    """
    mask = binary_fill_holes((image != 0).any(axis=0))
    box = bounding_box(mask)
    inside = mask[box]
    marked = np.zeros((1, *inside.shape), np.int16) if label is None else label[:, *box].copy()
    marked[0][(marked[0] == 0) & ~inside] = OUTSIDE
    i, j, k = box
    trail = Trail(
        shape=mask.shape,
        start=(i.start, j.start, k.start),
        stop=(i.stop, j.stop, k.stop),
        spacing_mm=spacing_mm,
    )
    return image[:, *box].copy(), marked, trail


def _check_unit(planned: tuple[float, ...], case: tuple[float, float, float]) -> None:
    """Refuse what resampling would make a single voxel, or billions, of."""
    sizes = case[-len(planned) :]
    ratio = np.array(planned) / sizes
    if ratio.min() > OTHER_UNIT or ratio.max() < 1 / OTHER_UNIT:
        here, there = (" x ".join(f"{size:g}" for size in some) for some in (sizes, planned))
        raise DataError(
            f"voxels measure {here} mm, the plan is for {there} mm; correct the unit in the image's header, or plan "
            "again (version 0.1.0 took micrometres and metres for millimetres)"
        )


def _target_spacing(planned: tuple[float, ...], case: tuple[float, float, float]) -> tuple[float, ...]:
    return planned if len(planned) == 3 else (case[0], *planned)


def _finite(
    array: NDArray[np.float32], channels: tuple[ChannelPlan, ...], policy: Literal["refuse", "replace"], case: str
) -> NDArray[np.float32]:
    for values, channel in zip(array, channels, strict=True):
        place = f"case {case}, channel {channel.name}" if case else f"channel {channel.name}"
        wrong = unusable(values)
        if wrong and policy == "refuse":
            raise DataError(
                f"channel {channel.name}: {wrong}; replace them, for example by the background's intensity, or leave "
                "out the image"
            )
        if wrong:
            good = measured(values)
            if not good.any():
                raise DataError(f"channel {channel.name}: {wrong}, so nothing was measured; copy the image again")
            log.warning("%s: %s; the channel's smallest measurement takes their place", place, wrong)
            values[~good] = values[good].min()
        # Planning has told of the training cases, and CT is clipped.
        remark = no_data_remark(values) if policy == "replace" and channel.normalization != "ct" else ""
        if remark:
            log.warning("%s: %s", place, remark)
    return array
