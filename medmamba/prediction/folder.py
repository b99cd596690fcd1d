"""A folder of segmentations: what is finished, what has to be made again, and what is somebody else's.

Each file is recorded with what made it (`medmamba.io.manifest`). So the same command goes on where it was stopped, and
one with another model, other options or an exchanged image makes its segmentations anew; a file that is not known, or
was edited since, is never replaced unless that is asked for.

A segmentation has the format of its image. Up to version 0.1.0 it had that of the images that the model learned from:
a folder that was begun so goes on so, since two segmentations of one case could not be told apart.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock

import medmamba
from medmamba import io
from medmamba.case import Case, some
from medmamba.errors import DataError, UsageError
from medmamba.files import WRITING, OutputError, content_digest, in_words, replacing_all
from medmamba.io.manifest import Made, Maker, Manifest
from medmamba.io.places import check_output_folder
from medmamba.volume import Volume

log = logging.getLogger(__name__)


class ForeignFileError(DataError):
    """A file is in the way that is not ours to replace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand with a case.

    Args:
        kind: there is nothing yet (``absent``), a segmentation that would come out the same (``finished``), one of ours
            that would not (``outdated``), one that is not ours or was edited (``foreign``), or something that is no
            segmentation at all, such as a scan, and is never replaced (``image``).
        reason: why, in words; empty for a file that is finished and of which nothing is to be said.
        images_digest: of the images that were looked at.
    """

    kind: Literal["absent", "finished", "outdated", "foreign", "image"]
    reason: str = ""
    images_digest: str = ""

    def allows(self, *, overwrite: bool) -> bool:
        """Whether a segmentation may be written."""
        return self.kind != "image" and (overwrite or self.kind != "foreign")


class SegmentationFolder:
    """The segmentations of a maker in a folder; several processes may share it.

    Args:
        folder: made if need be.
        cases: that are asked for; noted in the folder at once, so that an evaluation knows which ones to expect.
        maker: what segments.
        values: that segmentations may hold.
        ending: of all files; None: of the first image of each case, or as the folder was begun.
        otherwise: ending where images are of a format that is not written.

    Raises:
        OutputError: if a segmentation would take the place of an image or reference, or a case has one of another
            ending than ``ending``.
        UsageError: if files do not end in ``ending``.
        DataError: if two cases have one id, or the folder's record is damaged.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Case],
        maker: Maker,
        values: Collection[int],
        *,
        ending: str | None = None,
        otherwise: str = ".nii.gz",
    ) -> None:
        self.folder = folder
        self.values = values
        self.maker = maker
        if ending is not None and ending not in io.suffixes():
            raise UsageError(f"segmentations can be written as {', '.join(io.suffixes())}, got {ending!r}")
        _check_ids(cases)
        manifest = Manifest.load(folder)
        there = {case.id: found for case in cases if (found := _there(folder, case, manifest))}
        if ending is None:
            self._endings = _endings(folder, cases, there, otherwise)
        else:
            self._endings = dict.fromkeys((case.id for case in cases), ending)
            if others := [f"{case}{end}" for case, ends in there.items() for end in ends if end != ending]:
                raise OutputError(
                    f"{folder} holds segmentations of these cases in another format: {some(others)}; choose another "
                    f"folder for those in {ending}"
                )
        check_output_folder(
            folder,
            files=[file for case in cases for file in _written(self.path(case))],
            inputs=[file for case in cases for file in _read(case)],
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        with self._lock:
            self._clear()
            manifest = Manifest.load(folder)
            asked_for = {*manifest.cases, *(case.id for case in cases)}
            replace(manifest, cases=tuple(sorted(asked_for))).save(folder)

    def path(self, case: Case) -> Path:
        """The file of a case."""
        return self.folder / f"{case.id}{self._endings[case.id]}"

    def standing(self, case: Case) -> Standing:
        """Whether a case has to be segmented.

        Raises:
            OSError: if its images cannot be read.
        """
        images_digest = _images_digest(case)
        return replace(self._standing(case, images_digest, Manifest.load(self.folder)), images_digest=images_digest)

    def store(
        self, case: Case, segmentation: Volume, *, images_digest: str | None = None, overwrite: bool = False
    ) -> None:
        """Write a segmentation on the grid of the case's first image, and what made it.

        Args:
            case: what was segmented.
            segmentation: label values.
            images_digest: of the images before they were read, from `standing`: one that was exchanged while it was
                segmented is then noticed by the next command. None: as they are now.
            overwrite: also in place of a file that is not ours.

        Raises:
            ForeignFileError: if there is such a file by now.
            DataError: if the image's header cannot be read any more.
            OSError: if the disk is full or does not allow it; what was there before still is.
        """
        target = self.path(case)
        images_digest = _images_digest(case) if images_digest is None else images_digest
        with self._lock:
            self._clear()
            manifest = Manifest.load(self.folder)
            standing = self._standing(case, images_digest, manifest)
            if not standing.allows(overwrite=overwrite):
                raise ForeignFileError(standing.reason)
            with replacing_all(target) as written:
                io.write(segmentation, written, like=case.images[0])
                made = Made(
                    digest=content_digest(io.files(written)),
                    # A file that is not ours stays so until the new one has its place.
                    replaced=content_digest(io.files(target)) if standing.kind in ("finished", "outdated") else None,
                    images=tuple(os.path.abspath(path) for path in case.images),
                    images_digest=images_digest,
                    maker=self.maker,
                    medmamba=medmamba.__version__,
                )
                # The record first: a file without one would be nobody's.
                replace(manifest, made=dict(sorted({**manifest.made, target.name: made}.items()))).save(self.folder)

    def _standing(self, case: Case, images_digest: str, manifest: Manifest) -> Standing:
        target = self.path(case)
        if not target.exists():
            return Standing(kind="absent")
        if target.is_dir() and not io.is_image(target):
            return self._foreign(target, "is a folder")
        made = manifest.made.get(target.name)
        if made is None:
            return self._unrecorded(case, target, manifest)
        digest = content_digest(io.files(target)) if io.is_image(target) else ""
        if digest == made.digest:
            changes = made.changes(images_digest, self.maker)
            if not changes:
                other = made.medmamba != medmamba.__version__
                reason = f"finished earlier, by medmamba {made.medmamba}" if other else ""
                return Standing(kind="finished", reason=reason)
            if "the image" in changes and made.images != tuple(os.path.abspath(path) for path in case.images):
                return self._foreign(target, f"segments another image, {made.images[0]}")
            return Standing(kind="outdated", reason=f"{' and '.join(changes)} changed")
        if digest == made.replaced:
            return Standing(kind="outdated", reason="an earlier run was stopped before it replaced the file")
        if not _is_sound(target):
            return Standing(kind="outdated", reason="the file was damaged")
        return self._foreign(target, "was edited after it was predicted")

    def _unrecorded(self, case: Case, target: Path, manifest: Manifest) -> Standing:
        """A file that version 0.1.0 made, which noted neither weights nor images; or that somebody else did."""
        if case.id not in manifest.unrecorded.cases:
            return self._foreign(target, "is there already and was not made here by `medmamba predict`")
        if not _is_sound(target):
            return Standing(kind="outdated", reason="the file was damaged")
        if manifest.unrecorded.plan != self.maker.plan:
            return self._foreign(target, "was predicted with another plan, by a version that did not record its files")
        if not io.read_geometry(target).same_grid(io.read_geometry(case.images[0])):
            return self._foreign(target, "lies on another grid than the image")
        return Standing(kind="finished", reason="finished earlier, by a version that did not record the weights")

    def _foreign(self, target: Path, what: str) -> Standing:
        try:
            unknown = sorted(set(np.unique(io.read_label(target).array).tolist()) - set(self.values))
            strange = f"holds values such as {unknown[0]}, which no structure has" if unknown else ""
        except (DataError, OSError) as error:
            strange = f"is no segmentation ({in_words(error)})"
        if strange:
            return Standing(kind="image", reason=f"{target} {what} and {strange}; choose another folder")
        way_out = "choose another folder, move it away, or replace it with --overwrite"
        return Standing(kind="foreign", reason=f"{target} {what}; {way_out}")

    def _clear(self) -> None:
        """Remove what a killed process left; whoever writes has the lock, so nobody does now."""
        for leftover in self.folder.glob(f"{WRITING}*"):
            shutil.rmtree(leftover)


def _there(folder: Path, case: Case, manifest: Manifest) -> list[str]:
    """Endings of the segmentations of a case that were made here; one by itself, but for what users moved."""
    images = {os.path.realpath(path) for path in case.images}
    files = {ending: folder / f"{case.id}{ending}" for ending in io.suffixes()}
    return [
        ending
        for ending, file in files.items()
        if (file.name in manifest.made or case.id in manifest.unrecorded.cases)
        and file.exists()
        and os.path.realpath(file) not in images
    ]


def _endings(folder: Path, cases: Sequence[Case], there: dict[str, list[str]], otherwise: str) -> dict[str, str]:
    """The ending of each case: of what is there of it, or of others with such images, or of its first image."""
    own = {case.id: _ending(case.images[0], otherwise) for case in cases}
    kept = {case: own[case] if own[case] in endings else endings[0] for case, endings in there.items()}
    begun = {own[case]: ending for case, ending in kept.items() if ending != own[case]}
    for image, ending in begun.items():
        log.warning("%s was begun with %s for images in %s, and goes on so", folder, ending, image)
    return {case: kept.get(case) or begun.get(image, image) for case, image in own.items()}


def _ending(image: Path, otherwise: str) -> str:
    endings = [ending for ending in io.suffixes() if image.name.lower().endswith(ending)]
    return max(endings, key=len, default=otherwise)


def _check_ids(cases: Sequence[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        if other := seen.get(case.id):
            raise DataError(
                f"two cases are called {case.id}: {other.images[0]} and {case.images[0]}; their segmentations would "
                "have one name, so predict them into different folders"
            )
        seen[case.id] = case


def _written(target: Path) -> Iterable[Path]:
    voxels = {".mhd": ".zraw", ".nhdr": ".raw.gz"}.get(target.suffix.lower())
    return (target, target.with_suffix(voxels)) if voxels else (target,)


def _read(case: Case) -> Iterable[Path]:
    """The files of a case that are there; those that are not fail later, case by case."""
    for path in case.files:
        yield from io.files(path) if path.is_file() else (path,)


def _images_digest(case: Case) -> str:
    return content_digest(file for path in case.images for file in io.files(path))


def _is_sound(segmentation: Path) -> bool:
    """Whether it can be read from end to end."""
    try:
        io.read(segmentation)
    except (DataError, OSError):
        return False
    return True
