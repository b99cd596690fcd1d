"""Preprocessing equals nnU-Net's, and leads back to the case's grid."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba.data.preprocess import OUTSIDE, Preprocessor
from medmamba.labels import Labels
from medmamba.plans.plan import Plan
from medmamba.volume import Volume
from tests.data.factory import ATLAS, CLASSES, REGIONS, channel, make_plan, make_volumes

NNUNET_SCHEMES = {"zscore": "ZScoreNormalization", "ct": "CTNormalization", "none": "NoNormalization"}


def nnunet(plan: Plan) -> tuple[Any, Any, Any]:
    """nnU-Net's own plan objects for our plan: (plans, configuration, dataset.json)."""
    plans_handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    spline = {"order_z": 0, "force_separate_z": None}
    forward = [2 - axis for axis in plan.axes]  # nnU-Net reads volumes with the array axes reversed
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(plan.topology.patch_size),
        "median_image_size_in_voxels": [10, 10, 10],
        "spacing": list(plan.spacing_mm),
        "normalization_schemes": [NNUNET_SCHEMES[c.normalization] for c in plan.channels],
        "use_mask_for_norm": [c.use_mask for c in plan.channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **spline},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **spline},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **spline},
        "batch_dice": False,
        "architecture": {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = plans_handler.PlansManager(
        {
            "dataset_name": "x",
            "plans_name": "x",
            "transpose_forward": forward,
            "transpose_backward": [int(axis) for axis in np.argsort(forward)],
            "configurations": {"c": configuration},
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                str(i): asdict(c.intensities) for i, c in enumerate(plan.channels)
            },
        }
    )
    labels: dict[str, Any] = {"background": 0}
    for label in plan.labels.foreground:
        labels[label.name] = list(label.values) if plan.labels.has_regions else label.values[0]
    dataset = {"labels": labels, "channel_names": {str(i): c.name for i, c in enumerate(plan.channels)}}
    if plan.labels.has_regions:
        dataset["regions_class_order"] = list(plan.labels.region_order)
    return plans, plans.get_configuration("c"), dataset


PLANS = {
    "isotropic": (make_plan(), {}),
    "same-spacing": (make_plan(spacing=(0.9, 1.2, 1.0)), {}),
    "coarse-axis-first": (
        make_plan(axes=(1, 2, 0), spacing=(3.0, 0.7, 0.7)),
        {"shape": (20, 9, 24), "spacing": (0.8, 4.0, 0.8)},
    ),
    "ct": (make_plan(channels=(channel("ct"),)), {}),
    "masked-and-not": (
        make_plan(channels=(channel(use_mask=True), channel(), channel("none"))),
        {"channels": 3},
    ),
    "slices": (make_plan(patch=(8, 12), spacing=(0.8, 0.8)), {"spacing": (1.0, 1.0, 3.0)}),
    "regions": (make_plan(labels=REGIONS), {}),
}
each_plan = pytest.mark.parametrize(("plan", "kind"), PLANS.values(), ids=PLANS)


def properties(image: Volume) -> dict[str, Any]:
    """What nnU-Net's reader would say of the image."""
    return {"spacing": list(reversed(image.geometry.spacing_mm))}


@each_plan
def test_forward_equals_nnunet(plan: Plan, kind: dict[str, Any]) -> None:
    module = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    image, label = make_volumes(**kind)
    sample = Preprocessor(plan).forward(image, label)
    data, seg, trail = module.DefaultPreprocessor(verbose=False).run_case_npy(
        image.array.transpose(0, 3, 2, 1),
        label.array.astype(np.int16).transpose(0, 3, 2, 1),
        properties(image),
        *nnunet(plan),
    )
    np.testing.assert_allclose(sample.image, data, atol=1e-5)
    assert sample.label is not None
    np.testing.assert_array_equal(sample.label, seg[0])
    assert sample.trail.shape == tuple(trail["shape_before_cropping"])


