"""Phantoms: the same for the same seed, right in their anatomy, and no gift to a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.demo.phantom import CHANNELS, ENHANCING, NECROSIS, OEDEMA, Phantom, make_cohort, make_phantom

SMALL = (32, 32, 24)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom((0, 0, index)) for index in range(6)]


def test_same_seed_gives_the_same_phantom_and_another_seed_another() -> None:
    first, again, other = (make_phantom(seed, SMALL) for seed in (5, 5, 6))
    assert np.array_equal(first.images.array, again.images.array)
    assert np.array_equal(first.label.array, again.label.array)
    assert not np.array_equal(first.label.array, other.label.array)


def test_every_part_of_the_tumour_is_there_and_lies_in_the_brain(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        label, brain = phantom.label.array[0], (phantom.images.array > 0).any(axis=0)
        assert set(np.unique(label)) == {0, NECROSIS, OEDEMA, ENHANCING}
        # Noise may leave a dark voxel of the brain at zero.
        assert np.count_nonzero(brain[label > 0]) > 0.99 * np.count_nonzero(label)


def test_whole_tumour_and_core_have_sizes_seen_in_patients(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        voxel_ml = np.prod(phantom.label.geometry.spacing_mm) / 1000
        whole = np.count_nonzero(phantom.label.array) * voxel_ml
        core = np.isin(phantom.label.array, (NECROSIS, ENHANCING)).sum() * voxel_ml
        assert 15 < whole < 250
        assert 3 < core < 0.8 * whole


def test_brain_has_the_volume_of_a_brain_and_nothing_is_around_it(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        brain = (phantom.images.array > 0).any(axis=0)
        assert 1.1 < brain.sum() * np.prod(phantom.images.geometry.spacing_mm) / 1e6 < 1.8
        assert not brain[0].any()
        assert not brain[-1].any()


def test_grid_is_that_of_brats_with_the_head_in_the_middle(phantoms: list[Phantom]) -> None:
    grids = [phantom.images.geometry for phantom in phantoms]
    assert all(grid.orientation == "LPS" for grid in grids)
    assert all(np.abs(grid.corners_mm().mean(axis=0)).max() < 1e-9 for grid in grids)
    assert len({grid.spacing_mm for grid in grids}) == len(grids)
    assert all(0.95 < spacing / 3 < 1.05 for grid in grids for spacing in grid.spacing_mm)


def test_tissues_differ_as_on_real_scans(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        (flair, t1ce), label = phantom.images.array, phantom.label.array[0]
        healthy = (flair > 0) & (label == 0)
        assert flair[label == OEDEMA].mean() > 1.25 * flair[healthy].mean()
        assert t1ce[label == ENHANCING].mean() > 1.2 * t1ce[healthy].mean()
        assert t1ce[label == NECROSIS].mean() < 0.9 * t1ce[healthy].mean()


@pytest.mark.parametrize("values", [(NECROSIS, ENHANCING), (ENHANCING,)], ids=["core", "enhancing"])
@pytest.mark.parametrize("channel", range(len(CHANNELS)), ids=CHANNELS)
def test_no_threshold_on_one_channel_finds_the_core(
    phantoms: list[Phantom], channel: int, values: tuple[int, ...]
) -> None:
    cases = []
    for phantom in phantoms:
        brain = (phantom.images.array > 0).any(axis=0)
        inside = phantom.images.array[channel][brain].astype(float)
        cases.append(((inside - inside.mean()) / inside.std(), np.isin(phantom.label.array[0][brain], values)))
    best = 0.0
    for threshold in np.linspace(-3, 5, 81):
        dice = [2 * (part & (x > threshold)).sum() / (part.sum() + (x > threshold).sum()) for x, part in cases]
        best = max(best, float(np.mean(dice)))
    assert 0.1 < best < 0.7


@pytest.mark.parametrize("shape", [(24, 24, 24), (40, 30, 26)])
def test_other_shapes_hold_a_head_too(shape: tuple[int, int, int]) -> None:
    phantom = make_phantom(1, shape)
    assert phantom.images.array.shape == (2, *shape)
    assert 0.15 < (phantom.images.array[0] > 0).mean() < 0.5
    assert phantom.label.array.any()


def test_shape_that_holds_no_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 24.*\(64, 64, 8\)"):
        make_phantom(0, (64, 64, 8))


def test_cohort_is_a_data_set_with_the_regions_of_brats(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "Dataset900_Phantom", 2, 1, shape=SMALL)
    dataset = io.open_dataset(folder)
    assert dataset.channels == CHANNELS
    assert [case.id for case in dataset.training] == ["phantom_000", "phantom_001"]
    assert [case.id for case in dataset.test] == ["unseen_000"]
    assert [(label.name, set(label.values)) for label in dataset.labels.foreground] == [
        ("whole_tumour", {1, 2, 3}),
        ("tumour_core", {1, 3}),
        ("enhancing_tumour", {3}),
    ]
    expected = make_phantom((0, 0, 1), SMALL)
    case = dataset.training[1]
    for channel, path in enumerate(case.images):
        image = io.read(path)
        assert np.array_equal(image.array[0], expected.images.array[channel])
        assert image.geometry.allclose(expected.images.geometry)
    assert case.label is not None
    assert np.array_equal(io.read_label(case.label).array, expected.label.array)
    assert io.read_label(folder / "labelsTs" / "unseen_000.nii.gz").array.any()


def test_regions_painted_in_their_order_give_the_label_map_back(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "cohort", 1, 0, shape=SMALL)
    labels = io.open_dataset(folder).labels
    original = make_phantom((0, 0, 0), SMALL).label.array[0]
    painted = np.zeros_like(original)
    for label, value in zip(labels.foreground, labels.region_order, strict=True):
        painted[np.isin(original, label.values)] = value
    assert np.array_equal(painted, original)


def test_case_does_not_depend_on_the_size_of_the_cohort(tmp_path: Path) -> None:
    small = make_cohort(tmp_path / "a", 1, 1, seed=3, shape=SMALL)
    large = make_cohort(tmp_path / "b", 2, 1, seed=3, shape=SMALL)
    for name in ("imagesTr/phantom_000_0000.nii.gz", "labelsTs/unseen_000.nii.gz"):
        assert np.array_equal(io.read(small / name).array, io.read(large / name).array)


def test_folder_of_a_larger_cohort_is_not_written_into(tmp_path: Path) -> None:
    make_cohort(tmp_path, 2, 0, shape=SMALL)
    with pytest.raises(ValueError, match=r"phantom_001.*empty folder"):
        make_cohort(tmp_path, 1, 0, shape=SMALL)
    make_cohort(tmp_path, 2, 1, shape=SMALL)


def test_cohort_without_training_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one training case, got 0"):
        make_cohort(tmp_path, 0, 3)
