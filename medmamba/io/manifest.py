"""The record that lies in a folder of segmentations: which were asked for, and what made each file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medmamba.errors import DataError
from medmamba.records import from_json, read_json, to_json, write_json

#: In a folder of segmentations: which cases were asked for, by whom.
MANIFEST = "prediction.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """What segments: the same maker gives the same segmentation of the same image, but for rounding.

    Args:
        plan: digest of the plan.
        weights: digest of each network's weights, sorted.
        precision: of the arithmetic.
        mirror: averaged over flips.
    """

    plan: str
    weights: tuple[str, ...]
    precision: str
    mirror: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file that a maker left.

    Args:
        digest: of the file, see `medmamba.files.content_digest`.
        replaced: digest of the file whose place it took, which is still there if the run was killed just then.
        images: paths of the images, so that another patient of the same name is noticed.
        images_digest: of their content.
        maker: what segmented them.
        medmamba: version of the software.
        settings: with which the file was written, in words, where its format has any.
    """

    digest: str
    replaced: str | None
    images: tuple[str, ...]
    images_digest: str
    maker: Maker
    medmamba: str
    settings: str = ""

    def changes(self, images_digest: str, maker: Maker, settings: str = "") -> tuple[str, ...]:
        """What is different now from when the file was made, in words."""
        now = {
            "the image": (self.images_digest, images_digest),
            "the plan": (self.maker.plan, maker.plan),
            "the weights": (self.maker.weights, maker.weights),
            "the precision": (self.maker.precision, maker.precision),
            "mirroring": (self.maker.mirror, maker.mirror),
            "the kind of object": (self.settings, settings),
        }
        return tuple(what for what, (before, after) in now.items() if before != after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecorded:
    """What version 0.1.0 noted: the cases it was asked for, and the digest of the last plan."""

    cases: tuple[str, ...] = ()
    plan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known of a folder.

    Args:
        cases: ids that were asked for.
        made: by name of the file.
        unrecorded: cases that were asked for before files were recorded.
    """

    cases: tuple[str, ...] = ()
    made: dict[str, Made] = field(default_factory=dict)
    unrecorded: Unrecorded = field(default_factory=Unrecorded)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The record of a folder; an empty one when there is none.

        Raises:
            DataError: if the file is damaged, or of another program.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return cls()
        try:
            data = read_json(path)
        except ValueError as error:
            raise DataError(f"{error}; choose another folder, or rename the file") from error
        if not isinstance(data, dict) or "cases" not in data:
            raise DataError(f"{path} is no record of `medmamba predict`; choose another folder, or rename the file")
        if "made" in data:
            return from_json(cls, data, str(path))
        noted = {key: data[key] for key in ("cases", "plan") if key in data}
        unrecorded = from_json(Unrecorded, noted, str(path))
        return cls(cases=unrecorded.cases, unrecorded=unrecorded)

    def save(self, folder: Path) -> None:
        """Write the record; a reader meets the old or the new one."""
        write_json(to_json(self), folder / MANIFEST)
