"""What makes a data set unusable and can be told without opening an image: the same for every command.

`medmamba.io.open_dataset` refuses what `medmamba.io.check.check_dataset` lists, in the same words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from medmamba.case import some, split_problems
from medmamba.io.check.findings import Finding
from medmamba.io.layouts.clips import LAYOUT as CLIPS
from medmamba.io.layouts.layout import Survey
from medmamba.io.layouts.names import as_filed, id_problem
from medmamba.io.regions import lost_values, order_remedy
from medmamba.labels import Labels

#: Names of files may not hold these on Windows.
NOT_ON_WINDOWS = '<>:"|?*'


def description_errors(dataset: Survey) -> Iterator[Finding]:
    """All errors that no image is needed for."""
    for problem in dataset.problems:
        yield Finding("error", "layout", str(problem))
    for case, what in dataset.incomplete.items():
        yield Finding("error", "channels", f"{what}; add or remove files", case=case)
    yield from _check_ids(dataset)
    if dataset.labels is not None:
        yield from _check_labels(dataset.labels, str(dataset.root / "dataset.json"))
    file = str(dataset.root / dataset.splits_file)
    for wrong in split_problems(dataset.splits, {case.id for case in dataset.training}):
        yield Finding("error", "splits", f"{wrong}; correct the file", file=file)
    for number, fold in enumerate(dataset.splits if dataset.layout == CLIPS else ()):
        learned, judged = (
            {case.patient: case.id for case in dataset.training if case.id in side}
            for side in (fold.train, fold.held_out)
        )
        if apart := sorted(learned.keys() & judged.keys()):
            shown = some([f"{each} ({learned[each]}, {judged[each]})" for each in apart])
            remedy = "keep each on one side, or say whose each clip is under 'patients' in dataset.json"
            message = f"fold {number} learns from clips of patients whom it is judged on: {shown}"
            yield Finding("error", "same-patient", f"{message}; {remedy}", file=file)


def _check_labels(labels: Labels, file: str) -> Iterator[Finding]:
    """An ignore value that is not the highest, regions that cannot be read back once they are painted."""
    if labels.ignore is not None and labels.ignore != max(labels.allowed_values):
        highest = max(labels.values)
        message = f"the ignore value {labels.ignore} must be the highest, but {highest} is a label"
        remedy = f"use {highest + 1}, here and in the label maps"
        yield Finding("error", "ignore-label", f"{message}; {remedy}", file=file)
    # A label map with regions painted into it must give the same regions when it is read.
    lost = lost_values(labels.foreground, labels.region_order) if labels.has_regions else {}
    remedy = order_remedy(labels.foreground) if lost else ""
    for name, values in lost.items():
        becomes = ", ".join(f"{value} becomes {paint}" for value, paint in values.items())
        order = f"in the order of 'labels' with regions_class_order {list(labels.region_order)} ({becomes})"
        message = f"region {name} is lost when regions are painted {order}; {remedy}"
        yield Finding("error", "region-order", message, file=file)


def _check_ids(dataset: Survey) -> Iterator[Finding]:
    ids = [case.id for case in dataset.training]
    for case in sorted({*ids, *(case.id for case in dataset.test)}):
        if wrong := id_problem(case):
            safe = re.sub(r"[\W_]+", "_", case).strip("_")[:50]
            message = f"case id {case!r} {wrong}: files are called after it; choose another, such as {safe or 'case'!r}"
            yield Finding("error", "case-id", message)
    same: dict[str, list[str]] = defaultdict(list)
    for case in ids:
        same[as_filed(case)].append(case)
    for alike in same.values():
        if len(set(alike)) > 1:
            message = f"case ids {', '.join(sorted(set(alike)))} are one where upper and lower case do not count"
            yield Finding("error", "ids-collide", f"{message}; rename all but one")
        elif len(alike) > 1:
            files = [str(case.images[0]) for case in dataset.training if case.id == alike[0]]
            message = f"case id {alike[0]} occurs {len(alike)} times ({some(files)}); give each file a name of its own"
            yield Finding("error", "ids-collide", message)
