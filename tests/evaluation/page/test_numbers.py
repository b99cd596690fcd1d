"""The numbers beside a page are those that it shows, unrounded, and the same whenever it is made."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medmamba.errors import UsageError
from medmamba.evaluation import page
from medmamba.evaluation.breakdown import break_down
from medmamba.evaluation.comparison import compare
from medmamba.evaluation.page import numbers
from medmamba.evaluation.report import plain
from medmamba.evaluation.subgroups import by_lesion_size
from tests.evaluation.page.factory import made_up

IDS = tuple(f"case_{number:02d}" for number in range(12))


def test_comparison_groups_and_agreement_are_kept_in_full_precision(tmp_path: Path) -> None:
    reports = made_up(IDS, name="ours", better=0.3), made_up(IDS, name="=theirs, too", seed=1)
    path = page.write(reports, tmp_path / "page.html", viewer="slices")
    json_path, csv_path = numbers.beside(path)
    facts = json.loads(json_path.read_text())
    expected = compare(reports)
    assert facts["comparison"] == plain(expected.to_json())
    with csv_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {tuple(row[key] for key in (*numbers.KEYS, "quantity")): row["value"] for row in rows}
    assert len(found) == len(rows), "two lines of the table can not be told apart"
    for each in expected.contrasts:
        key = ("contrasts", each.metric, each.label, each.first, each.second, "", "")
        assert float(found[*key, "test.p_value"]) == each.test.p_value
        assert float(found[*key, "p_holm"]) == each.p_holm
        assert float(found[*key, "test.effect"]) == each.test.effect
        assert each.test.mean_gain is not None
        assert each.test.mean_gain.interval is not None
        assert float(found[*key, "test.mean_gain.interval.high"]) == each.test.mean_gain.interval[1]
    rank = expected.overall.mean_ranks[1].value
    assert float(found["ranks", "", "", "=theirs, too", "", "", "", "mean_rank.value"]) == rank
    parts = {row["part"] for row in rows}
    assert parts == {"contrasts", "ranks", "summary", "subgroups", "volume_agreement", "lesions_by_size"}
    assert numbers.is_ours(json_path)
    assert numbers.is_ours(csv_path)
    assert not numbers.is_ours(path)


def test_numbers_of_groups_are_those_of_the_breakdown(tmp_path: Path) -> None:
    report = made_up(IDS, name="ours")
    facts = json.loads(numbers.beside(page.write([report], tmp_path / "page.html"))[0].read_text())
    assert "comparison" not in facts
    made = {(row["metric"], row["label"], row["group"]): row for row in facts["subgroups"]}
    for each in break_down([report], by_lesion_size(report))[0]:
        for one in each.groups:
            row = made[each.metric, each.label, one.group.name]
            assert (row["median"], row["n"]) == (one.summary.median, one.summary.n)


def test_pages_of_one_date_are_equal_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    for name in ("a.html", "b.html"):
        page.write([made_up(IDS)], tmp_path / name, viewer="slices")
    assert "1970-01-02" in (tmp_path / "a.html").read_text()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH must be a number of seconds"):
        page.write([made_up(IDS)], tmp_path / "c.html", viewer="slices")
