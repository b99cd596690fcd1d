"""Masks belong to their frames by name or number, never by rank; what has none is not labelled, never background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.io.clips import ClipReader, mask_writer, open_clip, read_clip_masks
from medmamba.io.clips.mask_writers import MASK_FORMS, mask_name
from medmamba.io.clips.palette import palette
from medmamba.io.errors import ClipFileError
from medmamba.labels import Label, Labels
from tests import clip_factory as factory

GREY = factory.frames(12, channels=1)
MASKS = factory.masks(12)
LABELS = Labels.of_values([1, 2])
STEMS = [str(k) for k in (*range(1, 7), 9, *range(20, 25))]

SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: factory.write_pngs(folder / "frames", GREY, STEMS),
    "tiff": lambda folder: factory.write_tiff(folder / "film.tif", GREY),
    "nifti": lambda folder: factory.write_nifti(folder / "film.nii.gz", GREY),
    "dicom": lambda folder: factory.write_dicom(folder / "film.dcm", GREY),
    "dicom files": lambda folder: factory.write_dicom_files(folder / "files", GREY, range(3, 39, 3)),
}


def opened(path: Path) -> ClipReader:
    """A film that was read already, of which all that masks need is known."""
    with open_clip(path) as reader:
        return reader


@pytest.fixture
def film(tmp_path: Path) -> ClipReader:
    return opened(SOURCES["folder"](tmp_path))


@pytest.fixture
def stack(tmp_path: Path) -> ClipReader:
    return opened(SOURCES["tiff"](tmp_path))


def write(path: Path, clip: ClipReader, masks: NDArray[Any], labels: Labels = LABELS) -> None:
    with mask_writer(path, clip, labels) as writer:
        for mask in masks:
            writer.write(mask)


@pytest.mark.parametrize("source", SOURCES)
def test_masks_written_in_the_form_of_the_film_come_back_frame_by_frame(tmp_path: Path, source: str) -> None:
    clip = opened(SOURCES[source](tmp_path))
    path = tmp_path / mask_name(clip, "masks")
    write(path, clip, MASKS)
    assert np.array_equal(read_clip_masks(path, clip, LABELS), MASKS)
    assert {each.name for each in tmp_path.iterdir()} == {clip.path.name, path.name}


def test_every_form_of_masks_is_written_here(tmp_path: Path) -> None:
    written = set()
    for number, make in enumerate(SOURCES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        written.add(opened(make(folder)).form.masks)
    assert written == set(MASK_FORMS)


@pytest.mark.parametrize("form", ["folder", "tiff", "nifti"])
def test_large_values_take_two_bytes(tmp_path: Path, film: ClipReader, form: str) -> None:
    labels = Labels.of_values([1, 700])
    masks = np.where(MASKS == 2, 700, MASKS.astype(np.uint16))
    path = tmp_path / mask_name(film, "masks", form)
    with mask_writer(path, film, labels, form=form) as writer:
        for mask in masks:
            writer.write(mask)
    assert np.array_equal(read_clip_masks(path, film, labels), masks)


def test_written_png_bear_the_names_of_frames_and_the_colours_of_davis(tmp_path: Path, film: ClipReader) -> None:
    write(tmp_path / "masks", film, MASKS)
    assert sorted(file.stem for file in (tmp_path / "masks").iterdir()) == sorted(STEMS)
    with Image.open(tmp_path / "masks" / "9.png") as image:
        assert image.mode == "P"
        assert (image.getpalette() or [])[3:9] == [128, 0, 0, 0, 128, 0]


def test_palette_is_that_of_davis() -> None:
    chosen = palette()[[0, 1, 2, 3, 255]]
    assert chosen.tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [224, 224, 192],
    ]


def test_written_tiff_is_one_series_to_others(tmp_path: Path, stack: ClipReader) -> None:
    write(tmp_path / "masks.tif", stack, MASKS)
    assert np.array_equal(tifffile.imread(tmp_path / "masks.tif"), MASKS)


def test_written_nifti_lies_on_the_grid_of_the_film_and_keeps_its_time(tmp_path: Path) -> None:
    import nibabel as nib

    clip = opened(SOURCES["nifti"](tmp_path))
    path = tmp_path / "masks.nii.gz"
    write(path, clip, MASKS)
    source, written = nib.load(clip.path), nib.load(path)
    assert np.array_equal(source.affine, written.affine)
    assert written.header.get_zooms() == source.header.get_zooms()
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert np.array_equal(np.asarray(written.dataobj)[:, :, 0], MASKS.transpose(2, 1, 0))
    first = path.read_bytes()
    write(path, clip, MASKS)
    assert path.read_bytes() == first


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", [11, 13])
def test_as_many_masks_as_frames_or_nothing_is_written(tmp_path: Path, source: str, count: int) -> None:
    clip = opened(SOURCES[source](tmp_path))
    path = tmp_path / mask_name(clip, "masks")
    with pytest.raises((ValueError, ClipFileError), match=r"has 12 frames|12 frames, and there are 11"):
        write(path, clip, factory.masks(count))
    assert {each.name for each in tmp_path.iterdir()} == {clip.path.name}


@pytest.mark.parametrize("source", ["folder", "tiff", "dicom"])
def test_a_film_that_was_cut_off_has_fewer_masks_when_that_is_said(tmp_path: Path, source: str) -> None:
    clip = opened(SOURCES[source](tmp_path))
    path = tmp_path / mask_name(clip, "masks")
    with mask_writer(path, clip, LABELS) as writer:
        for mask in MASKS[:5]:
            writer.write(mask)
        writer.ends_early()
    assert path.exists()


@pytest.mark.parametrize("wrong", [MASKS[0][:40], np.full((48, 64), -1), np.full((48, 64), 256)])
def test_masks_that_are_none_are_not_written(tmp_path: Path, film: ClipReader, wrong: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="masks"):
        write(tmp_path / "masks", film, wrong[None])


# Which frame a mask belongs to


@contextmanager
def png_masks(folder: Path, stems: dict[str, int]) -> Iterator[Path]:
    yield factory.write_pngs(folder, MASKS[list(stems.values())], list(stems))


@pytest.mark.parametrize(
    "stems",
    [
        {"9": 6},  # the centre frame alone, the seventh of those there are
        {"24": 11, "1": 0, "20": 7},
        {"mask_09": 6, "mask_20": 7},
        {stem: k for k, stem in enumerate(STEMS)},
    ],
)
def test_masks_of_some_frames_are_theirs_and_all_others_are_not_labelled(
    tmp_path: Path, film: ClipReader, stems: dict[str, int]
) -> None:
    with png_masks(tmp_path / "masks", stems) as path:
        found = read_clip_masks(path, film, LABELS)
    given = sorted(stems.values())
    assert np.array_equal(found[given], MASKS[given])
    others = np.delete(found, given, axis=0)
    assert (others == UNLABELLED).all()


def test_names_that_hold_several_numbers_are_found_by_name(tmp_path: Path) -> None:
    names = ["f12_0003", "f12_0005", "f13_0007"]
    film = opened(factory.write_pngs(tmp_path / "frames", GREY[:3], names))
    path = factory.write_pngs(tmp_path / "masks", MASKS[[1, 2]], [names[1], names[2]])
    found = read_clip_masks(path, film, LABELS)
    assert (found[0] == UNLABELLED).all()
    assert np.array_equal(found[1:], MASKS[1:3])


@pytest.mark.parametrize("stem", ["7", "25", "mask_7"])
def test_a_mask_without_a_frame_is_refused(tmp_path: Path, film: ClipReader, stem: str) -> None:
    path = factory.write_pngs(tmp_path / "masks", MASKS[[1, 6]], ["1", stem] if stem[0] != "m" else ["mask_1", stem])
    with pytest.raises(ClipFileError, match="belongs to no frame"):
        read_clip_masks(path, film, LABELS)


@pytest.mark.parametrize("count", [11, 13])
@pytest.mark.parametrize("form", ["tiff", "nifti"])
def test_a_stack_with_one_mask_more_or_less_is_refused(
    tmp_path: Path, stack: ClipReader, form: str, count: int
) -> None:
    masks = factory.masks(count)
    write_stack = {"tiff": factory.write_tiff, "nifti": factory.write_nifti}[form]
    path = write_stack(tmp_path / f"masks{MASK_FORMS[form].suffix}", masks)
    with pytest.raises(ClipFileError, match=rf"{count} masks and .*12 frames.*folder"):
        read_clip_masks(path, stack, LABELS)


@pytest.mark.parametrize("first", [0, 1])
def test_png_of_a_stack_are_counted_from_0_or_all_of_them_from_1(tmp_path: Path, stack: ClipReader, first: int) -> None:
    path = factory.write_pngs(tmp_path / "masks", MASKS, [f"{k + first:03d}" for k in range(12)])
    assert np.array_equal(read_clip_masks(path, stack, LABELS), MASKS)


def test_some_png_of_a_stack_are_counted_from_0(tmp_path: Path, stack: ClipReader) -> None:
    path = factory.write_pngs(tmp_path / "masks", MASKS[[1, 5]], ["1", "5"])
    found = read_clip_masks(path, stack, LABELS)
    assert np.array_equal(found[[1, 5]], MASKS[[1, 5]])
    assert (np.delete(found, [1, 5], axis=0) == UNLABELLED).all()


def test_no_masks_at_all_are_refused(tmp_path: Path, film: ClipReader) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(ClipFileError, match="no masks"):
        read_clip_masks(tmp_path / "masks", film)
    with pytest.raises(FileNotFoundError):
        read_clip_masks(tmp_path / "missing", film)
    (tmp_path / "masks.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    with pytest.raises(ClipFileError, match="lose values"):
        read_clip_masks(tmp_path / "masks.mp4", film)


# What their values mean


def test_jpeg_masks_are_refused(tmp_path: Path, film: ClipReader) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(MASKS[1]).save(tmp_path / "masks" / "1.jpg")
    with pytest.raises(ClipFileError, match="keep their values"):
        read_clip_masks(tmp_path / "masks", film)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_of_palettes_are_values_in_all_depths(tmp_path: Path, film: ClipReader, bits: int) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.minimum(MASKS[6], 1 if bits == 1 else 2)
    image = Image.fromarray(mask)
    image.putpalette(palette()[: 1 << bits].tobytes())
    image.save(tmp_path / "masks" / "9.png", bits=bits)
    assert np.array_equal(read_clip_masks(tmp_path / "masks", film, LABELS)[6], mask)


COLOURS = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2}


def coloured(mask: NDArray[Any]) -> NDArray[np.uint8]:
    return np.array(list(COLOURS), np.uint8)[mask]


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_colours_are_labels_by_a_table(tmp_path: Path, stack: ClipReader, form: str) -> None:
    pictures = coloured(MASKS)
    if form == "png":
        path = factory.write_pngs(tmp_path / "masks", pictures, [str(k) for k in range(12)])
    else:
        path = factory.write_tiff(tmp_path / "masks.tif", pictures)
    assert np.array_equal(read_clip_masks(path, stack, LABELS, COLOURS), MASKS)
    with pytest.raises(ClipFileError, match=r"is in colours.*say which label"):
        read_clip_masks(path, stack, LABELS)


def test_a_colour_outside_of_the_table_is_refused_with_its_place(tmp_path: Path, film: ClipReader) -> None:
    pictures = coloured(MASKS[[0, 6]])
    pictures[1, 30, 40] = (254, 0, 0)
    path = factory.write_pngs(tmp_path / "masks", pictures, ["1", "9"])
    with pytest.raises(ClipFileError, match=r"frame 6 has the colour \(254, 0, 0\) at row 30, column 40"):
        read_clip_masks(path, film, LABELS, COLOURS)


def test_greys_stored_as_colours_are_values(tmp_path: Path, film: ClipReader) -> None:
    path = factory.write_pngs(tmp_path / "masks", np.repeat(MASKS[[6]][..., None], 3, axis=-1), ["9"])
    assert np.array_equal(read_clip_masks(path, film, LABELS)[6], MASKS[6])


def test_a_value_that_no_label_has_is_refused_with_its_place(tmp_path: Path, film: ClipReader) -> None:
    masks = MASKS[[6]].copy()
    masks[0, 3, 5] = 255
    path = factory.write_pngs(tmp_path / "masks", masks, ["9"])
    with pytest.raises(ClipFileError, match="frame 6 has the value 255 at row 3, column 5; labels are 0, 1, 2"):
        read_clip_masks(path, film, LABELS)
    ignoring = Labels(foreground=tuple(Label(name=str(k), values=(k,)) for k in (1, 2)), ignore=255)
    found = read_clip_masks(path, film, ignoring)[6]
    assert found[3, 5] == UNLABELLED
    assert (np.delete(found.ravel(), 3 * 64 + 5) >= 0).all()


def test_fractions_and_other_sizes_are_no_masks(tmp_path: Path, stack: ClipReader) -> None:
    path = factory.write_tiff(tmp_path / "masks.tif", MASKS.astype(np.float32) / 2)
    with pytest.raises(ClipFileError, match="not whole values"):
        read_clip_masks(path, stack, LABELS)
    path = factory.write_tiff(tmp_path / "masks.tif", MASKS[:, :40])
    with pytest.raises(ClipFileError, match=r"frame 0 is 40 x 64 and frames are 48 x 64"):
        read_clip_masks(path, stack, LABELS)


def test_empty_masks_are_labelled_frames(tmp_path: Path, stack: ClipReader) -> None:
    path = factory.write_tiff(tmp_path / "masks.tif", np.zeros_like(MASKS))
    assert (read_clip_masks(path, stack, LABELS) == 0).all()


def test_masks_of_a_film_file_are_png_that_count_its_frames(tmp_path: Path) -> None:
    pytest.importorskip("av", reason='PyAV is not installed; pip install "medmamba[video]"')
    film = opened(factory.write_film(tmp_path / "film.mp4", factory.frames(), options={"bf": "3"}))
    path = tmp_path / mask_name(film, "masks")
    write(path, film, MASKS)
    assert sorted(file.name for file in path.iterdir()) == [f"{k:06d}.png" for k in range(12)]
    assert np.array_equal(read_clip_masks(path, film, LABELS), MASKS)


@pytest.mark.parametrize("name", ["hela_clip0", "vocalfolds/patient1_seq4", "bacteria_clip"])
def test_real_masks_come_back_as_they_are(tmp_path: Path, shared: Path, name: str) -> None:
    folder = shared / "data" / "video" / name
    ending = ".tif" if name == "bacteria_clip" else ""
    clip = opened(folder / f"frames{ending}")
    masks = read_clip_masks(folder / f"masks{ending}", clip)
    assert masks.min() >= 0
    labels = Labels.of_values(range(7))
    path = tmp_path / mask_name(clip, "masks")
    write(path, clip, masks, labels)
    assert np.array_equal(read_clip_masks(path, clip, labels), masks)
