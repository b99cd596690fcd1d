"""Reports from wherever scores or predictions lie, and what models are called."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from medmamba.errors import DataError, UsageError
from medmamba.evaluation.evaluate import evaluate, evaluate_files
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.nnunet_summary import save
from medmamba.evaluation.report import Report
from medmamba.evaluation.sources import dataset_of, read_reports
from medmamba.labels import Label, Labels
from tests.evaluation.factory import BALL, ball, description
from tests.evaluation.factory import save as store


def read_report(path: Path, *, reference: Path | None = None, metrics: tuple[str, ...] = ()) -> Report:
    return read_reports([path], names=["one"], reference=reference, metrics=metrics)[0]


def test_saved_report_is_read_from_its_folder_or_by_its_name(folders: tuple[Path, Path]) -> None:
    made, _ = evaluate_files(*folders, name="mine")
    made.save(folders[0])
    for path in (folders[0], folders[0] / "report.json"):
        assert read_reports([path]) == (made,)


def test_report_knows_where_its_masks_lie_and_what_measured_them(folders: tuple[Path, Path]) -> None:
    made, _ = evaluate_files(*folders)
    assert (made.origin.prediction, made.origin.reference) == folders
    assert {"medmamba", "numpy", "scipy", "connected-components-3d"} <= made.origin.versions.keys()
    assert made.origin.model == ""


def test_report_names_the_model_that_predicted(folders: tuple[Path, Path]) -> None:
    maker = {"plan": "abc", "weights": ["0123456789abcdef"], "precision": "bf16", "mirror": True}
    made = {
        "digest": "",
        "replaced": None,
        "images": [],
        "images_digest": "",
        "maker": maker,
        "medmamba": "0.2.0",
    }
    record = {"cases": ["a", "b", "c"], "made": {f"{name}.nii.gz": made for name in "abc"}}
    (folders[0] / "prediction.json").write_text(json.dumps(record))
    found = evaluate_files(*folders)[0].origin
    assert (found.model, found.plan_digest) == ("MedMamba 0.2.0, weights 0123456789ab, bf16, mirrored", "abc")
    (folders[0] / "prediction.json").unlink()
    (folders[0] / "plans.json").write_text(json.dumps({"plans_name": "nnUNetPlans", "dataset_name": "Dataset004_X"}))
    assert evaluate_files(*folders)[0].origin.model == "nnU-Net: nnUNetPlans, Dataset004_X"


def test_summary_of_nnunet_is_read_where_there_is_no_report(folders: tuple[Path, Path]) -> None:
    matches = match_files(*folders)
    save(evaluate(matches.pairs, BALL), matches.pairs, folders[0])
    assert read_report(folders[0]).metrics == ("dice", "iou", "precision", "sensitivity")
    evaluate(matches.pairs, BALL).save(folders[0])
    assert read_report(folders[0]).metrics == ("dice", "hd95")
    assert read_report(folders[0] / "summary.json").metrics == ("dice", "iou", "precision", "sensitivity")


def test_predictions_are_compared_on_the_way_and_nothing_is_left_among_them(folders: tuple[Path, Path]) -> None:
    found = read_report(folders[0], reference=folders[1], metrics=("iou",))
    assert (found.metrics, len(found.cases)) == (("iou",), 3)
    assert sorted(path.name for path in folders[0].iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_report_older_than_its_predictions_is_told(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_files(*folders)[0].save(folders[0])
    read_report(folders[0])
    assert not caplog.records
    later = (folders[0] / "report.json").stat().st_mtime + 10
    os.utime(folders[0] / "b.nii.gz", (later, later))
    read_report(folders[0])
    assert "1 segmentations in" in caplog.text
    assert "younger than the report" in caplog.text


def test_what_holds_no_scores_says_what_to_do(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--reference .* `medmamba evaluate .*predictions REFERENCES` first"):
        read_report(folders[0])
    (tmp_path / "plan" / "fold_0").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"neither report\.json nor nnU-Net's summary\.json nor segmentations"):
        read_report(tmp_path / "plan")
    (tmp_path / "plan" / "fold_0" / "run.json").write_text("{}")
    for run in (tmp_path / "plan", tmp_path / "plan" / "fold_0"):
        with pytest.raises(
            UsageError, match=r"run without scores; .*predict --validation .* evaluate .*predictions DAT"
        ):
            read_report(run)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_report(tmp_path / "nowhere")


def test_run_is_what_it_predicted_and_a_plan_is_all_its_folds(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = evaluate_files(*folders)[0]
    runs = [tmp_path / "plan" / f"fold_{fold}" for fold in range(2)]
    for run, cases in zip(runs, (report.cases[1:], report.cases[:1]), strict=True):
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        replace(report, cases=cases).save(run / "predictions")
    assert [case.id for case in read_report(runs[0]).cases] == ["b", "c"]
    assert read_report(tmp_path / "plan").cases == report.cases
    assert read_report(tmp_path / "plan").origin.more == (report.origin.prediction,)
    report.save(runs[1] / "predictions")
    with pytest.raises(DataError, match="of one case twice"):
        read_report(tmp_path / "plan")
    report.only(["dice"]).save(runs[1] / "predictions")
    with pytest.raises(DataError, match="different labels, metrics or policies"):
        read_report(tmp_path / "plan")


def saved(report: Report, *places: Path) -> list[Path]:
    for place in places:
        report.save(place)
    return list(places)


def test_models_are_called_by_as_much_of_their_paths_as_it_takes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = evaluate_files(*folders)[0]
    paths = saved(report, tmp_path / "unet" / "validation", tmp_path / "umamba" / "validation", tmp_path / "third")
    assert [each.name for each in read_reports(paths)] == [
        "unet/validation",
        "umamba/validation",
        f"{tmp_path.name}/third",
    ]
    assert [each.name for each in read_reports(paths, names=["a", "b", "c"])] == ["a", "b", "c"]
    assert [each.name for each in read_reports(paths[2:])] == ["third"]


def test_names_that_do_not_tell_models_apart_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    paths = saved(evaluate_files(*folders)[0], tmp_path / "one", tmp_path / "two")
    with pytest.raises(UsageError, match="one name for each of the 2 reports"):
        read_reports(paths, names=["a"])
    with pytest.raises(UsageError, match="names must differ"):
        read_reports(paths, names=["a", "a"])
    with pytest.raises(UsageError, match="compared with itself"):
        read_reports([paths[0], paths[1] / ".." / "one"])


def test_reports_are_compared_by_the_metrics_that_all_have(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = evaluate_files(*folders, metrics=("iou", "hd95", "dice"))[0]
    other = evaluate_files(*folders, metrics=("dice", "assd", "iou"))[0]
    paths = [*saved(one, tmp_path / "one"), *saved(other, tmp_path / "other")]
    reports = read_reports(paths)
    assert [report.metrics for report in reports] == [("iou", "dice")] * 2
    assert [case.scores for case in reports[0].cases] == [case.scores for case in reports[1].cases]
    assert "left out, for not all reports have it: hd95, assd" in caplog.text
    saved(evaluate_files(*folders, metrics=("hd",))[0], tmp_path / "other")
    with pytest.raises(DataError, match="no metric is in all reports: one has iou, hd95, dice; other has hd"):
        read_reports(paths)


def test_labels_of_the_same_values_get_the_names_and_the_order_of_the_first_report(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    store(ball(6) + ball(3), folders[1] / "a.nii.gz")
    pairs = match_files(*folders).pairs
    named = Labels(foreground=(Label(name="inner", values=(2,)), Label(name="outer", values=(1,))))
    one, plain = (evaluate(pairs, labels, metrics=("dice",)) for labels in (named, Labels.of_values((1, 2))))
    first, second = read_reports([*saved(one, tmp_path / "one"), *saved(plain, tmp_path / "other")])
    assert first.labels == second.labels == named
    assert first.cases == second.cases
    other = saved(evaluate(pairs, BALL, metrics=("dice",)), tmp_path / "other")
    assert read_reports([tmp_path / "one", *other])[1].labels == BALL


def test_names_of_labels_come_from_the_report_that_has_some(folders: tuple[Path, Path]) -> None:
    regions = Labels(
        foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_order=(1, 2)
    )
    matches = match_files(*folders)
    named = evaluate(matches.pairs, regions, metrics=("dice",))
    named.save(folders[0])
    summaries = folders[1].parent / "nnunet"
    summaries.mkdir()
    save(named, matches.pairs, summaries)
    for paths in ([summaries, folders[0]], [folders[0], summaries]):
        for report in read_reports(paths, names=["a", "b"]):
            assert [label.name for label in report.labels.foreground] == ["whole", "core"]
            assert [score.label for score in report.cases[0].scores] == ["whole", "core"]


def test_what_is_scored_on_the_way_gets_the_metrics_of_the_reports_that_are_there(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    paths = [folders[0], *saved(evaluate_files(*folders, metrics=("iou", "assd"))[0], tmp_path / "scored")]
    one, other = read_reports(paths, reference=folders[1])
    assert one.metrics == other.metrics == ("iou", "assd")
    assert one.cases == other.cases
    assert (one.name, other.name) == ("predictions", "scored")


def test_images_are_those_of_the_data_set_of_the_references(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    root = tmp_path / "Dataset001_Balls"
    for name in "abc":
        store(ball(), root / "labelsTr" / f"{name}.nii.gz")
        store(ball() * 9, root / "imagesTr" / f"{name}_0000.nii.gz")
    (root / "dataset.json").write_text(description(ball=1))
    for reference in (root, root / "labelsTr"):
        found = dataset_of(reference)
        assert found is not None
        assert [case.id for case in found.training] == ["a", "b", "c"]
    assert dataset_of(folders[1]) is None
    assert dataset_of(tmp_path / "gone") is None
    assert dataset_of(None) is None
