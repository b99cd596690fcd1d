"""From the files of a pair to those of its registration: decided, registered, written, and read by SimpleITK."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import medmamba
from medmamba import io
from medmamba.case import Case, Pair
from medmamba.data.pairs import normalised
from medmamba.errors import DataError
from medmamba.evaluation.deformation import marked
from medmamba.files import content_digest
from medmamba.io.formats.resampled import resampled_by_simpleitk
from medmamba.io.formats.transforms import write_transform
from medmamba.io.images import read_with_remarks
from medmamba.io.points import Points, read_points, write_points
from medmamba.io.remarks import tell
from medmamba.memory import check_reading
from medmamba.plans.pairs_fingerprint import ImageFingerprint, image_fingerprint
from medmamba.plans.registration import channel_of, similarity_of
from medmamba.progress import Progress, silent
from medmamba.registration.measures import Annotations
from medmamba.registration.model import Model
from medmamba.registration.pictures import checkerboard, difference
from medmamba.registration.records import AlignmentRecord, Asked, PairRecord, SideRecord
from medmamba.registration.refine import Deformation
from medmamba.registration.register import Registered, Settings, automatic_spacing, check_images, register
from medmamba.transform import Transform, resample, voxel_positions
from medmamba.volume import Geometry, Volume

#: Steps of refinement where there is no model, unless told otherwise.
REFINE = 50
#: SimpleITK's image may differ by this share of the range of intensities: vectors are stored in 32 bits, and ITK
#: interpolates in another order.
WITHIN = 1e-3
#: So close to the border of the moving image, in voxels, rounding decides whether a point lies in it.
BORDER_VOXELS = 0.01


class SelfCheckError(DataError):
    """A file that was written does not do what was registered."""


@dataclass(frozen=True, slots=True)
class _Read:
    """The images of a pair, their masks, and what is worth knowing about the images' headers."""

    fixed: Volume
    moving: Volume
    masks: tuple[Volume | None, Volume | None]
    remarks: tuple[str, ...]


def inputs_digest(pair: Pair) -> str:
    """Of the content of all files of a pair."""
    files = (file for case in pair.cases for path in case.files for file in _files(case, path))
    return content_digest(files)


