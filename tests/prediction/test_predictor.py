"""Segmentations lie where the images lie, whatever happens to single cases."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medmamba import io
from medmamba.case import Case, Split
from medmamba.errors import UsageError
from medmamba.io.manifest import MANIFEST
from medmamba.plans.plan import NetworkPlan, Plan
from medmamba.prediction.predictor import Predictor, predict_cases
from medmamba.tasks.segmentation import Segmentation, build_network
from medmamba.training import fold
from medmamba.training.run import Position, Run, RunError, RunInfo, Schedule, versions
from tests.data.factory import channel, make_plan
from tests.data_factory import make_case

CPU = torch.device("cpu")
OBLIQUE = np.array([[-0.9, 0.2, 0.1, 12], [0.15, -1.1, 0.2, 7], [0.1, 0.1, 1.4, -3], [0, 0, 0, 1]])


class Threshold(nn.Module):
    """Knows the answer to `make_case`: logits of three classes from the intensity; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat([150 - x, 50 - (x - 200).abs(), x - 250], dim=1)


def plan(patch: tuple[int, ...] = (8, 12, 10), **settings: object) -> Plan:
    """Spacing and intensities as `make_case` has them."""
    spacing = (1.5, 1.0, 1.0)[-len(patch) :]
    return make_plan(patch=patch, spacing=spacing, channels=(channel("none"),), **settings)


def info() -> RunInfo:
    """Of a run of a step."""
    return RunInfo(
        fold="0",
        split=Split(train=("a",), validation=("b",)),
        schedule=Schedule(steps=1),
        precision="fp32",
        overrides={},
        versions=versions(),
    )


@pytest.fixture
def write_case(tmp_path: Path) -> Callable[..., Case]:
    """Write an image of `make_case`."""

    def write(seed: int = 0, affine: np.ndarray | None = None) -> Case:
        image, _ = make_case(seed)
        path = tmp_path / "images" / f"case_{seed}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        if affine is None:
            io.write(image, path)
        else:
            header = nibabel.Nifti1Header()
            header.set_sform(affine, code=2)
            header.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), code=4)
            nibabel.save(nibabel.Nifti1Image(image.array[0], None, header), path)
        return Case(id=f"case_{seed}", images=(path,))

    return write


@pytest.mark.parametrize("patch", [(8, 12, 10), (32, 24, 24), (12, 10)], ids=["windows", "larger-than-image", "slices"])
def test_known_answer_is_found_through_windows_flips_and_folds(
    write_case: Callable[..., Case], patch: tuple[int, ...]
) -> None:
    predictor = Predictor(plan(patch), [Threshold(), Threshold()], CPU)
    assert len(predictor.flips) == 2 ** len(patch)
    _, label = make_case(3)
    predicted = predictor(write_case(3))
    assert predicted.geometry.allclose(label.geometry)
    agreement = (predicted.array == label.array).mean()
    assert agreement > 0.99


def test_flips_are_undone() -> None:
    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.expand(-1, 3, *x.shape[2:]) * 1.0

    image = torch.randn(1, 8, 12, 10)
    logits = Predictor(plan(), [Ramp()], CPU).logits(image)
    torch.testing.assert_close(logits, image.expand(3, -1, -1, -1))


def test_segmentation_keeps_every_bit_of_the_geometry(write_case: Callable[..., Case], tmp_path: Path) -> None:
    case = write_case(1, OBLIQUE)
    outcomes = predict_cases([case], Predictor(plan(), [Threshold()], CPU, mirror=False), tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["done"]
    image, segmentation = (nibabel.load(path).header for path in (case.images[0], tmp_path / "out" / "case_1.nii.gz"))
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert image[field].tobytes() == segmentation[field].tobytes(), field
    assert image["pixdim"].tobytes() == segmentation["pixdim"].tobytes()
    assert segmentation.get_data_dtype() == np.uint8


def test_finished_cases_are_skipped_and_half_written_ones_done_again(
    write_case: Callable[..., Case], tmp_path: Path
) -> None:
    cases = [write_case(seed) for seed in range(3)]
    out = tmp_path / "out"
    network = Threshold()
    predictor = Predictor(plan(), [network], CPU, mirror=False)
    predict_cases(cases, predictor, out)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "case_1.nii.gz").write_bytes(whole["case_1.nii.gz"][:-20])
    (out / "case_2.nii.gz").unlink()
    statuses = [outcome.status for outcome in predict_cases(cases, predictor, out)]
    assert statuses == ["skipped", "done", "done"]
    del whole[MANIFEST]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != MANIFEST} == whole
    calls = network.calls
    assert [o.status for o in predict_cases(cases, predictor, out)] == ["skipped"] * 3
    assert network.calls == calls
    assert [o.status for o in predict_cases(cases, predictor, out, overwrite=True)] == ["done"] * 3


def test_broken_case_does_not_stop_the_others(write_case: Callable[..., Case], tmp_path: Path) -> None:
    cases = [write_case(seed) for seed in range(3)]
    cases[1].images[0].write_bytes(b"<html>")
    outcomes = predict_cases(cases, Predictor(plan(), [Threshold()], CPU, mirror=False), tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert "case_1.nii.gz" in outcomes[1].message
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".lock", "case_0.nii.gz", "case_2.nii.gz", MANIFEST]


