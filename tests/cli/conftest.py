"""A data set that was planned for, and a training on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.remedies import SMALL, follow, line, run
from tests.data_factory import write_dataset


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Data set, plan, and what planning said; spaces and quotes are in every path."""
    root = tmp_path_factory.mktemp("it's mine")
    data = write_dataset(root / "my data", cases=3)
    code, said = run("plan", data, "--network", "unet", "--work", root / "my work")
    assert code == 0, said
    [plan] = root.glob("my work/*/*/plan.json")
    return data, plan, said


@pytest.fixture(scope="module")
def trained(planned: tuple[Path, Path, str]) -> tuple[Path, str]:
    """Run folder of fold 0, and what training said; the command is the one that planning gave."""
    _, plan, said = planned
    said = follow(line(said, "next "), "--steps", "1", *SMALL)
    return plan.parent / "fold_0", said
