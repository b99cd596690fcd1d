from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Case, Pairing
from medmamba.errors import DataError
from medmamba.io import open_pairs
from medmamba.labels import UNLABELLED
from medmamba.plans.pairs_fingerprint import image_fingerprint
from medmamba.plans.plan import Plan
from medmamba.plans.registration import channel_of
from medmamba.plans.workspace import PlannedResult, plan_dataset, planned_dataset
from medmamba.volume import Geometry, Volume
from tests.pairs_factory import write_modalities, write_subjects


def planned(source: Path, work: Path, pairing: Pairing | None = None, gpu_memory_gb: float = 8.0) -> PlannedResult:
    return plan_dataset(open_pairs(source, pairing), "mambamorph", work=work, gpu_memory_gb=gpu_memory_gb)


def decided(result: PlannedResult) -> dict[str, str]:
    return {decision.what: f"{decision.value}: {decision.reason}" for decision in result.decisions}


def test_subjects_of_one_folder_share_a_reference_and_local_correlation(tmp_path: Path) -> None:
    result = planned(write_subjects(tmp_path / "brains", 5), tmp_path / "work")
    plan, settings, words = result.plan, result.plan.registration, decided(result)
    assert settings is not None
    assert plan.task == "registration"
    assert plan.spacing_mm == (4.0, 4.0, 4.0)
    assert (settings.similarity, settings.dice_weight, plan.train.optimizer) == ("lncc", 1.0, "adam")
    assert settings.reference in {f"s{n}" for n in range(5)}
    assert all(
        size % stride == 0 for size, stride in zip(plan.topology.patch_size, plan.topology.total_stride, strict=True)
    )
    assert "2 structures" in words["labels"]
    assert "5 subjects shuffled" in words["folds"]
    assert result.fold == "0"
    assert planned_dataset(plan).pairs == open_pairs(tmp_path / "brains").pairs
    assert Plan.load(result.path) == plan


def test_the_same_measurements_serve_again_and_the_folder_of_segmentation_is_left_alone(tmp_path: Path) -> None:
    source = write_subjects(tmp_path / "brains", 4)
    first = planned(source, tmp_path / "work")
    before = first.fingerprint_path.stat().st_mtime_ns
    assert planned(source, tmp_path / "work").outcome == "unchanged"
    assert first.fingerprint_path.stat().st_mtime_ns == before
    assert first.fingerprint_path.name == "fingerprint_pairs.json"


def test_two_modalities_are_compared_by_descriptors_and_normalised_each_in_its_way(tmp_path: Path) -> None:
    result = planned(write_modalities(tmp_path / "pairs", 3), tmp_path / "work")
    plan, words = result.plan, decided(result)
    assert plan.registration is not None
    assert (plan.registration.similarity, plan.registration.similarity_weight) == ("mind", 10.0)
    assert (plan.registration.reference, plan.registration.dice_weight) == ("", 0.0)
    assert plan.labels == UNLABELLED
    assert [(channel.name, channel.normalization) for channel in plan.channels] == [
        ("CT", "window"),
        ("MR", "percentiles"),
    ]
    assert "Hounsfield units -200 to" in words["fixed image"]
    assert "contrasts of different kinds" in words["similarity"]


def test_a_name_does_not_make_hounsfield_units(tmp_path: Path) -> None:
    """A window of Hounsfield units would leave next to nothing of other intensities."""
    values = np.random.default_rng(0).uniform(0, 1600, (1, 12, 12, 12)).astype(np.float32)
    volume = Volume(values, Geometry((12, 12, 12), np.eye(4)))
    io.write(volume, tmp_path / "anna_ct.nii.gz")
    found = image_fingerprint(Case(id="anna", images=(tmp_path / "anna_ct.nii.gz",)), volume)
    assert found.modality == "CT without air"
    channel, why = channel_of("fixed", [found], [found])
    assert channel.normalization == "percentiles"
    assert why.startswith("as names tell")


def test_less_memory_makes_the_working_grid_coarser_and_says_so(tmp_path: Path) -> None:
    source = write_subjects(tmp_path / "brains", 3)
    result = planned(source, tmp_path / "work", gpu_memory_gb=0.004)
    assert min(result.plan.spacing_mm) > 4.0
    assert "coarser than the 4 x 4 x 4 mm" in decided(result)["working grid"]
    with pytest.raises(DataError, match=r"too small to register|no grid is coarse"):
        planned(source, tmp_path / "work", gpu_memory_gb=0.0001)


def test_an_atlas_is_the_reference_and_is_remembered(tmp_path: Path) -> None:
    result = planned(write_subjects(tmp_path / "brains", 4), tmp_path / "work", Pairing(atlas="s2"))
    assert result.plan.registration is not None
    assert result.plan.registration.reference == "s2"
    assert len(planned_dataset(Plan.load(result.path)).pairs) == 3


def test_moved_data_are_told_and_found_where_they_lie_now(tmp_path: Path) -> None:
    source = write_subjects(tmp_path / "brains", 4)
    plan = planned(source, tmp_path / "work").plan
    moved = source.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="--data PATH"):
        planned_dataset(plan)
    assert len(planned_dataset(plan, moved).pairs) == 12
    with pytest.raises(DataError, match="has no image 'gone'"):
        planned_dataset(plan.override("registration.reference", "gone"), moved)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((4, 6, 6, 6), np.float32), "takes one channel, but it has 4"),
        (np.ones((1, 6, 6, 1), np.float32), "takes volumes, but it has 6 x 6 x 1"),
        (np.zeros((1, 6, 6, 6), np.float32), "the same everywhere"),
    ],
)
def test_images_that_cannot_be_registered_are_refused_by_name(tmp_path: Path, array: np.ndarray, words: str) -> None:  # type: ignore[type-arg]
    source = write_subjects(tmp_path / "brains", 2)
    io.write(Volume(array, Geometry(array.shape[1:], np.eye(4))), source / "odd.nii.gz")
    with pytest.raises(DataError, match=words):
        planned(source, tmp_path / "work")
