"""Montages and volumes show each voxel where it is, and errors in their colours."""

from __future__ import annotations

import base64
import io as streams
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba import io
from medmamba.case import Case
from medmamba.evaluation.page.gallery import choose
from medmamba.evaluation.page.pictures import PAINTS, montage
from medmamba.evaluation.page.scene import FALSE, MISSED, NOTHING, OTHER, RIGHT, Scene, Subject, read_scene
from medmamba.evaluation.page.viewer import pack
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume
from tests.evaluation.page.factory import TWO, unpacked

SHAPE = (16, 14, 12)
#: Axes to the left, front and up.
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def subject(
    tmp_path: Path, prediction: np.ndarray, reference: np.ndarray, *, image: bool = False, labels: Labels = TWO
) -> Subject:
    geometry = Geometry(reference.shape, AFFINE)
    for name, array in (("p", prediction), ("r", reference)):
        io.write(Volume(array[None].astype(np.int16), geometry), tmp_path / f"{name}.nii.gz")
    ramp = np.broadcast_to(np.arange(1, reference.shape[0] + 1)[:, None, None], reference.shape).astype(np.float32)
    io.write(Volume(ramp[None].copy(), geometry), tmp_path / "i.nii.gz")
    return Subject(
        id="case",
        reference=tmp_path / "r.nii.gz",
        predictions=(tmp_path / "p.nii.gz",),
        image=Case(id="case", images=(tmp_path / "i.nii.gz",)) if image else None,
        channel=0,
        labels=labels,
        drawn=True,
        volume_bytes=1_000_000,
    )


def empty() -> np.ndarray:
    return np.zeros(SHAPE, dtype=np.uint8)


def colours(source: str) -> np.ndarray:
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(streams.BytesIO(data)).convert("RGB")).astype(int)


def painted(pixels: np.ndarray, kind: int) -> np.ndarray:
    """Where a kind's colour is: nearly opaque over a dark ground."""
    return np.asarray(np.abs(pixels - np.array(PAINTS[kind][0])).max(axis=2) < 25)


def test_voxels_are_right_missed_false_or_of_another_label(tmp_path: Path) -> None:
    prediction, reference = empty(), empty()
    reference[2, 2, 2:5], prediction[2, 2, 3:6] = 1, 1
    prediction[2, 2, 4] = 2
    scene = read_scene(subject(tmp_path, prediction, reference))
    kinds, counts = np.unique(scene.judged(0), return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) | {NOTHING: 0} == {
        NOTHING: 0, RIGHT: 1, MISSED: 1, FALSE: 1, OTHER: 1,
    }  # fmt: skip


def test_voxels_to_be_ignored_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    labels = Labels(foreground=(Label(name="lesion", values=(1,)),), ignore=9)
    prediction, reference = empty(), empty()
    reference[3:5, 3, 3], prediction[3:6, 3, 3] = 9, 1
    scene = read_scene(subject(tmp_path, prediction, reference, labels=labels))
    assert np.count_nonzero(scene.judged(0)) == 1


def test_without_a_usable_prediction_everything_is_missed(tmp_path: Path) -> None:
    reference = empty()
    reference[3:5, 3, 3] = 1
    case = subject(tmp_path, reference, reference)
    case.predictions[0].write_bytes(b"broken")
    scene = read_scene(case)
    assert scene.predictions == (None,)
    assert set(np.unique(scene.judged(0))) == {NOTHING, MISSED}


