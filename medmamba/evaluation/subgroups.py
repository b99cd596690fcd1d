"""Groups of cases: by site, scanner, sex or age from a table, and by the size of a structure.

Of a table only the case ids and the columns asked for are kept, and no text of a column that names single cases.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmamba.case import some
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.report import Report
from medmamba.evaluation.statistics import MINIMUM_FOR_INTERVAL

#: What the column of case ids may be called, in any case of letters.
CASE_COLUMNS = ("case", "case_id", "id")
#: What stands for a value that is not there, in any case of letters.
NOTHING = ("", "-", "?", "na", "n/a", "nan", "none", "null")
NOT_GIVEN = "(not given)"
#: Numbers with more different values than that are split at quantiles.
MOST_VALUES = 6

METHODS = (
    f"Groups: a column of numbers with more than {MOST_VALUES} different values is split at its quartiles, or at its "
    f"median where quarters would have fewer than {MINIMUM_FOR_INTERVAL} cases; every other value is a group of its "
    f"own. A column of texts, none of which {MINIMUM_FOR_INTERVAL} cases share, is left out: it would name single "
    "cases. Volumes of a structure in the reference are split at their tertiles over the cases that have it.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cases that have something in common; ``compared`` is False for those of which it is not known."""

    name: str
    cases: tuple[str, ...]
    compared: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A way to group cases.

    Args:
        name: of the column.
        groups: no case is in two; none where ``reason`` says why.
        label: the structure that it concerns; None for all.
        reason: why there are no groups; empty where there are.
    """

    name: str
    groups: tuple[Group, ...] = ()
    label: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroups:
    """A table of cases.

    Args:
        path: where it was read.
        names: of its columns, without that of the case ids.
        values: by case id and column; only what is given.
    """

    path: Path
    names: tuple[str, ...]
    values: Mapping[str, Mapping[str, str]]

    def unknown(self, cases: Sequence[str]) -> tuple[str, ...]:
        """Cases of the table that are none of these."""
        return tuple(sorted(set(self.values) - set(cases)))

    def columns(self, cases: Sequence[str]) -> tuple[Column, ...]:
        """The groups that each column makes of these cases; those that the table lacks are `NOT_GIVEN`.

        Raises:
            DataError: if the table has none of the cases.
        """
        if not set(cases) & set(self.values):
            raise DataError(
                f"{self.path} has none of the cases: its first are {some(sorted(self.values))}, those of the report "
                f"{some(sorted(cases))}; write ids as the report has them (spreadsheets drop leading zeros of cells "
                "that are not formatted as text)"
            )
        rows = {case: self.values.get(case, {}) for case in cases}
        return tuple(_column(name, {case: row.get(name, "") for case, row in rows.items()}) for name in self.names)


def by_lesion_size(report: Report) -> tuple[Column, ...]:
    """Cases by the volume of each structure in the reference: thirds of those that have it, and those without it."""
    columns = []
    for row, label in enumerate(report.labels.foreground):
        volumes = {case.id: case.scores[row].reference_ml for case in report.cases if case.scores}
        there = {case: volume for case, volume in volumes.items() if volume}
        groups = _split(there, parts=3, unit=" ml")
        empty = tuple(case for case, volume in volumes.items() if volume == 0)
        if empty:
            groups = (*groups, Group(name="not in the reference", cases=empty, compared=False))
        reason = "" if len(there) >= 2 * MINIMUM_FOR_INTERVAL else _too_few(len(there))
        columns.append(
            Column(
                name=f"volume of {label.name} in the reference",
                groups=() if reason else groups,
                label=label.name,
                reason=reason,
            )
        )
    return tuple(columns)


def read(path: Path, columns: Sequence[str] | None = None) -> Subgroups:
    """Read a table of cases: CSV with comma, semicolon or tab, as spreadsheets save it.

    Args:
        path: with a line of names, one of which is ``case``, ``case_id`` or ``id``.
        columns: which to keep; all when None.

    Raises:
        OSError: if it cannot be read.
        DataError: if it is no such table, naming line and remedy.
        UsageError: if it lacks a column that was asked for.
    """
    (_, header), *lines = _lines(path)
    if doubled := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise DataError(f"{path}: columns must have different names, got {some(doubled)} twice; rename one")
    ids = [name for name in header if name.lower().replace(" ", "_") in CASE_COLUMNS]
    if len(ids) != 1:
        raise DataError(
            f"{path}: one column must hold the ids of the cases and be called {', '.join(CASE_COLUMNS[:-1])} or "
            f"{CASE_COLUMNS[-1]}, got {some(header, 20)}; rename columns"
        )
    others = [name for name in header if name and name not in ids]
    if not others:
        raise DataError(f"{path} has no column besides {ids[0]!r}; add one to group the cases by")
    if missing := [name for name in columns or () if name not in others]:
        raise UsageError(f"{path} has no column {some(missing)}; it has {some(others, 20)}")
    kept = tuple(others if columns is None else dict.fromkeys(columns))
    seen: dict[str, int] = {}
    values: dict[str, dict[str, str]] = {}
    for number, cells in lines:
        row = dict(zip(header, cells, strict=True))
        case = row[ids[0]]
        if not case:
            raise DataError(f"{path}, line {number}: a case needs an id, got none; write it or remove the line")
        if case in seen:
            raise DataError(f"{path}, line {number}: case {case} stands in line {seen[case]} already; remove one")
        seen[case] = number
        values[case] = {name: row[name] for name in kept if row[name].lower() not in NOTHING}
    return Subgroups(path=path, names=kept, values=values)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Numbers and cells of the lines that hold something, the names of the columns first; all are as long."""
    text = _text(path)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.strip().lower() in ("sep=;", "sep=,", "sep=\t", "sep="):  # what spreadsheets are told the delimiter by
        text, skipped = rest, 1
    head = text.strip().partition("\n")[0]
    delimiter = max(";\t,", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):  # spreadsheets also write lines that once held something
                found.append((reader.line_num + skipped, stripped))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num + skipped}: not valid CSV ({error}); look for a quotation mark that is not "
            "closed"
        ) from error
    if len(found) < 2:
        raise DataError(f"{path}: a table needs a line of names and a line for each case, got {len(found)} lines")
    width = max(place for place, name in enumerate(found[0][1], start=1) if name)
    for number, cells in found:
        if any(cells[width:]):
            raise DataError(
                f"{path}, line {number}: no line has more cells than there are names of columns, {width}, got "
                f"{len(cells)}; quote cells that hold a {'tab' if delimiter == chr(9) else repr(delimiter)}"
            )
    # Spreadsheets leave out empty cells at the end of some lines, and write some for columns that once were.
    return [(number, (cells + [""] * width)[:width]) for number, cells in found]


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(b"PK"):
        raise DataError(f"{path} is a workbook, not a table in text; save it as 'CSV UTF-8' in the spreadsheet program")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not a text in UTF-8; save it as 'CSV UTF-8' in the spreadsheet program"
        ) from error