def register_pair(
    pair: Pair,
    folder: Path,
    asked: Asked,
    *,
    model: Model | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> PairRecord:
    """Register a pair and write all that comes of it.

    Args:
        pair: files of both sides.
        folder: to write into, which exists and is empty.
        asked: what was decided by whoever started it.
        model: a trained network; None: none.
        device: of refinement.
        progress: told of steps of refinement.

    Raises:
        DataError: if the pair cannot be registered.
        SelfCheckError: if SimpleITK makes another image of a file that was written.
        OSError: if the disk is full or does not allow it.
    """
    begun = time.monotonic()
    digest = inputs_digest(pair)
    read = _read(pair)
    with _naming(pair):
        remarks = (*read.remarks, *check_images(read.fixed, read.moving))
    notes = Annotations.read(pair, read.fixed.geometry, read.moving.geometry)
    settings, decisions, odd = _settings(pair, read, asked, model)
    ready = time.monotonic()
    with _naming(pair):
        found = register(
            read.fixed, read.moving, settings, model=model, masks=read.masks, device=device, progress=progress
        )
    aligned = Transform((found.aligned.affine,))
    done = time.monotonic()
    overlap, errors = notes.overlap(aligned, found.transform), notes.errors(aligned, found.transform)
    checked = _write_transforms(read, found, folder, pair, text=asked.text)
    _write_images(read, settings, found, notes, folder, pair)
    record = PairRecord(
        pair=pair.id,
        fixed=SideRecord.of(pair.fixed),
        moving=SideRecord.of(pair.moving),
        inputs_digest=digest,
        asked=asked,
        medmamba=medmamba.__version__,
        decisions=decisions,
        alignment=AlignmentRecord(
            matrix=tuple(tuple(map(float, row)) for row in found.aligned.affine.matrix),
            before=_known(found.aligned.before),
            after=_known(found.aligned.after),
        ),
        measures={name: _known(value) for name, value in asdict(found.measures).items()}
        | {"loss_before": _known(found.losses[0]), "loss_after": _known(found.losses[1])},
        seconds={
            "reading": round(ready - begun, 3),
            **found.seconds,
            "writing and checking": round(time.monotonic() - done, 3),
        },
        peak_bytes=found.peak_bytes,
        checked=checked,
        files={path.name: content_digest([path]) for path in sorted(folder.iterdir())},
        overlap=overlap,
        points=errors,
        remarks=tuple(dict.fromkeys((*remarks, *notes.remarks, *found.remarks))),
        warnings=(*odd, *notes.warnings, *found.warnings),
    )
    record.save(folder)
    return record


def _files(case: Case, path: Path) -> tuple[Path, ...]:
    return (path,) if path == case.points else io.files(path)


@contextmanager
def _naming(pair: Pair) -> Iterator[None]:
    """What is wrong with two images is said with the names of their files."""
    try:
        yield
    except DataError as error:
        files = f"fixed image {pair.fixed.images[0]}, moving image {pair.moving.images[0]}"
        raise DataError(f"{error} ({files})") from error


def _read(pair: Pair) -> _Read:
    for case in pair.cases:
        channels = io.read_channels(case.images[0])
        if channels == 1:  # others are refused in words when both are read
            check_reading(io.read_geometry(case.images[0]), channels)
    (fixed, of_fixed), (moving, of_moving) = (_image(case) for case in pair.cases)
    masks = [_mask(case, image.geometry) for case, image in zip(pair.cases, (fixed, moving), strict=True)]
    return _Read(fixed, moving, (masks[0], masks[1]), (*of_fixed, *of_moving))


def _image(case: Case) -> tuple[Volume, tuple[str, ...]]:
    """The image, and what is only information elsewhere: where two images meet, a guessed orientation matters."""
    if len(case.images) > 1:  # refused in words when both are read
        return io.read_case(case), ()
    (path,) = case.images
    volume, remarks = read_with_remarks(path)
    tell((each for each in remarks if each.is_warning), path)
    return volume, tuple(f"{path.name}: {each.message}" for each in remarks if not each.is_warning)


def _mask(case: Case, grid: Geometry) -> Volume | None:
    if case.mask is None:
        return None
    mask = io.read_label(case.mask)
    if not marked(mask, grid).any():
        raise DataError(
            f"{case.mask} marks nothing of {case.images[0]}, so nothing of it would count; look at both, or leave the "
            "mask out"
        )
    return mask


def _fingerprint(case: Case, volume: Volume) -> ImageFingerprint:
    try:
        return image_fingerprint(replace(case, label=None), volume)
    except DataError as error:
        raise DataError(f"{case.images[0]}: {error}") from error


def _settings(
    pair: Pair, read: _Read, asked: Asked, model: Model | None
) -> tuple[Settings, dict[str, str], tuple[str, ...]]:
    """How this pair is registered, why, and what is doubtful about that."""
    images = [_fingerprint(case, volume) for case, volume in zip(pair.cases, (read.fixed, read.moving), strict=True)]
    refine = asked.refine if asked.refine is not None else 0 if model else REFINE
    odd: list[str] = []
    if model:
        channels = model.plan.channels[0], model.plan.channels[1]
        whys = ["as the model was trained"] * 4
        spacing, similarity = model.plan.spacing_mm, model.settings.similarity
        affine = model.settings.affine
        for side, image, channel in zip(("fixed", "moving"), images, channels, strict=True):
            if (image.modality == "CT") != (channel.name == "CT"):
                odd.append(
                    f"the {side} image looks like {image.modality}, and the model learned from {channel.name}: what "
                    "it says of other contrasts means little; leave it out and use --refine alone"
                )
    else:
        (first, why_first), (second, why_second) = (
            channel_of(side, [image], [other])
            for side, image, other in zip(("fixed", "moving"), images, reversed(images), strict=True)
        )
        channels = first, second
        similarity, why = similarity_of(images[:1], images[1:])
        why += "; --similarity says otherwise"
        spacing, affine = automatic_spacing(read.fixed.geometry), "affine"
        whys = [why_first, why_second, why, "of the fixed image, coarser where that is large"]
    if asked.similarity is not None:
        similarity, whys[2] = asked.similarity, "asked for"
    deformation, why_so = _deformation(images)
    if asked.deformation is not None:
        deformation, why_so = asked.deformation, "asked for"
    settings = Settings(
        channels=channels,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        affine=asked.affine or affine,
        similarity=similarity,
        refine=refine,
        deformation=deformation,
    )
    decisions = {
        "fixed": f"{channels[0].name}: {whys[0]}",
        "moving": f"{channels[1].name}: {whys[1]}",
        "similarity": f"{similarity}: {whys[2]}",
        "working grid": f"{' x '.join(f'{mm:.4g}' for mm in spacing)} mm: {whys[3]}",
        "alignment": settings.affine,
        "network": model.plan.network.name if model else "none",
        "refinement": f"{refine} steps of a {deformation} field: {why_so}" if refine else "none",
    }
    return settings, decisions, tuple(odd)


def _deformation(images: Sequence[ImageFingerprint]) -> tuple[Deformation, str]:
    """What refinement lets a field do, and why."""
    kinds = sorted({image.modality for image in images})
    if len(kinds) > 1 and any(kind.startswith("CT") for kind in kinds):
        return "stiff", f"{' and '.join(kinds)} agree in few borders; --deformation free follows all of them"
    return "free", "it follows each border; --deformation stiff holds it back"


def _write_transforms(read: _Read, found: Registered, folder: Path, pair: Pair, *, text: bool) -> dict[str, float]:
    """Both ways as composites of ITK and as fields, each tried by SimpleITK."""
    write_transform(Transform((found.aligned.affine,)), folder / "affine.tfm")
    endings = (".h5", ".tfm") if text else (".h5",)
    ways = (
        ("transform", "field", found.transform, read.moving, read.fixed.geometry),
        ("inverse", "inverse_field", found.inverse.transform, read.fixed, read.moving.geometry),
    )
    checked = {}
    for name, field, transform, volume, onto in ways:
        whole = transform.displacement(onto)
        files = [*(folder / f"{name}{ending}" for ending in endings), folder / f"{field}.nii.gz"]
        for path in files[:-1]:
            write_transform(transform, path)
        write_transform(Transform((whole,)), files[-1])
        background = min(0.0, float(volume.array.min()))
        ours = found.warped if name == "transform" else resample(volume, transform, onto, outside=background)
        certain = _certain(whole.vectors_mm, onto, volume.geometry)
        for path in files:
            theirs = resampled_by_simpleitk(volume, path, onto, background)
            checked[path.name] = _checked(ours.array[0], theirs, certain, path, pair, volume)
    return checked


def _certain(vectors_mm: NDArray[np.float32], onto: Geometry, source: Geometry) -> NDArray[np.bool_]:
    """Voxels that do not come from where rounding decides whether the image has them."""
    certain = np.empty(onto.shape, dtype=bool)
    size = np.array(source.shape)
    for i in range(onto.shape[0]):
        index = np.stack(np.meshgrid([i], *map(np.arange, onto.shape[1:]), indexing="ij"), -1).reshape(-1, 3)
        mm = index @ onto.affine[:3, :3].T + onto.affine[:3, 3] + vectors_mm[:, i].reshape(3, -1).T
        at = voxel_positions(source, mm)
        inside = ((at > BORDER_VOXELS - 0.5) & (at < size - 0.5 - BORDER_VOXELS)).all(axis=1)
        outside = ((at < -BORDER_VOXELS - 0.5) | (at > size - 0.5 + BORDER_VOXELS)).any(axis=1)
        certain[i] = (inside | outside).reshape(onto.shape[1:])
    return certain


def _checked(
    ours: NDArray[np.float32],
    theirs: NDArray[np.float32],
    certain: NDArray[np.bool_],
    path: Path,
    pair: Pair,
    volume: Volume,
) -> float:
    worst = float(np.abs(ours - theirs)[certain].max()) if certain.any() else 0.0
    allowed = WITHIN * max(float(np.ptp(volume.array)), 1e-6)
    if not worst <= allowed:
        raise SelfCheckError(
            f"{path.name} of {pair.id} read by SimpleITK gives an image that differs from ours by {worst:.4g}, more "
            f"than {allowed:.4g}: nothing of this pair was kept; please report it, with the grids of both images as "
            "`medmamba dataset check` shows them"
        )
    return worst


def _write_images(
    read: _Read, settings: Settings, found: Registered, notes: Annotations, folder: Path, pair: Pair
) -> None:
    like = pair.fixed.images[0]
    io.write(found.warped, folder / "warped.nii.gz", like=like)
    io.write(found.jacobian, folder / "jacobian.nii.gz", like=like)
    if (labels := notes.labels[1]) is not None:
        io.write(resample(labels, found.transform, read.fixed.geometry, "label"), folder / "labels.nii.gz", like=like)
    if pair.moving.points is not None:
        points = read_points(pair.moving.points)
        moved = found.transform.points_back(points.mm)
        write_points(Points(points.names, moved, points.space), folder / "points.csv")
    fixed, moving = (
        normalised(volume, channel)
        for volume, channel in zip((read.fixed, read.moving), settings.channels, strict=True)
    )
    before = resample(moving, Transform(), read.fixed.geometry)
    after = resample(moving, found.transform, read.fixed.geometry)
    checkerboard(fixed, before, after, folder / "checkerboard.png", title=pair.id)
    difference(fixed, before, after, folder / "difference.png", title=pair.id)


def _known(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return value if math.isfinite(value) else None
