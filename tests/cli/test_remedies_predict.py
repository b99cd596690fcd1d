"""What predicting tells to do next, and to do about an error, is done here as it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from medmamba import io
from medmamba.training.run import Run
from tests.cli.remedies import follow, line, one_image, run
from tests.data_factory import make_case
from tests.umamba_factory import Model, write_model


def test_next_of_planning_trains_and_its_next_predicts_and_scores(
    trained: tuple[Path, str], planned: tuple[Path, Path, str]
) -> None:
    said = follow(line(trained[1], "Next:"))
    report = json.loads((trained[0] / "predictions" / "report.json").read_text())
    held_out = Run(trained[0]).info.split.held_out
    assert [case["id"] for case in report["cases"]] == list(held_out)
    assert report["counts"] == {"scored": len(held_out), "failed": 0, "skipped": 0}
    assert "references are of cases that `medmamba predict` was not asked for" in said


def test_case_to_validate_on_that_is_gone_is_told(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = trained[0]
    data = Path(Run(folder).plan.dataset_root)
    [gone] = Run(folder).info.split.held_out
    label = data / "labelsTr" / f"{gone}.nii.gz"
    image = data / "imagesTr" / f"{gone}_0000.nii.gz"
    image.rename(tmp_path / image.name)
    try:
        code, said = run("predict", "--validation", "-m", folder, "-o", tmp_path / "out")
    finally:
        (tmp_path / image.name).rename(image)
    assert label.is_file()
    assert code == 3
    assert f"no longer has 1 of the cases that {folder} is to be judged on: {gone}" in said


def test_damaged_weights_leave_the_others_that_are_named(trained: tuple[Path, str], tmp_path: Path) -> None:
    path = trained[0] / "final.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    arguments = ("predict", "-i", one_image(tmp_path), "-o", tmp_path / "out", "-m", trained[0], "--no-mirror")
    try:
        code, said = run(*arguments)
    finally:
        path.write_bytes(whole)
    assert (code, "final.safetensors is damaged" in said) == (3, True), said
    names = re.search(r"predict with others, (--weights) (.+)$", said)
    assert names is not None, said
    for name in names[2].split(" or "):
        assert run(*arguments, "--overwrite", names[1], name)[0] == 0


def test_imported_model_predicts_by_its_next_line(tmp_path: Path) -> None:
    model = Model(
        patch=(24, 24, 24),
        spacing=(1.5, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        channels=("MR",),
        schemes=("ZScoreNormalization",),
        use_mask=(False,),
        mirror_axes=(),
    )
    write_model(tmp_path / "theirs", model)
    importing = ("model", "import", "--from", "umamba", tmp_path / "theirs", "-o", tmp_path / "it's ours")
    code, said = run(*importing)
    assert code == 0, said
    follow(line(said, "Next:"), IMAGES=one_image(tmp_path), SEGMENTATIONS=tmp_path / "out")
    code, said = run(*importing)
    assert (code, "replace it with --overwrite" in said) == (2, True)
    assert run(*importing, "--overwrite")[0] == 0


def test_channels_of_images_are_given_as_told(tmp_path: Path) -> None:
    image, _ = make_case(0)
    io.write(image, tmp_path / "a_0000.nii.gz")
    with pytest.raises(ValueError, match="files that end in _0000 to _0001 or one file with all of them"):
        io.find_inputs(tmp_path, 2)
    io.write(image.with_array(image.array * 2), tmp_path / "a_0001.nii.gz")
    io.write(image.with_array(np.concatenate([image.array, image.array * 2])), tmp_path / "b.nii.gz")
    cases = io.find_inputs(tmp_path, 2)
    assert [io.read_case(case).channels for case in cases] == [2, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_named_work(trained: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ("predict", "-i", one_image(tmp_path), "-o", tmp_path / "out", "-m", trained[0], "--no-mirror")
    code, said = run(*arguments, "--device", "cuda")
    assert code == 4
    named = re.search(r"use (--device) (\w+) or (\w+)", said)
    assert named is not None, said
    for name in named.groups()[1:]:
        assert run(*arguments, named[1], name)[0] == 0