def _column(name: str, texts: Mapping[str, str]) -> Column:
    """The groups that the values of one column make; those not given are empty texts."""
    given = {case: text for case, text in texts.items() if text}
    nothing = tuple(case for case in texts if case not in given)
    rest = (Group(name=NOT_GIVEN, cases=nothing, compared=False),) if nothing else ()
    numbers = {case: number for case, text in given.items() if (number := _number(text)) is not None}
    if given and len(numbers) == len(given) and len(set(numbers.values())) > MOST_VALUES:
        if len(numbers) < 2 * MINIMUM_FOR_INTERVAL:
            return Column(name=name, reason=_too_few(len(numbers)))
        parts = 4 if len(numbers) >= 4 * MINIMUM_FOR_INTERVAL else 2
        return Column(name=name, groups=(*_split(numbers, parts=parts), *rest))
    often = Counter(given.values())
    if max(often.values(), default=0) < MINIMUM_FOR_INTERVAL:
        return Column(name=name, reason=f"no value is shared by {MINIMUM_FOR_INTERVAL} cases")
    order = sorted(often, key=lambda text: (number if (number := _number(text)) is not None else np.inf, text))
    groups = (Group(name=text, cases=tuple(case for case in given if given[case] == text)) for text in order)
    return Column(name=name, groups=(*groups, *rest))


def _too_few(n: int) -> str:
    return f"{n} cases are too few to split: each part needs {MINIMUM_FOR_INTERVAL}"


def _number(text: str) -> float | None:
    """A finite number, also with a decimal comma."""
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _split(values: Mapping[str, float], *, parts: int, unit: str = "") -> tuple[Group, ...]:
    """Groups of about as many cases, from small to large; equal values stay together."""
    if not values:
        return ()
    numbers = np.array(list(values.values()), dtype=np.float64)
    # Bounds are values that occur, each the last of its group.
    inner = np.quantile(numbers, np.arange(1, parts) / parts, method="inverted_cdf")
    bounds = [float(bound) for bound in np.unique(inner) if bound < numbers.max()]
    groups = []
    for low, high in zip([None, *bounds], [*bounds, None], strict=True):
        words = [f"above {low:.4g}" if low is not None else "", f"up to {high:.4g}" if high is not None else ""]
        cases = tuple(
            case for case, value in values.items() if (low is None or value > low) and (high is None or value <= high)
        )
        groups.append(Group(name=(", ".join(filter(None, words)) or "all") + unit, cases=cases))
    return tuple(groups)
