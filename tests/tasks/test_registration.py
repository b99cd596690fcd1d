from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medmamba.case import Pair
from medmamba.data.pair_batches import PairSampler
from medmamba.data.pairs import PairRecord
from medmamba.io import open_pairs
from medmamba.networks import Registration
from medmamba.plans.plan import Plan
from medmamba.plans.splits import split
from medmamba.plans.workspace import plan_dataset
from medmamba.records import from_json, read_json
from medmamba.tasks import Part
from medmamba.tasks.registration import PairTrail, RegistrationTask
from medmamba.training.fold import FoldRequest, train_fold
from medmamba.training.run import Run, Schedule
from medmamba.transform import Transform
from medmamba.volume import Geometry
from medmamba.warp import jacobian_determinant, warp
from tests.pairs_factory import write_modalities, write_shifted, write_subjects

SMALL = {
    "topology.features": [4, 4, 8],
    "network.options.feature_width": 4,
    "train.learning_rate": 1e-2,
    "registration.affine": "centres",
    "registration.smoothness_weight": 0.1,
}


@cache
def nobody(nap_s: float = 0.0) -> Any:
    quiet = lambda *_: None  # noqa: E731
    return SimpleNamespace(on_start=quiet, on_step=lambda _: time.sleep(nap_s), on_epoch=quiet)


def planned(source: Path, work: Path, **changes: Any) -> Plan:
    plan = plan_dataset(open_pairs(source), "mambamorph", work=work).plan
    for key, value in {**SMALL, **changes}.items():
        plan = plan.override(key, value)
    return plan


def train(source: Path, work: Path, plan: Plan, steps: int, nap_s: float = 0.0, fold: str = "0") -> Run:
    request = FoldRequest(
        plan=plan,
        dataset=open_pairs(source),
        prepared=work / "prepared",
        folder=work / f"fold_{fold}",
        fold=fold,
        schedule=Schedule(steps=steps),
        device=torch.device("cpu"),
        precision="fp32",
        workers=0,
    )
    return train_fold(request, nobody(nap_s))


def epochs(run: Run) -> list[dict[str, Any]]:
    return [record for record in run.read_log() if record["event"] == "epoch"]


def test_pairs_that_were_never_seen_overlap_better_after_a_short_training(tmp_path: Path) -> None:
    source = write_shifted(tmp_path / "pairs", 5, shift=2.0)
    plan = planned(source, tmp_path / "work", **{"registration.affine": "none", "train.mirror_axes": []})
    run = train(source, tmp_path / "work", plan, 25)
    last = epochs(run)[-1]
    assert run.finished
    assert not set(run.info.split.train) & set(run.info.split.validation)
    for structure, before in last["before"].items():
        assert last["dice"][structure] > before + 0.1
    assert last["folding_percent"]["all"] < 1
    assert last["displacement_mm"]["all"] > 0.2
    assert {"similarity", "smoothness", "dice"} == run.read_log()[0]["parts"].keys()


