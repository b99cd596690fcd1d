"""What is wrong within one clip and its masks: each frame is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from medmamba.case import Case, some
from medmamba.clip import UNLABELLED
from medmamba.errors import DataError
from medmamba.files import in_words
from medmamba.io.check.findings import Facts
from medmamba.io.check.scan import check_values
from medmamba.io.clips import ClipReader, open_clip, open_clip_masks
from medmamba.labels import Labels


def scan_clip(case: Case, *, declared: tuple[str, ...], labels: Labels | None) -> Facts:
    """Read a clip frame by frame, then its masks, and judge them.

    Args:
        case: whose one image is the clip.
        declared: names of the data set's channels, none if they are not known.
        labels: of the data set, None if they are not known.
    """
    facts, (clip,) = Facts(case.id), case.images
    digest, extremes = hashlib.sha256(), set[float]()
    try:
        with open_clip(clip) as reader:
            info = reader.info
            for frame in reader:
                extremes |= {float(frame.pixels.min()), float(frame.pixels.max())}
                digest.update(frame.pixels.tobytes())
    except (DataError, OSError) as error:
        facts.add("error", "unreadable", in_words(error).removeprefix(f"{clip}: "), clip)
        return facts
    if declared and info.channels != len(declared):
        wanted = f"the data set declares {len(declared)} ({', '.join(declared)})"
        facts.add("error", "channels", f"has {info.channels} channels, {wanted}; convert the clips to one kind", clip)
    facts.remark(reader.remarks, clip)
    if len(extremes) == 1:
        facts.add("warning", "constant-channel", "all pixels of all frames are the same; is this the film?", clip)
    else:
        facts.digests.append(digest.hexdigest())
    if frame.index == 0:
        facts.add("note", "one-frame", "has a single frame, in which nothing moves", clip)
    _check_masks(case, reader, labels, facts)
    return facts


def _check_masks(case: Case, clip: ClipReader, labels: Labels | None, facts: Facts) -> None:
    assert case.label is not None
    numbers, held, without = clip.numbers or (), set[int](), list[int]()
    try:
        with open_clip_masks(case.label, clip) as masks:
            for number, mask in zip(numbers, masks, strict=True):
                found = {int(value) for value in np.unique(mask)}
                held |= found
                without += [number] * (found == {UNLABELLED})
            facts.remark(masks.remarks, case.label)
    except (DataError, OSError) as error:
        facts.add("error", "masks", in_words(error).removeprefix(f"{case.label}: "), case.label)
        return
    if without:
        message = f"{len(without)} of {len(numbers)} frames have no mask ({_ranges(without)})"
        facts.add("note", "unlabelled-frames", f"{message}: they count neither in training nor in scores", case.label)
    values = sorted(held - {UNLABELLED})
    facts.values = frozenset(values)
    if labels is not None:
        check_values(values, labels, case.label, facts)
    if not any(value > 0 and (labels is None or value != labels.ignore) for value in values):
        facts.add("warning", "empty-label", "masks hold background only; is that meant?", case.label)


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers in a few words.

    >>> _ranges([1, 2, 3, 7, 9, 10])
    '1 to 3, 7, 9 to 10'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return some([f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts])
