from __future__ import annotations

from pathlib import Path

import numpy as np

from medmamba import io
from medmamba.case import Pairing
from medmamba.io.check import check_pairs
from medmamba.volume import Geometry, Volume


def image(
    path: Path, *, shape: tuple[int, ...] = (1, 6, 6, 6), shift: float = 0.0, flip: bool = False, seed: int = 0
) -> Path:
    affine = np.diag([-1.0 if flip else 1.0, 1, 1, 1])
    affine[0, 3] = shift
    array = np.random.default_rng(seed).random(shape, dtype=np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(Volume(array, Geometry(shape[1:], affine)), path)  # type: ignore[arg-type]  # three
    return path


def label(path: Path, values: tuple[int, ...], size: int = 6) -> Path:
    array = np.zeros((1, size, 6, 6), np.uint8)
    for row, value in enumerate(values):
        array[0, row] = value
    io.write(Volume(array, Geometry((size, 6, 6), np.eye(4))), path)
    return path


def rules(path: Path, pairing: Pairing | None = None) -> list[tuple[str, str, str | None]]:
    return [(each.severity, each.rule, each.case) for each in check_pairs(path, pairing, workers=1)]


def test_good_pairs_have_no_findings(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        image(tmp_path / f"{name}_t1.nii.gz", seed=seed)
        label(tmp_path / f"{name}_labels.nii.gz", (1, 2))
    assert rules(tmp_path) == []


def test_all_that_is_wrong_with_pairs_is_told_at_once(tmp_path: Path) -> None:
    image(tmp_path / "fixed.nii.gz")
    image(tmp_path / "far.nii.gz", shift=100.0, seed=1)
    image(tmp_path / "mirrored.nii.gz", flip=True, shift=5.0, seed=2)
    image(tmp_path / "same.nii.gz")
    image(tmp_path / "slice.nii.gz", shape=(1, 6, 6, 1), seed=3)
    image(tmp_path / "time.nii.gz", shape=(4, 6, 6, 6), seed=4)
    label(tmp_path / "one.nii.gz", (1, 2))
    label(tmp_path / "other.nii.gz", (1, 3))
    label(tmp_path / "long.nii.gz", (1, 2), size=7)
    (tmp_path / "pairs.csv").write_text(
        "id,fixed,moving,fixed_label,moving_label\n"
        "a,fixed.nii.gz,far.nii.gz,one.nii.gz,\n"
        "b,fixed.nii.gz,mirrored.nii.gz,,\n"
        "c,fixed.nii.gz,same.nii.gz,,other.nii.gz\n"
        "d,fixed.nii.gz,slice.nii.gz,,\n"
        "e,fixed.nii.gz,time.nii.gz,,long.nii.gz\n"
        "f,fixed.nii.gz,gone.nii.gz,,\n"
    )
    found = rules(tmp_path / "pairs.csv")
    expected = {
        ("error", "pairs", None),
        ("error", "one-slice", "slice"),
        ("error", "channels", "time"),
        ("error", "misaligned", "time"),
        ("warning", "no-overlap", "a"),
        ("note", "handedness", "b"),
        ("warning", "same-image", "c"),
        ("note", "label-sets", "c"),
    }
    assert expected <= set(found)


def test_folders_without_images_are_an_error_and_images_without_a_partner_a_warning(tmp_path: Path) -> None:
    assert ("error", "pairs", None) in rules(tmp_path)
    for seed, name in enumerate(("ct/a", "ct/b", "mr/b", "mr/c")):
        image(tmp_path / f"{name}.nii.gz", seed=seed)
    assert rules(tmp_path / "ct", Pairing(moving="../mr")) == [("warning", "unmatched", None)] * 2
    assert rules(tmp_path / "nowhere") == [("error", "layout", None)]
