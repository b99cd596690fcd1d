"""A cache of a few small cases."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmamba.case import Case
from tests.data.factory import make_volumes

SHAPES = ((14, 18, 16), (20, 12, 11), (9, 25, 14))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Three cases on disk."""
    made = []
    for number, shape in enumerate(SHAPES):
        image, label = make_volumes(shape=shape, spacing=(1.0, 1.0, 1.0), seed=number)
        paths = [tmp_path / f"case{number}_{kind}.nii.gz" for kind in ("image", "label")]
        for path, volume in zip(paths, (image, label), strict=True):
            nibabel.save(nibabel.Nifti1Image(np.asarray(volume.array[0]), volume.geometry.affine), path)
        made.append(Case(id=f"case{number}", images=(paths[0],), label=paths[1]))
    return made
