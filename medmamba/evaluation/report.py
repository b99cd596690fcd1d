"""A table of scores (case by label by metric), what it says in sum, and how it is kept.

What becomes of values that are no plain numbers (undefined, infinite, without a prediction) is a `Policy`, which every
report prints. The mean of the finite values has a name of its own and never stands without the number of values that it
is over: a model would otherwise look better for every structure that it misses.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import UsageError
from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.metrics import OF_PAIRS, Metric, metric, over_structures
from medmamba.evaluation.scores import (
    CaseScore,
    Film,
    FrameScores,
    LabelScore,
    Lesion,
    Origin,
    Policy,
    Reliability,
    Status,
    Voxels,
)
from medmamba.evaluation.statistics import (
    MEAN_OVER_LABELS,
    MINIMUM_FOR_INTERVAL,
    RESAMPLES,
    Summary,
    summarize_all,
)
from medmamba.files import write_bytes
from medmamba.labels import Label, Labels
from medmamba.records import RecordError, from_json, read_json, to_json, write_json

FloatArray = NDArray[np.float64]
#: A line of a table.
Row = Sequence[str | float | None]

#: Rises with every change of meaning of a field of report.json.
SCHEMA = 3
#: What `Report.save` writes, the last where lesions were told apart.
REPORT_FILES = ("report.json", "report.csv", "lesions.csv")
#: What it writes as well of registered pairs.
PAIRS_FILE = "pairs.csv"
#: And of films.
FRAMES_FILE = "frames.csv"
#: What all of a registered pair is called, where a column needs the name of a structure.
WHOLE_PAIR = "whole pair"
#: The note of a case that has no prediction.
NO_PREDICTION = "no prediction"

#: What is said before the names of metrics that the policy leaves alone.
OWN = "These decide themselves about empty masks and infinite distances:"
#: What is said of registered pairs.
SHARED = (
    "A structure that one of a pair's label maps lacks is undefined for that pair, before and after registration: no "
    "transform could bring it."
)
#: How the sums are made, whatever the policy.
SUMS = (
    "The mean over labels is the mean of the labels' means.",
    f"Intervals are 95 % bootstrap intervals (BCa, {RESAMPLES} draws) of the mean over cases, given from "
    f"{MINIMUM_FOR_INTERVAL} cases on that are not all equal; "
    "they do not cover the choice of training cases or seeds. Intervals of the median are of at least 95 %, by order "
    "statistics, from six cases on.",
)
#: What stands above the columns of the table of lesions.
LESION_COLUMNS = ("case", "label", "number", "kind", "volume_ml", "i", "j", "k", "dice")
#: And of the table of frames: values of a frame and its areas, in mm2 where the source says how large pixels are.
FRAME_VALUES = ("dice", "boundary_f", "flicker", "prediction_px", "reference_px")
FRAME_COLUMNS = ("case", "label", "frame", "number", "time_s", *FRAME_VALUES, "prediction_mm2", "reference_mm2")

#: What begins a formula in spreadsheets, and commands in old ones.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
#: What report.json says of a metric.
_TOLD = ("title", "unit", "higher_is_better")
#: The word for it in the files, whose readers tell two from each other by the notes.
_WRITTEN: dict[Status, str] = {"scored": "scored", "failed": "failed", "missing": "failed", "skipped": "skipped"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All scores of a set of predictions.

    Args:
        labels: the structures that were scored.
        metrics: names of the metrics, that `medmamba.evaluation.metrics.metric` knows.
        cases: every case that has a reference, sorted by id.
        extra_predictions: names of predictions that have no reference.
        seed: of the bootstrap.
        policy: what became of values that are no plain numbers.
        origin: where the masks came from.
        name: what the predictions are called where several are compared.
    """

    labels: Labels
    metrics: tuple[str, ...]
    cases: tuple[CaseScore, ...]
    extra_predictions: tuple[str, ...] = ()
    seed: int = 0
    policy: Policy = field(default_factory=Policy)
    origin: Origin = field(default_factory=Origin)
    name: str = ""

    @property
    def failed(self) -> tuple[CaseScore, ...]:
        """Cases without a prediction and a reference that could be used, but for those left out on request."""
        return tuple(case for case in self.cases if case.status in ("failed", "missing"))

    @property
    def without_prediction(self) -> tuple[CaseScore, ...]:
        """Cases that have a reference alone, also those left out."""
        return tuple(case for case in self.cases if case.status in ("missing", "skipped"))

    @property
    def table(self) -> FloatArray:
        """(cases with scores, labels, metrics) values."""
        rows = [[score.values for score in case.scores] for case in self.cases if case.scores]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.labels.foreground), len(self.metrics))

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """One per metric and label, and one per metric over all labels when there are several."""
        table, names = self.table, [label.name for label in self.labels.foreground]
        # Of a registered pair without label maps nothing is missing.
        left_out = sum(not case.scores and case.status != "scored" for case in self.cases)
        parts = {name: slice(row, row + 1) for row, name in enumerate(names)}
        if len(names) > 1:
            parts[MEAN_OVER_LABELS] = slice(None)
        columns = {
            (each, name): table[:, part, column]
            for column, each in enumerate(self.metrics)
            for name, part in parts.items()
        }
        return summarize_all(columns, left_out=left_out, seed=self.seed)

    def worst(self, count: int) -> tuple[tuple[str, float], ...]:
        """Ids of the cases with the worst mean over labels in the first metric, worst first, and that mean.

        A case of which nothing is defined has no place in the order. Of cases that are infinitely bad, those come first
        that are so in more labels.
        """
        scored = [case for case in self.cases if case.scores]
        ranked = []
        for case, row in zip(scored, self.table[:, :, 0], strict=True):
            defined = row[~np.isnan(row)]
            if defined.size:
                finite = defined[np.isfinite(defined)]
                rank = (float(defined.mean()), defined.size - finite.size, float(finite.sum()))
                ranked.append((rank, case.id))
        descending = not metric(self.metrics[0]).higher_is_better
        ranked.sort(key=lambda item: item[0], reverse=descending)
        return tuple((case, mean) for (mean, *_), case in ranked[:count])

    @property
    def rules(self) -> tuple[str, ...]:
        """What became of values that are no plain numbers, and how the sums are made, for people."""
        return (*self.policy.sentences, *self.exceptions, *SUMS)

    @property
    def exceptions(self) -> tuple[str, ...]:
        """Which metrics the policy leaves alone, and which structures of registered pairs; none where it decides."""
        rows = [metric(name) for name in self.metrics]
        own = ", ".join(
            dict.fromkeys(
                f"all of {CHALLENGES[row.challenge].title}" if row.challenge else row.title
                for row in rows
                if row.own_policy
            )
        )
        of_structures = self.figures and not all(row.of_pair for row in rows)
        return (*([f"{OWN} {own}."] if own else []), *([SHARED] if of_structures else []))

    def only(self, metrics: Sequence[str]) -> Report:
        """The same report with some of its metrics, in another order if need be."""
        columns = [self.metrics.index(name) for name in metrics]

        def cut(score: LabelScore) -> LabelScore:
            return replace(score, values=tuple(score.values[column] for column in columns))

        cases = tuple(replace(case, scores=tuple(map(cut, case.scores))) for case in self.cases)
        return replace(self, metrics=tuple(metrics), cases=cases)

    @property
    def figures(self) -> tuple[str, ...]:
        """What is known of registered pairs as a whole, by name; none where this is about segmentations."""
        return tuple(name for name in OF_PAIRS if any(name in case.figures for case in self.cases))

    @property
    def films(self) -> bool:
        """Whether this is about films."""
        return any(case.film for case in self.cases)

    def of_labels(self, names: Collection[str]) -> Report:
        """The same report with some of its structures."""
        kept = tuple(label for label in self.labels.foreground if label.name in names)
        if len(kept) == len(self.labels.foreground):
            return self
        order = tuple(
            value
            for label, value in zip(self.labels.foreground, self.labels.region_order, strict=False)
            if label.name in names
        )
        cases = tuple(
            replace(case, scores=tuple(score for score in case.scores if score.label in names)) for case in self.cases
        )
        return replace(self, labels=replace(self.labels, foreground=kept, region_order=order), cases=cases)

    def whole(self, figures: Sequence[str]) -> Report:
        """Registered pairs as a whole: the values of their structures in one, and some of the figures.

        Metrics are those of `medmamba.evaluation.metrics.over_structures`. Undefined values of structures are left out,
        as one of the pair's label maps lacks these; infinite ones are not.
        """
        names = [name for name in self.metrics if not metric(name).of_pair]
        sums = {over_structures(name): self.metrics.index(name) for name in names}

        def of(case: CaseScore) -> tuple[LabelScore, ...]:
            if not case.scores and not case.figures and case.status != "scored":
                return ()
            over = (_over(name, [score.values[column] for score in case.scores]) for name, column in sums.items())
            values = (*over, *(case.figures.get(name, math.nan) for name in figures))
            return (LabelScore(label=WHOLE_PAIR, values=values),)

        return replace(
            self,
            labels=Labels(foreground=(Label(name=WHOLE_PAIR, values=(1,)),)),
            metrics=(*sums, *figures),
            cases=tuple(replace(case, scores=of(case)) for case in self.cases),
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data: undefined values are null, infinite ones the string ``"inf"``."""
        return {
            "schema": SCHEMA,
            "medmamba": version("medmamba"),
            "name": self.name,
            "policy": list(self.rules),
            "policies": to_json(self.policy),
            "origin": to_json(self.origin),
            "metrics": {name: self._metric_json(metric(name)) for name in self.metrics},
            "labels": {label.name: list(label.values) for label in self.labels.foreground},
            "region_order": list(self.labels.region_order),
            "ignore": self.labels.ignore,
            "counts": {
                word: sum(_WRITTEN[case.status] == word for case in self.cases)
                for word in dict.fromkeys(_WRITTEN.values())
            },
            "summary": [_summary_json(summary) for summary in self.summaries],
            "cases": [self._case_json(case) for case in self.cases],
            **({"figures": {name: self._metric_json(metric(name)) for name in self.figures}} if self.figures else {}),
            "extra_predictions": list(self.extra_predictions),
            "seed": self.seed,
        }

    @classmethod
    def load(cls, path: Path) -> Report:
        """A report that `save` wrote, of this version or an earlier one.

        Args:
            path: ``report.json``, or the folder it is in.

        Raises:
            FileNotFoundError: if it is not there.
            DataError: if it holds something else, or was written by a later version.
        """
        path = path / REPORT_FILES[0] if path.is_dir() else path
        facts = read_json(path)
        if not isinstance(facts, dict) or not isinstance(facts.get("schema"), int):
            raise RecordError(f"{path} is no report of `medmamba evaluate`: it has no 'schema'")
        if facts["schema"] > SCHEMA:
            raise RecordError(
                f"{path} has schema {facts['schema']}, this version of medmamba reads up to {SCHEMA}; update medmamba"
            )
        return _report(from_json(_Written, _known(facts), str(path)), str(path))

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write the report and its tables, and return their paths.

        They are ``report.json``, ``report.csv`` with a line per case and label, where lesions were told apart
        ``lesions.csv`` with a line for each, of registered pairs ``pairs.csv`` with a line for each, and of films
        ``frames.csv`` with a line for each frame and label. A table of lesions that was left by another report is
        removed. In all tables a name that a spreadsheet would compute, such as ``=1+1``, is preceded by an apostrophe.
        """
        json_path, csv_path, lesions_path = (folder / name for name in REPORT_FILES)
        write_json(self.to_json(), json_path)
        write_csv(self._rows(), csv_path)
        more = {PAIRS_FILE: self._pair_rows} if self.figures else {FRAMES_FILE: self._frame_rows} if self.films else {}
        for name, rows in more.items():
            write_csv(rows(), folder / name)
        others = tuple(folder / name for name in more)
        lesions = self._lesion_rows()
        if len(lesions) > 1:
            write_csv(lesions, lesions_path)
            return json_path, csv_path, lesions_path, *others
        if _begins_with(lesions_path, _line(LESION_COLUMNS)):
            lesions_path.unlink()
        return json_path, csv_path, *others

    def _metric_json(self, row: Metric) -> dict[str, Any]:
        definition = " ".join(filter(None, (row.defined(self.policy), row.how)))
        return {**{key: getattr(row, key) for key in _TOLD}, "definition": definition, "source": row.source}

    def _case_json(self, case: CaseScore) -> dict[str, Any]:
        scores = [
            {
                "label": score.label,
                **{name: plain(value) for name, value in zip(self.metrics, score.values, strict=True)},
                "prediction_ml": score.prediction_ml,
                "reference_ml": score.reference_ml,
                **({"voxels": to_json(score.voxels)} if score.voxels else {}),
                **({"lesions": to_json(score.lesions)} if score.lesions else {}),
                **({"reliability": to_json(score.reliability)} if score.reliability else {}),
                **({"frames": to_json(score.frames)} if score.frames else {}),
            }
            for score in case.scores
        ]
        facts = {"id": case.id, "status": _WRITTEN[case.status], "notes": list(case.notes), "scores": scores}
        film = {"film": to_json(case.film)} if case.film else {}
        return {**facts, **film, **({"figures": plain(case.figures)} if case.figures else {})}

    def _rows(self) -> list[Row]:
        undefined = (math.nan,) * len(self.metrics)
        nothing = [LabelScore(label=label.name, values=undefined) for label in self.labels.foreground]
        rows: list[Row] = [("case", "label", "status", *self.metrics, "prediction_ml", "reference_ml")]
        for case in self.cases:
            # A case that has no line would not be missed; a registered pair without label maps has one in pairs.csv.
            for score in case.scores or (nothing if case.status != "scored" else ()):
                values = ["" if math.isnan(value) else value for value in score.values]
                rows.append(
                    (case.id, score.label, _WRITTEN[case.status], *values, score.prediction_ml, score.reference_ml)
                )
        return rows

    def _pair_rows(self) -> list[Row]:
        whole = self.whole(self.figures)
        rows: list[Row] = [("pair", "status", *whole.metrics, "notes")]
        for case in whole.cases:
            values = case.scores[0].values if case.scores else (math.nan,) * len(whole.metrics)
            told = ["" if math.isnan(value) else value for value in values]
            rows.append((case.id, _WRITTEN[case.status], *told, "; ".join(case.notes)))
        return rows

    def _frame_rows(self) -> list[Row]:
        rows: list[Row] = [FRAME_COLUMNS]
        for case in self.cases:
            for score in case.scores:
                rows += _rows_of_frames(case.id, case.film, score)
        return rows

    def _lesion_rows(self) -> list[Row]:
        return [
            LESION_COLUMNS,
            *(
                (case.id, score.label, number, lesion.kind, lesion.volume_ml, *lesion.voxel, lesion.dice)
                for case in self.cases
                for score in case.scores
                for number, lesion in enumerate(score.lesions, 1)
            ),
        ]


def _rows_of_frames(case: str, film: Film | None, score: LabelScore) -> Iterable[Row]:
    """A line for each frame of a film; none of other cases."""
    if film is None or score.frames is None:
        return
    columns = [getattr(score.frames, name) for name in FRAME_VALUES]
    times = film.times_s or (None,) * len(film.numbers)
    for frame, (number, time_s, *values) in enumerate(zip(film.numbers, times, *columns, strict=True)):
        areas = [None if px is None or film.pixel_mm2 is None else px * film.pixel_mm2 for px in values[-2:]]
        yield (case, score.label, frame, number, time_s, *values, *areas)


def _over(name: str, values: Sequence[float]) -> float:
    """Mean or median of those that are defined, by the name of `over_structures`."""
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return math.nan
    return float(np.median(defined) if name.startswith("median_") else np.mean(defined))


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write a table for spreadsheets, in which a name that they would compute is preceded by an apostrophe."""
    write_bytes("".join(map(_line, rows)).encode("utf-8", "surrogateescape"), path)


def _line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(_no_formula, row))
    return text.getvalue()


def _no_formula(cell: str | float | None) -> str | float | None:
    """Words as a spreadsheet shows them; it would compute those that begin like a formula, so they are quoted."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _begins_with(path: Path, line: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline() == line.encode()


def _summary_json(summary: Summary) -> dict[str, Any]:
    """The fields of a summary; the names of intervals say of how many percent they are."""
    facts = {field.name: plain(getattr(summary, field.name)) for field in fields(summary)}
    return {f"{name}_95" if name.endswith("interval") else name: value for name, value in facts.items()}


def plain(value: Any) -> Any:
    """JSON data in which numbers that are undefined are null, and infinite ones "inf" or "-inf": JSON has no words."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


@dataclass(frozen=True, kw_only=True)
class _WrittenCase:
    """A case as it is in the file."""

    id: str
    status: Literal["scored", "failed", "skipped"]
    notes: tuple[str, ...]
    scores: tuple[dict[str, Any], ...]
    figures: dict[str, Any] = field(default_factory=dict)
    film: Film | None = None


@dataclass(frozen=True, kw_only=True)
class _Written:
    """The parts of report.json that the others follow from; the fields with a default came with schema 3."""

    metrics: dict[str, Any]
    labels: dict[str, tuple[int, ...]]
    cases: tuple[_WrittenCase, ...]
    extra_predictions: tuple[str, ...]
    seed: int
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    policies: Policy = field(default_factory=Policy)
    origin: Origin = field(default_factory=Origin)
    name: str = ""


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {field.name: facts[field.name] for field in fields(_Written) if field.name in facts}


def _report(written: _Written, where: str) -> Report:
    for name in written.metrics:
        try:
            metric(name)
        except UsageError as error:
            raise RecordError(
                f"{where}: this version of medmamba does not know the metric {name!r}; update it"
            ) from error
    foreground = tuple(Label(name=name, values=values) for name, values in written.labels.items())
    values = [value for label in foreground for value in label.values]
    order = written.region_order
    if not order and len(set(values)) < len(values):  # schemas 1 and 2 did not write it; scores do not depend on it
        order = tuple(label.values[0] for label in foreground)
    metrics = tuple(written.metrics)
    return Report(
        labels=Labels(foreground=foreground, region_order=order, ignore=written.ignore),
        metrics=metrics,
        cases=tuple(_case(case, metrics, f"{where}: case {case.id}") for case in written.cases),
        extra_predictions=written.extra_predictions,
        seed=written.seed,
        policy=written.policies,
        origin=written.origin,
        name=written.name,
    )


def _case(case: _WrittenCase, metrics: tuple[str, ...], where: str) -> CaseScore:
    scores = tuple(_score(row, metrics, where) for row in case.scores)
    try:
        return CaseScore(
            id=case.id,
            status="missing" if case.status == "failed" and case.notes[:1] == (NO_PREDICTION,) else case.status,
            notes=case.notes,
            scores=scores,
            figures={name: _number(value, where) for name, value in case.figures.items()},
            film=case.film,
        )
    except ValueError as error:  # frames that do not fit together
        raise RecordError(f"{where}: {error}") from error


def _score(row: dict[str, Any], metrics: tuple[str, ...], where: str) -> LabelScore:
    absent = [name for name in ("label", *metrics) if name not in row]
    if absent:
        raise RecordError(f"{where}: a score lacks {', '.join(absent)}")
    return LabelScore(
        label=str(row["label"]),
        values=tuple(_number(row[name], f"{where}.{name}") for name in metrics),
        prediction_ml=row.get("prediction_ml"),
        reference_ml=row.get("reference_ml"),
        voxels=from_json(Voxels, counts, f"{where}.voxels") if (counts := row.get("voxels")) else None,
        lesions=tuple(from_json(Lesion, lesion, f"{where}.lesions") for lesion in row.get("lesions", ())),
        reliability=from_json(Reliability, found, where) if (found := row.get("reliability")) else None,
        frames=from_json(FrameScores, frames, f"{where}.frames") if (frames := row.get("frames")) else None,
    )


def _number(value: Any, where: str) -> float:
    """A value as `plain` wrote it."""
    if value is None:
        return math.nan
    if value == "inf":
        return math.inf
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise RecordError(f'{where}: must be a number, null or "inf", got {value!r}')
