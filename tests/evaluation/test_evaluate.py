"""Evaluation of files: what belongs together, what counts, and what is wrong with single cases."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medmamba.evaluation.evaluate import evaluate, evaluate_files
from medmamba.evaluation.matching import Match, find_labels, match_files
from medmamba.evaluation.metrics import GROUPS, METRICS, Metric, dice, metric
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, Policy
from medmamba.evaluation.statistics import MEAN_OVER_LABELS
from medmamba.labels import Label, Labels
from tests.brats_factory import brats2023
from tests.evaluation.factory import AFFINE, BALL, REGIONS, ball, cubes, itk, save

#: Every metric that label maps suffice for, and that leaves empty masks to the report's policy.
WITHOUT_PROBABILITIES = tuple(name for name, row in METRICS.items() if not row.own_policy)


def case(report: Report, name: str) -> CaseScore:
    return next(case for case in report.cases if case.id == name)


def test_scores_are_those_of_the_masks_with_the_spacing_of_the_files(folders: tuple[Path, Path]) -> None:
    report = evaluate(match_files(*folders).pairs, BALL)
    assert report.metrics == ("dice", "hd95")
    assert [case.id for case in report.cases] == ["a", "b", "c"]
    score = report.cases[0].scores[0]
    assert score.values == (pytest.approx(dice(ball(shift=1) > 0, ball() > 0)), pytest.approx(3.0))
    assert score.reference_ml == pytest.approx(ball().sum() * 6.0 / 1000)
    assert score.prediction_ml == score.reference_ml
    assert not report.failed


def test_number_of_workers_does_not_change_the_report(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, every = match_files(*folders).pairs, WITHOUT_PROBABILITIES
    here = evaluate(pairs, BALL, metrics=every)
    monkeypatch.setattr("medmamba.engines.START_S", 0.0)  # the first case here, the others in processes
    assert evaluate(pairs, BALL, metrics=every, workers=2) == here


def test_case_without_enough_memory_fails_without_a_score(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(path: Path, **_: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("medmamba.evaluation.evaluate.io.read_label", short)
    report = evaluate(match_files(*folders).pairs, BALL)
    assert [(case.status, case.notes, case.scores) for case in report.cases] == [
        ("failed", ("Unable to allocate 9 GiB",), ())
    ] * 3


def test_reference_without_prediction_gets_the_worst_values(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.nii.gz").unlink()
    report = evaluate(match_files(*folders).pairs, BALL)
    assert case(report, "b").status == "missing"
    assert report.failed == report.without_prediction == (case(report, "b"),)
    assert report.to_json()["counts"] == {"scored": 2, "failed": 1, "skipped": 0}
    assert report.to_json()["cases"][1]["status"] == "failed"
    assert report.to_json()["cases"][1]["notes"] == ["no prediction"]
    assert case(report, "b").scores[0].values == (0.0, math.inf)
    overlap, distance = report.summaries
    assert (overlap.n, distance.n, distance.infinite) == (3, 2, 1)
    assert overlap.mean == pytest.approx(2 / 3 * case(report, "a").scores[0].values[0])


def test_lesions_of_a_reference_without_a_usable_prediction_are_missed(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.nii.gz").write_bytes(b"")
    (folders[0] / "b.nii.gz").unlink()
    report = evaluate(match_files(*folders).pairs, BALL, metrics=("dice", "lesions"))
    lost, found = (case(report, "a"), case(report, "b")), case(report, "c")
    volumes = [lesion.volume_ml for lesion in found.scores[0].lesions if lesion.kind != "false"]
    for each in lost:
        assert [(lesion.kind, lesion.dice) for lesion in each.scores[0].lesions] == [("missed", 0.0)] * len(volumes)
        assert [lesion.volume_ml for lesion in each.scores[0].lesions] == volumes
    skipped = evaluate(match_files(*folders).pairs, BALL, metrics=("lesions",), policy=Policy(missing="skip"))
    assert case(skipped, "b").scores == ()
    assert all(score.lesions == () for score in case(evaluate(match_files(*folders).pairs, BALL), "a").scores)


def test_reference_without_prediction_can_be_left_out(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.nii.gz").unlink()
    report = evaluate(match_files(*folders).pairs, BALL, policy=Policy(missing="skip"))
    assert case(report, "b").status == "skipped"
    assert report.summaries[0].n == 2
    assert not report.failed


def test_broken_prediction_can_be_left_out_but_stays_a_failure(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.nii.gz").write_bytes(b"")
    report = evaluate(match_files(*folders).pairs, BALL, policy=Policy(missing="skip"))
    assert case(report, "b").status == "failed"
    assert report.summaries[0].n == 2


def test_prediction_without_reference_is_reported(folders: tuple[Path, Path]) -> None:
    save(ball(), folders[0] / "z.nii.gz")
    matches = match_files(*folders)
    assert matches.extra == (folders[0] / "z.nii.gz",)
    assert evaluate(matches.pairs, BALL, extra=matches.extra).extra_predictions == ("z.nii.gz",)


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([-3.0, -1.0, 2.5, 1.0]), "spacing"),
        (np.diag([3.0, -1.0, 2.0, 1.0]), "axes point"),
        (AFFINE + np.eye(4, k=3) * 0.5, "origin shifted by 0.5 mm"),
    ],
)
def test_prediction_on_another_grid_fails_that_case_only(
    folders: tuple[Path, Path], affine: NDArray[np.float64], words: str
) -> None:
    save(ball(), folders[0] / "b.nii.gz", affine)
    report = evaluate(match_files(*folders).pairs, BALL)
    assert [case.id for case in report.failed] == ["b"]
    assert "lies on another grid" in case(report, "b").notes[0]
    assert words in case(report, "b").notes[0]
    assert case(report, "b").scores[0].values == (0.0, math.inf)
    assert case(report, "c").status == "scored"


def test_prediction_of_one_slice_is_not_broadcast(folders: tuple[Path, Path]) -> None:
    save(ball()[:, :, 8:9], folders[0] / "b.nii.gz")
    assert "shape (20, 18, 1) against (20, 18, 16)" in case(evaluate(match_files(*folders).pairs, BALL), "b").notes[0]


@pytest.mark.parametrize("content", [b"", b"not a scan", "half"], ids=["empty", "text", "truncated"])
def test_broken_prediction_fails_that_case_only(folders: tuple[Path, Path], content: bytes | str) -> None:
    path = folders[0] / "b.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if isinstance(content, str) else content)
    report = evaluate(match_files(*folders).pairs, BALL)
    assert [case.id for case in report.failed] == ["b"]
    assert str(path) in case(report, "b").notes[0]
    assert case(report, "b").scores[0].values == (0.0, math.inf)


def test_broken_reference_fails_its_case_without_a_score(folders: tuple[Path, Path]) -> None:
    (folders[1] / "b.nii.gz").write_bytes(b"not a scan")
    report = evaluate(match_files(*folders).pairs, BALL)
    assert [case.id for case in report.failed] == ["b"]
    assert case(report, "b").scores == ()
    assert report.summaries[0].n == 2


def test_empty_masks_are_undefined_and_empty_predictions_infinitely_far(folders: tuple[Path, Path]) -> None:
    nothing = np.zeros_like(ball())
    save(nothing, folders[0] / "a.nii.gz")
    save(nothing, folders[1] / "a.nii.gz")
    save(nothing, folders[0] / "b.nii.gz")
    overlap, distance = evaluate(match_files(*folders).pairs, BALL).summaries
    assert (overlap.n, overlap.undefined, overlap.infinite) == (2, 1, 0)
    assert (distance.n, distance.undefined, distance.infinite) == (1, 1, 1)


@pytest.fixture
def odd(folders: tuple[Path, Path]) -> tuple[Path, Path]:
    """In a both masks are empty, in b the prediction; there is none of c."""
    save(ball() * 0, folders[0] / "a.nii.gz")
    save(ball() * 0, folders[1] / "a.nii.gz")
    save(ball() * 0, folders[0] / "b.nii.gz")
    (folders[0] / "c.nii.gz").unlink()
    return folders


DIAGONAL = math.hypot(20 * 3.0, 18 * 1.0, 16 * 2.0)


@pytest.mark.parametrize(
    ("policy", "empty", "infinite"),
    [
        (Policy(), (math.nan, math.nan), math.inf),
        (Policy(empty="perfect"), (1.0, 0.0), math.inf),
        (Policy(infinite="drop"), (math.nan, math.nan), math.nan),
        (Policy(infinite="diagonal"), (math.nan, math.nan), DIAGONAL),
        (Policy(empty="perfect", infinite="value", infinite_mm=374.0), (1.0, 0.0), 374.0),
    ],
    ids=["default", "perfect", "drop", "diagonal", "value"],
)
def test_policy_says_what_becomes_of_empty_masks_and_cases_without_prediction(
    odd: tuple[Path, Path], policy: Policy, empty: tuple[float, float], infinite: float
) -> None:
    report = evaluate(match_files(*odd).pairs, BALL, policy=policy)
    values = [case.scores[0].values for case in report.cases]
    np.testing.assert_allclose(values, [empty, (0.0, infinite), (0.0, infinite)])
    assert report.policy == policy
    distance = report.summaries[1]
    assert distance.values == 3
    assert distance.undefined == np.isnan([empty[1], infinite, infinite]).sum()
    assert distance.infinite == 2 * math.isinf(infinite)


def test_policy_for_distances_leaves_volumes_alone(odd: tuple[Path, Path]) -> None:
    policy = Policy(infinite="value", infinite_mm=374.0)
    report = evaluate(match_files(*odd).pairs, BALL, metrics=("volume_difference",), policy=policy)
    empty, missed, missing = (case.scores[0].values[0] for case in report.cases)
    assert math.isnan(empty)
    assert missed == pytest.approx(ball().sum() * 0.006)
    assert missing == missed, "the whole volume of the reference"


def test_metric_that_decides_itself_is_left_alone_by_the_policy(
    odd: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Metric(
        title="own",
        measure=lambda masks: math.nan if masks.voxels.either == 0 else math.inf,
        definition="What a challenge says.",
        source="a challenge",
        higher_is_better=False,
        unit="mm",
        bound=373.0,
        own_policy=True,
    )
    monkeypatch.setitem(METRICS, "own", row)
    policy = Policy(empty="perfect", infinite="value", infinite_mm=5.0)
    report = evaluate(match_files(*odd).pairs, BALL, metrics=("own",), policy=policy)
    np.testing.assert_equal([case.scores[0].values[0] for case in report.cases], [math.nan, math.inf, 373.0])


def test_counts_of_voxels_leave_out_those_to_ignore(folders: tuple[Path, Path]) -> None:
    reference = ball(4)
    reference[12:] = 2
    save(reference, folders[1] / "a.nii.gz")
    labels = Labels(foreground=BALL.foreground, ignore=2)
    counts = evaluate(match_files(*folders).pairs[:1], labels).cases[0].scores[0].voxels
    assert counts is not None
    assert counts.either + counts.tn == 12 * 18 * 16


def test_regions_are_scored_as_the_union_of_their_values(folders: tuple[Path, Path]) -> None:
    whole, core = ball(6), ball(3)
    save(whole + core, folders[1] / "a.nii.gz")
    save(whole, folders[0] / "a.nii.gz")
    report = evaluate(match_files(*folders).pairs[:1], REGIONS, metrics=["dice"])
    assert [score.values for score in report.cases[0].scores] == [(1.0,), (0.0,)]
    assert [summary.label for summary in report.summaries] == ["whole", "core", MEAN_OVER_LABELS]


def test_voxels_to_ignore_count_in_neither_mask(folders: tuple[Path, Path]) -> None:
    reference = ball(4)
    reference[12:] = 2
    save(reference, folders[1] / "a.nii.gz")
    prediction = ball(4)
    prediction[14:] = 1
    save(prediction, folders[0] / "a.nii.gz")
    labels = Labels(foreground=BALL.foreground, ignore=2)
    assert evaluate(match_files(*folders).pairs[:1], labels).cases[0].scores[0].values == (1.0, 0.0)


def test_value_that_no_label_has_is_noted(folders: tuple[Path, Path]) -> None:
    save(ball() * 4, folders[0] / "a.nii.gz")
    report = evaluate(match_files(*folders).pairs, BALL)
    assert case(report, "a").status == "scored"
    voxels = int(ball().sum())
    assert case(report, "a").notes == (
        f"the prediction holds values that no label has, counted as background: 4 ({voxels} voxels)",
    )


def test_reference_with_a_value_that_was_not_declared_fails_its_case(folders: tuple[Path, Path]) -> None:
    save(ball() * 3, folders[1] / "a.nii.gz")
    report = evaluate(match_files(*folders).pairs, BALL)
    (failed,) = report.failed
    assert (failed.id, failed.status, failed.scores) == ("a", "failed", ())
    (note,) = failed.notes
    assert (
        f"undeclared label 3 ({int(ball().sum())} voxels) in the reference of a; declared are 0, 1; say --labels"
        in note
    )
    assert (report.summaries[0].n, report.summaries[0].missing) == (2, 1)


def test_sheared_grid_is_noted(folders: tuple[Path, Path]) -> None:
    sheared = AFFINE.copy()
    sheared[0, 2] = 0.7
    for folder in folders:
        save(ball(), folder / "a.nii.gz", sheared)
    note = case(evaluate(match_files(*folders).pairs, BALL), "a").notes[0]
    assert "sheared" in note


def test_missed_structure_has_the_worst_value_of_every_metric(tmp_path: Path) -> None:
    pair = Match(id="a", reference=cubes(tmp_path / "r.nii", 4), prediction=cubes(tmp_path / "p.nii"))
    scores = evaluate([pair], BALL, metrics=WITHOUT_PROBABILITIES).cases[0].scores[0]
    # Its volume is 0.064 ml apart from nothing, which is not the worst there could be.
    assert scores.values == tuple(
        0.064 if row.unit == "ml" else row.worst for row in map(metric, WITHOUT_PROBABILITIES)
    )
    assert (scores.prediction_ml, scores.reference_ml) == (0.0, 0.064)


@pytest.mark.parametrize("kind", ["missing", "broken", "elsewhere"])
def test_case_without_a_usable_prediction_misses_all_lesions_and_the_whole_volume(kind: str, tmp_path: Path) -> None:
    reference = cubes(tmp_path / "r.nii", 4)
    empty = Match(id="a", reference=reference, prediction=cubes(tmp_path / "empty.nii"))
    path = cubes(tmp_path / "p.nii", 4, spacing=(2.0, 1.0, 1.0))
    if kind == "broken":
        path.write_bytes(b"")
    pair = Match(id="a", reference=reference, prediction=None if kind == "missing" else path)
    asked = ("lesions_missed", "lesions_false", "volume_difference", "brats2023_gli_fn", "dice")
    (score,), (of_empty,) = (evaluate([each], BALL, metrics=asked).cases[0].scores for each in (pair, empty))
    missed, false, volume, official, overlap = score.values
    assert (missed, volume, official, overlap) == (1, pytest.approx(0.064), 1, 0.0)
    assert math.isnan(false), "nobody knows what it would have invented"
    assert score.lesions == of_empty.lesions
    assert [lesion.kind for lesion in score.lesions] == ["missed"]
    assert evaluate([pair], BALL, metrics=asked, policy=Policy(missing="skip")).cases[0].scores == ()


def test_lesions_are_told_apart_where_they_are_asked_for(tmp_path: Path) -> None:
    pair = Match(id="a", reference=cubes(tmp_path / "r.nii", 4), prediction=cubes(tmp_path / "p.nii"))
    for metrics, kinds in ((("dice",), []), (("lesions",), ["missed"]), (("brats2023_gli",), ["missed"])):
        (score,) = evaluate([pair], BALL, metrics=metrics).cases[0].scores
        assert [lesion.kind for lesion in score.lesions] == kinds
        assert [lesion.volume_ml for lesion in score.lesions] == pytest.approx([0.064] * len(kinds))


def test_invented_structure_is_infinitely_far_and_worth_nothing(tmp_path: Path) -> None:
    pair = Match(id="a", reference=cubes(tmp_path / "r.nii"), prediction=cubes(tmp_path / "p.nii", 4))
    report = evaluate([pair], BALL, metrics=("dice", "precision", "sensitivity", "hd95"))
    overlap, precision, sensitivity, distance = report.cases[0].scores[0].values
    assert (overlap, precision, distance) == (0.0, 0.0, math.inf)
    assert math.isnan(sensitivity)


def test_region_that_is_lost_inside_a_found_one_counts(tmp_path: Path) -> None:
    pair = Match(id="a", reference=cubes(tmp_path / "r.nii", 4, 2), prediction=cubes(tmp_path / "p.nii", 4))
    whole, core = evaluate([pair], REGIONS).cases[0].scores
    assert whole.values == (1.0, 0.0)
    assert core.values == (0.0, math.inf)
    mean = evaluate([pair], REGIONS).summaries[-1]
    assert (mean.metric, mean.mean, mean.finite_mean, mean.finite, mean.values) == ("hd95", math.inf, 0.0, 1, 2)


def test_distances_are_in_millimetres_along_each_axis(tmp_path: Path) -> None:
    spacing = (0.5, 1.0, 4.0)
    for axis, step in enumerate(spacing):
        one, other = np.zeros((2, 9, 9, 9), np.uint8)
        one[4, 4, 4] = 1
        other[tuple(6 if each == axis else 4 for each in range(3))] = 1
        paths = [
            save(array, tmp_path / f"{name}{axis}.nii", np.diag([*spacing, 1.0]))
            for name, array in (("p", one), ("r", other))
        ]
        pair = Match(id="a", prediction=paths[0], reference=paths[1])
        # Half the corners of one voxel are two steps from the other's nearest, the others one.
        assert evaluate([pair], BALL, metrics=("hd",)).cases[0].scores[0].values == (pytest.approx(2 * step),)


def test_thick_slice_is_measured_in_its_plane_in_millimetres(tmp_path: Path) -> None:
    one, other = np.zeros((2, 20, 20, 1), np.uint8)
    one[5:10, 5:10], other[5:10, 8:13] = 1, 1
    paths = [
        save(array, tmp_path / f"{name}.nii", np.diag([0.5, 2.0, 30.0, 1.0]))
        for name, array in (("p", one), ("r", other))
    ]
    score = evaluate([Match(id="a", prediction=paths[0], reference=paths[1])], BALL).cases[0].scores[0]
    assert score.values == (pytest.approx(2 * 10 / 50), pytest.approx(6.0))


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".seg.nrrd", ".nii", ".NII.GZ"])
def test_endings_of_predictions_and_references_may_differ(folders: tuple[Path, Path], ending: str) -> None:
    (folders[0] / "a.nii.gz").unlink()
    if ending.lower().startswith(".nii"):
        save(ball(), folders[0] / "a.nii.gz").rename(folders[0] / f"a{ending}") if ending != ".nii" else save(
            ball(), folders[0] / "a.nii"
        )
    else:
        itk(ball(), folders[0] / f"a{ending}")
    report = evaluate(match_files(*folders).pairs, BALL)
    assert case(report, "a").scores[0].values == (1.0, 0.0)


def test_data_set_with_a_stray_image_and_mixed_endings_gives_its_labels(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "plain"
    for name, ending in (("a", ".nii.gz"), ("b", ".nii")):
        save(ball(), root / "images" / f"{name}{ending}")
        save(ball() * 3, root / "labels" / f"{name}.nii.gz")
    save(ball() * 5, root / "labels" / "c.nii.gz")
    save(ball(), root / "images" / "c.nii.gz")
    for name in "abc":
        save(ball() * 5, folders[0] / f"{name}.nii.gz")
    save(ball(), root / "average_brain.nii.gz")
    matches = match_files(folders[0], root)
    assert [pair.reference.parent.name for pair in matches.pairs] == ["labels"] * 3
    # 5 lies in one reference alone, but what is predicted as 5 elsewhere is judged as well.
    labels = find_labels(folders[0], root)
    assert labels is not None
    assert [label.values for label in labels.foreground] == [(3,), (5,)]
    report = evaluate(matches.pairs, labels)
    assert [score.values for score in case(report, "a").scores] == [(0.0, math.inf), (0.0, math.inf)]


def test_labels_above_32767_and_stored_as_floats_keep_their_values(folders: tuple[Path, Path]) -> None:
    big = Labels(foreground=(Label(name="nucleus", values=(40000,)),))
    save((ball() > 0).astype(np.uint16) * 40000, folders[1] / "a.nii.gz")  # type: ignore[arg-type]
    save((ball() > 0).astype(np.float32) * 40000, folders[0] / "a.nii.gz")  # type: ignore[arg-type]
    report = evaluate(match_files(*folders).pairs[:1], big)
    assert report.cases[0].scores[0].values == (1.0, 0.0)
    assert report.cases[0].notes == ()


def test_interpolated_prediction_fails_its_case(folders: tuple[Path, Path]) -> None:
    save(ball() * np.float32(0.5), folders[0] / "b.nii.gz")  # type: ignore[arg-type]
    report = evaluate(match_files(*folders).pairs, BALL)
    assert [case.id for case in report.failed] == ["b"]
    assert "label values must be integers" in case(report, "b").notes[0]


def test_unknown_metric_is_refused_with_the_known_ones(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'dise'; choose from dice, iou"):
        evaluate(match_files(*folders).pairs, BALL, metrics=["dise"])


def test_rounded_header_is_the_same_grid_and_a_note(folders: tuple[Path, Path]) -> None:
    sound = case(evaluate(match_files(*folders).pairs, BALL), "b")
    path = folders[0] / "b.nii.gz"
    save(np.asarray(nibabel.load(path).dataobj), path, AFFINE + np.eye(4, k=3) * 0.1)
    shifted = case(evaluate(match_files(*folders).pairs, BALL), "b")
    assert shifted.status == "scored"
    assert shifted.scores == sound.scores
    assert "less than half a voxel apart" in shifted.notes[0]
    assert "origin shifted by 0.1 mm" in shifted.notes[0]
    assert not sound.notes


def test_references_of_brats_are_scored_as_their_challenge_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brats2023(tmp_path / "downloaded", ("GLI-00001-000",))
    (tmp_path / "made").mkdir()
    seg = root / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz"
    shutil.copy(seg, tmp_path / "made" / "BraTS-GLI-00001-000.nii.gz")
    monkeypatch.setitem(GROUPS, "brats2023_gli", ("iou", "dice"))
    report, _ = evaluate_files(tmp_path / "made", root)
    assert report.metrics == ("dice", "hd95", "iou")
    assert [label.name for label in report.labels.foreground] == ["WT", "TC", "ET"]
    assert [score.values for score in report.cases[0].scores] == [(1.0, 0.0, 1.0)] * 3
    assert evaluate_files(tmp_path / "made", root, metrics=("hd",))[0].metrics == ("hd",)
    assert evaluate_files(tmp_path / "made", root, labels="brats2023-gli")[0] == report
