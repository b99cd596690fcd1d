from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from medmamba.io.sizes import largest_voxels


def test_largest_image_counts_and_broken_ones_do_not(tmp_path: Path) -> None:
    files = [tmp_path / f"{size}.nii.gz" for size in (3, 5, 4)]
    for file, size in zip(files, (3, 5, 4), strict=True):
        nibabel.save(nibabel.Nifti1Image(np.zeros((size, size, size), np.uint8), np.eye(4)), file)
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    assert largest_voxels([*files, tmp_path / "broken.nii.gz", tmp_path / "absent.nii.gz"]) == 125
    assert largest_voxels([tmp_path / "broken.nii.gz"]) == 0
    assert largest_voxels([]) == 0


def test_of_many_images_a_few_are_looked_at(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    files = [tmp_path / "a.nii", *[tmp_path / "absent.nii"] * 9999]
    assert largest_voxels(files) == 8
