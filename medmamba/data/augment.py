"""nnU-Net's augmentation in MONAI transforms.

| nnU-Net | here | difference |
|---|---|---|
| rotation, p 0.2; scaling 0.7 to 1.4, p 0.2 | `RandRotateScaled` over MONAI's Affine | label by nearest neighbour |
| Gaussian noise, standard deviation 0 to 0.1, p 0.1 | RandGaussianNoise | none |
| blur, sigma 0.5 to 1, p 0.2, each channel p 0.5 | RandGaussianSmooth, p 0.1 | all channels or none |
| brightness times 0.75 to 1.25, p 0.15 | RandScaleIntensity | all channels alike |
| contrast times 0.75 to 1.25 in its range, p 0.15 | RandScaleIntensityFixedMean | all channels alike |
| low resolution 0.5 to 1, p 0.25, each channel p 0.5 | RandSimulateLowResolution, p 0.125 | all channels or none |
| gamma 0.7 to 1.5 of the inverted image, p 0.1 | RandAdjustContrast | gamma evenly in its range |
| gamma 0.7 to 1.5, p 0.3 | RandAdjustContrast | gamma evenly in its range |
| mirroring, p 0.5 per axis | RandFlip | none |
| zero outside the non-zero region again | at the end of `Augmentation` | none |

Source: nnunetv2 2.8, ``nnUNetTrainer.get_training_transforms``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Affine,
    CenterSpatialCrop,
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from torch import Tensor

from medmamba.data.preprocess import OUTSIDE
from medmamba.plans.plan import Plan

SPATIAL_PROBABILITY = 0.2
SCALES = (0.7, 1.4)
#: nnU-Net reads patches larger by these scales, not by those that it then draws from.
READ_SCALES = (0.85, 1.25)


class Augmentation:
    """Turns a patch that is somewhat too large into one of the plan's size, at random.

    Args:
        plan: patch size, rotation, mirror axes.
    """

    def __init__(self, plan: Plan) -> None:
        settings, patch = plan.train, plan.topology.patch_size
        angle = math.radians(settings.rotation_degrees)
        flat = settings.in_plane_augmentation
        in_plane = patch[1:] if flat else patch
        larger = tuple(int(n) for n in get_patch_size(in_plane, angle, angle, angle, READ_SCALES))
        #: Voxels that a patch must have for a rotation to find something in its corners.
        self.initial_patch: tuple[int, ...] = (patch[0], *larger) if flat else larger
        three = len(patch) == 3
        self._masked = [index for index, channel in enumerate(plan.channels) if channel.use_mask]
        self._transforms = Compose(
            [
                RandRotateScaled(patch, angle, in_plane=flat),
                RandGaussianNoised("image", prob=0.1, std=0.1),
                RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.1),
                RandScaleIntensityd("image", factors=0.25, prob=0.15),
                RandScaleIntensityFixedMeand("image", factors=0.25, preserve_range=True, prob=0.15),
                RandSimulateLowResolutiond(
                    "image", prob=0.125, zoom_range=(0.5, 1.0), upsample_mode="trilinear" if three else "bilinear"
                ),
                RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
                RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), invert_image=False, retain_stats=True),
                *(RandFlipd(("image", "label"), prob=0.5, spatial_axis=axis) for axis in settings.mirror_axes),
            ]
        )

    def __call__(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augment a patch; the same seed gives the same result.

        Args:
            image: (C, *initial_patch) float32.
            label: (*initial_patch) int16.
            seed: below 2^32.

        Returns:
            Image (C, *patch), zero again outside the non-zero region in channels that were normalised inside it, and
            label (*patch), `OUTSIDE` in it being background.
        """
        self._transforms.set_random_state(seed=seed)
        done = self._transforms({"image": image, "label": label[None]})
        image, label = _plain(done["image"]), _plain(done["label"])[0].to(label.dtype)
        outside = label == OUTSIDE
        for channel in self._masked:
            image[channel][outside] = 0.0
        label[outside] = 0
        return image, label


class RandRotateScaled(RandomizableTransform, MapTransform):
    """Rotate about every axis and scale, each with its own probability, in one interpolation; crop to the patch.

    Args:
        patch_size: of the result.
        angle: largest rotation, radians.
        in_plane: leave the first axis alone.
    """

    def __init__(self, patch_size: tuple[int, ...], angle: float, *, in_plane: bool) -> None:
        MapTransform.__init__(self, ("image", "label"))
        RandomizableTransform.__init__(self, 1.0)
        self.patch_size, self.angle, self.in_plane = patch_size, angle, in_plane
        self.crop = CenterSpatialCrop(patch_size)

    def randomize(self, data: Any = None) -> None:
        """Draw angles and scale."""
        dims = len(self.patch_size)
        axes = 1 if dims == 2 or self.in_plane else 3
        rotates, scales = self.R.uniform(size=2) < SPATIAL_PROBABILITY
        angles = self.R.uniform(-self.angle, self.angle, size=axes)
        # As often smaller as larger; a scale below one shows more of the image.
        zoom = self.R.uniform(SCALES[0], 1.0) if self.R.uniform() < 0.5 else self.R.uniform(1.0, SCALES[1])
        self.angles = angles if rotates else np.zeros(axes)
        self.zoom = float(zoom) if scales else 1.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform image and label alike."""
        self.randomize()
        done = dict(data)
        if not self.angles.any() and self.zoom == 1.0:
            for key in self.keys:
                done[key] = self.crop(done[key])
            return done
        dims = len(self.patch_size)
        scale = [self.zoom] * dims
        angles: Any = float(self.angles[0]) if dims == 2 else list(self.angles)
        if self.in_plane:
            scale[0] = 1.0
            angles = [float(self.angles[0]), 0.0, 0.0]
        for key, mode in zip(self.keys, ("bilinear", "nearest"), strict=True):
            affine = Affine(
                rotate_params=angles,
                scale_params=[1 / s for s in scale],
                spatial_size=self.patch_size,
                mode=mode,
                padding_mode="zeros",
                image_only=True,
            )
            done[key] = affine(done[key].float() if key == "label" else done[key])
        return done


def _plain(tensor: Tensor) -> Tensor:
    """MONAI's tensors carry metadata that patches do not need."""
    return tensor.as_subclass(torch.Tensor)
