"""What the example says that it did is what is in its files, by a computation that shares nothing with it."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from medmamba.errors import DataError
from medmamba.files import OutputError
from medmamba.io import read_label, write
from medmamba.volume import Geometry, Volume

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "perturb_lesions.py"
CORNERS = ndimage.generate_binary_structure(3, 3)
GRID = Geometry((40, 36, 20), np.array([[0, -1.2, 0, 7], [0.9, 0, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1.0]]))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perturb_lesions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its data classes look for their module
    spec.loader.exec_module(module)
    return module


def mask_of_spots(seed: int, count: int) -> np.ndarray:
    """Boxes of 1 to 5 voxels a side, some of which meet, touch at corners, or lie at the border."""
    rng, mask = np.random.default_rng(seed), np.zeros(GRID.shape, dtype=np.uint8)
    for _ in range(count):
        low = rng.integers(0, GRID.shape)
        mask[tuple(slice(a, a + side) for a, side in zip(low, rng.integers(1, 6, size=3), strict=True))] = 4
    return mask


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for case, count in {"few": 6, "many": 45, "one": 1}.items():
        write(Volume(mask_of_spots(count, count)[None], GRID), folder / f"{case}.nii.gz")
    (folder / "notes.txt").write_text("not a mask")
    return folder


@pytest.fixture(scope="module")
def output(script: ModuleType, masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    script.main([str(masks), str(folder), "--seed", "3"])
    return folder


@pytest.fixture(scope="module")
def truth(output: Path) -> list[dict[str, str]]:
    with (output / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


CASES = [(model, case) for model in ("mild", "worse") for case in ("few", "many", "one")]


def lesions_by_overlap(prediction: np.ndarray, reference: np.ndarray) -> set[tuple[str, frozenset[int]]]:
    """Kind and voxels, as flat indices, of each lesion: by dilating components, one after the other."""
    found = set()
    for mask, other, met, unmet in ((reference, prediction, "found", "missed"), (prediction, reference, "", "false")):
        left = mask.copy()
        while left.any():
            seed = np.zeros_like(left)
            seed[np.unravel_index(left.argmax(), left.shape)] = True
            component = ndimage.binary_propagation(seed, structure=CORNERS, mask=left)
            left &= ~component
            if kind := met if (component & other).any() else unmet:
                found.add((kind, frozenset(np.flatnonzero(component).tolist())))
    return found


@pytest.mark.parametrize(("model", "case"), CASES)
def test_truth_is_the_table_of_lesions_by_any_overlap(
    output: Path, masks: Path, truth: list[dict[str, str]], model: str, case: str
) -> None:
    prediction = read_label(output / model / f"{case}.nii.gz").array[0] != 0
    expected = lesions_by_overlap(prediction, read_label(masks / f"{case}.nii.gz").array[0] != 0)
    rows = [row for row in truth if (row["model"], row["case"]) == (model, case)]
    assert len(rows) == len(expected)
    for kind, voxels in expected:
        inside = [
            row
            for row in rows
            if row["kind"] == kind and np.ravel_multi_index([int(row[axis]) for axis in "ijk"], GRID.shape) in voxels
        ]
        assert [int(row["voxels"]) for row in inside] == [len(voxels)]
        assert float(inside[0]["volume_ml"]) == pytest.approx(len(voxels) * 1.2 * 0.9 * 2.5 / 1000, abs=1e-6)


@pytest.mark.parametrize(("model", "case"), CASES)
def test_no_part_of_a_copy_touches_two_lesions(output: Path, masks: Path, model: str, case: str) -> None:
    lesions, _ = ndimage.label(read_label(masks / f"{case}.nii.gz").array[0], structure=CORNERS)
    copy = read_label(output / model / f"{case}.nii.gz").array[0]
    parts, count = ndimage.label(copy, structure=CORNERS)
    for part in range(1, count + 1):
        inside = parts == part
        near = set(np.unique(lesions[ndimage.binary_dilation(inside, structure=CORNERS)])) - {0}
        assert len(near) <= 1
        assert near <= set(np.unique(lesions[inside])), "an invented lesion touches a lesion"


def test_every_deed_is_done(truth: list[dict[str, str]]) -> None:
    assert {row["done"] for row in truth} == {"kept", "eroded", "shifted", "lost", "invented"}


def test_a_shifted_lesion_lies_where_the_truth_says(output: Path, masks: Path, truth: list[dict[str, str]]) -> None:
    for row in (row for row in truth if row["done"] == "shifted"):
        lesions, _ = ndimage.label(read_label(masks / f"{row['case']}.nii.gz").array[0], structure=CORNERS)
        copy = read_label(output / row["model"] / f"{row['case']}.nii.gz").array[0]
        voxels = np.argwhere(lesions == lesions[tuple(int(row[axis]) for axis in "ijk")])
        moved = voxels + [int(step) for step in row["shift"].split()]
        parts, _ = ndimage.label(copy, structure=CORNERS)
        assert np.array_equal(np.argwhere(parts == parts[tuple(moved[0])]), moved)


def test_worse_model_misses_and_invents_more(truth: list[dict[str, str]]) -> None:
    count = {
        (model, kind): sum(row["model"] == model and row["kind"] == kind for row in truth)
        for model in ("mild", "worse")
        for kind in ("missed", "false")
    }
    assert count["worse", "missed"] > count["mild", "missed"] > 0
    assert count["worse", "false"] > count["mild", "false"] > 0


def test_copies_keep_grid_label_and_name(output: Path, masks: Path) -> None:
    for model in ("mild", "worse"):
        assert {path.name for path in (output / model).iterdir()} == {f"{case}.nii.gz" for _, case in CASES}
        copy = read_label(output / model / "many.nii.gz")
        assert copy.geometry == read_label(masks / "many.nii.gz").geometry
        assert np.unique(copy.array).tolist() == [0, 4]


def test_same_seed_makes_the_same_copy_without_the_other_masks(
    script: ModuleType, output: Path, masks: Path, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "many.nii.gz").write_bytes((masks / "many.nii.gz").read_bytes())
    script.perturb_folder(tmp_path / "masks", tmp_path / "again", seed=3)
    script.perturb_folder(tmp_path / "masks", tmp_path / "other", seed=4)
    for model in ("mild", "worse"):
        first, again, other = (
            read_label(folder / model / "many.nii.gz").array
            for folder in (output, tmp_path / "again", tmp_path / "other")
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_copy_of_an_empty_mask_has_invented_lesions_alone(script: ModuleType) -> None:
    empty = Volume(np.zeros((1, *GRID.shape), dtype=np.uint8), GRID)
    copy, deeds = script.perturb(empty, script.MODELS["worse"], np.random.default_rng(1))
    assert {deed.done for deed in deeds} == {"invented"}
    assert np.unique(copy.array).tolist() == [0, 1]


def test_mask_of_several_labels_is_refused(script: ModuleType) -> None:
    mask = np.zeros((1, *GRID.shape), dtype=np.uint8)
    mask[0, :2, 0, 0] = 1, 2
    with pytest.raises(DataError, match="one label, got values"):
        script.perturb(Volume(mask, GRID), script.MODELS["mild"], np.random.default_rng(0))


def test_folder_of_the_masks_is_not_written_into(script: ModuleType, masks: Path) -> None:
    with pytest.raises(OutputError, match="lies in"):
        script.perturb_folder(masks, masks)
    assert not (masks / "mild").exists()


def test_folder_without_masks_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        script.perturb_folder(tmp_path, tmp_path / "output")
