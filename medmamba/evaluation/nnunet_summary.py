"""The ``summary.json`` that nnU-Net writes of its predictions, read as a report and written of one.

Cases that nnU-Net did not evaluate are not in it, and volumes are in voxels. An undefined value (both masks empty) is a
bare ``NaN`` there, which strict readers of JSON refuse; it is written so as well, for nnU-Net's own tools average these
numbers and take nothing else.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medmamba.errors import DataError
from medmamba.evaluation.matching import Match, labels_of
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.origin import origin
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Voxels
from medmamba.files import write_bytes
from medmamba.io.layouts.names import split_ending
from medmamba.labels import Label, Labels
from medmamba.records import RecordError, read_json

#: What nnU-Net calls it.
SUMMARY = "summary.json"
#: What a summary has, or its counts tell.
METRICS = ("dice", "iou", "precision", "sensitivity")
#: How a report's counts are called there.
_COUNTS = {"TP": "tp", "FP": "fp", "FN": "fn", "TN": "tn"}
#: Values of a region or a label as the file's keys spell them.
_Values = tuple[int, ...]


def find(path: Path) -> tuple[Path, ...]:
    """The summaries in a folder of nnU-Net's: of predictions, of a fold's validation, or of all folds of a trainer.

    Args:
        path: the folder, or a summary itself.

    Returns:
        Their paths; none where the folder is another program's.
    """
    if path.name == SUMMARY and path.is_file():
        return (path,)
    for pattern in (SUMMARY, f"validation/{SUMMARY}", f"fold_*/validation/{SUMMARY}"):
        if found := tuple(sorted(path.glob(pattern))):
            return found
    return ()


def load(paths: Sequence[Path], *, name: str = "") -> Report:
    """A report of what nnU-Net measured: Dice, IoU, precision and sensitivity.

    Args:
        paths: summaries of one model, such as those of its folds; from `find`.
        name: what the model is called where several are compared.

    Raises:
        FileNotFoundError: if one does not exist.
        DataError: if one is no summary, they are of different labels, or a case is in several.
    """
    read = [(path, _rows(path)) for path in paths]
    keys = list(dict.fromkeys(key for _, rows in read for row in rows for key in row["metrics"]))
    labels = _labels(keys, paths[0].parent)
    cases: dict[str, CaseScore] = {}
    for path, rows in read:
        for row in rows:
            case = _case(row, labels, str(path))
            if case.id in cases:
                raise RecordError(f"{path}: case {case.id} is there twice, in this file or in another of the model's")
            cases[case.id] = case
    first = read[0][1][0]
    where = origin(paths[0].parent, _folder(first["reference_file"]) or paths[0].parent)
    return Report(
        labels=labels,
        metrics=METRICS,
        cases=tuple(cases[case] for case in sorted(cases)),
        origin=replace(
            where,
            prediction=_folder(first["prediction_file"]) or where.prediction,
            reference=_folder(first["reference_file"]),
        ),
        name=name,
    )


def save(report: Report, pairs: Iterable[Match], folder: Path, *, description: Path | None = None) -> Path:
    """Write what nnU-Net would: its keys, its numbers, of the cases that could be scored.

    Args:
        report: made by `medmamba.evaluation.evaluate.evaluate`.
        pairs: the files that it is about.
        folder: where ``summary.json`` goes.
        description: the dataset.json that the labels are from, which tells ``3`` from ``[3]``: nnU-Net calls one label
            ``3`` and the other ``(3,)``.

    Raises:
        DataError: if no case was scored.
    """
    path = folder / SUMMARY
    text = json.dumps(summary(report, pairs, description=description), indent=4, sort_keys=True)
    write_bytes(text.encode("utf-8", "surrogateescape"), path)
    return path


def summary(report: Report, pairs: Iterable[Match], *, description: Path | None = None) -> dict[str, Any]:
    """What is in the file that `save` writes."""
    files = {pair.id: pair for pair in pairs}
    listed = _listed(description)
    keys = [_key(label, label.name in listed) for label in report.labels.foreground]
    scored = [case for case in report.cases if case.status == "scored"]
    if not scored:
        raise DataError(f"no case was scored, so there is nothing to write into {SUMMARY}")
    measured = [dict(zip(keys, map(_measured, case.scores), strict=True)) for case in scored]
    mean = {key: _mean([values[key] for values in measured]) for key in keys}
    return {
        # Of labels of which nothing is defined the mean over all is undefined too, as nnU-Net has it.
        "foreground_mean": {name: float(np.mean([mean[key][name] for key in keys])) for name in mean[keys[0]]},
        "mean": mean,
        "metric_per_case": [
            {
                "reference_file": str(files[case.id].reference),
                "prediction_file": str(files[case.id].prediction),
                "metrics": values,
            }
            for case, values in zip(scored, measured, strict=True)
        ],
    }


def _mean(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number over the cases in which it is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is undefined in all of them
        return {name: float(np.nanmean([case[name] for case in cases])) for name in cases[0]}


def _measured(score: LabelScore) -> dict[str, float]:
    voxels = score.voxels
    assert voxels is not None  # of every scored case
    return {
        "Dice": voxels.dice,
        "IoU": voxels.iou,
        **{name: getattr(voxels, ours) for name, ours in _COUNTS.items()},
        "n_pred": voxels.prediction,
        "n_ref": voxels.reference,
    }


def _listed(description: Path | None) -> frozenset[str]:
    """Names of labels whose values a dataset.json gives as a list, though it be of one."""
    facts = read_json(description) if description else None
    labels = facts.get("labels") if isinstance(facts, dict) else None
    if not isinstance(labels, dict):
        return frozenset()
    return frozenset(name for name, values in labels.items() if isinstance(values, list))


def _key(label: Label, is_list: bool) -> str:
    return str(label.values if is_list or len(label.values) > 1 else label.values[0])


def _rows(path: Path) -> list[dict[str, Any]]:
    """The cases in a file, with the values of labels and regions as keys."""
    facts = read_json(path)
    rows = facts.get("metric_per_case") if isinstance(facts, dict) else None
    if not isinstance(rows, list) or not rows:
        raise RecordError(f"{path} is no summary of nnU-Net's: it has no cases in 'metric_per_case'")
    for number, row in enumerate(rows):
        where = f"{path}: metric_per_case[{number}]"
        if not isinstance(row, dict) or not isinstance(row.get("metrics"), dict):
            raise RecordError(f"{where}: must be an object with 'metrics'")
        for name in ("reference_file", "prediction_file"):
            if not isinstance(row.get(name), str):
                raise RecordError(f"{where}: {name} must be a text, got {row.get(name)!r}")
    return [
        row | {"metrics": {_values(key, str(path)): found for key, found in row["metrics"].items()}} for row in rows
    ]


def _values(key: str, where: str) -> _Values:
    """``"3"`` and ``"(1, 2, 3)"``, and what is written for regions of one value, ``"(3,)"``."""
    if not re.fullmatch(r"\d+|\((\s*\d+\s*,?)+\)", key):
        raise RecordError(f"{where}: labels are numbers or regions such as '(1, 2, 3)', got {key!r}")
    return tuple(int(number) for number in re.findall(r"\d+", key))


def _labels(keys: Sequence[_Values], folder: Path) -> Labels:
    """Labels for the keys, by their names where nnU-Net left a dataset.json in the folder or above it."""
    named: dict[frozenset[int], str] = {}
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / "dataset.json").is_file():
            named = {frozenset(label.values): label.name for label in labels_of(place).foreground}
            break
    structures = [key for key in keys if set(key) != {0}]
    ranks = {values: rank for rank, values in enumerate(named)}
    structures.sort(key=lambda key: (ranks.get(frozenset(key), len(ranks)), key))
    regions = any(len(key) > 1 for key in structures)
    return Labels(
        foreground=tuple(
            Label(name=named.get(frozenset(key), f"label_{'_'.join(map(str, key))}"), values=key) for key in structures
        ),
        region_order=tuple(key[0] for key in structures) if regions else (),
    )


def _case(row: Mapping[str, Any], labels: Labels, where: str) -> CaseScore:
    name = split_ending(Path(row["reference_file"].replace("\\", "/")))[0]
    measured = row["metrics"]
    if {frozenset(key) for key in measured if set(key) != {0}} != {frozenset(la.values) for la in labels.foreground}:
        raise RecordError(f"{where}: case {name} has other labels than the first one")
    scores = []
    for label in labels.foreground:
        found = next(values for key, values in measured.items() if set(key) == set(label.values))
        scores.append(_score(label, found, f"{where}: case {name}, label {label.name}"))
    return CaseScore(id=name, status="scored", scores=tuple(scores))


def _score(label: Label, found: Any, where: str) -> LabelScore:
    counts = {ours: found.get(name) if isinstance(found, dict) else None for name, ours in _COUNTS.items()}
    for name, count in counts.items():
        if not isinstance(count, int | float) or not float(count).is_integer() or count < 0:
            raise RecordError(f"{where}: {name.upper()} must be a number of voxels, got {count!r}")
    voxels = Voxels(**{name: int(count) for name, count in counts.items() if count is not None})
    # Precision is undefined where a structure was missed, which is the worst there is.
    missed = voxels.reference > 0 and voxels.prediction == 0
    values = [metric(name).worst if missed else getattr(voxels, name) for name in METRICS]
    return LabelScore(label=label.name, values=tuple(values), voxels=voxels)


def _folder(file: str) -> Path | None:
    """Where a file lies, if it is on this machine."""
    path = Path(file)
    return path.parent.resolve() if path.is_file() else None
