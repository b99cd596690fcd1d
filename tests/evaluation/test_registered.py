"""Registrations of made-up brains whose deformation is known, held against labels and landmarks before and after."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.registered import ALIGNED, UNTOUCHED, evaluate_registrations
from medmamba.evaluation.registered_folder import BEFORE_FILE, read_pairs, save_before
from medmamba.evaluation.registered_labels import NOTHING_SHARED
from medmamba.evaluation.report import WHOLE_PAIR, Report
from medmamba.evaluation.scores import Policy
from medmamba.evaluation.sources import read_reports
from medmamba.io.formats.transforms import write_transform
from medmamba.io.points import Points, read_points, write_points
from medmamba.transform import Field, Transform
from tests.registered_factory import LANDMARKS, SHIFT, WORKING, field, write_folder, write_pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs that were registered exactly, and one that failed."""
    root = tmp_path_factory.mktemp("registered")
    return write_folder(root / "exact", root / "cases", failed=("lost",))


@pytest.fixture(scope="module")
def reports(folder: Path) -> tuple[Report, Report]:
    after, before = evaluate_registrations(folder)
    return after, before


def edited(folder: Path, name: str, **facts: object) -> None:
    """Change a pair's record."""
    path = folder / name / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_labels_and_landmarks_fit_after_and_not_before(reports: tuple[Report, Report]) -> None:
    after, before = reports
    assert (after.name, before.name) == ("exact", ALIGNED)
    assert [label.name for label in after.labels.foreground] == ["cortex", "nucleus", "ventricle"]
    for ours, theirs in zip(after.cases[1:], before.cases[1:], strict=True):
        assert ours.figures["tre"] == pytest.approx(0, abs=1e-4)
        truth = field(3.0, int(ours.id[1])).points(LANDMARKS)
        expected = np.linalg.norm(SHIFT.points(truth) - SHIFT.points(LANDMARKS), axis=1).mean()
        assert theirs.figures == {"tre": pytest.approx(expected, abs=1e-4)}
        for good, bad in zip(ours.scores, theirs.scores, strict=True):
            assert good.values[0] > max(0.75, bad.values[0] + 0.1)  # Dice
            assert good.values[1] < bad.values[1]  # HD95


def test_figures_are_of_the_field_and_by_the_record(reports: tuple[Report, Report]) -> None:
    figures = reports[0].cases[1].figures
    assert figures["folding"] == 0
    assert 0 < figures["sd_log_jacobian"] < 0.2
    assert 0.5 < figures["min_jacobian"] < 1
    assert 2 < figures["displacement"] < 4  # waves of 3 mm along each axis; the affine map moves by 2 mm and more
    assert 0 < figures["inverse_consistency"] < 0.2 < figures["inverse_consistency_max"] < 1
    assert (figures["seconds"], figures["memory"]) == (9.5, 2**30 / 1e9)


def test_a_pair_without_a_transform_is_a_failed_case_with_its_reason(reports: tuple[Report, Report]) -> None:
    lost = reports[0].cases[0]
    assert (lost.id, lost.status, lost.notes, lost.scores) == ("lost", "failed", ("no overlap",), ())
    assert [case.id for case in reports[0].failed] == ["lost"]