@each_plan
def test_restore_equals_nnunet(plan: Plan, kind: dict[str, Any]) -> None:
    module = pytest.importorskip("nnunetv2.inference.export_prediction")
    preprocessing = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    image, _ = make_volumes(**kind)
    preprocessor = Preprocessor(plan)
    sample = preprocessor.forward(image)
    shape = (plan.labels.output_channels, *sample.image.shape[1:])
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    plans, configuration, dataset = nnunet(plan)
    _, _, facts = preprocessing.DefaultPreprocessor(verbose=False).run_case_npy(
        image.array.transpose(0, 3, 2, 1), None, properties(image), plans, configuration, dataset
    )
    theirs, probabilities = module.convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        plans,
        configuration,
        plans.get_label_manager(dataset),
        facts,
        return_probabilities=True,
        num_threads_torch=1,
    )
    ours = preprocessor.restore(logits, sample.trail)
    assert ours.shape == image.geometry.shape
    np.testing.assert_array_equal(ours, theirs.transpose(2, 1, 0))
    np.testing.assert_allclose(
        preprocessor.restore_probabilities(logits, sample.trail), probabilities.transpose(0, 3, 2, 1), atol=1e-5
    )


def test_forward_equals_nnunet_on_a_real_scan(shared: Path) -> None:
    io = pytest.importorskip("medmamba.io")
    module = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    folder = shared / "data" / "msd_hippocampus"
    path = sorted((folder / "imagesTr").glob("*.nii.gz"))[0]
    image, label = io.read(path), io.read_label(folder / "labelsTr" / path.name)
    plan = make_plan(spacing=(1.3, 0.8, 0.9))
    sample = Preprocessor(plan).forward(image, label)
    data, seg, _ = module.DefaultPreprocessor(verbose=False).run_case_npy(
        image.array.transpose(0, 3, 2, 1),
        label.array.astype(np.int16).transpose(0, 3, 2, 1),
        properties(image),
        *nnunet(plan),
    )
    np.testing.assert_allclose(sample.image, data, atol=1e-5)
    assert sample.label is not None
    np.testing.assert_array_equal(sample.label, seg[0])


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("spacing", [(0.9, 1.2, 1.0), (0.45, 0.6, 0.5)], ids=["same", "finer"])
def test_there_and_back_is_the_identity(labels: Labels, spacing: tuple[float, ...]) -> None:
    image, label = make_volumes()
    plan = make_plan(labels=labels, spacing=spacing)
    preprocessor = Preprocessor(plan)
    sample = preprocessor.forward(image, label)
    assert sample.label is not None
    if labels.has_regions:
        masks = [np.isin(sample.label, structure.values) for structure in labels.foreground]
    else:
        masks = [sample.label <= 0, *(sample.label == structure.values[0] for structure in labels.foreground)]
    logits = np.stack(masks).astype(np.float32) * 2 - 1
    restored = preprocessor.restore(logits, sample.trail)
    assert (restored != label.array[0]).mean() < (1e-9 if spacing == (0.9, 1.2, 1.0) else 0.02)


def test_values_with_gaps_come_back_as_values() -> None:
    labels = Labels(foreground=(CLASSES.foreground[0], type(CLASSES.foreground[1])(name="b", values=(300,))))
    plan = make_plan(labels=labels, spacing=(0.9, 1.2, 1.0))
    image, _ = make_volumes()
    preprocessor = Preprocessor(plan)
    trail = preprocessor.forward(image).trail
    logits = np.zeros((3, *trail.cropped_shape), dtype=np.float32)
    logits[2] = 1
    restored = preprocessor.restore(logits, trail)
    assert set(np.unique(restored)) == {0, 300}


def test_constant_and_empty_channels_give_no_nan() -> None:
    image, label = make_volumes()
    for value in (0.0, 7.0):
        for plan in (make_plan(), make_plan(channels=(channel(use_mask=True),))):
            sample = Preprocessor(plan).forward(image.with_array(np.full_like(image.array, value)), label)
            assert np.isfinite(sample.image).all()


