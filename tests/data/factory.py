"""Plans and cases made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.data.cache import Cache
from medmamba.labels import Label, Labels
from medmamba.plans.plan import (
    ChannelPlan,
    IntensityStatistics,
    NetworkPlan,
    Plan,
    Resampling,
    Topology,
    TrainSettings,
)
from medmamba.volume import Geometry, Volume

CLASSES = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
REGIONS = Labels(
    foreground=(
        Label(name="whole", values=(1, 2, 3)),
        Label(name="core", values=(1, 3)),
        Label(name="rim", values=(3,)),
    ),
    region_order=(2, 1, 3),
)
#: Values that no 16 bits hold, and one that float32 does not.
ATLAS = Labels(foreground=(Label(name="a", values=(40_000,)), Label(name="b", values=(2**24 + 1,))), ignore=2**24 + 2)
STATISTICS = IntensityStatistics(
    mean=40.0, median=35.0, std=20.0, min=-100.0, max=400.0, percentile_00_5=-20.0, percentile_99_5=120.0
)


def channel(normalization: Any = "zscore", *, use_mask: bool = False) -> ChannelPlan:
    """A channel with some statistics."""
    return ChannelPlan(name="MR", normalization=normalization, use_mask=use_mask, intensities=STATISTICS)


def make_plan(
    *,
    patch: tuple[int, ...] = (8, 12, 10),
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    axes: tuple[int, int, int] = (2, 1, 0),
    channels: tuple[ChannelPlan, ...] = (channel(),),
    labels: Labels = CLASSES,
    **train: Any,
) -> Plan:
    """A small plan."""
    dims = len(patch)
    settings: dict[str, Any] = {
        "batch_size": 4,
        "batch_dice": False,
        "mirror_axes": tuple(range(dims)),
        "rotation_degrees": 30.0,
        **train,
    }
    return Plan(
        dataset="test",
        dataset_root=".",
        configuration="2d" if dims == 2 else "3d_fullres",
        channels=channels,
        labels=labels,
        axes=axes,
        spacing_mm=spacing,
        median_shape=tuple(float(n) for n in patch),
        resampling=Resampling(),
        network=NetworkPlan(name="unet"),
        topology=Topology(
            patch_size=patch,
            strides=((1,) * dims, (2,) * dims),
            kernel_sizes=((3,) * dims,) * 2,
            features=(4, 8),
        ),
        train=TrainSettings(**settings),
    )


def make_volumes(
    shape: tuple[int, int, int] = (14, 18, 16),
    spacing: tuple[float, float, float] = (1.0, 1.2, 0.9),
    channels: int = 1,
    seed: int = 0,
) -> tuple[Volume, Volume]:
    """An image with a zero border, and a label with two structures inside."""
    rng = np.random.default_rng(seed)
    geometry = Geometry(shape, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    image = rng.normal(50, 20, (channels, *shape)).astype(np.float32)
    image[:, :2] = 0
    image[:, :, -3:] = 0
    label = np.zeros((1, *shape), dtype=np.uint8)
    label[0, 4:9, 4:9, 4:9] = 1
    label[0, 6:8, 5:8, 6:12] = 2
    return Volume(image, geometry), Volume(label, geometry)


def finished(cache: Cache) -> tuple[str, ...]:
    """Ids of the cases in a cache, sorted."""
    return tuple(sorted(path.name.removesuffix(".json") for path in cache.folder.glob("*.json")))


def loaded(cache: Cache, case: str) -> tuple[NDArray[np.float32], NDArray[np.signedinteger[Any]]]:
    """A whole case: image (C, *S) and label (*S)."""
    return cache.patch(case, (0, 0, 0), cache.shape(case))
