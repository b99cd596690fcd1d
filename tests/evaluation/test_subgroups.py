"""Groups of cases from tables as people have them, and from volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmamba.errors import DataError, UsageError
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore
from medmamba.evaluation.subgroups import NOT_GIVEN, Column, by_lesion_size, read
from medmamba.labels import Labels

CASES = tuple(f"c{number:02d}" for number in range(24))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def groups(column: Column) -> dict[str, int]:
    return {group.name: len(group.cases) for group in column.groups}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("case,site,age\nc1,Köln,1.5\nc2,Bern,\n", "utf-8"),
        ("\ufeffCase_ID;site;age\r\nc1;Köln;1,5\r\nc2;Bern;n/a\r\n", "utf-8"),
        ("sep=;\r\nid;site;age\r\nc1;Köln;1,5\r\nc2;Bern;\r\n", "utf-8"),
        ("id\tsite\tage\r\nc1\tKöln\t1,5\r\nc2\tBern\r\n", "utf-16"),
        ('case id,site,age,,\r\n"c1"," Köln ","1,5",,\r\n,,,,\r\nc2,Bern\r\n\r\n', "utf-8"),
    ],
    ids=["plain", "BOM and semicolons", "told its delimiter", "unicode text", "leftovers of a spreadsheet"],
)
def test_table_is_read_as_spreadsheets_save_it(tmp_path: Path, text: str, encoding: str) -> None:
    table = read(write(tmp_path / "cases.csv", text, encoding))
    assert table.names == ("site", "age")
    assert {key: value.replace(",", ".") for key, value in table.values["c1"].items()} == {"site": "Köln", "age": "1.5"}
    assert table.values["c2"] == {"site": "Bern"}


def test_only_columns_asked_for_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "cases.csv", "case,name,site\na,Ada,x\nb,Bob,y\n")
    table = read(path, ["site"])
    assert "Ada" not in repr(table)
    assert (table.names, table.values["a"]) == (("site",), {"site": "x"})
    with pytest.raises(UsageError, match=r"no column age; it has name, site"):
        read(path, ["age"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ("a line of names", "got 0 lines")),
        (b"case,site\n", ("a line of names", "got 1 lines")),
        (b"name,site\na,x\n", ("be called case, case_id or id", "name, site", "rename")),
        (b"case,id\na,x\n", ("one column must hold the ids", "case, id")),
        (b"case\na\n", ("no column besides 'case'",)),
        (b"case,site,site\na,x,y\n", ("different names", "site")),
        (b"case,site\na,x\na,y\n", ("line 3: case a stands in line 2 already",)),
        (b"case,site\na,x\n,y\n", ("line 3: a case needs an id",)),
        (b"case,site\na,x,y\n", ("line 2: no line has more cells", "2, got 3", "','")),
        (b'case,site\na,"x\nb,y\n', ("not valid CSV", "quotation mark")),
        (b"case,site\na,K\xf6ln\n", ("line 2: not a text in UTF-8", "CSV UTF-8")),
        (b"PK\x03\x04\x00", ("is a workbook", "CSV UTF-8")),
    ],
)
def test_what_is_no_table_of_cases_is_refused_with_place_and_remedy(
    tmp_path: Path, data: bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read(path)
    assert all(word in str(error.value) for word in (str(path), *words)), error.value


def test_texts_are_groups_and_cases_without_one_are_named_as_such(tmp_path: Path) -> None:
    lines = [f"{case},{'north' if number < 9 else 'south'}" for number, case in enumerate(CASES[:20])]
    table = read(write(tmp_path / "cases.csv", "case,site\n" + "\n".join(lines) + "\nforeign,south\n"))
    (column,) = table.columns(CASES)
    assert groups(column) == {"north": 9, "south": 11, NOT_GIVEN: 4}
    assert [group.compared for group in column.groups] == [True, True, False]
    assert table.unknown(CASES) == ("foreign",)


def test_few_different_numbers_are_groups_in_their_order_and_many_are_split_at_quartiles(tmp_path: Path) -> None:
    lines = [f"{case};{10 if number % 2 else 9};{number}" for number, case in enumerate(CASES)]
    field, age = read(write(tmp_path / "cases.csv", "case;field;age\n" + "\n".join(lines))).columns(CASES)
    assert groups(field) == {"9": 12, "10": 12}
    assert groups(age) == {"up to 5": 6, "above 5, up to 11": 6, "above 11, up to 17": 6, "above 17": 6}


def test_numbers_of_fewer_cases_are_split_at_their_median_or_not_at_all(tmp_path: Path) -> None:
    (age,) = read(
        write(tmp_path / "a.csv", "case,age\n" + "".join(f"{c},{n}\n" for n, c in enumerate(CASES[:12])))
    ).columns(CASES[:12])
    assert groups(age) == {"up to 5": 6, "above 5": 6}
    (age,) = read(
        write(tmp_path / "b.csv", "case,age\n" + "".join(f"{c},{n}\n" for n, c in enumerate(CASES[:9])))
    ).columns(CASES[:9])
    assert (age.groups, "9 cases are too few" in age.reason) == ((), True)


def test_equal_numbers_stay_together(tmp_path: Path) -> None:
    numbers = [0] * 12 + list(range(1, 13))
    lines = "".join(f"{case},{number}\n" for case, number in zip(CASES, numbers, strict=True))
    (column,) = read(write(tmp_path / "cases.csv", "case,load\n" + lines)).columns(CASES)
    assert groups(column) == {"up to 0": 12, "above 0, up to 6": 6, "above 6": 6}


def test_column_of_names_makes_no_groups_and_shows_none_of_them(tmp_path: Path) -> None:
    lines = "".join(f"{case},patient {number}\n" for number, case in enumerate(CASES))
    (column,) = read(write(tmp_path / "cases.csv", "case,name\n" + lines)).columns(CASES)
    assert (column.groups, column.reason) == ((), "no value is shared by 5 cases")


def test_table_of_other_cases_is_refused_with_examples_of_both(tmp_path: Path) -> None:
    table = read(write(tmp_path / "cases.csv", "case,site\n1,x\n2,y\n"))
    with pytest.raises(DataError, match=r"its first are 1, 2, those of the report 001, 002; .*leading zeros"):
        table.columns(("001", "002"))


def test_volumes_of_each_structure_are_split_in_thirds_of_the_cases_that_have_it() -> None:
    labels = Labels.of_values((1, 2))
    cases = tuple(
        CaseScore(
            id=case,
            status="scored",
            scores=(
                LabelScore(label="label_1", values=(0.5,), prediction_ml=1.0, reference_ml=max(0.0, number - 5.0)),
                LabelScore(label="label_2", values=(0.5,), prediction_ml=1.0, reference_ml=float(number < 4)),
            ),
        )
        for number, case in enumerate(CASES)
    )
    first, second = by_lesion_size(Report(labels=labels, metrics=("dice",), cases=cases))
    assert groups(first) == {
        "up to 6 ml": 6,
        "above 6, up to 12 ml": 6,
        "above 12 ml": 6,
        "not in the reference": 6,
    }
    assert (first.label, first.name) == ("label_1", "volume of label_1 in the reference")
    assert first.groups[-1].compared is False
    assert (second.groups, second.reason) == ((), "4 cases are too few to split: each part needs 5")
