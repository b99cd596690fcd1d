from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from medmamba.plans import intensities
from medmamba.plans.intensities import foreground_samples, statistics


def case(seed: int, *, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.normal(100, 20, (2, 7, 6, 5)).astype(np.float32)
    label = np.zeros((7, 6, 5), dtype=np.int16) if empty else random.integers(0, 3, (7, 6, 5)).astype(np.int16)
    return image, label


def nnunet_samples(image: np.ndarray, label: np.ndarray, samples: int) -> list[np.ndarray]:
    """What nnU-Net draws; it reads arrays with the axes reversed."""
    drawn, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
        label.transpose(2, 1, 0)[None], image.transpose(0, 3, 2, 1), num_samples=samples
    )
    return drawn


@pytest.mark.parametrize("chunk", [1_000_000, 37])
def test_the_draws_are_those_of_nnunet(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(intensities, "_CHUNK", chunk)
    image, label = case(0)
    for ours, theirs in zip(foreground_samples(image, label, 500), nnunet_samples(image, label, 500), strict=True):
        assert ours.drawn == 500
        np.testing.assert_array_equal(np.repeat(ours.values, ours.counts), np.sort(theirs))


def test_statistics_are_those_of_all_draws_together() -> None:
    cases = [case(1), case(2), case(3, empty=True)]
    drawn = np.concatenate([nnunet_samples(*one, 1001)[1] for one in cases])
    found = statistics([foreground_samples(*one, 1001)[1] for one in cases])
    assert found.mean == pytest.approx(drawn.mean(), rel=1e-6)
    assert found.std == pytest.approx(drawn.std(), rel=1e-6)
    assert (found.min, found.max) == (drawn.min(), drawn.max())
    expected = np.percentile(drawn, (0.5, 50, 99.5))
    np.testing.assert_allclose([found.percentile_00_5, found.median, found.percentile_99_5], expected, rtol=1e-6)


def test_one_voxel_is_a_constant() -> None:
    image, label = case(4, empty=True)
    label[1, 2, 3] = 1
    found = statistics([foreground_samples(image, label, 10)[0]])
    assert found.min == found.median == found.max == found.percentile_99_5 == image[0, 1, 2, 3]
    assert found.std == 0


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one foreground voxel"):
        statistics([foreground_samples(*case(5, empty=True), 10)[0]])