def test_errors_are_painted_where_they_are_seen_from_the_feet(tmp_path: Path) -> None:
    prediction, reference = empty(), empty()
    reference[8, 7, 6] = 1  # the middle, so that the box holds both
    reference[13:15, 11:13, 9:11] = 1  # missed: left, front, top, as the first axis runs to the left
    prediction[8, 7, 6] = 1
    prediction[1:3, 1:3, 9:11] = 1  # false: right, back, in the same slices from above
    made = montage(read_scene(subject(tmp_path, prediction, reference)), 0)
    axial = colours(made.source)[:, : made.width // 3]
    missed, false = (np.argwhere(painted(axial, kind)).mean(axis=0) for kind in (MISSED, FALSE))
    assert missed[0] < false[0], "the front is up"
    assert missed[1] > false[1], "the patient's left is on the right"
    assert made.slices.replace("\xa0", " ").startswith("axial k = 9")
    assert not made.others


def test_each_view_goes_through_the_slice_with_most_error(tmp_path: Path) -> None:
    reference = empty()
    reference[2:9, 2:9, 2:9] = 1
    prediction = reference.copy()
    prediction[3:7, 5, 4], prediction[5, 5, 4:8], prediction[5, 3:8, 4] = 0, 0, 0
    made = montage(read_scene(subject(tmp_path, prediction, reference)), 0)
    assert made.slices.replace("\xa0", " ") == "axial k = 4, coronal j = 5, sagittal i = 5"


def test_an_image_lies_under_the_masks(tmp_path: Path) -> None:
    reference = empty()
    reference[8, 7, 6] = 1
    scene = read_scene(subject(tmp_path, reference, reference, image=True))
    assert scene.image is not None
    assert scene.image.shape == SHAPE
    # The first axis of the file runs to the left, that of the scene to the right.
    assert scene.image[0].mean() > scene.image[-1].mean()
    pixels = colours(montage(scene, 0).source)
    assert pixels[:, : pixels.shape[1] // 3].std() > 20


def test_colours_of_errors_keep_their_order_in_shades_of_grey() -> None:
    def lightness(colour: tuple[int, int, int]) -> float:
        linear = [(part / 255 / 12.92) if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    shades = [lightness(PAINTS[kind][0]) for kind in (FALSE, MISSED, OTHER)]
    assert all(later - earlier > 15 for earlier, later in pairwise(shades))


def test_packed_volumes_lead_back_to_the_voxels_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    reference = empty()
    reference[4:11, 3:10, 2:9] = rng.integers(0, 3, size=(7, 7, 7))
    packed = pack(read_scene(subject(tmp_path, reference, reference)), 1_000_000)
    assert packed is not None
    volume = np.frombuffer(unpacked(packed.reference), np.uint8).reshape(packed.shape, order="F")
    found = empty()
    for place in np.ndindex(*packed.shape):
        along = np.array(place) + packed.start
        voxel = [0, 0, 0]
        for ras, axis in enumerate(packed.order):
            voxel[axis] = packed.file_shape[axis] - 1 - along[ras] if packed.flips[ras] else along[ras]
        found[tuple(voxel)] = volume[place]
    np.testing.assert_array_equal(found, reference)


def test_image_is_thinned_out_to_fit_and_left_out_where_it_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape, places = (32, 32, 32), np.zeros((32, 32, 32), dtype=np.uint8)
    places[3, 3, 3] = 1
    scene = Scene(
        geometry=Geometry(shape, np.eye(4)),
        box=(slice(0, 32),) * 3,
        spacing_mm=(1.0, 1.0, 1.0),
        reference=places,
        predictions=(places,),
        ignored=None,
        image=rng.integers(0, 255, size=shape).astype(np.uint8),
    )
    whole, thin, bare, nothing = (pack(scene, most) for most in (100_000, 10_000, 300, 10))
    assert (whole.step, thin.step) == (1, 2)
    assert len(unpacked(thin.image)) == 16**3
    assert bare.image is None
    assert nothing is None


def test_more_values_than_a_byte_holds_are_refused(tmp_path: Path) -> None:
    labels = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in range(1, 300)))
    with pytest.raises(ValueError, match="255 values"):
        read_scene(subject(tmp_path, empty(), empty(), labels=labels))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 30, 31])
def test_worst_median_and_best_cases_are_chosen_once_each(count: int) -> None:
    ranked = [f"{place:02d}" for place in range(count)]
    groups = dict(choose(ranked))
    chosen = [case for cases in groups.values() for case in cases]
    assert len(chosen) == len(set(chosen)) == min(count, 8)
    if count > 8:
        assert groups["Worst cases"] == tuple(ranked[:4])
        assert ranked[count // 2] in groups["Median cases"]
        assert groups["Best cases"] == tuple(ranked[-2:])


def test_values_that_regions_do_not_tell_apart_are_no_error(tmp_path: Path) -> None:
    region = Labels(
        foreground=(Label(name="WT", values=(1, 2, 3)), Label(name="TC", values=(1, 3))), region_order=(2, 1)
    )
    reference = np.array([1, 1, 2, 3, 0], np.uint8).reshape(5, 1, 1)
    prediction = np.array([1, 3, 1, 1, 3], np.uint8).reshape(5, 1, 1)
    scene = read_scene(subject(tmp_path, prediction, reference, labels=region))
    assert sorted(scene.judged(0).ravel().tolist()) == sorted([RIGHT, RIGHT, OTHER, RIGHT, FALSE])
