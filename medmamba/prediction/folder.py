"""A folder of segmentations: what is finished, what has to be made again, and what is somebody else's.

Each file is recorded with what made it (`medmamba.io.manifest`). So the same command goes on where it was stopped, and
one with another model, other options or an exchanged image makes its segmentations anew; a file that is not known, or
was edited since, is never replaced unless that is asked for.

A segmentation has the format of its image, those of DICOM series are DICOM SEG; several formats may be asked for, and a
case is finished when all of them are there. Up to version 0.1.0 it had that of the images that the model learned from:
a folder that was begun so goes on so, since two segmentations of one case could not be told apart.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock

import medmamba
from medmamba import io
from medmamba.case import Case, some
from medmamba.errors import DataError, UsageError
from medmamba.files import WRITING, OutputError, content_digest, in_words, replacing_all, write_bytes
from medmamba.io.formats import DICOM_SEG, OF_SERIES, ContoursError, Format
from medmamba.io.manifest import Made, Maker, Manifest
from medmamba.io.places import check_output_folder
from medmamba.labels import Labels
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


#: From the worst to the best, which is that of a case only where it is that of all its files.
_KINDS = ("image", "foreign", "outdated", "absent", "finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What lies in a folder for its owner alone.

    Args:
        path: its file.
        text: what it says, in ASCII.
    """

    path: Path
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A format that writes otherwise than by itself.

    Args:
        format: with its settings.
        settings: in words, recorded with each file: others make it outdated.
        stores_probabilities: of each structure, in place of label values.
        options: of a user, that have an effect on this format.
        secret: that is to lie in the folder before anything is written with its help.
    """

    format: Format
    settings: str = ""
    stores_probabilities: bool = False
    options: tuple[str, ...] = ()
    secret: Secret | None = None


class SegmentationFolder:
    """The segmentations of a maker in a folder; several processes may share it.

    Args:
        folder: made if need be.
        cases: that are asked for; noted in the folder at once, so that an evaluation knows which ones to expect.
        maker: what segments.
        labels: what the values of segmentations mean.
        endings: of the files of each case; none: of the case's first image, or as the folder was begun.
        writers: by ending, of formats with settings.
        otherwise: ending where images are of a format that is not written.

    Raises:
        OutputError: if a segmentation would take the place of an image or reference, or a case has one of another
            ending than ``endings``.
        UsageError: if files do not end so, or are to refer to DICOM series and images are none, or there are options
            for formats that none of them has.
        DataError: if two cases have one id, or the folder's record is damaged.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Case],
        maker: Maker,
        labels: Labels,
        *,
        endings: Sequence[str] = (),
        writers: Mapping[str, Writer] | None = None,
        otherwise: str = ".nii.gz",
    ) -> None:
        self.folder = folder
        self.labels = labels
        self.maker = maker
        self.writers = dict(writers or {})
        if unknown := [ending for ending in endings if ending not in io.map_suffixes()]:
            raise UsageError(f"segmentations can be written as {', '.join(io.map_suffixes())}, got {unknown[0]!r}")
        _check_ids(cases)
        manifest = Manifest.load(folder)
        there = {case.id: found for case in cases if (found := _there(folder, case, manifest))}
        if not endings:
            self._endings = _endings(folder, cases, there, otherwise)
        else:
            self._endings = dict.fromkeys((case.id for case in cases), tuple(dict.fromkeys(endings)))
            if others := [f"{case}{end}" for case, ends in there.items() for end in ends if end not in endings]:
                raise OutputError(
                    f"{folder} holds segmentations of these cases in another format: {some(others)}; choose another "
                    f"folder for those in {', '.join(endings)}"
                )
        if homeless := [
            case for case in cases if OF_SERIES & {*self._endings[case.id]} and not io.is_scan(case.images[0])
        ]:
            raise UsageError(
                f"{' and '.join(sorted(OF_SERIES))} refer to slices of a DICOM series, and {homeless[0].images[0]} is "
                "none; write .nii.gz or .nrrd, or give the series"
            )
        used = self._used()
        asked = {option for writer in self.writers.values() for option in writer.options}
        if idle := sorted(asked.difference(*(writer.options for writer in used))):
            written = sorted({end for ends in self._endings.values() for end in ends})
            raise UsageError(
                f"{' and '.join(idle)} would have no effect, for segmentations are written as {', '.join(written)}; "
                f"leave it out, or choose a --format that it is for: {' or '.join(_for(idle, self.writers))}"
            )
        check_output_folder(
            folder,
            files=[file for case in cases for target in self.paths(case) for file in _written(target)],
            inputs=[file for case in cases for file in _read(case)],
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        with self._lock:
            self._clear()
            for secret in {writer.secret for writer in used if writer.secret}:
                _keep(secret)
            manifest = Manifest.load(folder)
            asked_for = {*manifest.cases, *(case.id for case in cases)}
            replace(manifest, cases=tuple(sorted(asked_for))).save(folder)

    def paths(self, case: Case) -> tuple[Path, ...]:
        """The files of a case, one for each format."""
        return tuple(self.folder / f"{case.id}{ending}" for ending in self._endings[case.id])

    def path(self, case: Case) -> Path:
        """The first file of a case."""
        return self.paths(case)[0]

    def standing(self, case: Case) -> Standing:
        """Whether a case has to be segmented: as with the file of which most is to be said.

        Raises:
            OSError: if its images cannot be read.
        """
        digest = _images_digest(case)
        manifest = Manifest.load(self.folder)
        every = [self._standing(case, target, digest, manifest) for target in self.paths(case)]
        return replace(min(every, key=lambda each: _KINDS.index(each.kind)), images_digest=digest)

    def store(
        self,
        case: Case,
        segmentation: Volume,
        *,
        probabilities: Volume | None = None,
        images_digest: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a segmentation on the grid of the case's first image in all its formats, and what made it.

        Args:
            case: what was segmented.
            segmentation: label values.
            probabilities: of each structure, for formats that store them.
            images_digest: of the images before they were read, from `standing`: one that was exchanged while it was
                segmented is then noticed by the next command. None: as they are now.
            overwrite: also in place of a file that is not ours.

        Raises:
            ForeignFileError: if there is such a file by now.
            DataError: if the image's header cannot be read any more.
            OSError: if the disk is full or does not allow it; what was there before still is.
        """
        images_digest = _images_digest(case) if images_digest is None else images_digest
        with self._lock, ExitStack() as places:
            self._clear()
            manifest = Manifest.load(self.folder)
            made = dict(manifest.made)
            for target in self.paths(case):
                standing = self._standing(case, target, images_digest, manifest)
                if not standing.allows(overwrite=overwrite):
                    raise ForeignFileError(standing.reason)
                written = places.enter_context(replacing_all(target))
                writer = self._writer(target)
                chances = probabilities if writer and writer.stores_probabilities else None
                to = writer.format if writer else None
                io.write(chances or segmentation, written, like=case.images[0], labels=self.labels, to=to)
                made[target.name] = Made(
                    digest=content_digest(io.files(written)),
                    # A file that is not ours stays so until the new one has its place.
                    replaced=content_digest(io.files(target)) if standing.kind in ("finished", "outdated") else None,
                    images=tuple(os.path.abspath(path) for path in case.images),
                    images_digest=images_digest,
                    maker=self.maker,
                    medmamba=medmamba.__version__,
                    settings=writer.settings if writer else "",
                )
            # The record first: a file without one would be nobody's.
            replace(manifest, made=dict(sorted(made.items()))).save(self.folder)

    def stores_probabilities(self, case: Case) -> bool:
        """Whether one of the files of a case is of probabilities."""
        return any(writer.stores_probabilities for path in self.paths(case) if (writer := self._writer(path)))

    def _used(self) -> list[Writer]:
        return [writer for end, writer in self.writers.items() if any(end in ends for ends in self._endings.values())]

    def _writer(self, target: Path) -> Writer | None:
        return next((writer for ending, writer in self.writers.items() if target.name.endswith(ending)), None)

    def _standing(self, case: Case, target: Path, images_digest: str, manifest: Manifest) -> Standing:
        if not target.exists():
            return Standing(kind="absent")
        if target.is_dir() and not io.is_image(target):
            return self._foreign(target, "is a folder")
        made = manifest.made.get(target.name)
        if made is None:
            return self._unrecorded(case, target, manifest)
        digest = content_digest(io.files(target)) if io.is_image(target) else ""
        if digest == made.digest:
            writer = self._writer(target)
            changes = made.changes(images_digest, self.maker, writer.settings if writer else "")
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
            unknown = sorted(set(np.unique(io.read_label(target).array).tolist()) - set(self.labels.allowed_values))
            strange = f"holds values such as {unknown[0]}, which no structure has" if unknown else ""
        except ContoursError:
            strange = ""
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


def _for(options: Sequence[str], writers: Mapping[str, Writer]) -> list[str]:
    """Endings of the formats on which options have an effect."""
    return [ending.lstrip(".") for ending, writer in writers.items() if {*options} <= {*writer.options}]


def _keep(secret: Secret) -> None:
    """Put a secret into its folder, whose lock is held.

    Raises:
        OutputError: if there is another one by now.
    """
    if not secret.path.is_file():
        write_bytes(secret.text.encode("ascii"), secret.path, secret=True)
    elif secret.path.read_text(encoding="ascii") != secret.text:
        raise OutputError(f"{secret.path} was just written by another command; repeat this one, which then takes it")


def _there(folder: Path, case: Case, manifest: Manifest) -> list[str]:
    """Endings of the segmentations of a case that were made here; one by itself, but for what users moved."""
    images = {os.path.realpath(path) for path in case.images}
    files = {ending: folder / f"{case.id}{ending}" for ending in io.map_suffixes()}
    return [
        ending
        for ending, file in files.items()
        if (file.name in manifest.made or case.id in manifest.unrecorded.cases)
        and file.exists()
        and os.path.realpath(file) not in images
    ]


def _endings(
    folder: Path, cases: Sequence[Case], there: dict[str, list[str]], otherwise: str
) -> dict[str, tuple[str, ...]]:
    """The endings of each case: of what is there of it, or of others with such images, or of its first image."""
    own = {case.id: (_ending(case.images[0], otherwise),) for case in cases}
    kept = {case: tuple(endings) for case, endings in there.items()}
    begun = {own[case]: endings for case, endings in kept.items() if endings != own[case]}
    for image, endings in begun.items():
        log.warning("%s was begun with %s for images in %s, and goes on so", folder, ", ".join(endings), image[0])
    return {case: kept.get(case) or begun.get(image, image) for case, image in own.items()}


def _ending(image: Path, otherwise: str) -> str:
    endings = [ending for ending in io.map_suffixes() if image.name.lower().endswith(ending)]
    return max(endings, key=len, default=DICOM_SEG.suffixes[0] if io.is_scan(image) else otherwise)


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
    except ContoursError:
        return True
    except (DataError, OSError):
        return False
    return True