def test_not_finite_intensities_are_refused_or_replaced(caplog: pytest.LogCaptureFixture) -> None:
    image, label = make_volumes()
    broken = image.array.copy()
    broken[0, 5, 5, 5:8] = (np.nan, np.inf, -np.inf)
    preprocessor = Preprocessor(make_plan())
    with pytest.raises(ValueError, match="3 of 4032 intensities"):
        preprocessor.forward(image.with_array(broken), label)
    with caplog.at_level(logging.WARNING):
        sample = preprocessor.forward(image.with_array(broken), label, on_nonfinite="replace")
    assert np.isfinite(sample.image).all()
    assert "3 of 4032 intensities" in caplog.text


def test_outside_is_marked_in_the_label_only_where_it_is_background() -> None:
    image, label = make_volumes()
    holed = image.array.copy()
    holed[:, 2:7, 0:6, :] = 0  # open to the border, so no hole that is filled
    plan = make_plan(spacing=(0.9, 1.2, 1.0))
    sample = Preprocessor(plan).forward(image.with_array(holed), label)
    assert sample.label is not None
    assert (sample.label == OUTSIDE).any()
    assert (sample.label > 0).sum() == (label.array > 0).sum()


def test_wrong_number_of_channels_and_shapes_are_refused() -> None:
    image, label = make_volumes(channels=2)
    with pytest.raises(ValueError, match="1 channels, the image has 2"):
        Preprocessor(make_plan()).forward(image, label)
    one, _ = make_volumes()
    _, other = make_volumes(shape=(13, 18, 16))
    with pytest.raises(ValueError, match="label has shape"):
        Preprocessor(make_plan()).forward(one, other)


def atlas_volumes() -> tuple[Volume, Volume, np.ndarray]:
    """An image, its label in the values of `ATLAS`, and those as 0, 1 and 2."""
    image, label = make_volumes()
    return image, label.with_array(np.array([0, 40_000, 2**24 + 1])[label.array]), label.array[0]


@pytest.mark.parametrize("spacing", [(0.9, 1.2, 1.0), (1.4, 0.9, 2.0)], ids=["same", "resampled"])
def test_large_label_values_are_prepared_as_small_ones_are(spacing: tuple[float, ...]) -> None:
    image, atlas, small = atlas_volumes()
    prepared = Preprocessor(make_plan(labels=ATLAS, spacing=spacing)).forward(image, atlas).label
    expected = Preprocessor(make_plan(spacing=spacing)).forward(image, atlas.with_array(small[None])).label
    assert prepared is not None
    assert expected is not None
    assert (prepared.dtype, expected.dtype) == (np.int32, np.int16)
    np.testing.assert_array_equal(np.where(prepared < 0, prepared, ATLAS.number(prepared)), expected)


def test_label_that_the_plan_has_no_room_for_is_refused() -> None:
    image, atlas, _ = atlas_volumes()
    with pytest.raises(ValueError, match="label reaches from 0 to 16777217"):
        Preprocessor(make_plan()).forward(image, atlas)


@pytest.mark.parametrize(
    ("labels", "dtype", "values"),
    [
        (CLASSES, np.uint8, {0, 2}),
        (ATLAS, np.uint32, {0, 2**24 + 1}),
        (replace(REGIONS, region_order=(2, 1, 300)), np.uint16, {0, 300}),  # paints a value that no label has
        (replace(REGIONS, region_order=(1, 2, 65_536)), np.uint32, {0, 65_536}),
    ],
)
def test_predicted_values_take_the_type_that_holds_what_is_painted(
    labels: Labels, dtype: type, values: set[int]
) -> None:
    image, _ = make_volumes()
    preprocessor = Preprocessor(make_plan(labels=labels, spacing=(0.9, 1.2, 1.0)))
    trail = preprocessor.forward(image).trail
    logits = np.zeros((labels.output_channels, *trail.cropped_shape), dtype=np.float32)
    logits[-1] = 1
    restored = preprocessor.restore(logits, trail)
    assert restored.dtype == dtype
    assert set(np.unique(restored).tolist()) == values


def test_voxels_in_another_unit_than_the_plan_are_refused() -> None:
    image, label = make_volumes()
    for spacing in ((900.0, 1200.0, 1000.0), (0.0009, 0.0012, 0.001), (0.0012, 0.001)):
        plan = make_plan(spacing=spacing, patch=(8, 12, 10)[-len(spacing) :])
        with pytest.raises(ValueError, match=r"voxels measure .* correct the unit"):
            Preprocessor(plan).forward(image, label)
    # One coarse axis is no other unit.
    Preprocessor(make_plan(spacing=(60.0, 1.2, 1.0))).forward(image, label)


