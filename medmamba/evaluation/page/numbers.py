"""The numbers of a page in full precision, in files beside it: JSON for programs, and one long table for all others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmamba.evaluation.agreement import volume_agreement
from medmamba.evaluation.breakdown import Breakdown, detection_by_size
from medmamba.evaluation.comparison import Comparison
from medmamba.evaluation.page.parts import Model, Subjects
from medmamba.evaluation.report import plain
from medmamba.files import write_bytes
from medmamba.records import to_json, write_json

#: What the files are called: as the page, and so. A page named report.html must not replace a report.json.
ENDINGS = (".json", ".csv")
#: By what the first is known as ours; rises with every change of meaning.
MARK, SCHEMA = "numbers_of_page", 1
#: What tells a line of the table from others; the number itself is in the last two.
KEYS = ("part", "metric", "label", "model", "other", "column", "group")
COLUMNS = (*KEYS, "quantity", "value")


def beside(page: Path) -> tuple[Path, ...]:
    """Where the files of a page are."""
    return tuple(page.with_name(page.name + ending) for ending in ENDINGS)


def is_ours(path: Path) -> bool:
    """Whether a file is one that `write` made, which another may replace."""
    with path.open("rb") as file:
        start = file.read(200)
    return f'"{MARK}"'.encode() in start or start.startswith(",".join(COLUMNS).encode())


def write(
    about: Subjects,
    page: Path,
    *,
    comparison: Comparison | None,
    groups: Iterable[tuple[Model, Breakdown]],
    whole: Sequence[Model] = (),
) -> None:
    """Write both files.

    Args:
        about: models and cases.
        page: that they are beside.
        comparison: of the models; None where there is one.
        groups: of cases, broken down for each model.
        whole: of registrations, the same models with registered pairs as a whole.

    Raises:
        OSError: if one cannot be written.
    """
    tables = {
        "summary": [_of(model, each) for model in (*about.models, *whole) for each in model.report.summaries],
        "subgroups": [
            _of(model, each) | {"groups": None, "group": one["group"]["name"], **one["summary"]}
            for model, each in groups
            for one in to_json(each)["groups"]
        ],
        "volume_agreement": [
            _of(model, volume_agreement([score for _, score in model.scores() if score.label == label]))
            | {"label": label}
            for model in about.models
            for label in about.labels
        ],
        "lesions_by_size": [
            _of(model, each) | {"group": f"{each.low_ml:g} to {each.high_ml:g} ml"}
            for model in about.models
            for each in detection_by_size(model.report)
        ],
    }
    if comparison:
        tables = {"contrasts": _contrasts(comparison), "ranks": _ranks(comparison), **tables}
    tables = {part: [_kept(row) for row in rows] for part, rows in tables.items()}
    json_path, csv_path = beside(page)
    facts = {MARK: SCHEMA, "medmamba": version("medmamba"), "models": [model.name for model in about.models]}
    compared = {"comparison": comparison.to_json()} if comparison else {}
    write_json({**facts, **compared, **tables}, json_path)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_lines(tables))
    write_bytes(text.getvalue().encode("utf-8", "backslashreplace"), csv_path)


def _of(model: Model, each: Any) -> dict[str, Any]:
    return {"model": model.name, **to_json(each)}


def _contrasts(comparison: Comparison) -> list[dict[str, Any]]:
    rows = [to_json(each) for each in comparison.contrasts]
    return [{**row, "model": row["first"], "other": row["second"], "first": None, "second": None} for row in rows]


def _ranks(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each model in each order, that over everything first."""
    orders = [("", "", comparison.overall), *((s.metric, s.label, s.ranking) for s in comparison.standings)]
    return [
        {
            "metric": metric,
            "label": label,
            "model": model,
            "n": ranking.n,
            "undefined": ranking.undefined,
            "mean_rank": to_json(ranking.mean_ranks[number]) if ranking.mean_ranks else None,
            "place": ranking.places[number] if ranking.places else None,
            "share_of_place": list(ranking.shares[number]) if ranking.shares else None,
            "reason": ranking.reason,
        }
        for metric, label, ranking in orders
        for number, model in enumerate(comparison.names)
    ]


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what is not told, with words for numbers that JSON has none for."""
    return {key: value for key, value in plain(row).items() if value is not None and value != ""}


def _lines(tables: dict[str, list[dict[str, Any]]]) -> Iterator[Sequence[Any]]:
    """A line for each number and word of each row."""
    for part, rows in tables.items():
        for row in rows:
            keys = [part, *(row.get(key, "") for key in KEYS[1:])]
            for quantity, value in _flat({key: value for key, value in row.items() if key not in KEYS}):
                yield (*keys, quantity, value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of JSON data with the path to each; bounds of intervals by name, other lists counted from 1."""
    if isinstance(value, dict):
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        ends = ("low", "high") if name.endswith("interval") else [str(place) for place in range(1, len(value) + 1)]
        parts = list(zip(ends, value, strict=True))
    else:
        if value is not None and value != "":
            yield name, value
        return
    for key, item in parts:
        yield from _flat(item, f"{name}.{key}" if name else key)
