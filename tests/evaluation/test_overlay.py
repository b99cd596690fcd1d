"""Pictures: directions, colours and proportions are right, whatever way the grid is stored."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as pictures
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from medmamba.evaluation.display import COLOURS
from medmamba.evaluation.overlay import overlay
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

ONE = Labels(foreground=(Label(name="lesion", values=(1,)),))
TWO = Labels(foreground=(Label(name="lesion", values=(1,)), Label(name="core", values=(2,))))


def lopsided(codes: str = "LPS", spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> tuple[Volume, Volume]:
    """A grey block whose label sits in its right front upper corner; stored with axes that point to ``codes``.

    Spacing is per body axis: right-left, front-back, up-down.
    """
    image = np.full((40, 40, 40), 100.0, dtype=np.float32)
    label = np.zeros((40, 40, 40), dtype=np.uint8)
    label[28:36, 28:36, 28:36] = 1
    affine = np.diag([*spacing, 1.0])
    order = [next(axis for axis, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in codes]
    image, label, columns = image.transpose(order), label.transpose(order), affine[:, [*order, 3]].copy()
    for axis, code in enumerate(codes):
        if code in "LPI":
            image, label = np.flip(image, axis), np.flip(label, axis)
            columns[:, 3] += columns[:, axis] * (image.shape[axis] - 1)
            columns[:, axis] *= -1
    geometry = Geometry((image.shape[0], image.shape[1], image.shape[2]), columns)
    assert geometry.orientation == codes
    return Volume(image[None].copy(), geometry), Volume(label[None].copy(), geometry)


def coloured(path: Path) -> NDArray[np.bool_]:
    """(rows, columns) where the picture above its legend has a colour."""
    pixels = pictures.imread(path)[:, :, :3]
    colour = pixels.max(axis=2) - pixels.min(axis=2) > 0.1
    colour[-90:] = False
    return np.asarray(colour)


def test_label_at_the_right_front_top_appears_left_and_up_in_every_view(tmp_path: Path) -> None:
    image, label = lopsided()
    colour = coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "a.png"))
    rows, columns = np.nonzero(colour)
    width = colour.shape[1]
    for view in range(3):
        inside = (columns >= width * view // 3) & (columns < width * (view + 1) // 3)
        assert inside.any()
        # Right is on the left of axial and coronal views; the front is on the left of sagittal ones.
        assert columns[inside].mean() < width * (view + 0.5) / 3
        assert rows[inside].mean() < colour.shape[0] / 2


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "PIL", "AIR"])
def test_picture_does_not_depend_on_how_the_volume_is_stored(tmp_path: Path, codes: str) -> None:
    expected = coloured(overlay(*_only(lopsided("RAS")), ONE, tmp_path / "a.png"))
    found = coloured(overlay(*_only(lopsided(codes)), ONE, tmp_path / "b.png"))
    # The slices' names differ, grey text that is no colour.
    assert np.array_equal(expected, found)


def _only(volumes: tuple[Volume, Volume]) -> tuple[Volume, dict[str, Volume]]:
    return volumes[0], {"prediction": volumes[1]}


def test_voxels_keep_their_proportions(tmp_path: Path) -> None:
    image, label = lopsided(spacing=(1.0, 1.0, 3.0))
    colour = coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "a.png"))
    width = colour.shape[1]
    axial, coronal = colour[:, : width // 3], colour[:, width // 3 : 2 * width // 3]
    assert _height(axial) / _width(axial) == pytest.approx(1.0, abs=0.05)
    assert _height(coronal) / _width(coronal) == pytest.approx(3.0, abs=0.15)


def _height(mask: NDArray[np.bool_]) -> int:
    return int(np.ptp(np.nonzero(mask)[0])) + 1


def _width(mask: NDArray[np.bool_]) -> int:
    return int(np.ptp(np.nonzero(mask)[1])) + 1


def test_slices_go_through_the_largest_structure(tmp_path: Path) -> None:
    image, label = lopsided()
    array = label.array.copy()
    # Smaller, but with more voxels in one slice.
    array[0, 24:36, 24:36, 2] = 1
    colour = coloured(overlay(image, {"prediction": label.with_array(array)}, ONE, tmp_path / "a.png"))
    alone = coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "b.png"))
    third = colour.shape[1] // 3
    assert np.array_equal(colour[:, :third], alone[:, :third])


def test_prediction_is_filled_and_reference_is_outlined(tmp_path: Path) -> None:
    image, label = lopsided()
    filled = coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "a.png"))
    outlined = coloured(overlay(image, {"reference": label}, ONE, tmp_path / "b.png"))
    assert 0 < outlined.sum() < 0.4 * filled.sum()


def test_every_label_has_its_own_colour(tmp_path: Path) -> None:
    image, label = lopsided()
    array = label.array.copy()
    array[array > 0] = 1
    array[0][tuple(slice(n.min(), n.min() + 8) for n in np.nonzero(array[0]))][:, :, ::2] = 2
    pixels = pictures.imread(overlay(image, {"prediction": label.with_array(array)}, TWO, tmp_path / "a.png"))[:, :, :3]
    for colour in COLOURS[:2]:
        # In the legend at full strength.
        assert (np.abs(pixels - np.array(to_rgb(colour))).max(axis=2) < 0.02).any()


def test_colours_are_all_different_and_bright_enough_for_a_dark_ground() -> None:
    values = [np.array(to_rgb(colour)) for colour in COLOURS]
    assert all(np.abs(a - b).max() > 0.2 for a, b in itertools.combinations(values, 2))
    assert min(value.max() for value in values) > 0.55


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_number_of_channels_can_be_shown(tmp_path: Path, channels: int) -> None:
    image, label = lopsided()
    many = image.with_array(np.repeat(image.array, channels, axis=0))
    heights = [
        pictures.imread(overlay(many, {"prediction": label}, ONE, tmp_path / "a.png", channels=chosen)).shape[0]
        for chosen in ((0,), tuple(range(channels)))
    ]
    assert heights[1] > 0.7 * channels * heights[0]


def test_empty_segmentation_still_gives_a_picture_of_the_middle(tmp_path: Path) -> None:
    image, label = lopsided()
    path = overlay(image, {"prediction": label.with_array(np.zeros_like(label.array))}, ONE, tmp_path / "a.png")
    assert not coloured(path).any()


def test_reference_that_is_empty_leaves_the_slices_to_the_prediction(tmp_path: Path) -> None:
    image, label = lopsided()
    empty = label.with_array(np.zeros_like(label.array))
    assert coloured(overlay(image, {"prediction": label, "reference": empty}, ONE, tmp_path / "a.png")).any()


def test_single_slice_is_shown_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    geometry = Geometry((50, 30, 1), np.diag([0.5, 0.5, 1.0, 1.0]))
    image = Volume(rng.normal(size=(1, 50, 30, 1)), geometry)
    label = Volume((np.indices((50, 30, 1)).sum(0) < 20).astype(int)[None], geometry)
    assert coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "a.png", title="slice")).any()


def test_oblique_grid_is_named_by_its_nearest_directions(tmp_path: Path) -> None:
    image, label = lopsided("RAS")
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    geometry = Geometry(image.geometry.shape, turn @ image.geometry.affine)
    turned = overlay(
        Volume(image.array, geometry), {"prediction": Volume(label.array, geometry)}, ONE, tmp_path / "a.png"
    )
    assert np.array_equal(coloured(turned), coloured(overlay(image, {"prediction": label}, ONE, tmp_path / "b.png")))


def test_segmentation_on_another_grid_is_refused(tmp_path: Path) -> None:
    image, label = lopsided("RAS")
    moved = Volume(label.array, Geometry(label.geometry.shape, label.geometry.affine + np.eye(4, k=3)))
    with pytest.raises(ValueError, match=r"prediction lies on another grid .*case_7.*shifted by 1 mm"):
        overlay(image, {"prediction": moved}, ONE, tmp_path / "a.png", title="case_7")
    assert not list(tmp_path.iterdir())


def test_two_filled_segmentations_are_refused(tmp_path: Path) -> None:
    image, label = lopsided()
    with pytest.raises(ValueError, match=r"one segmentation can be filled.*mine, theirs"):
        overlay(image, {"mine": label, "theirs": label}, ONE, tmp_path / "a.png")


def test_what_is_predicted_outside_of_the_body_is_in_the_picture(tmp_path: Path) -> None:
    geometry = Geometry((40, 40, 40), np.eye(4))
    pixels, reference, outside = np.zeros((1, 40, 40, 40), np.float32), *np.zeros((2, 1, 40, 40, 40), np.uint8)
    pixels[0, 14:28, 14:28, 14:28] = 100
    reference[0, 18:24, 18:24, 18:24] = 1
    outside[0, 2:8, 18:24, 18:24] = 1
    counts = []
    for name, prediction in (("none", np.zeros_like(outside)), ("outside", outside)):
        maps = {"reference": Volume(reference, geometry), "prediction": Volume(prediction, geometry)}
        counts.append(coloured(overlay(Volume(pixels, geometry), maps, ONE, tmp_path / f"{name}.png")).sum())
    assert counts[1] > counts[0] + 100


def test_segmentation_with_a_rounded_header_is_drawn(tmp_path: Path) -> None:
    image, label = lopsided("RAS")
    moved = Volume(label.array, Geometry(label.geometry.shape, label.geometry.affine + 0.1 * np.eye(4, k=3)))
    drawn = [overlay(image, {"prediction": one}, ONE, tmp_path / f"{n}.png") for n, one in enumerate((label, moved))]
    assert np.array_equal(coloured(drawn[0]), coloured(drawn[1]))
