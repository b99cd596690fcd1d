from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medmamba.engines import Processes
from medmamba.plans import fingerprint as module
from medmamba.plans.fingerprint import Fingerprint, case_signature, fingerprint


def phantom(shape: tuple[int, int, int] = (12, 10, 8), channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A bright box with a labelled core, in a field of zeros."""
    image, label = np.zeros((channels, *shape)), np.zeros(shape)
    image[:, 2:9, 1:8, 3:7] = np.arange(1, 7 * 7 * 4 + 1).reshape(7, 7, 4)
    label[4:6, 3:5, 4:6] = 1
    return image, label


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOREGROUND_SAMPLES", 10_000)


def test_shapes_spacings_and_labels_are_measured_in_array_order(scans: Any) -> None:
    scans.add(*phantom(), spacing_mm=(0.5, 2.0, 3.0))
    found = fingerprint(scans.dataset())
    (case,) = found.cases
    assert (case.shape, case.cropped_shape) == ((12, 10, 8), (7, 7, 4))
    assert case.spacing_mm == pytest.approx((0.5, 2.0, 3.0))
    assert case.label_voxels == {"0": 12 * 10 * 8 - 8, "1": 8}
    assert found.median_relative_size == pytest.approx(7 * 7 * 4 / (12 * 10 * 8))


def test_intensities_are_those_of_the_foreground_in_each_channel(scans: Any) -> None:
    image, label = phantom(channels=2)
    image[1] *= -10
    scans.add(image, label)
    first, second = fingerprint(scans.dataset(("T1", "T2"))).intensities
    inside = image[0][label > 0]
    assert (first.min, first.max) == (inside.min(), inside.max())
    assert first.mean == pytest.approx(inside.mean(), rel=0.02)
    assert (second.min, second.max) == (-10 * inside.max(), -10 * inside.min())


def test_cases_keep_their_order_also_in_processes(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (12, 13, 14, 15, 16):
        scans.add(*phantom((size, 10, 8)))
    one = fingerprint(scans.dataset(), workers=1)
    monkeypatch.setattr(module, "suited", lambda *_, **__: Processes(2))
    assert fingerprint(scans.dataset()) == one
    assert [case.shape[0] for case in one.cases] == [12, 13, 14, 15, 16]


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 3), (0, 70_000), (-1, 0, 2)])
def test_label_values_are_counted_however_large_or_wrong(values: tuple[int, ...]) -> None:
    label = np.repeat(values, 12).reshape(3, -1, 4)
    assert module._label_voxels(label) == {str(value): 12 for value in values}


def test_a_case_without_foreground_is_measured_too(scans: Any) -> None:
    image, label = phantom()
    scans.add(image, label)
    scans.add(image, np.zeros_like(label))
    found = fingerprint(scans.dataset())
    assert found.cases[1].label_voxels == {"0": label.size}


def test_progress_counts_the_cases(scans: Any) -> None:
    for _ in range(3):
        scans.add(*phantom())
    seen = []

    def progress(items: Any, *, title: str, total: int) -> Any:
        for item in items:
            seen.append((title, total))
            yield item

    fingerprint(scans.dataset(), progress)
    assert seen == [("Measuring cases", 3)] * 3


def test_the_box_holds_what_is_not_zero_in_any_channel(scans: Any) -> None:
    image, label = np.zeros((2, 6, 6, 6)), np.zeros((6, 6, 6))
    image[0, 1, 2, 3] = -1
    image[1, 4, 2, 5] = 7
    label[1, 2, 3] = 1
    scans.add(image, label)
    scans.add(np.zeros((2, 3, 4, 5)), np.zeros((3, 4, 5)))
    assert [case.cropped_shape for case in fingerprint(scans.dataset(("T1", "T2"))).cases] == [(4, 1, 3), (3, 4, 5)]


def test_reading_what_was_written_gives_the_same(scans: Any, tmp_path: Path) -> None:
    scans.add(*phantom())
    found = fingerprint(scans.dataset())
    found.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == found


def test_it_describes_the_data_until_a_file_changes(scans: Any) -> None:
    for _ in range(2):
        scans.add(*phantom())
    dataset = scans.dataset()
    found = fingerprint(dataset)
    assert found.describes(dataset)
    assert not found.describes(replace(dataset, training=dataset.training[:1]))
    assert not found.describes(replace(dataset, channels=("CT",)))
    label = dataset.training[1].label
    status = label.stat()
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not found.describes(dataset)


def test_the_signature_does_not_depend_on_the_folder(scans: Any, tmp_path: Path) -> None:
    case = scans.add(*phantom())
    before = case_signature(case)
    moved = scans.root.rename(tmp_path / "elsewhere")
    there = replace(case, images=tuple(moved / path.name for path in case.images), label=moved / case.label.name)
    assert case_signature(there) == before


def test_a_missing_file_is_named(scans: Any) -> None:
    case = scans.add(*phantom())
    case.images[0].unlink()
    label = scans.add(*phantom()).label
    label.unlink()
    with pytest.raises(FileNotFoundError, match=rf"2 files .*case_000_0000\.nii\.gz, {label}; restore"):
        fingerprint(scans.dataset())


def test_no_cases_and_no_foreground_are_refused(scans: Any) -> None:
    with pytest.raises(ValueError, match="no training cases"):
        fingerprint(scans.dataset())
    image, label = phantom()
    scans.add(image, np.zeros_like(label))
    with pytest.raises(ValueError, match=r"no case of .* has a voxel labelled as foreground"):
        fingerprint(scans.dataset())


def test_a_case_without_label_file_is_refused(scans: Any) -> None:
    case = scans.add(*phantom())
    with pytest.raises(ValueError, match="case_000: it has no label file"):
        fingerprint(replace(scans.dataset(), training=(replace(case, label=None),)))


def test_broken_voxels_are_refused_with_their_number(scans: Any) -> None:
    image, label = phantom()
    image[0, 0, 0, :2] = np.nan, np.inf
    scans.add(image, label)
    with pytest.raises(
        ValueError, match=r"case_000: channel 'MRI': 2 of \d+ intensities \(0\.21 %\) are NaN or infinite"
    ):
        fingerprint(scans.dataset())


def test_labels_on_another_grid_are_refused(scans: Any) -> None:
    scans.add(*phantom(), spacing_mm=(2.0, 1.0, 1.0), shift_mm=0.4)
    fingerprint(scans.dataset())
    scans.add(*phantom(), spacing_mm=(2.0, 1.0, 1.0), shift_mm=0.6)
    with pytest.raises(
        ValueError, match=r"case_001: image and label are not on the same grid: origin shifted by 0\.6 mm"
    ):
        fingerprint(scans.dataset())


def test_a_wrong_number_of_channels_is_refused(scans: Any) -> None:
    scans.add(*phantom())
    with pytest.raises(ValueError, match=r"1 channels?, .*2"):
        fingerprint(scans.dataset(("T1", "T2")))


def test_voxel_sizes_that_are_read_otherwise_now_are_measured_again(scans: Any) -> None:
    case = scans.add(*phantom(), spacing_mm=(500.0, 500.0, 500.0))
    for path in (*case.images, case.label):
        image = nibabel.load(path)
        image.header.set_xyzt_units("micron")
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    found = fingerprint(scans.dataset())
    assert found.cases[0].spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    assert found.describes(scans.dataset())
    earlier = replace(found, cases=(replace(found.cases[0], spacing_mm=(500.0, 500.0, 500.0)),))
    assert not earlier.describes(scans.dataset())
