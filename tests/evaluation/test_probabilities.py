"""Probabilities beside a segmentation, as nnU-Net writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medmamba.errors import DataError
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.probabilities import beside, read
from medmamba.evaluation.report import Report
from medmamba.labels import Label, Labels
from tests.evaluation.factory import BALL, REGIONS, ball

TWO = Labels(foreground=(Label(name="second", values=(2,)), Label(name="first", values=(1,))))


def outputs(segmentation: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """(C, I, J, K) a softmax that is 80 % sure of the segmentation."""
    rest = 0.2 / (classes - 1)
    return np.stack([np.where(segmentation == value, 0.8, rest) for value in range(classes)]).astype(np.float32)


def nnunet(array: NDArray[np.float32], path: Path) -> Path:
    """As nnU-Net writes it: axes the other way round behind the channels."""
    np.savez_compressed(path, probabilities=array.transpose(0, 3, 2, 1))
    return path


def test_classes_follow_their_values_and_axes_the_files(tmp_path: Path) -> None:
    segmentation = ball(6) + ball(3)
    array = outputs(segmentation, 3)
    array[2] += 0.05 * np.linspace(0, 1, segmentation.shape[0], dtype=np.float32)[:, None, None]
    found = read(nnunet(array, tmp_path / "a.npz"), TWO, segmentation)
    np.testing.assert_array_equal(found, array[[2, 1]])


def test_regions_are_the_channels(tmp_path: Path) -> None:
    segmentation = ball(6) + ball(3)
    array = np.stack([segmentation >= 1, segmentation == 2]).astype(np.float32) * np.float32(0.9)
    found = read(nnunet(array, tmp_path / "a.npz"), REGIONS, segmentation)
    np.testing.assert_array_equal(found, array)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def other_name(path: Path) -> None:
    np.savez_compressed(path, softmax=np.zeros((2, 16, 18, 20), np.float32))


def objects(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.array([{"a": 1}]))


def shape(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.zeros((3, 16, 18, 20), np.float32))


def logits(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.full((2, 16, 18, 20), 7.0, np.float32))


def undefined(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.full((2, 16, 18, 20), np.nan, np.float32))


def mirrored(path: Path) -> None:
    nnunet(outputs(ball(4, shift=4)[::-1], 2), path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damaged, "cut short"),
        (other_name, "no array 'probabilities'"),
        (objects, "cannot be read"),
        (shape, r"2 outputs on the grid .* shape \(2, 16, 18, 20\)"),
        (logits, "between 0 and 1"),
        (undefined, "between 0 and 1"),
        (mirrored, "an axis may run the other way"),
    ],
)
def test_what_can_not_be_the_probabilities_is_refused(tmp_path: Path, spoil: object, words: str) -> None:
    path = nnunet(outputs(ball(4, shift=4), 2), tmp_path / "a.npz")
    assert callable(spoil)
    spoil(path)
    with pytest.raises(DataError, match=words) as caught:
        read(path, BALL, ball(4, shift=4))
    assert str(path) in str(caught.value)


def score(report: Report, case: int) -> float:
    return report.cases[case].scores[0].values[0]


def test_calibration_is_measured_where_there_are_probabilities_and_told_where_not(folders: tuple[Path, Path]) -> None:
    for name in "ab":
        nnunet(outputs(ball(shift=1), 2), folders[0] / f"{name}.npz")
    (folders[0] / "b.npz").write_bytes(b"PK")
    assert beside(folders[0] / "a.nii.gz") == folders[0] / "a.npz"
    report = evaluate(match_files(*folders).pairs, BALL, metrics=("ece", "dice"))
    # 80 % of the prediction is said to be right and 82 % is.
    assert 0 < score(report, 0) < 0.2
    counts = report.cases[0].scores[0].reliability
    assert counts is not None
    assert sum(counts.positives) == ball().sum()
    assert [np.isnan(score(report, case)) for case in (1, 2)] == [True, True]
    assert "b.npz is no .npz file" in report.cases[1].notes[0]
    assert report.cases[2].notes == ("there are no probabilities beside the prediction",)
    assert report.cases[2].scores[0].values[1] > 0.8
