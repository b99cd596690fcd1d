"""Pairs of images to be registered: out of a table, of two folders by name, or of one folder.

See datasets.md for examples. No voxels are read.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmamba.case import Case, Pair, Pairing, some
from medmamba.errors import DataError
from medmamba.io.errors import DatasetError
from medmamba.io.images import is_image
from medmamba.io.layouts.names import as_filed, id_problem, split_ending
from medmamba.io.layouts.subjects import Subjects, subjects
from medmamba.io.remarks import Remark, tell
from medmamba.labels import Labels

#: What a table may say of a side of a pair besides its image, by the field of the case.
FIELDS = ("label", "points", "mask")
SIDES = ("fixed", "moving")
COLUMNS = ("id", "patient", *SIDES, *(f"{side}_{each}" for each in FIELDS for side in SIDES))
#: So many errors are told at once; `medmamba dataset check` tells all.
MOST_ERRORS = 5


@dataclass(slots=True, kw_only=True)
class PairSurvey:
    """What can be told of pairs without reading voxels, also when something is wrong.

    Args:
        name: of the data set.
        root: the table or the folder of the fixed images.
        pairs: in order of their ids.
        labels: as the folder's description has them; None if there is none.
        pairing: how the pairs came about.
        problems: all that is wrong; when there are any, the fields concerned hold a guess.
        remarks: how something unusual was taken.
    """

    name: str
    root: Path
    pairs: tuple[Pair, ...] = ()
    labels: Labels | None = None
    pairing: Pairing = field(default_factory=Pairing)
    problems: list[DatasetError] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case of a pair once, sorted by id."""
        return tuple(sorted({case.id: case for pair in self.pairs for case in pair.cases}.values(), key=lambda c: c.id))

    def refuse(self) -> None:
        """Stop when something is wrong.

        Raises:
            DatasetError: that tells the first problems, and by which command all of them are told.
        """
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            told = "\n".join(f"- {problem}" for problem in self.problems[:MOST_ERRORS])
            more = len(self.problems) - MOST_ERRORS
            rest = f"\nand {more} more" if more > 0 else ""
            raise DatasetError(
                f"{self.root} has {len(self.problems)} errors, and nothing was done:\n{told}{rest}\n"
                f"All of it, also what is wrong within files, is listed by: {self._check}"
            )

    @property
    def _check(self) -> str:
        """The command that looks at everything."""
        how = ["--task", "registration"] if self.root.is_dir() else []
        if self.pairing.moving:
            how = ["--moving", str((self.root / self.pairing.moving).resolve())]
        return shlex.join(["medmamba", "dataset", "check", str(self.root), *how])


def find_pairs(path: Path, pairing: Pairing | None = None) -> tuple[Pair, ...]:
    """Pairs of a table or of folders; what is left out, or odd about them, is logged.

    Args:
        path: a table that ends in ``.csv`` or ``.tsv``, or a folder.
        pairing: how images of folders become pairs; None: all ordered pairs of the folder.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DatasetError: for anything that is wrong, in the words of `medmamba dataset check`.
    """
    found = survey_pairs(path, pairing)
    found.refuse()
    tell(found.remarks)
    return found.pairs


def survey_pairs(path: Path, pairing: Pairing | None = None) -> PairSurvey:
    """As `find_pairs`, collecting what is wrong instead of stopping at it.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DatasetError: if it is neither a folder nor a table.
    """
    pairing = pairing or Pairing()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    path = path.resolve()
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        found = _of_table(path, pairing)
    elif pairing.moving:
        found = _of_two_folders(path, pairing)
    else:
        found = _of_one_folder(path, pairing)
    found.pairs = tuple(sorted(found.pairs, key=lambda pair: pair.id))
    found.problems += _wrong_ids(found)
    return found


def _wrong_ids(found: PairSurvey) -> Iterator[DatasetError]:
    ids = [*dict.fromkeys((*(pair.id for pair in found.pairs), *(case.id for case in found.cases)))]
    for each in ids:
        if wrong := id_problem(each):
            yield DatasetError(f"{found.root}: id {each!r} {wrong}, and files are called after it; choose another")
    if found.root.is_dir():  # in a table by line
        yield from _alike(found.root, {case.id: str(case.images[0]) for case in found.cases}.items())


def _alike(root: Path, named: Iterable[tuple[str, str]]) -> Iterator[DatasetError]:
    """Ids, each with the place where it is given, after which files cannot be called beside one another."""
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each, place in named:
        same[as_filed(each)].append((each, place))
    for alike in same.values():
        if len(alike) > 1:
            ids = [*dict.fromkeys(each for each, _ in alike)]
            what = f"are all called {ids[0]!r}"
            if len(ids) > 1:
                both = " and ".join(map(repr, ids))
                what = f"are called {both}, which are one where upper and lower case do not count"
            places = some([place for _, place in alike])
            yield DatasetError(f"{root}: {places} {what}; give each an id of its own")


