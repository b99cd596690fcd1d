from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from medmamba import Case, Dataset, Label, Labels, Split
from medmamba.plans.splits import folds, split


def dataset(ids: list[str], splits: tuple[Split, ...] = ()) -> Dataset:
    return Dataset(
        name="Phantoms",
        root=Path("/data/phantoms"),
        layout="nnunet",
        channels=("MRI",),
        labels=Labels(foreground=(Label(name="ball", values=(1,)),)),
        training=tuple(Case(id=one, images=(Path(f"{one}.nii.gz"),), label=Path(f"{one}.nii.gz")) for one in ids),
        splits=splits,
    )


@pytest.mark.parametrize("cases", [5, 7, 23, 200])
def test_five_folds_are_those_of_nnunet(cases: int) -> None:
    ids = [f"case_{(index * 7919) % 1000:04}" for index in range(cases)]
    theirs = generate_crossval_split(list(np.sort(ids)), seed=12345, n_splits=5)
    assert [(list(fold.train), list(fold.validation)) for fold in folds(dataset(ids))] == [
        (fold["train"], fold["val"]) for fold in theirs
    ]


def test_fewer_than_five_cases_make_as_many_folds() -> None:
    found = folds(dataset(["a", "b", "c"]))
    assert sorted(fold.validation for fold in found) == [("a",), ("b",), ("c",)]
    assert all(sorted(fold.train + fold.validation) == ["a", "b", "c"] for fold in found)


def test_one_case_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match=r"1 training cases.*at least 2.*'all'"):
        folds(dataset(["a"]))


def test_folds_of_the_author_win() -> None:
    own = (Split(train=("a", "b"), validation=("c",)),)
    assert folds(dataset(["a", "b", "c"], own)) == own
    assert split(dataset(["a", "b", "c"], own), 0) == own[0]


def test_fold_all_learns_from_and_is_judged_on_everything() -> None:
    assert split(dataset(["b", "a"]), "all") == Split(train=("a", "b"), validation=("a", "b"))
    with pytest.raises(ValueError, match="no training cases"):
        split(dataset([]), "all")


def test_a_fold_can_be_named_by_its_digits() -> None:
    data = dataset([f"{n}" for n in range(10)])
    assert split(data, "3") == split(data, 3) == folds(data)[3]


@pytest.mark.parametrize("fold", [5, -1, "5", "-1", "first", ""])
def test_unknown_folds_are_refused(fold: int | str) -> None:
    with pytest.raises(ValueError, match=r"folds 0 to 4, got .*'all'"):
        split(dataset([f"{n}" for n in range(10)]), fold)


def test_the_refusal_says_why_there_are_few_folds() -> None:
    with pytest.raises(ValueError, match=r"folds 0 to 2 \(it has 3 training cases\)"):
        split(dataset(["a", "b", "c"]), 4)
    with pytest.raises(ValueError, match=r"folds 0 to 0 \(fixed by its author\)"):
        split(dataset(["a", "b"], (Split(train=("a",), validation=("b",)),)), 1)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (Split(train=("a", "z"), validation=("b",)), "do not exist: z"),
        (Split(train=("a", "b"), validation=("b",)), "both sides: b"),
        (Split(train=("a",), validation=()), "nothing to validate on"),
        (Split(train=("a", "a"), validation=("b",)), "twice: a"),
        (Split(train=(), validation=("a",)), "nothing to learn from"),
    ],
)
def test_data_set_with_impossible_folds_of_its_author_is_refused(own: Split, words: str) -> None:
    with pytest.raises(ValueError, match=f"fold 1 .*{words}"):
        dataset(["a", "b"], (Split(train=("a",), validation=("b",)), own))


def of_patients(scans: dict[str, int]) -> Dataset:
    """A data set with so many scans of each patient."""
    cases = [
        Case(id=f"{patient}-{scan:03d}", images=(Path("i.nii"),), label=Path("l.nii"), patient=patient)
        for patient, count in scans.items()
        for scan in range(count)
    ]
    return replace(dataset(["x"]), training=tuple(cases))


def test_scans_of_one_patient_stay_on_one_side_of_every_fold() -> None:
    data = of_patients({f"BraTS-GLI-{n:05d}": 1 + n % 4 for n in range(23)})
    found = folds(data)
    owner = {case.id: case.patient for case in data.training}
    assert sorted(case for fold in found for case in fold.validation) == sorted(owner)
    for fold in found:
        assert not {owner[case] for case in fold.train} & {owner[case] for case in fold.validation}
        assert len({owner[case] for case in fold.validation}) in (4, 5)


def test_patients_with_a_scan_each_are_divided_as_cases_are() -> None:
    data = of_patients({f"p{n}": 1 for n in range(12)})
    assert folds(data) == folds(dataset([case.id for case in data.training]))


def test_scans_of_a_single_patient_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match=r"one patient alone \(anna\).*'all'"):
        folds(of_patients({"anna": 3}))
    with pytest.raises(ValueError, match=r"folds 0 to 1 \(it has 5 training cases of 2 patients\)"):
        split(of_patients({"anna": 3, "ben": 2}), 2)
