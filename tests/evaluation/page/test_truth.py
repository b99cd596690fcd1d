"""What was done to masks is what the page's table of lesions says: which were lost, and which invented."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medmamba import io
from medmamba.evaluation import page
from medmamba.evaluation.evaluate import evaluate_files
from medmamba.volume import Geometry, Volume
from tests.evaluation.page.factory import Parsed

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "perturb_lesions.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perturb_lesions_for_pages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its data classes look for their module
    spec.loader.exec_module(module)
    return module


def lesions_told(masks: Path, work: Path) -> Counter[tuple[Any, ...]]:
    """What the page says: case, model, kind, volume in ml to four digits, voxel; how often."""
    reports = [
        evaluate_files(work / model, masks, metrics=("dice", "lesion_f1"), name=model)[0] for model in ("mild", "worse")
    ]
    made = Parsed(page.write(reports, work / "page.html", viewer="slices").read_text(encoding="utf-8"))
    data = json.loads(made.scripts["data"])
    return Counter(
        (data["cases"][case], data["models"][model], kind, volume, *voxel)
        for case, _, model, kind, volume, _, voxel in data["lesions"]
    )


def lesions_made(work: Path) -> Counter[tuple[Any, ...]]:
    """What the script did."""
    with (work / "truth.csv").open(newline="") as file:
        return Counter(
            (
                *(row[name] for name in ("case", "model", "kind")),
                float(f"{float(row['volume_ml']):.4g}"),
                *(int(row[name]) for name in "ijk"),
            )
            for row in csv.DictReader(file)
        )


def assert_same(told: Counter[tuple[Any, ...]], made: Counter[tuple[Any, ...]]) -> None:
    """All lesions are the same ones; of voxels that are equally near to a centre, rounding chooses one."""
    pairs = list(zip(sorted((told - made).elements(), key=str), sorted((made - told).elements(), key=str), strict=True))
    assert len(pairs) <= 0.01 * made.total()
    for (*one, i, j, k), (*other, x, y, z) in pairs:
        assert one == other
        assert max(abs(i - x), abs(j - y), abs(k - z)) <= 1


def test_page_tells_every_lesion_that_was_lost_or_invented(script: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(3):
        mask = np.zeros((48, 44, 36), dtype=np.uint8)
        for _ in range(40):
            low, size = rng.integers(0, (44, 40, 32)), rng.integers(1, 5, size=3)
            mask[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = 1
        io.write(Volume(mask[None], Geometry(mask.shape, np.diag([1.0, 1.0, 1.0, 1.0]))), masks / f"c{number}.nii.gz")
    script.perturb_folder(masks, tmp_path)
    told, made = lesions_told(masks, tmp_path), lesions_made(tmp_path)
    assert {kind for _, _, kind, *_ in made} == {"found", "missed", "false"}
    assert_same(told, made)


@pytest.mark.slow
def test_page_tells_every_lesion_of_thirty_patients(script: ModuleType, shared: Path, tmp_path: Path) -> None:
    masks = shared / "data" / "ms_lesions" / "lesion_masks"
    script.perturb_folder(masks, tmp_path)
    assert_same(lesions_told(masks, tmp_path), lesions_made(tmp_path))
