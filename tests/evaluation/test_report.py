"""The sums of a table of scores, and what is written of them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from medmamba.errors import DataError, UsageError
from medmamba.evaluation.metrics import expand, metric
from medmamba.evaluation.report import OWN, Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Lesion, Origin, Policy, Reliability, Voxels
from medmamba.evaluation.statistics import MEAN_OVER_LABELS, Summary
from medmamba.labels import Label, Labels

NAN, INF = float("nan"), float("inf")
TWO = Labels(foreground=(Label(name="liver", values=(1,)), Label(name="lesion", values=(2,))))

COUNTS = Voxels(tp=5, fp=1, fn=2, tn=100)


def report(*rows: tuple[tuple[float, float], tuple[float, float]], labels: Labels = TWO) -> Report:
    """Cases a, b, ... with (Dice, HD95) for each of two labels."""
    cases = tuple(
        CaseScore(
            id=name,
            status="scored",
            scores=tuple(
                LabelScore(label=label.name, values=values, prediction_ml=1.0, reference_ml=2.0)
                for label, values in zip(labels.foreground, row, strict=True)
            ),
        )
        for name, row in zip("abcdefgh", rows, strict=False)
    )
    return Report(labels=labels, metrics=("dice", "hd95"), cases=cases)


def by_name(report: Report) -> dict[tuple[str, str], Summary]:
    return {(summary.metric, summary.label): summary for summary in report.summaries}


def test_report_sums_every_metric_and_label_and_all_labels() -> None:
    summaries = by_name(report(((0.8, 1.0), (0.4, 3.0)), ((1.0, 3.0), (0.6, INF))))
    assert set(summaries) == {(m, la) for m in ("dice", "hd95") for la in ("liver", "lesion", MEAN_OVER_LABELS)}
    assert summaries["dice", "liver"].mean == pytest.approx(0.9)
    assert (summaries["hd95", "lesion"].mean, summaries["hd95", "lesion"].finite_mean) == (INF, 3.0)
    assert summaries["dice", MEAN_OVER_LABELS].mean == pytest.approx(0.7)


def test_worst_cases_come_first_and_undefined_ones_not_at_all() -> None:
    scores = report(
        ((0.8, 1.0), (0.4, 3.0)),
        ((0.1, 1.0), (NAN, NAN)),
        ((NAN, NAN), (NAN, NAN)),
        ((0.9, 1.0), (0.9, 1.0)),
    )
    assert [name for name, _ in scores.worst(5)] == ["b", "a", "d"]
    assert len(scores.worst(1)) == 1


def test_case_with_more_structures_missed_is_worse_among_the_infinite_ones() -> None:
    perfect, near, far = (1.0, 0.0), (0.9, 1.0), (0.8, 9.0)
    missed = (0.0, INF)
    scores = report((perfect, missed), (far, near), (missed, missed), (near, missed))
    by_distance = Report(
        labels=TWO,
        metrics=("hd95",),
        cases=tuple(
            CaseScore(
                id=case.id,
                status="scored",
                scores=tuple(LabelScore(label=score.label, values=score.values[1:]) for score in case.scores),
            )
            for case in scores.cases
        ),
    )
    assert by_distance.worst(9) == (("c", INF), ("d", INF), ("a", INF), ("b", 5.0))
    assert [name for name, _ in scores.worst(9)] == ["c", "d", "a", "b"]


def test_json_is_strict_and_tells_undefined_from_infinite(tmp_path: Path) -> None:
    scores = report(((NAN, NAN), (0.0, INF)))
    path, _ = scores.save(tmp_path / "new" / "folder")
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert data["cases"][0]["scores"][0]["dice"] is None
    assert data["cases"][0]["scores"][1] == {
        "label": "lesion",
        "dice": 0.0,
        "hd95": "inf",
        "prediction_ml": 1.0,
        "reference_ml": 2.0,
    }
    assert data["policy"]
    assert data["labels"] == {"liver": [1], "lesion": [2]}
    assert {entry["metric"] for entry in data["summary"]} == {"dice", "hd95"}


def test_csv_has_one_line_per_case_and_label(tmp_path: Path) -> None:
    scores = report(((0.25, 1.5), (NAN, INF)), ((0.5, 2.0), (0.75, 3.0)))
    _, path = scores.save(tmp_path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [(c, la) for c in "ab" for la in ("liver", "lesion")]
    assert float(rows[0]["dice"]) == 0.25
    assert (rows[1]["dice"], rows[1]["hd95"]) == ("", "inf")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.csv", "report.json"]


def test_lesions_have_a_table_of_their_own_which_goes_with_them(tmp_path: Path) -> None:
    plain = report(((0.5, 2.0), (0.25, INF)))
    found = Lesion(kind="found", volume_ml=1.5, voxel=(1, 2, 3), dice=0.75)
    missed = Lesion(kind="missed", volume_ml=0.25, voxel=(4, 5, 6), dice=0.0)
    scores = (plain.cases[0].scores[0], replace(plain.cases[0].scores[1], lesions=(found, missed)))
    told_apart = replace(plain, cases=(replace(plain.cases[0], scores=scores),))
    assert [path.name for path in told_apart.save(tmp_path)] == ["report.json", "report.csv", "lesions.csv"]
    assert (tmp_path / "lesions.csv").read_text().splitlines() == [
        "case,label,number,kind,volume_ml,i,j,k,dice",
        "a,lesion,1,found,1.5,1,2,3,0.75",
        "a,lesion,2,missed,0.25,4,5,6,0.0",
    ]
    assert [path.name for path in plain.save(tmp_path)] == ["report.json", "report.csv"]
    assert not (tmp_path / "lesions.csv").exists()
    (tmp_path / "lesions.csv").write_text("name,size\n")  # somebody else's
    plain.save(tmp_path)
    assert (tmp_path / "lesions.csv").read_text() == "name,size\n"


def test_definition_and_source_stand_beside_every_metric() -> None:
    for name, facts in replace(report(), metrics=("dice", "nsd_0.5mm")).to_json()["metrics"].items():
        assert (facts["definition"], facts["source"]) == (metric(name).definition, metric(name).source)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            Policy(),
            ("left out of every summary, and counted", "makes the mean infinite", "worst value of every metric"),
        ),
        (
            Policy(empty="perfect", infinite="value", infinite_mm=374.0, missing="skip"),
            ("best value", "374 mm stand for", "the case is left out"),
        ),
        (Policy(infinite="drop"), ("looks better in distances for every structure that it misses",)),
        (Policy(infinite="diagonal"), ("diagonal of the case's grid",)),
    ],
)
def test_policy_is_printed_as_it_was(policy: Policy, words: tuple[str, ...]) -> None:
    said = " ".join(replace(report(), policy=policy).to_json()["policy"])
    assert all(word in said for word in words)


def test_metrics_that_follow_rules_of_their_own_are_told() -> None:
    assert not [rule for rule in report().rules if rule.startswith(OWN)]
    asked = ("dice", "ece", *expand(["lesions", "brats2023_gli"]))
    (rule,) = replace(report(), metrics=asked).exceptions
    assert rule == f"{OWN} calibration error, lesions missed, lesions invented, all of BraTS 2023 GLI."
    assert rule in replace(report(), metrics=asked).rules


@pytest.mark.parametrize("word", ["0", "-1", "inf", "nan", "far", "value", ""])
def test_what_can_not_stand_for_an_infinite_distance_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"keep, drop, diagonal, or a number of mm above 0"):
        Policy.of_words(infinite=word)


def test_failed_cases_are_listed_and_those_without_scores_do_not_count(tmp_path: Path) -> None:
    whole = report(((0.8, 1.0), (0.4, 3.0)))
    broken = CaseScore(id="x", status="failed", notes=("reference: broken",))
    scores = Report(labels=TWO, metrics=whole.metrics, cases=(*whole.cases, broken))
    assert scores.failed == (broken,)
    summary = by_name(scores)["dice", "liver"]
    assert (summary.n, summary.values, summary.missing) == (1, 2, 1)
    path, table = scores.save(tmp_path)
    data = json.loads(path.read_text())
    assert data["cases"][1]["notes"] == ["reference: broken"]
    assert data["counts"] == {"scored": 1, "failed": 1, "skipped": 0}
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "x"]
    assert [(row["label"], row["status"], row["dice"], row["hd95"]) for row in rows] == [
        ("liver", "failed", "", ""),
        ("lesion", "failed", "", ""),
    ]


def test_mean_in_the_json_is_infinite_where_a_structure_was_missed() -> None:
    data = report(((1.0, 0.0), (1.0, 0.0)), ((1.0, 0.0), (0.0, INF))).to_json()
    found, missed, both = (entry for entry in data["summary"] if entry["metric"] == "hd95")
    assert (found["mean"], found["finite_mean"], found["infinite"]) == (0.0, 0.0, 0)
    assert (missed["mean"], missed["finite_mean"], missed["finite"], missed["values"]) == ("inf", 0.0, 1, 2)
    assert (missed["infinite"], missed["undefined"], missed["missing"]) == (1, 0, 0)
    assert (missed["std"], missed["interval_95"], missed["median"]) == (None, None, "inf")
    assert (both["mean"], both["finite"], both["values"], both["infinite"]) == ("inf", 3, 4, 1)


def test_interval_of_a_median_in_the_json_may_end_in_infinity() -> None:
    data = report(*[((1.0, float(n)), (1.0, float(n) if n < 5 else INF)) for n in range(6)]).to_json()
    found, missed, _ = (entry for entry in data["summary"] if entry["metric"] == "hd95")
    assert (found["median_interval_95"], missed["median_interval_95"]) == ([0.0, 5.0], [0.0, "inf"])
    assert (missed["interval_95"], found["interval_95"][0] > 0) == (None, True)


def test_saved_report_is_loaded_as_it_was(tmp_path: Path) -> None:
    lesions = (
        Lesion(kind="found", volume_ml=1.5, voxel=(1, 2, 3), dice=0.75),
        Lesion(kind="false", volume_ml=0.1, voxel=(9, 9, 9), dice=0.0),
    )
    rows = (
        LabelScore(
            label="liver", values=(0.5, INF), prediction_ml=1.0, reference_ml=2.0, voxels=COUNTS, lesions=lesions
        ),
        LabelScore(
            label="lesion",
            values=(NAN, 3.0),
            reliability=Reliability(voxels=(5, 2), confidence=(0.5, 1.75), positives=(0, 2)),
        ),
    )
    made = Report(
        labels=Labels(
            foreground=(Label(name="liver", values=(1, 2)), Label(name="lesion", values=(2,))),
            region_order=(1, 2),
            ignore=9,
        ),
        metrics=("dice", "hd95"),
        cases=(
            CaseScore(id="a", status="scored", notes=("a remark",), scores=rows),
            CaseScore(id="b", status="missing", notes=("no prediction",), scores=(rows[0], rows[0])),
            CaseScore(id="c", status="failed", notes=("reference: broken",)),
            CaseScore(id="d", status="skipped", notes=("no prediction",)),
        ),
        extra_predictions=("e.nii.gz",),
        seed=3,
        policy=Policy(empty="perfect", infinite="value", infinite_mm=374.0),
        origin=Origin(prediction=tmp_path, model="umamba_bot", plan_digest="ab", versions={"cc3d": "3"}),
        name="first",
    )
    made.save(tmp_path)
    for loaded in (Report.load(tmp_path), Report.load(tmp_path / "report.json")):
        # NaN is not equal to itself, and its text is.
        assert repr(loaded) == repr(made)
        assert loaded.to_json() == made.to_json()


def test_report_of_schema_2_is_loaded(tmp_path: Path) -> None:
    made = report(((0.5, 2.0), (0.25, INF)), ((1.0, 0.0), (NAN, NAN)))
    facts = made.to_json() | {"schema": 2}
    for name in ("name", "policies", "origin", "region_order", "ignore"):
        del facts[name]
    (tmp_path / "report.json").write_text(json.dumps(facts))
    assert repr(Report.load(tmp_path)) == repr(made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "reads up to 3; update medmamba"),
        ({"schema": None}, "is no report"),
        ({"seed": "x"}, "seed: must be of type int"),
        ({"metrics": {"guess": {}}}, "does not know the metric 'guess'; update it"),
        ({"cases": [{"id": "a", "status": "scored", "notes": [], "scores": [{"label": "liver"}]}]}, "lacks dice, hd95"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    facts = report(((0.5, 2.0), (0.25, INF))).to_json() | change
    (tmp_path / "report.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=words) as caught:
        Report.load(tmp_path)
    assert "report.json" in str(caught.value)


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@a", "\ta"])
def test_tables_hold_no_formula(name: str, tmp_path: Path) -> None:
    written = report(((0.25, 1.5), (NAN, INF)))
    written = replace(written, cases=(replace(written.cases[0], id=name),))
    written.save(tmp_path)
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["case"] == f"'{name}"
    assert Report.load(tmp_path).cases[0].id == name
