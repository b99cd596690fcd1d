"""Everything that is wrong with pairs of images to be registered, found in one pass and told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from medmamba.case import Case, Pair, Pairing
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError
from medmamba.io.check.findings import Facts, Finding
from medmamba.io.check.scan import scan
from medmamba.io.layouts.pairs import survey_pairs
from medmamba.io.sizes import largest_voxels
from medmamba.progress import Progress, silent
from medmamba.volume import Geometry

#: Memory for a voxel of an image that is checked: stored, as float32, and masks of it.
IMAGE_BYTES = 16.0
#: The longer axes of two images of one body differ by less than this.
ODD_SIZE = 4.0


def check_pairs(
    path: Path, pairing: Pairing | None = None, progress: Progress = silent, *, workers: int = 4
) -> list[Finding]:
    """List all problems of pairs; every file is read once, and nothing is written.

    Args:
        path: a table that ends in ``.csv`` or ``.tsv``, or a folder.
        pairing: how images of folders become pairs.
        progress: shows how far it is.
        workers: at most so many processes read files.

    Returns:
        Findings, errors first; empty when all is well.
    """
    try:
        found = survey_pairs(path, pairing)
    except (DataError, FileNotFoundError) as error:
        return [Finding("error", "layout", str(error))]
    findings = [Finding("error", "pairs", str(problem)) for problem in found.problems]
    findings += map(Finding.of, found.remarks)
    cases = found.cases
    engine = suited(len(cases), at_most=workers, case_bytes=IMAGE_BYTES * largest_voxels([c.images[0] for c in cases]))
    outcomes = map_cases(_look, cases, engine, title="Checking images", progress=progress) if cases else []
    facts: dict[str, Facts] = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        facts[case.id] = Facts(case.id) if isinstance(outcome, Failure) else outcome
        if isinstance(outcome, Failure):
            facts[case.id].add("error", "unreadable", f"the image could not be checked: {outcome.reason}")
    findings += (finding for each in facts.values() for finding in each.findings)
    for pair in found.pairs:
        findings += _between(pair, facts)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: (order[finding.severity], finding.rule, finding.case or ""))


def _look(case: Case) -> Facts:
    """One image with its label map."""
    facts = scan(case, declared=("image",), labels=None, incomplete=(), is_labelled=case.label is not None)
    if facts.geometry is not None and min(facts.geometry.shape) < 2:
        size = " x ".join(map(str, facts.geometry.shape))
        facts.add("error", "one-slice", f"has {size} voxels, a single slice; registration takes volumes")
    return facts


def _between(pair: Pair, facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """What is odd about two images together."""
    fixed, moving = (facts[case.id] for case in pair.cases)
    if set(fixed.digests) & set(moving.digests):
        message = "fixed and moving image are the same, voxel for voxel; was one copied under a wrong name?"
        yield Finding("warning", "same-image", message, pair.id)
    if fixed.values is not None and moving.values is not None and fixed.values != moving.values:
        lone = sorted(fixed.values ^ moving.values)
        message = f"label maps of both sides do not hold the same values: {lone[:10]} in one alone"
        yield Finding("note", "label-sets", f"{message}; these do not count for the pair", pair.id)
    if fixed.geometry is None or moving.geometry is None:
        return
    if not fixed.geometry.overlaps(moving.geometry):
        message = "the images do not overlap in space, as their headers have it"
        yield Finding("warning", "no-overlap", f"{message}; their centres of mass will be brought together", pair.id)
    if _is_mirrored(fixed.geometry) != _is_mirrored(moving.geometry):
        ways = f"{fixed.geometry.orientation} and {moving.geometry.orientation}"
        message = f"axes are of different handedness ({ways}), which headers allow for"
        yield Finding("note", "handedness", f"{message}; look whether left is left in both", pair.id)
    ratios = [max(one, other) / min(one, other) for one, other in zip(*map(_size_mm, (fixed, moving)), strict=True)]
    if max(ratios) > ODD_SIZE:
        message = f"one image is {max(ratios):.3g} times as large as the other along an axis; is the voxel size right?"
        yield Finding("warning", "odd-size", message, pair.id)


def _is_mirrored(geometry: Geometry) -> bool:
    return bool(np.linalg.det(geometry.affine[:3, :3]) < 0)


def _size_mm(facts: Facts) -> list[float]:
    assert facts.geometry is not None
    corners = facts.geometry.corners_mm()
    return [max(float(size), 1e-3) for size in corners.max(0) - corners.min(0)]
