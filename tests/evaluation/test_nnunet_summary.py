"""nnU-Net's summary.json: the same numbers as its own evaluation, read as a report and written of one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from medmamba.errors import DataError
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.nnunet_summary import find, load, save
from medmamba.evaluation.report import Report
from medmamba.labels import Label, Labels
from tests.evaluation.factory import BALL, REGIONS, ball, description
from tests.evaluation.factory import save as store

IGNORING = Labels(foreground=BALL.foreground, ignore=2)
TWO = Labels(foreground=(Label(name="liver", values=(1,)), Label(name="lesion", values=(2,))))


def theirs(prediction: Path, reference: Path, keys: list[Any], output: Path, ignore: int | None = None) -> Path:
    """What nnU-Net's own evaluation writes, without its processes."""
    reader = SimpleITKIO()
    results = [
        evaluate_predictions.compute_metrics(str(reference / file.name), str(file), reader, keys, ignore)
        for file in sorted(prediction.glob("*.nii.gz"))
    ]

    class Here:
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def starmap(self, *_: object) -> list[dict[str, Any]]:
            return results

    class Context:
        @staticmethod
        def Pool(_: int) -> Here:
            return Here()

    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr(evaluate_predictions.multiprocessing, "get_context", lambda _: Context)
        evaluate_predictions.compute_metrics_on_folder(
            str(reference), str(prediction), str(output), reader, ".nii.gz", keys, ignore
        )
    return output


@pytest.fixture
def nested(folders: tuple[Path, Path]) -> tuple[Path, Path]:
    """Nested balls; in case b nothing is found, in case c there is nothing of the inner one."""
    prediction, reference = folders
    for folder, shift in ((prediction, 1), (reference, 0)):
        store(ball(5, shift) + ball(3, shift), folder / "a.nii.gz")
        store(ball(5, shift), folder / "c.nii.gz")
    store(ball() * 0, prediction / "b.nii.gz")
    return folders


