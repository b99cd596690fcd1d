"""What is wrong within one case: each of its files is read once, and no problem hides another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case
from medmamba.errors import DataError
from medmamba.files import in_words
from medmamba.intensity import no_data_remark, unusable
from medmamba.io.check.findings import Facts
from medmamba.io.errors import ImageFileError, LabelValueError
from medmamba.io.images import is_image, read_label_with_remarks, read_with_remarks
from medmamba.io.layouts.editions import like_editions
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.volume import Geometry, Volume

#: Hounsfield units reach from air at -1000 to metal; images inside these bounds were rescaled.
NOT_HOUNSFIELD = (0.0, 255.0)


def scan(
    case: Case,
    *,
    declared: tuple[str, ...],
    labels: Labels | None,
    incomplete: Collection[str],
    edition: str = "",
    is_labelled: bool = True,
) -> Facts:
    """Read all files of a case and judge them.

    Args:
        case: to look at.
        declared: names of the data set's channels, none if they are not known.
        labels: of the data set, None if they are not known.
        incomplete: ids of cases that lack files, of which is told already: no image is needed for it.
        edition: of BraTS, whose labels these are; empty where dataset.json declares them.
        is_labelled: whether there has to be a label map.
    """
    facts = Facts(case.id)
    names = () if case.id in incomplete else declared
    channels = unreadable = 0
    for file in case.images:
        volume = _read(read_with_remarks, file, facts)
        if volume is None:
            unreadable += 1
            channels += 1  # as far as anybody can tell
            continue
        for number, plane in enumerate(volume.array, start=channels):
            name = names[number] if number < len(names) else f"number {number}"
            _check_intensities(name, plane, file, facts)
        channels += volume.channels
        _check_grid(volume.geometry, file, facts)
    if names and channels != len(names) and not unreadable:
        wanted = f"the data set declares {len(names)} ({', '.join(names)})"
        facts.add("error", "channels", f"has {channels} channels, {wanted}; add or remove channels")
    if len(set(facts.digests)) < len(facts.digests):
        facts.add("warning", "same-channels", "two channels are the same image; was one copied under a wrong name?")
    if is_labelled:
        _check_label(case, labels, facts, edition)
    return facts


def _read(reader: Callable[[Path], tuple[Volume, tuple[Remark, ...]]], file: Path, facts: Facts) -> Volume | None:
    try:
        volume, remarks = reader(file)
    except FileNotFoundError as error:
        facts.add("error", "missing-image", _reason(error, file) + "; restore it or leave out the case", file)
    except LabelValueError as error:
        facts.add("error", "label-not-integer", error.reason, file)
    except (DataError, OSError) as error:
        facts.add("error", "unreadable", _reason(error, file), file)
    else:
        facts.remark(remarks, file)
        return volume
    return None


def _reason(error: Exception, file: Path) -> str:
    """What happened, without the name of the file, which the finding has already."""
    return error.reason if isinstance(error, ImageFileError) else in_words(error).removeprefix(f"{file}: ")


def _check_intensities(name: str, values: NDArray[np.float32], file: Path, facts: Facts) -> None:
    if wrong := unusable(values):
        rule = "extreme-values" if np.isfinite(values).all() else "not-finite"
        message = f"channel {name}: {wrong}; replace them, for example by the background's intensity"
        facts.add("error", rule, message, file)
        return
    if remark := no_data_remark(values):
        facts.add("warning", "no-data-value", f"channel {name}: {remark}", file)
    low, high = float(values.min()), float(values.max())
    if low == high:
        facts.add("warning", "constant-channel", f"channel {name} is {low:g} everywhere; is a modality missing?", file)
        return
    # Images that are constant are alike without being the same.
    facts.digests.append(hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest())
    if name.lower() == "ct" and NOT_HOUNSFIELD[0] <= low and high <= NOT_HOUNSFIELD[1]:
        message = f"channel {name} reaches from {low:g} to {high:g}, which are not Hounsfield units"
        facts.add("warning", "not-hounsfield", f"{message}; take the original image", file)


def _check_grid(geometry: Geometry, file: Path, facts: Facts) -> None:
    if facts.geometry is None:
        facts.geometry = geometry
        if not geometry.is_orthogonal():
            message = "voxel axes are not perpendicular, as in a scan with a tilted gantry, but spacing and resampling"
            remedy = "resample the image to perpendicular axes"
            facts.add("warning", "sheared", f"{message} take them to be; {remedy}", file)
        return
    if apart := facts.geometry.apart(geometry):
        message = f"against the first channel: {apart}; resample it to that grid"
        facts.add("error", "channel-grids", message, file)
    elif rounded := facts.geometry.rounded(geometry):
        message = f"less than half a voxel from the first channel: {rounded}; that one's grid is used for both"
        facts.add("warning", "slightly-shifted", message, file)


def _check_label(case: Case, labels: Labels | None, facts: Facts, edition: str) -> None:
    if case.label is None or not is_image(case.label):
        facts.add("error", "missing-label", "there is no label; add it or leave out the case", case.label)
        return
    if (label := _read(partial(read_label_with_remarks, within=facts.geometry), case.label, facts)) is None:
        return
    values = [int(value) for value in np.unique(label.array)]
    facts.values = frozenset(values)
    if labels is not None:
        check_values(values, labels, case.label, facts, edition)
    if not any(value > 0 and (labels is None or value != labels.ignore) for value in values):
        facts.add("warning", "empty-label", "label holds background only; is that meant?", case.label)
    if facts.geometry is not None:
        _check_alignment(facts.geometry, label.geometry, case.label, facts)


def check_values(values: list[int], labels: Labels, file: Path, facts: Facts, edition: str = "") -> None:
    """Tell of values that no label has, and what they may mean.

    Args:
        values: that occur in a label map, ascending.
        labels: of the data set.
        file: of the label map.
        facts: of its case.
        edition: of BraTS, whose labels these are.
    """
    unknown = [value for value in values if value not in labels.allowed_values]
    unused = [value for value in labels.values if value not in values]
    declared = list(labels.allowed_values)
    if not unknown:
        return
    remedy = "declare them in dataset.json, or map them to declared values"
    if edition:
        remedy = f"which are those of {edition}: map them to these, or name another edition with --edition"
    if len(unknown) == len(unused):  # such as BraTS, where enhancing tumour is 4 in some editions and 3 in others
        pairs = ", ".join(f"{old} to {new}" for old, new in zip(unknown, unused, strict=True))
        remedy += f" (perhaps {pairs}, if they mean the same)"
    if words := like_editions(values):
        remedy += f"; {words}"
    message = f"label holds {some_values(unknown)}, declared are {declared}; {remedy}"
    facts.add("error", "label-values", message, file)


def some_values(values: list[int]) -> str:
    """The first ten values, and how many more there are."""
    return str(values[:10]) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _check_alignment(image: Geometry, label: Geometry, file: Path, facts: Facts) -> None:
    if rounded := image.rounded(label):
        message = f"label and image differ by less than half a voxel: {rounded}"
        facts.add("warning", "slightly-shifted", f"{message}; the image's grid is used for both", file)
    if not (apart := image.apart(label)):
        return
    if image.shape == label.shape and image.orientation != label.orientation:
        message = f"label is mirrored or rotated against its image: {apart}; find out which header is right"
        facts.add("error", "mirrored", message, file)
    else:
        facts.add("error", "misaligned", f"label lies on another grid than its image: {apart}; resample it", file)
