"""What the integers in a label map mean: classes, overlapping regions, voxels to ignore."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One structure: its name and the values that mark its voxels (several for a region)."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The structures of a data set, in the order in which the network's outputs have them.

    Without regions every value belongs to one structure and the network chooses one class per voxel (softmax, with
    background as class 0). With regions, structures may overlap (BraTS: whole tumour contains the core) and the
    network answers each on its own (sigmoid); when a label map is written, structure ``i`` paints the value
    ``region_order[i]``, later ones over earlier ones, as in nnU-Net.

    Args:
        foreground: structures except background (value 0), at least one.
        region_order: the value each region paints, or empty when there are no regions.
        ignore: value of voxels without annotation, left out of loss and scores; None when there is none.

    Raises:
        ValueError: when values are missing, repeated between classes, or ``region_order`` has the wrong length.
    """

    foreground: tuple[Label, ...]
    region_order: tuple[int, ...] = ()
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not self.foreground:
            raise ValueError("a data set needs at least one label besides background")
        names = [label.name for label in self.foreground]
        if len(set(names)) != len(names):
            raise ValueError(f"label names must differ, got {names}")
        values = [value for label in self.foreground for value in label.values]
        if any(not label.values for label in self.foreground) or min(values) < 1:
            raise ValueError(f"each label needs values of 1 or more, got {[label.values for label in self.foreground]}")
        if self.has_regions:
            if len(self.region_order) != len(self.foreground):
                raise ValueError(
                    f"regions_class_order needs one value per region: {len(self.foreground)} regions "
                    f"({', '.join(names)}), got {list(self.region_order)}"
                )
        elif len(set(values)) != len(values) or any(len(label.values) > 1 for label in self.foreground):
            raise ValueError("labels that share values are regions and need regions_class_order in dataset.json")
        if self.ignore is not None and self.ignore in values:
            raise ValueError(f"the ignore value {self.ignore} is also the value of a label")

    @property
    def has_regions(self) -> bool:
        """Whether structures may overlap, so that each is predicted on its own."""
        return bool(self.region_order)

    @property
    def output_channels(self) -> int:
        """Channels of the network's output: one per region, or one per class and one for background."""
        return len(self.foreground) + (0 if self.has_regions else 1)

    @property
    def values(self) -> tuple[int, ...]:
        """Every value an annotated voxel may hold, background included, ascending."""
        return tuple(sorted({0, *(value for label in self.foreground for value in label.values)}))

    @property
    def allowed_values(self) -> tuple[int, ...]:
        """Every value a label file may hold, the ignore value included, ascending."""
        return self.values if self.ignore is None else tuple(sorted({*self.values, self.ignore}))
