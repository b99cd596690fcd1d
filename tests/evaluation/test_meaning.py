"""Metrics of challenges and the editions of labels that they go with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medmamba.errors import UsageError
from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.evaluate import evaluate_files
from medmamba.evaluation.meaning import challenge_of, edition_of
from medmamba.io.layouts.editions import EDITIONS, labels_of_edition
from tests.evaluation.factory import cubes


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """A prediction and its reference, nested cubes of 1, 2 and 3."""
    for name in ("prediction", "reference"):
        cubes(tmp_path / name / "a.nii.gz", 7, 5, 3)
    return tmp_path / "prediction", tmp_path / "reference"


def described(folder: Path, **labels: list[int]) -> None:
    values = ", ".join(f'"{name}": {each}' for name, each in labels.items())
    order = [1, 2, 3, 4, 5, 6][: len(labels)]
    (folder / "dataset.json").write_text(
        f'{{"channel_names": {{"0": "MRI"}}, "labels": {{"background": 0, {values}}}, "numTraining": 1, '
        f'"file_ending": ".nii.gz", "regions_class_order": {order}}}'
    )


def test_every_challenge_has_an_edition_and_most_editions_one() -> None:
    assert all(edition_of(group) in EDITIONS for group in CHALLENGES)
    assert challenge_of("brats2023-gli") == ("brats2023_gli",)
    assert challenge_of("brats2021") == challenge_of("") == ()


def test_metric_of_a_challenge_tells_what_values_mean_where_nothing_else_does(
    maps: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report, _ = evaluate_files(*maps, metrics=("dice", "brats2023_gli_dice"))
    assert report.labels == labels_of_edition("brats2023-gli")
    assert "labels are taken to be those of brats2023-gli" in caplog.text


def test_metrics_of_several_challenges_do_not_tell_what_values_mean(maps: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"brats2023_gli, brats2023_ssa .*say --labels"):
        evaluate_files(*maps, metrics=("brats2023_gli", "brats2023_ssa"))


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        ("brats2024-gli", "brats2023_gli"),
        ("brats2024-ped", "brats2023_ped"),
        ("brats2023-gli", "brats2024_met"),
        ("brats2023-gli", "brats2023_men_dice"),
        ("brats2021", "brats2024_gli"),
    ],
)
def test_metrics_of_another_edition_than_the_labels_are_refused(
    labels: str, metric: str, maps: tuple[Path, Path]
) -> None:
    (challenge,) = (group for group in CHALLENGES if metric.startswith(group))
    with pytest.raises(UsageError, match=rf"the labels are {labels}: .*say --labels {edition_of(challenge)}"):
        evaluate_files(*maps, labels=labels, metrics=(metric,))


def test_labels_of_a_data_set_go_with_a_challenge_whose_regions_they_are(maps: tuple[Path, Path]) -> None:
    described(maps[1], WT=[1, 2, 3], TC=[1, 3], ET=[3])
    report, _ = evaluate_files(*maps, metrics=("brats2023_gli_dice",))
    assert [label.name for label in report.labels.foreground] == ["WT", "TC", "ET"]
    described(maps[1], WT=[1, 2, 3], TC=[1, 3])
    with pytest.raises(UsageError, match="regions WT, TC, ET of brats2023-gli, but the labels are TC, WT"):
        evaluate_files(*maps, metrics=("brats2023_gli_dice",))


def test_editions_before_the_challenges_go_with_one_of_the_same_regions(maps: tuple[Path, Path]) -> None:
    for side in maps:
        cubes(side / "a.nii.gz", 7, 5)
    report, _ = evaluate_files(*maps, labels="brats2021", metrics=("brats2023_gli_dice",))
    assert report.labels == labels_of_edition("brats2021")
    with pytest.raises(UsageError, match="brats2023_gli are of the regions"):
        evaluate_files(*maps, labels="brats2024-gli", metrics=("brats2023_gli_dice",))