# Folders


def _of_one_folder(path: Path, pairing: Pairing) -> PairSurvey:
    found = subjects(path)
    survey = _begun(path, pairing, found)
    cases = found.cases
    if pairing.atlas:
        atlas = next((case for case in cases if case.id == pairing.atlas), None)
        if atlas is None:
            known = some([case.id for case in cases])
            survey.problems.append(DatasetError(f"{path} has no subject {pairing.atlas!r} as atlas; there are {known}"))
            return survey
        others = [case for case in cases if case is not atlas]
        to = [_pair(atlas, case) for case in others if pairing.direction != "from_atlas"]
        survey.pairs = (*to, *(_pair(case, atlas) for case in others if pairing.direction != "to_atlas"))
    else:
        survey.pairs = tuple(_pair(fixed, moving) for fixed in cases for moving in cases if fixed is not moving)
    if len(cases) == 1 and not survey.problems:
        survey.problems.append(DatasetError(f"{path} holds one subject ({cases[0].id}), and a pair needs two"))
    return survey


def _of_two_folders(path: Path, pairing: Pairing) -> PairSurvey:
    other = path / pairing.moving  # the second itself, where it is absolute
    fixed, moving = subjects(path), subjects(other)
    survey = _begun(path, replace(pairing, moving=os.path.relpath(other.resolve(), path)), fixed, moving)
    survey.name = f"{other.resolve().name}_to_{path.name}"
    if fixed.labels and moving.labels and fixed.labels != moving.labels:
        message = f"the labels of {path} mean something else than those of {other}"
        survey.problems.append(DatasetError(f"{message}; give both folders the same description"))
    ours, theirs = _by_own_name(fixed.cases), _by_own_name(moving.cases)
    for folder, lonely in ((path, sorted(ours.keys() - theirs)), (other, sorted(theirs.keys() - ours))):
        if lonely and ours.keys() & theirs:
            message = f"no image of the other folder bears the name of {some(lonely)} in {folder}: left out"
            survey.remarks.append(Remark(message, True, rule="unmatched"))
    if not ours.keys() & theirs and not survey.problems:
        survey.problems.append(
            DatasetError(
                f"no image in {path} ({some(sorted(ours))}) has the name of one in {other} ({some(sorted(theirs))}); "
                "give those that belong together one name, or list them in a table of pairs"
            )
        )
    survey.pairs = tuple(
        Pair(
            id=name,
            fixed=replace(ours[name], id=f"{name}_fixed"),
            moving=replace(theirs[name], id=f"{name}_moving"),
        )
        for name in sorted(ours.keys() & theirs)
    )
    return survey


def _begun(path: Path, pairing: Pairing, *found: Subjects) -> PairSurvey:
    return PairSurvey(
        name=path.name,
        root=path,
        labels=next((each.labels for each in found if each.labels), None),
        pairing=pairing,
        problems=[problem for each in found for problem in each.problems],
        remarks=[remark for each in found for remark in each.remarks],
    )


def _pair(fixed: Case, moving: Case) -> Pair:
    return Pair(id=f"{moving.id}_to_{fixed.id}", fixed=fixed, moving=moving)


def _by_own_name(cases: Iterable[Case]) -> dict[str, Case]:
    """Cases by what tells them apart in their folder: ``p1_ct`` and ``p2_ct`` are ``p1`` and ``p2``."""
    found = {case.id: case for case in cases}
    names = {name: name for name in found}
    while len(names) > 1 and len({name.rpartition("_")[2] for name in names.values()}) == 1:
        shorter = {name: short.rpartition("_")[0] for name, short in names.items()}
        if not all(shorter.values()) or len(set(shorter.values())) < len(names):
            break
        names = shorter
    return {short: found[name] for name, short in names.items()}