@pytest.mark.parametrize(
    ("labels", "keys"),
    [(TWO, [1, 2]), (REGIONS, [(1, 2), (2,)]), (IGNORING, [1])],
    ids=["labels", "regions", "ignore"],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_written_summary_is_nnunets_own(
    nested: tuple[Path, Path], tmp_path: Path, labels: Labels, keys: list[Any]
) -> None:
    matches = match_files(*nested)
    entries = {label.name: list(label.values) for label in labels.foreground} if labels.has_regions else {"ball": 1}
    (tmp_path / "dataset.json").write_text(description(**entries))
    report = evaluate(matches.pairs, labels, metrics=("dice",))
    path = save(report, matches.pairs, nested[0], description=tmp_path / "dataset.json")
    own = theirs(*nested, keys, tmp_path / "own.json", labels.ignore)
    assert path.name == "summary.json"
    assert path.read_text() == own.read_text()
    # Not only the text: nnU-Net's tools read it.
    assert evaluate_predictions.load_summary_json(str(path)).keys() == {"foreground_mean", "mean", "metric_per_case"}


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize(("labels", "keys"), [(TWO, [1, 2]), (REGIONS, [(1, 2), 2])], ids=["labels", "regions"])
def test_what_nnunet_wrote_is_read_as_the_report_of_its_masks(
    nested: tuple[Path, Path], labels: Labels, keys: list[Any]
) -> None:
    theirs(*nested, keys, nested[0] / "summary.json")
    entries = {label.name: list(label.values) if label.values != (2,) else 2 for label in labels.foreground}
    if labels is TWO:
        entries = {"liver": 1, "lesion": 2}
    (nested[0] / "dataset.json").write_text(description(**entries))
    read = load(find(nested[0]), name="theirs")
    own = evaluate(match_files(*nested).pairs, labels, metrics=read.metrics)
    assert [label.name for label in read.labels.foreground] == [label.name for label in labels.foreground]
    assert [case.id for case in read.cases] == ["a", "b", "c"]
    np.testing.assert_array_equal(read.table, own.table)
    assert [score.voxels for case in read.cases for score in case.scores] == [
        score.voxels for case in own.cases for score in case.scores
    ]
    assert (read.origin.prediction, read.origin.reference) == nested
    read.save(nested[0])
    assert repr(Report.load(nested[0])) == repr(read)


def written(**cases: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = [
        {"reference_file": f"C:\\gt\\{name}.nii.gz", "prediction_file": f"/elsewhere/{name}.nii.gz", "metrics": metrics}
        for name, metrics in cases.items()
    ]
    return {"foreground_mean": {}, "mean": {}, "metric_per_case": rows}


def counts(tp: int = 5, fp: int = 1, fn: int = 2) -> dict[str, float]:
    return {"Dice": math.nan, "IoU": 0.0, "TP": tp, "FP": fp, "FN": fn, "TN": 9, "n_pred": tp + fp, "n_ref": tp + fn}


def test_summary_without_its_masks_and_names_is_read_by_its_counts(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(written(x={"(1, 2, 3)": counts(), "(3,)": counts(0, 0, 0)})))
    read = load(find(tmp_path))
    assert [(label.name, label.values) for label in read.labels.foreground] == [
        ("label_1_2_3", (1, 2, 3)),
        ("label_3", (3,)),
    ]
    whole, core = read.cases[0].scores
    assert whole.values == (10 / 13, 5 / 8, 5 / 6, 5 / 7)
    assert all(map(math.isnan, core.values))
    assert read.cases[0].id == "x"
    assert read.origin.reference is None


def test_folds_of_a_trainer_are_one_report_with_every_case_once(tmp_path: Path) -> None:
    trainer = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold, name in enumerate("ba"):
        folder = trainer / f"fold_{fold}" / "validation"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(written(**{name: {"1": counts()}})))
    (trainer / "dataset.json").write_text(description(ball=1))
    assert [case.id for case in load(find(trainer)).cases] == ["a", "b"]
    one = load(find(trainer / "fold_1"))
    assert [case.id for case in one.cases] == ["a"]
    assert one.labels.foreground[0].name == "ball"
    again = trainer / "fold_1" / "validation" / "summary.json"
    again.write_text(json.dumps(written(b={"1": counts()})))
    with pytest.raises(DataError, match="case b is there twice"):
        load(find(trainer))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "no summary of nnU-Net's"),
        ([], "no summary of nnU-Net's"),
        ({"metric_per_case": [3]}, r"metric_per_case\[0\]: must be an object with 'metrics'"),
        (written(a={"one": counts()}), r"labels are numbers or regions such as '\(1, 2, 3\)', got 'one'"),
        (written(a={"1": {"Dice": 0.5}}), "case a, label label_1: TP must be a number of voxels, got None"),
        (written(a={"1": counts(tp=-3)}), "TP must be a number of voxels, got -3"),
        (written(a={"1": counts()}, b={"2": counts()}), "case a has other labels than the first one"),
        ({"metric_per_case": [{"metrics": {}, "reference_file": 3}]}, "reference_file must be a text, got 3"),
    ],
)
def test_what_is_no_summary_is_refused_by_name(tmp_path: Path, facts: object, words: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=words) as caught:
        load(find(tmp_path))
    assert "summary.json" in str(caught.value)


def test_cases_that_could_not_be_scored_are_not_in_a_summary(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.nii.gz").unlink()
    matches = match_files(*folders)
    path = save(evaluate(matches.pairs, BALL), matches.pairs, folders[0])
    assert [Path(row["reference_file"]).name for row in json.loads(path.read_text())["metric_per_case"]] == [
        "a.nii.gz",
        "c.nii.gz",
    ]
    for name in "ac":
        (folders[0] / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="no case was scored"):
        save(evaluate(matches.pairs, BALL), matches.pairs, folders[0])