def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    source = write_subjects(tmp_path / "brains", 4)
    plan = planned(source, tmp_path / "work")
    train(source, tmp_path / "whole", plan, 10)
    broken, root = tmp_path / "broken", Path(__file__).resolve().parents[2]
    plan.save(tmp_path / "plan.json")
    code = (
        f"import sys; sys.path.append({str(root)!r})\n"
        "from tests.tasks.test_registration import Path, Plan, train\n"
        f"train(*map(Path, {[str(source), str(broken)]!r}), Plan.load(Path({str(tmp_path / 'plan.json')!r})), 10, 0.1)"
    )
    child = subprocess.Popen([sys.executable, "-P", "-c", code])
    log = broken / "fold_0" / "log.jsonl"
    while not log.is_file() or log.read_bytes().count(b'"step"') < 4:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    train(source, broken, plan, 10)
    ours, theirs = (load_file(folder / "fold_0" / "final.safetensors") for folder in (broken, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_pairs_of_two_modalities_without_labels_learn_by_similarity(tmp_path: Path) -> None:
    source = write_modalities(tmp_path / "pairs", 4)
    plan = planned(source, tmp_path / "work")
    assert plan.registration is not None
    assert (plan.registration.similarity, plan.registration.reference) == ("mind", "")
    assert [channel.normalization for channel in plan.channels] == ["window", "percentiles"]
    last = epochs(train(source, tmp_path / "work", plan, 2))[-1]
    assert 0 < last["similarity"]["all"] < 0.3
    (folder,) = (tmp_path / "work" / "prepared").iterdir()
    records = [from_json(PairRecord, read_json(path), "record") for path in sorted(folder.glob("*.json"))]
    shifts = [record.aligned[1][0][3] for record in records]  # brought together where the headers lie
    np.testing.assert_allclose(shifts, 6.0, atol=1.0)


def registration_task(tmp_path: Path, **changes: Any) -> RegistrationTask:
    source = write_subjects(tmp_path / "brains", 3)
    dataset = open_pairs(source)
    plan = planned(source, tmp_path / "work", **changes)
    reference = next(case for case in dataset.training if plan.registration and case.id == plan.registration.reference)
    cache = RegistrationTask.prepare(
        dataset.training, plan, tmp_path / "prepared", progress=lambda items, **_: iter(items), workers=0,
        pairs=dataset.pairs, reference=reference,
    )  # fmt: skip
    return RegistrationTask(plan, cache, split(dataset, "all"))


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    task = registration_task(tmp_path)
    first, later = list(islice(task.batches("train", 0), 4)), next(task.batches("train", 3))
    assert torch.equal(first[3].moving, later.moving)
    assert torch.equal(first[3].fixed_label, later.fixed_label)
    assert not torch.equal(first[0].moving, first[3].moving)
    assert first[0].moving.shape == (1, 1, *task.plan.topology.patch_size)
    judged = [next(task.batches("validation", step)) for step in (0, 6)]  # of six pairs
    assert torch.equal(judged[0].fixed, judged[1].fixed)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_made_up_fields_lead_from_the_fixed_image_to_the_moving_one(tmp_path: Path, part: Part) -> None:
    """Of pairs of an image with itself, so that the field that is told explains all that differs."""
    task = registration_task(tmp_path, **{"registration.synthetic_mm": 12.0})
    assert task.cache is not None
    itself = [Pair(id=pair.id, fixed=pair.fixed, moving=pair.fixed) for pair in task.cache.pairs]
    sampler = PairSampler(
        task.cache, itself, replace(task.plan, train=replace(task.plan.train, mirror_axes=())), vary=False
    )
    lengths, wrong = [], np.zeros(3)
    for batch in islice(sampler.stream(0), 6):
        assert batch.truth is not None
        assert batch.fixed_label is not None
        assert batch.moving_label is not None
        there, still, away = (
            float((warp(batch.moving_label[:, None].float(), way, "nearest")[:, 0] != batch.fixed_label).float().mean())
            for way in (batch.truth, 0 * batch.truth, -batch.truth)
        )
        lengths.append(float((batch.truth[0].movedim(0, -1) * torch.tensor(task.plan.spacing_mm)).norm(dim=-1).max()))
        wrong += np.array([there, still, away])
        assert jacobian_determinant(batch.truth).min() > 0
    assert wrong[0] < 0.3 * wrong[1] < 0.3 * wrong[2]
    assert 4 < max(lengths) <= 13
    assert max(lengths) - min(lengths) > 3
    batches = [next(task.batches(part, 1)) for _ in range(2)]
    assert torch.equal(batches[0].truth, batches[1].truth)
    assert torch.equal(batches[0].moving, batches[1].moving)


def test_a_made_up_field_is_learned_from(tmp_path: Path) -> None:
    known = {"registration.synthetic_mm": 12.0, "registration.similarity_weight": 0.0, "registration.dice_weight": 0.0}
    task = registration_task(tmp_path, **known)
    batch = next(task.batches("validation", 2))
    assert batch.truth is not None
    found, still = (task.score(of_field(field), [batch]).values for field in (batch.truth, 0 * batch.truth))
    assert found["error_mm"]["all"] < 0.01
    assert still["error_mm"]["all"] == pytest.approx(still["error_before_mm"]["all"], rel=1e-3)
    torch.manual_seed(0)
    loss = task.loss(task.network(), batch)
    assert loss.parts.keys() == {"smoothness", "synthetic"}
    assert float(loss.parts["synthetic"]) == pytest.approx(still["error_mm"]["all"], rel=0.05)
    assert loss.total.requires_grad


def test_time_and_memory_of_a_step_are_measured_where_made_up_fields_are_all_there_is_to_learn_from(
    tmp_path: Path,
) -> None:
    weights = {f"registration.{name}_weight": 0.0 for name in ("similarity", "dice", "smoothness")}
    task = registration_task(tmp_path, **{"registration.synthetic_mm": 12.0}, **weights)
    loss = task.loss(task.network(), task.noise(1))
    assert loss.parts.keys() == {"synthetic"}
    assert loss.total.requires_grad


def of_field(displacement: torch.Tensor) -> Any:
    return lambda moving, _: Registration(warp(moving, displacement), displacement, displacement, None)


def test_a_field_that_stays_zero_and_one_that_folds_are_told(tmp_path: Path) -> None:
    task = registration_task(tmp_path)
    size = task.plan.topology.patch_size
    batches = list(islice(task.batches("validation", 0), 2))
    still = task.score(of_field(torch.zeros(1, 3, *size)), batches)
    assert still.values["dice"] == still.values["before"]
    assert "next to zero" in still.remarks[0]
    wild = 4 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    folded = task.score(of_field(wild), batches)
    assert folded.values["folding_percent"]["all"] > 10
    assert "% of voxels fold, more than 1 %" in folded.remarks[0]


def test_the_way_back_gives_millimetres_on_the_grid_of_the_fixed_image(tmp_path: Path) -> None:
    source = write_subjects(tmp_path / "brains", 2)
    task = RegistrationTask(planned(source, tmp_path / "work"))
    working = Geometry((8, 8, 8), np.diag([2.0, 3.0, 4.0, 1.0]))
    fixed = Geometry((4, 5, 3), np.array([[0, -1.0, 0, 10], [1.5, 0, 0, 5], [0, 0, 2, 6], [0, 0, 0, 1]]))
    field = task.restore(np.ones((3, 8, 8, 8), np.float32), PairTrail(working, fixed))
    assert field.geometry == fixed
    np.testing.assert_allclose(field.vectors_mm.reshape(3, -1).T, np.tile([2.0, 3.0, 4.0], (60, 1)))
    assert np.allclose(Transform((field,)).points(np.array([[8.0, 7.0, 8.0]])), [[10, 10, 12]])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"registration.jacobian_weight": 1.0, "registration.inverse_weight": 0.1}, {"jacobian", "inverse"}),
        ({"registration.features_weight": 0.5, "registration.smoothness": "bending"}, {"features"}),
    ],
)
def test_each_weight_adds_a_part_with_a_gradient(tmp_path: Path, changes: dict[str, float], parts: set[str]) -> None:
    task = registration_task(tmp_path, **changes)
    torch.manual_seed(0)
    network = task.network()
    loss = task.loss(network, next(task.batches("train", 0)))
    assert loss.parts.keys() == {"similarity", "smoothness", "dice"} | parts
    torch.autograd.backward(loss.total)
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