# Tables


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a table that has something in it."""

    line: int
    cells: dict[str, str]
    table: Path

    def fault(self, column: str, what: str) -> DatasetError:
        return DatasetError(f"{self.table}, line {self.line}, column {column}: {self.cells.get(column, '')!r} {what}")

    def file(self, column: str) -> Path | None:
        return self.table.parent / self.cells[column] if self.cells.get(column) else None


def _of_table(path: Path, pairing: Pairing) -> PairSurvey:
    name = path.stem if path.stem.lower() != "pairs" else path.parent.name or path.stem
    survey = PairSurvey(name=name, root=path)
    if pairing != Pairing():
        survey.problems.append(DatasetError(f"{path} lists its pairs; leave out a second folder and an atlas"))
    try:
        rows = list(_rows(path))
    except DataError as error:
        survey.problems.append(DatasetError(str(error)))
        return survey
    problems = [list(_faults(row)) for row in rows]
    survey.problems += [problem for faults in problems for problem in faults]
    cases = _cases(rows, survey.problems)
    names = _pair_names(rows, cases)
    whole = {
        row.line: Pair(id=name, fixed=cases[row.line, "fixed"], moving=cases[row.line, "moving"])
        for row, name in zip(rows, names, strict=True)
        if (row.line, "fixed") in cases and (row.line, "moving") in cases
    }
    survey.problems += _alike(path, ((pair.id, f"line {line}") for line, pair in whole.items()))
    survey.pairs = tuple(whole.values())
    if not rows and not survey.problems:
        survey.problems.append(DatasetError(f"{path} lists no pairs; write one a line below the names of the columns"))
    return survey


def _rows(path: Path) -> Iterator[_Row]:
    """The lines of a table.

    Raises:
        DatasetError: if it is no table of pairs.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no text in UTF-8; save it as CSV in UTF-8") from error
    head = next((line for line in lines if line.strip()), "")
    between = max(",;\t", key=head.count)
    reader = csv.reader(lines, delimiter=between, strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = _columns(path, cells)
                continue
            if len(cells) > len(columns):
                message = f"line {reader.line_num} has {len(cells)} cells for {len(columns)} columns"
                raise DatasetError(f"{path}, {message}; put names that hold {between!r} in double quotes")
            yield _Row(reader.line_num, dict(zip(columns, cells, strict=False)), path)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}; correct the quotes") from error


def _columns(path: Path, cells: list[str]) -> list[str]:
    columns = [cell.lower() for cell in cells]
    unknown = [cell for cell in columns if cell not in COLUMNS]
    missing = [side for side in SIDES if side not in columns]
    twice = [cell for cell, count in Counter(columns).items() if count > 1]
    for wrong, what in ((missing, "lacks the column"), (unknown, "has the unknown column"), (twice, "has twice")):
        if wrong:
            raise DatasetError(
                f"{path}, line 1, {what} {', '.join(map(repr, wrong))}; columns are {', '.join(COLUMNS)}"
            )
    return columns


def _faults(row: _Row) -> Iterator[DatasetError]:
    for side in SIDES:
        if not row.cells.get(side):
            yield row.fault(side, "names no image; a pair needs both")
        for column in (side, *(f"{side}_{each}" for each in FIELDS)):
            file = row.file(column)
            if file is None:
                continue
            if not (file.is_file() if column.endswith("points") else is_image(file)):
                yield row.fault(column, f"is no file: paths are relative to the table's folder, {row.table.parent}")
    fixed, moving = row.file("fixed"), row.file("moving")
    if fixed and moving and fixed.resolve() == moving.resolve():
        yield row.fault("moving", "is the fixed image as well")


def _cases(rows: Iterable[_Row], problems: list[DatasetError]) -> dict[tuple[int, str], Case]:
    """The case of each side of each line; an image that occurs several times is one, with all that is said of it."""
    said: dict[Path, dict[str, Path]] = defaultdict(dict)
    patients: dict[Path, str] = {}
    for row in rows:
        for side in SIDES:
            image = row.file(side)
            if image is None:
                continue
            own = said[image.resolve()]
            patients.setdefault(image.resolve(), row.cells.get("patient", ""))
            for each in FIELDS:
                file = row.file(f"{side}_{each}")
                if file is not None and own.setdefault(each, file).resolve() != file.resolve():
                    other = own[each].name
                    problems.append(row.fault(f"{side}_{each}", f"is not the {each} of an earlier line, {other}"))
    names = _case_names(said)
    return {
        (row.line, side): Case(
            id=names[image.resolve()], images=(image,), patient=patients[image.resolve()], **said[image.resolve()]
        )
        for row in rows
        for side in SIDES
        if (image := row.file(side)) is not None
    }


def _case_names(images: Iterable[Path]) -> dict[Path, str]:
    """A name for each image: its own, with those of as many folders as tell it from the others."""
    paths = list(images)
    for folders in range(max((len(path.parts) for path in paths), default=1)):
        names = {
            path: "_".join((*path.parent.parts[len(path.parent.parts) - folders :], split_ending(path)[0]))
            for path in paths
        }
        if len({name.lower() for name in names.values()}) == len(paths):
            return names
    return {path: f"image_{number}" for number, path in enumerate(paths)}


def _pair_names(rows: Iterable[_Row], cases: Mapping[tuple[int, str], Case]) -> list[str]:
    """The ids in the table, or else names of both images."""
    return [
        row.cells.get("id")
        or "_to_".join(cases[row.line, side].id for side in ("moving", "fixed") if (row.line, side) in cases)
        for row in rows
    ]
