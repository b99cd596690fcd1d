from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medmamba import Case, Label, Labels, Split
from medmamba.plans.planner import make_plan, possible_configurations


def decision(decisions: Any, what: str) -> Any:
    (found,) = [one for one in decisions if one.what == what]
    return found


def test_spacing_is_the_median_and_says_so(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 70, 80)] * 3, [(1.0, 1.1, 1.0), (2.0, 1.2, 1.0), (1.5, 1.3, 1.0)])
    plan, decisions = make_plan(fingerprint, dataset, network="segmamba")
    assert plan.axes == (0, 2, 1)
    assert plan.spacing_mm == (1.5, 1.0, 1.2)
    spacing = decision(decisions, "spacing")
    assert (spacing.value, spacing.reason) == ("1.5 x 1 x 1.2 mm", "median of 3 cases")


def test_coarse_slices_get_the_tenth_percentile_and_lie_across_the_first_axis(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(256, 256, 12)] * 11, [(0.6, 0.6, float(n)) for n in range(5, 16)])
    plan, decisions = make_plan(fingerprint, dataset, network="segmamba")
    assert plan.axes == (2, 1, 0)
    assert plan.spacing_mm == (6.0, 0.6, 0.6)
    assert "10th percentile (median 10 mm)" in decision(decisions, "spacing").reason
    assert plan.train.in_plane_augmentation
    assert plan.train.rotation_degrees == 180


def test_a_2d_plan_has_the_last_two_axes(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(256, 200, 12)] * 4, [(0.6, 0.7, 5.0)] * 4)
    plan, _ = make_plan(fingerprint, dataset, network="segmamba", configuration="2d")
    assert plan.axes == (2, 1, 0)
    assert plan.spacing_mm == (0.7, 0.6)
    assert plan.median_shape == (200, 256)
    assert plan.topology.dims == 2
    assert plan.train.mirror_axes == (0, 1)
    assert plan.train.batch_dice


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_single_slices_get_a_2d_plan_across_the_flat_axis_whatever_its_spacing(
    measured_dataset: Any, flat: int
) -> None:
    shape, spacing = [200, 180, 190], [1.0, 1.0, 1.0]
    shape[flat], spacing[flat] = 1, 0.1
    fingerprint, dataset = measured_dataset([tuple(shape)] * 5, [tuple(spacing)] * 5)
    assert possible_configurations(fingerprint) == ("2d",)
    plan, _ = make_plan(fingerprint, dataset, network="segmamba", configuration="2d")
    assert plan.axes[0] == flat
    with pytest.raises(ValueError, match=r"single slices.*choose configuration 2d"):
        make_plan(fingerprint, dataset, network="segmamba", configuration="3d_fullres")


def test_what_the_caller_asks_for_is_passed_on(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 3, [(1.0, 1.0, 1.0)] * 3)
    plan, _ = make_plan(fingerprint, dataset, network="vm_unet", network_options={"depth": 2})
    assert (plan.network.name, plan.network.options) == ("vm_unet", {"depth": 2})
    assert (plan.dataset, plan.dataset_root) == ("Phantoms", "/data/phantoms")
    assert plan.file_ending == dataset.file_ending


def test_a_low_resolution_stage_is_advised_when_patches_see_little(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(512, 512, 400)] * 3, [(0.8, 0.8, 1.0)] * 3)
    plan, decisions = make_plan(fingerprint, dataset, network="segmamba")
    assert "not available yet" in decision(decisions, "low resolution").value
    assert plan.train.batch_dice


def test_channels_that_are_treated_alike_share_a_line(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset(
        [(60, 60, 60)], [(1.0, 1.0, 1.0)], channels=("T1", "T2", "ct"), relative_size=0.4
    )
    plan, decisions = make_plan(fingerprint, dataset, network="segmamba")
    assert [channel.use_mask for channel in plan.channels] == [True, True, False]
    assert decision(decisions, "channel T1, T2").value == "z-score over non-zero voxels"
    assert "clipped" in decision(decisions, "channel ct").value


def test_folds_are_explained(measured_dataset: Any) -> None:
    def words(cases: int, **changes: Any) -> str:
        fingerprint, dataset = measured_dataset([(60, 60, 60)] * cases, [(1.0, 1.0, 1.0)] * cases)
        _, decisions = make_plan(fingerprint, replace(dataset, **changes), network="segmamba")
        found = decision(decisions, "folds")
        return f"{found.value}: {found.reason}"

    assert words(10).startswith("5: 10 cases shuffled")
    assert words(3).startswith("3: as many as training cases")
    assert words(1).startswith("only 'all'")
    own = Split(train=("case_000",), validation=("case_001",))
    assert words(2, splits=(own,)) == "1: fixed by the author of the data set"


def test_a_label_that_never_occurs_is_warned_about(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 3, [(1.0, 1.0, 1.0)] * 3, labels=2)
    more = Labels(foreground=(*dataset.labels.foreground, Label(name="pancreas", values=(3,))))
    _, decisions = make_plan(fingerprint, replace(dataset, labels=more), network="segmamba")
    assert decision(decisions, "warning").value == "no voxel of pancreas"


def test_label_values_without_a_meaning_are_refused_with_the_cases(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 8, [(1.0, 1.0, 1.0)] * 8, labels=2)
    fewer = replace(dataset, labels=Labels(foreground=dataset.labels.foreground[:1]))
    with pytest.raises(ValueError, match=r"may hold 0, 1, but 8 of 8 cases .*case_000 holds 2; .*\.\.\.; correct"):
        make_plan(fingerprint, fewer, network="segmamba")


def test_the_ignore_value_needs_no_label(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 2, [(1.0, 1.0, 1.0)] * 2, labels=2)
    labels = Labels(foreground=dataset.labels.foreground[:1], ignore=2)
    plan, _ = make_plan(fingerprint, replace(dataset, labels=labels), network="segmamba")
    assert plan.labels.ignore == 2


def test_the_fingerprint_of_other_cases_is_refused(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 2, [(1.0, 1.0, 1.0)] * 2)
    others = (*dataset.training, Case(id="new", images=dataset.training[0].images, label=dataset.training[0].label))
    with pytest.raises(ValueError, match=r"describes 2 cases .*3 training cases.*measure"):
        make_plan(fingerprint, replace(dataset, training=others), network="segmamba")
    with pytest.raises(ValueError, match=r"channels MRI.*with CT"):
        make_plan(fingerprint, replace(dataset, channels=("CT",)), network="segmamba")


@pytest.mark.parametrize("memory", [0.0, -1.0, float("nan"), float("inf")])
def test_memory_must_be_positive(measured_dataset: Any, memory: float) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)] * 2, [(1.0, 1.0, 1.0)] * 2)
    with pytest.raises(ValueError, match="more than 0 GB"):
        make_plan(fingerprint, dataset, network="segmamba", gpu_memory_gb=memory)


@pytest.mark.parametrize(("shape", "degrees"), [((64, 90, 9), 180.0), ((26, 41, 5), 15.0)])
def test_elongated_slices_are_hardly_rotated(measured_dataset: Any, shape: Any, degrees: float) -> None:
    fingerprint, dataset = measured_dataset([shape] * 3, [(1.0, 1.0, 6.0)] * 3)
    plan, _ = make_plan(fingerprint, dataset, network="segmamba", configuration="2d")
    assert plan.train.rotation_degrees == degrees
    assert not plan.train.in_plane_augmentation
