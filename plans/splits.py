"""Which cases to learn from and which to be judged on: nnU-Net's five folds, or the author's own."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from medmamba.case import Case, Dataset, Pair, Split
from medmamba.errors import DataError, UsageError

FOLDS = 5
SEED = 12345


def folds(dataset: Dataset) -> tuple[Split, ...]:
    """The folds of a data set: those its author fixed, or else five, as nnU-Net shuffles them.

    Cases of one patient stay together: where there are such, patients are shuffled in place of cases. With fewer than
    five of them there are as many folds as they are, each judged on one; or on two, where the data set is of pairs and
    both images of a pair have to be on its side. An atlas is on both sides.

    Raises:
        DataError: if there are fewer than two training cases, or all are of one patient; or too few for pairs on both
            sides.
    """
    if dataset.splits:
        return dataset.splits
    ids = sorted(case.id for case in dataset.training)
    if len(ids) < 2:
        raise DataError(
            f"{dataset.root} has {len(ids)} training cases, folds need at least 2; label more cases, or learn from and "
            "judge on the same with fold 'all'"
        )
    patients = patients_of(dataset)
    if len(patients) < 2:
        raise DataError(
            f"{dataset.root} has scans of one patient alone ({patients[0]}), which folds must not part; learn from and "
            "judge on the same with fold 'all'"
        )
    count = possible_folds(dataset)
    if count < 2:
        raise DataError(
            f"{dataset.root} has {len(patients)} subjects, and folds of pairs need 4, two on each side; learn from and "
            "judge on the same with fold 'all'"
        )
    order = np.arange(len(patients))
    np.random.RandomState(SEED).shuffle(order)
    parts = [{patients[place] for place in part} for part in np.array_split(order, count)]
    owners = {case.id: _patient(case) for case in dataset.training}
    return tuple(
        Split(
            train=tuple(case for case in ids if case == dataset.atlas or owners[case] not in judged),
            validation=tuple(case for case in ids if case == dataset.atlas or owners[case] in judged),
        )
        for judged in parts
    )


def possible_folds(dataset: Dataset) -> int:
    """How many folds cases can be shuffled into, where no author fixed any; with less than two there are none."""
    return min(FOLDS, len(patients_of(dataset)) // _least_judged(dataset))


def patients_of(dataset: Dataset) -> list[str]:
    """Whose the training cases are, sorted; a case of nobody else's is a patient of its own, by its id.

    An atlas does not count: it is on both sides of every fold.
    """
    return sorted({_patient(case) for case in dataset.training if case.id != dataset.atlas})


def pairs_among(dataset: Dataset, ids: Collection[str]) -> tuple[Pair, ...]:
    """Those pairs of which both images are on one side of a fold."""
    known = set(ids)
    return tuple(pair for pair in dataset.pairs if {case.id for case in pair.cases} <= known)


def _least_judged(dataset: Dataset) -> int:
    """How many patients a side needs at least: two where pairs are of two."""
    owners = {case.id: _patient(case) for case in dataset.training if case.id != dataset.atlas}
    alone = {owners[case.id] for case in dataset.training if case.id != dataset.atlas}
    paired = set()
    for pair in dataset.pairs:
        whose = {owners[case.id] for case in pair.cases if case.id in owners}
        paired |= whose if len(whose) == 1 else set()
    return 2 if dataset.pairs and alone - paired else 1


def _patient(case: Case) -> str:
    return case.patient or case.id


def split(dataset: Dataset, fold: int | str) -> Split:
    """One fold by its number, from 0; ``"all"`` learns from all training cases and is judged on the same.

    Raises:
        UsageError: if there is no such fold.
        DataError: if there are too few cases.
    """
    if fold == "all":
        ids = tuple(sorted(case.id for case in dataset.training))
        if not ids:
            raise DataError(f"{dataset.root} has no training cases: there is nothing to learn from")
        return Split(train=ids, validation=ids)
    splits = folds(dataset)
    number = int(fold) if isinstance(fold, int) or fold.isdecimal() else -1
    if not 0 <= number < len(splits):
        raise UsageError(
            f"{dataset.name} has folds 0 to {len(splits) - 1}{_why_so_few(dataset, splits)}, got {fold!r}; "
            "choose one of them, or 'all' to learn from every case"
        )
    return splits[number]


def _why_so_few(dataset: Dataset, splits: tuple[Split, ...]) -> str:
    if dataset.splits:
        return " (fixed by its author)"
    several = len(patients_of(dataset)) < len(dataset.training) and not dataset.pairs
    of = f" of {len(patients_of(dataset))} patients" if several else ""
    return f" (it has {len(dataset.training)} training cases{of})" if len(splits) < FOLDS else ""