@pytest.mark.parametrize("scheme", ["zscore", "ct", "none", "rescale_0_1"])
@pytest.mark.parametrize("value", [np.finfo(np.float32).min, 1e30, np.nan])
def test_no_scheme_lets_values_for_no_data_pass(scheme: str, value: float, caplog: pytest.LogCaptureFixture) -> None:
    image, label = make_volumes()
    low = float(image.array.min())
    marked = image.array.copy()
    marked[0, 5, 5, 5] = value
    preprocessor = Preprocessor(make_plan(channels=(channel(scheme),)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1 of 4032 intensities .* are "):
        preprocessor.forward(image.with_array(marked), label)
    replaced = preprocessor.forward(image.with_array(marked), on_nonfinite="replace")
    expected = image.array.copy()
    expected[0, 5, 5, 5] = low
    np.testing.assert_array_equal(replaced.image, preprocessor.forward(image.with_array(expected)).image)
    assert "smallest measurement takes their place" in caplog.text


@pytest.mark.parametrize("value", [np.nan, -3.4e38])
def test_channel_without_any_measurement_is_refused_also_in_prediction(value: float) -> None:
    image, _ = make_volumes()
    empty = image.with_array(np.full_like(image.array, value))
    with pytest.raises(ValueError, match=r"channel MR: 4032 of 4032 intensities \(100 %\) are .* nothing was measured"):
        Preprocessor(make_plan()).forward(empty, on_nonfinite="replace")


def test_lone_value_of_a_new_scan_is_told_by_case_and_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    image, _ = make_volumes()
    marked = image.array.copy()
    marked[0, :2] = -32768
    preprocessor = Preprocessor(make_plan())
    sample = preprocessor.forward(image.with_array(marked), on_nonfinite="replace", case="new_7")
    np.testing.assert_array_equal(sample.image, preprocessor.forward(image.with_array(marked)).image)
    (message,) = caplog.messages
    assert message.startswith("case new_7, channel MR: 576 of 4032 intensities (14 %) are -32768, far from all others")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1.0, 1e11])
def test_zscore_does_not_depend_on_the_unit(scale: float, masked: bool) -> None:
    image, label = make_volumes()
    preprocessor = Preprocessor(make_plan(channels=(channel(use_mask=masked),), spacing=(0.9, 1.2, 1.0)))
    usual = preprocessor.forward(image, label).image
    assert usual.std() > 0.5
    scaled = preprocessor.forward(image.with_array(image.array * np.float32(scale)), label).image
    np.testing.assert_allclose(scaled, usual, atol=2e-5)


def test_constant_intensities_become_zero_however_large() -> None:
    image, label = make_volumes()
    for value in (0.1, 7.0, 1e10, -1e14):
        sample = Preprocessor(make_plan()).forward(image.with_array(np.full_like(image.array, value)), label)
        assert np.abs(sample.image / max(1.0, abs(value))).max() < 1e-6


@pytest.mark.parametrize("value", [-1.0, 256.0])
def test_colours_outside_of_their_range_are_refused(value: float) -> None:
    image, label = make_volumes()
    coloured = np.clip(image.array, 0, 255)
    coloured[0, 1, 1, 1] = value
    with pytest.raises(ValueError, match=r"declared as RGB but has values from"):
        Preprocessor(make_plan(channels=(channel("rgb_0_1"),))).forward(image.with_array(coloured), label)


def test_plan_with_impossible_statistics_is_refused_by_name() -> None:
    image, label = make_volumes()
    normal = channel("ct")
    broken = replace(normal, intensities=replace(normal.intensities, mean=3e38, std=1e-30, percentile_00_5=-3e38))
    with pytest.raises(ValueError, match=r"not finite after normalisation \(ct\)"):
        Preprocessor(make_plan(channels=(broken,))).forward(image, label)
