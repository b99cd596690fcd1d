from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.factory import ball, save


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of cases a, b and c, each prediction one voxel off."""
    for name in "abc":
        save(ball(), tmp_path / "references" / f"{name}.nii.gz")
        save(ball(shift=1), tmp_path / "predictions" / f"{name}.nii.gz")
    return tmp_path / "predictions", tmp_path / "references"