def test_manifest_names_all_cases_ever_asked_for(write_case: Callable[..., Case], tmp_path: Path) -> None:
    predictor = Predictor(plan(), [Threshold()], CPU, mirror=False)
    predict_cases([write_case(0)], predictor, tmp_path / "out")
    predict_cases([write_case(1)], predictor, tmp_path / "out")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["cases"] == ["case_0", "case_1"]


def test_wrong_number_of_channels_is_refused(write_case: Callable[..., Case]) -> None:
    case = write_case(0)
    double = replace(case, images=(*case.images, *case.images))
    with pytest.raises(ValueError, match="2 channels, the model was trained with 1"):
        Predictor(plan(), [Threshold()], CPU)(double)


def test_runs_of_different_plans_cannot_be_averaged(tmp_path: Path) -> None:
    runs = []
    for number, spacing in enumerate(((1.0, 1.0, 1.0), (2.0, 1.0, 1.0))):
        run_plan = replace(make_plan(spacing=spacing), network=NetworkPlan(name="unet"))
        run = Run.create(tmp_path / str(number), run_plan, info())
        with pytest.raises(RunError, match="no final or best or checkpoint weights"):
            Predictor.from_runs([run], CPU)
        torch.manual_seed(0)
        run.save_weights("final", build_network(run_plan).state_dict(), Position())
        runs.append(run)
    assert len(Predictor.from_runs(runs[:1], CPU).members) == 1
    with pytest.raises(RunError, match="cannot be averaged"):
        Predictor.from_runs(runs, CPU)


def test_model_of_a_task_without_label_maps_is_refused_by_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        """A task of its own, see `medmamba.tasks.PlannedTask`."""

    monkeypatch.setitem(fold.TASKS, "video", Other)
    video = replace(plan((12, 10)), network=NetworkPlan(name="vivim"))
    run = Run.create(tmp_path / "run", video, info())
    for make in (lambda: Predictor.from_runs([run], CPU), lambda: Predictor(video, [Threshold()], CPU)):
        with pytest.raises(UsageError, match=r"'vivim' is for video, and .* is for segmentation"):
            make()


def test_task_makes_the_network_and_brings_its_answer_back(
    write_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network(Threshold):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(1, 1)

    class Video(Segmentation):
        def network(self) -> nn.Module:
            return Network()

        def restore(self, output: Any, trail: Any) -> Any:
            return super().restore(output, trail) + 40

    monkeypatch.setitem(fold.TASKS, "segmentation", Video)
    run = Run.create(tmp_path / "run", plan((12, 10)), info())
    run.save_weights("final", Network().state_dict(), Position())
    predictor = Predictor.from_runs([run], CPU, mirror=False)
    assert np.unique(predictor(write_case(3)).array).tolist() == [40, 41, 42]


def test_scan_that_needs_too_much_memory_fails_alone_and_says_how_much(
    write_case: Callable[..., Case], tmp_path: Path
) -> None:
    cases = [write_case(0), write_case(1, np.diag([1000.0, 1000.0, 1.5, 1.0])), write_case(2)]
    out = tmp_path / "out"
    outcomes = predict_cases(cases, Predictor(plan(), [Threshold()], CPU, mirror=False), out)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    for words in ("16 x 18 x 20 voxels of 1.5 x 1000 x 1000 mm", "GB of memory", "are free", "voxel size"):
        assert words in outcomes[1].message
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["case_0.nii.gz", "case_2.nii.gz"]


def test_answer_that_would_not_fit_is_foreseen(
    write_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Threshold()
    monkeypatch.setattr("medmamba.memory.available_bytes", lambda: 200_000.0)
    with pytest.raises(MemoryError, match=r"into 3 classes needs .*, 0\.0002 GB are free"):
        Predictor(plan(), [network], CPU)(write_case(0))
    assert network.calls == 0


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 9 GiB"), torch.OutOfMemoryError("out of memory, 9 GiB"), MemoryError()],
    ids=["numpy", "torch", "python"],
)
def test_memory_that_runs_out_fails_the_case_and_not_the_batch(
    error: Exception, write_case: Callable[..., Case], tmp_path: Path
) -> None:
    class Greedy(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            answer = super().forward(x)
            if self.calls == 1:
                raise error
            return answer

    predictor = Predictor(plan((32, 24, 24)), [Greedy()], CPU, mirror=False)
    predictor._windows = lambda image: predictor._sliding_window(image, CPU)  # type: ignore[method-assign]
    outcomes = predict_cases([write_case(0), write_case(1)], predictor, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert (str(error) or "not enough memory") in outcomes[0].message


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), ValueError("a mistake")], ids=repr)
def test_mistake_in_the_network_is_no_failed_case(
    error: Exception, write_case: Callable[..., Case], tmp_path: Path
) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(type(error), match="a mistake"):
        predict_cases([write_case(0)], Predictor(plan(), [Wrong()], CPU), tmp_path / "out")


def test_full_disk_ends_the_batch_and_the_next_call_goes_on(
    write_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, out = [write_case(seed) for seed in range(3)], tmp_path / "out"
    predictor = Predictor(plan(), [Threshold()], CPU, mirror=False)
    write = io.write

    def full_at_case_1(volume: object, path: Path, **options: object) -> None:
        if path.name == "case_1.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(volume, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("medmamba.prediction.folder.io.write", full_at_case_1)
    with pytest.raises(OSError, match="No space left"):
        predict_cases(cases, predictor, out)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "case_0.nii.gz", MANIFEST]
    monkeypatch.undo()
    assert [outcome.status for outcome in predict_cases(cases, predictor, out)] == ["skipped", "done", "done"]