def test_a_pair_that_failed_counts_with_the_worst_values_unless_it_is_to_be_left_out(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", 1, failed=("lost", "waits"))
    overview = json.loads((out / "registration.json").read_text())
    sides = {side: json.loads((out / "p0" / "run.json").read_text())[side] for side in ("fixed", "moving")}
    overview["pairs"]["lost"] |= sides
    overview["pairs"]["waits"] |= {"status": "waiting", "message": "options changed", **sides}
    (out / "registration.json").write_text(json.dumps(overview))
    (out / "waits").symlink_to(out / "p0")  # of an earlier command, with other options
    for report in evaluate_registrations(out):
        lost, p0, waits = report.cases
        assert [case.status for case in report.cases] == ["failed", "scored", "failed"]
        assert lost.notes == ("no overlap",)
        assert waits.notes[0].startswith("not registered yet: the command that was to do it was stopped")
        assert waits.notes[0].endswith("; options changed")
        assert [score.values for score in (*lost.scores, *waits.scores)] == [(0.0, math.inf)] * 6
        mean = report.summaries[0]
        assert (mean.metric, mean.label, mean.n) == ("dice", "cortex", 3)
        assert mean.finite_mean == pytest.approx(p0.scores[0].values[0] / 3)
        whole = {each.metric: each for each in report.whole(("tre",)).summaries}
        assert whole["mean_dice"].mean == pytest.approx(np.mean([score.values[0] for score in p0.scores]) / 3)
        for name in ("median_hd95", "tre"):
            assert (whole[name].mean, whole[name].infinite, whole[name].values) == (math.inf, 2, 3)
    left = evaluate_registrations(out, policy=Policy(missing="skip"))[0]
    assert [(case.status, case.scores == ()) for case in left.cases] == [
        ("skipped", True), ("scored", False), ("skipped", True)
    ]  # fmt: skip
    assert left.cases[0].notes == ("no overlap",)
    assert "tre" not in left.cases[0].figures
    assert {(each.values, each.missing) for each in left.whole(("tre",)).summaries} == {(3, 2)}


def test_reports_are_saved_and_read_with_their_figures(reports: tuple[Report, Report], tmp_path: Path) -> None:
    after, before = reports
    files = {path.name for path in after.save(tmp_path)} | {save_before(before, tmp_path).name}
    assert files == {"report.json", "report.csv", "pairs.csv", "before.json"}
    assert Report.load(tmp_path).cases == after.cases
    assert Report.load(tmp_path / BEFORE_FILE).cases == before.cases
    head, lost, first, _ = (tmp_path / "pairs.csv").read_text().splitlines()
    assert head.startswith("pair,status,mean_dice,median_hd95,folding,sd_log_jacobian")
    assert lost == "lost,failed" + "," * (head.count(",") - 1) + "no overlap"
    assert first.startswith("p0,scored,0.9")


def test_methods_are_compared_with_what_was_before_all_of_them_once(folder: Path, tmp_path: Path) -> None:
    half = write_folder(tmp_path / "half", tmp_path / "cases", found=0.5)
    for each in (folder, half):
        after, before = evaluate_registrations(each)
        after.save(each)
        save_before(before, each)
    names = [report.name for report in read_reports([folder, half])]
    assert names == [ALIGNED, "exact", "half"]
    other = write_folder(tmp_path / "other", tmp_path / "cases2", truth_mm=1.0)
    after, before = evaluate_registrations(other)
    after.save(other)
    save_before(before, other)
    assert [report.name for report in read_reports([half, other])] == [ALIGNED, f"{ALIGNED} (other)", "half", "other"]


def test_a_whole_pair_is_the_mean_over_structures_and_its_figures(reports: tuple[Report, Report]) -> None:
    after = reports[0]
    whole = after.whole(("folding", "tre"))
    assert whole.metrics == ("mean_dice", "median_hd95", "folding", "tre")
    assert [label.name for label in whole.labels.foreground] == [WHOLE_PAIR]
    [score] = whole.cases[1].scores
    assert score.values[0] == pytest.approx(np.mean([each.values[0] for each in after.cases[1].scores]))
    assert score.values[2:] == (0, after.cases[1].figures["tre"])


def test_a_pair_takes_an_infinite_distance_as_the_worst_and_never_leaves_it_out(reports: tuple[Report, ...]) -> None:
    case = reports[0].cases[1]
    for lost, expected in ((1, sorted(score.values[1] for score in case.scores[1:])[1]), (2, math.inf)):
        scores = tuple(
            replace(score, values=(0.0, math.inf)) if place < lost else score for place, score in enumerate(case.scores)
        )
        [whole] = replace(reports[0], cases=(replace(case, scores=scores),)).whole(()).cases[0].scores
        assert whole.values[1] == expected
        assert whole.values[0] == pytest.approx(sum(score.values[0] for score in scores) / 3)


def painted(path: Path, value: int, corner: int) -> None:
    """Give a small cube of a label map another value."""
    volume = io.read_label(path)
    array = volume.array.copy()
    array[:, corner : corner + 3, corner : corner + 3, corner : corner + 3] = value
    io.write(volume.with_array(array), path)


def test_figures_of_a_pair_depend_on_that_pair_alone(tmp_path: Path) -> None:
    """Structures that its fixed or its moving map lacks count for no pair, whatever others have."""
    out, cases = tmp_path / "out", tmp_path / "cases"
    write_folder(out, cases, 2)
    (cases / "dataset.json").unlink()
    for name, values in {"p0_moving": (8, 9), "p0_fixed": (7,), "p1_fixed": (7, 8, 9)}.items():
        for value in values:
            painted(cases / f"{name}_label.nii.gz", value, 2 * (value - 6))
    both = evaluate_registrations(out)
    (out / "registration.json").write_text(json.dumps({"pairs": {"p0": {"status": "done"}}}))
    alone = evaluate_registrations(out)
    for ours, theirs in zip(both, alone, strict=True):
        assert ours.cases[0].notes == theirs.cases[0].notes == ()
        assert ours.whole(()).cases[0].scores == theirs.whole(()).cases[0].scores
        counted = {score.label for score in ours.cases[0].scores if not math.isnan(score.values[0])}
        assert counted == {"label_1", "label_2", "label_3"}
        assert "one of a pair's label maps lacks" in ours.exceptions[0]


def test_of_a_pair_that_failed_the_worst_counts_for_its_own_structures_alone(tmp_path: Path) -> None:
    out, cases = tmp_path / "out", tmp_path / "cases"
    write_folder(out, cases, 2)
    (cases / "dataset.json").unlink()
    painted(cases / "p0_fixed_label.nii.gz", 7, 2)
    painted(cases / "p0_moving_label.nii.gz", 7, 10)
    record = json.loads((out / "p1" / "run.json").read_text())
    sides = {side: record[side] for side in ("fixed", "moving")}
    pairs = {"p0": {"status": "done"}, "p1": {"status": "failed", "message": "no overlap", **sides}}
    (out / "registration.json").write_text(json.dumps({"pairs": pairs}))
    lost = evaluate_registrations(out)[0].cases[1]
    assert [score.values[0] for score in lost.scores[:3]] == [0.0] * 3
    assert math.isnan(lost.scores[3].values[0])


def test_label_maps_that_share_no_structure_are_told(tmp_path: Path) -> None:
    out, cases = write_folder(tmp_path / "out", tmp_path / "cases", 1), tmp_path / "cases"
    (cases / "dataset.json").unlink()
    volume = io.read_label(cases / "p0_moving_label.nii.gz")
    io.write(volume.with_array(volume.array * 20), cases / "p0_moving_label.nii.gz")
    case = evaluate_registrations(out)[0].cases[0]
    assert case.notes == (NOTHING_SHARED,)
    assert all(math.isnan(value) for score in case.scores for value in score.values)
    io.write(volume.with_array(volume.array * 0), cases / "p0_moving_label.nii.gz")
    io.write(volume.with_array(volume.array * 0), cases / "p0_fixed_label.nii.gz")
    with pytest.raises(DataError, match="no structures in the label maps of 1 pairs: none holds more than background"):
        evaluate_registrations(out)


def test_of_a_pair_without_label_maps_nothing_is_missing(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases")
    edited(out, "p1", moving={**json.loads((out / "p1" / "run.json").read_text())["moving"], "label": None})
    after = evaluate_registrations(out)[0]
    assert {(each.values, each.missing) for each in after.summaries if each.label == "cortex"} == {(1, 0)}
    after.save(tmp_path)
    assert "p1" not in (tmp_path / "report.csv").read_text()
    assert "p1,scored,,," in (tmp_path / "pairs.csv").read_text()
    dice, folding = (each for each in after.whole(("folding",)).summaries if each.metric in ("mean_dice", "folding"))
    assert (dice.finite, dice.values, folding.finite) == (1, 2, 2)


def test_pairs_of_figures_alone_are_left_out_on_request_too(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", failed=("lost",))
    for name in ("p0", "p1"):
        edited(out, name, moving={**json.loads((out / name / "run.json").read_text())["moving"], "label": None})
    assert [case.status for case in evaluate_registrations(out)[0].cases] == ["failed", "scored", "scored"]
    skipped = evaluate_registrations(out, policy=Policy(missing="skip"))[0]
    assert (skipped.cases[0].status, skipped.policy.missing) == ("skipped", "skip")


def test_small_structures_are_left_out_on_request(folder: Path) -> None:
    after, before = evaluate_registrations(folder, least_ml=1.0)
    assert [label.name for label in after.labels.foreground] == ["cortex"]
    assert after.labels == before.labels
    with pytest.raises(UsageError, match="no structure takes 1000 ml"):
        evaluate_registrations(folder, least_ml=1000)


def test_folds_and_a_field_of_nothing_are_told(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases")
    zero = Field(np.zeros((3, *WORKING.shape), np.float32), WORKING)
    write_transform(Transform((zero, SHIFT)), out / "p0" / "transform.h5")
    write_transform(Transform((field(14.0), SHIFT)), out / "p1" / "transform.h5")
    (out / "p1" / "inverse.h5").unlink()
    first, second = evaluate_registrations(out)[0].cases
    assert first.notes == ("the field is next to zero, 0 mm in the mean",)
    assert second.figures["folding"] > 1
    assert second.notes[0].startswith("the field folds in")
    assert "inverse_consistency" not in second.figures
    edited(out, "p1", warnings=["the field folds in 12 % of the voxels, more than 1 %"])
    assert len(evaluate_registrations(out)[0].cases[1].notes) == 1  # who made it said so


def test_without_label_maps_the_figures_are_the_scores(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases")
    for name in ("p0", "p1"):
        record = json.loads((out / name / "run.json").read_text())
        edited(out, name, moving={**record["moving"], "label": None})
    after, before = evaluate_registrations(out)
    assert after.metrics[:2] == ("folding", "sd_log_jacobian")
    assert before.metrics == after.metrics
    assert after.cases[0].scores[0].values[after.metrics.index("tre")] == pytest.approx(0, abs=1e-4)
    assert math.isnan(before.cases[0].scores[0].values[0])
    for name in ("p0", "p1"):
        record = json.loads((out / name / "run.json").read_text())
        edited(out, name, moving={**record["moving"], "points": None})
    assert len(evaluate_registrations(out)) == 1


def test_landmarks_that_one_image_alone_has_are_left_out_and_told(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", 1)
    file = Path(json.loads((out / "p0" / "run.json").read_text())["moving"]["points"])
    points = read_points(file)
    write_points(Points(points.names[:-1], points.mm[:-1], points.space), file)
    [case] = evaluate_registrations(out)[0].cases
    assert case.figures["tre"] == pytest.approx(0, abs=1e-4)
    assert f"in one file alone are left out: {points.names[-1]} in " in case.notes[0]


def test_without_an_affine_map_before_is_what_the_headers_say(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", 1)
    write_transform(Transform((field(3.0),)), out / "p0" / "transform.h5")
    assert evaluate_registrations(out)[1].name == UNTOUCHED


def test_a_mask_says_where_the_field_counts(tmp_path: Path) -> None:
    """In a corner that the waves do not reach nothing moves."""
    from medmamba.volume import Volume
    from tests.registered_factory import FIXED

    out = tmp_path / "out"
    write_pair(out, tmp_path / "cases", "p0")
    (out / "registration.json").write_text(json.dumps({"pairs": {"p0": {"status": "done"}}}))
    corner = np.zeros((1, *FIXED.shape), np.uint8)
    corner[:, :3, :3, :3] = 1
    io.write(Volume(corner, FIXED), tmp_path / "mask.nii.gz")
    record = json.loads((out / "p0" / "run.json").read_text())
    edited(out, "p0", fixed={**record["fixed"], "mask": str(tmp_path / "mask.nii.gz")})
    assert evaluate_registrations(out)[0].cases[0].figures["displacement"] < 0.1


def test_other_software_needs_no_more_than_the_documentation_says(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", 1)
    text = (Path(__file__).parents[2] / "docs" / "registration.md").read_text()
    overview, record = (json.loads(part.split("```")[0]) for part in text.split("```json")[1:])
    name = "p0"
    (out / "registration.json").write_text(json.dumps({"pairs": {name: overview["pairs"]["b_to_a"]}}))
    known = json.loads((out / name / "run.json").read_text())
    for side in ("fixed", "moving"):
        record[side] = {key: known[side][key] for key in record[side]}
    (out / name / "run.json").write_text(json.dumps(record))
    [case] = evaluate_registrations(out)[0].cases
    assert case.figures["seconds"] == 41.2
    assert len(case.scores) == 3


@pytest.mark.parametrize(
    ("overview", "words"),
    [({"pairs": {}}, "it is empty"), ({"pairs": ["p0"]}, "does not list 'pairs'"), ({}, "does not list 'pairs'")],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, overview: dict[str, object], words: str) -> None:
    (tmp_path / "registration.json").write_text(json.dumps(overview))
    with pytest.raises(DataError, match=words):
        read_pairs(tmp_path)


def test_a_record_that_names_no_images_is_refused(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", tmp_path / "cases", 1)
    (out / "p0" / "run.json").write_text("{}")
    with pytest.raises(DataError, match="does not name the files of 'fixed' and 'moving'"):
        read_pairs(out)
