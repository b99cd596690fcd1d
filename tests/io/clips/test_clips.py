"""Films in all forms but film files: count, order, numbers, times, spacing; what is none is refused with a word."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medmamba.io.clips import CLIP_FORMATS, is_clip, open_clip, read_clip
from medmamba.io.errors import ClipEndsEarlyError, ClipFileError
from tests import clip_factory as factory

GREY = factory.frames(12, channels=1)
COLOUR = factory.frames(12)
STEMS = [str(k) for k in range(1, 13)]

FORMS: dict[str, Callable[[Path], Path]] = {
    "grey frames": lambda folder: factory.write_pngs(folder / "frames", GREY, STEMS),
    "colour frames": lambda folder: factory.write_pngs(folder / "frames", COLOUR, STEMS),
    "grey TIFF": lambda folder: factory.write_tiff(folder / "film.tif", GREY),
    "colour TIFF": lambda folder: factory.write_tiff(folder / "film.tif", COLOUR),
    "compressed TIFF": lambda folder: factory.write_tiff(folder / "film.tif", GREY, compression="zlib"),
    "NIfTI": lambda folder: factory.write_nifti(folder / "film.nii.gz", GREY),
    "grey DICOM": lambda folder: factory.write_dicom(folder / "film.dcm", GREY),
    "colour DICOM": lambda folder: factory.write_dicom(folder / "film.dcm", COLOUR),
    "DICOM files": lambda folder: factory.write_dicom_files(folder / "files", COLOUR, range(1, 13)),
}


@pytest.mark.parametrize("form", FORMS)
def test_frames_come_in_order_exactly_as_they_are_stored(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path)
    assert is_clip(path)
    clip = read_clip(path)
    wanted = COLOUR if clip.info.channels == 3 else GREY
    assert np.array_equal(clip.pixels, wanted)
    assert clip.info.frames == 12
    assert clip.info.dtype == "uint8"
    if "DICOM" in form or form == "NIfTI":
        assert clip.times_s == tuple(Fraction(k, 25) for k in range(12))
        assert clip.info.rate == 25
    else:
        assert clip.times_s is None


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_all_frames_are_known_before_they_are_read(tmp_path: Path, form: str) -> None:
    with open_clip(FORMS[form](tmp_path)) as reader:
        numbers = list(reader.numbers or ())
        assert reader.info.frames == len(numbers)
        assert [frame.number for frame in reader] == numbers


@pytest.mark.parametrize("form", FORMS)
def test_no_form_holds_more_than_the_frames_at_hand(tmp_path: Path, form: str) -> None:
    with open_clip(FORMS[form](tmp_path)) as reader:
        assert factory.most_in_memory(reader) <= 3  # the first stays where it told what all are like


def test_every_form_but_films_is_tested_here(tmp_path: Path) -> None:
    tested = set()
    for number, make in enumerate(FORMS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with open_clip(make(folder)) as reader:
            tested.add(reader.form.name)
    assert tested == {form.name for form in CLIP_FORMATS} - {"film"}


@pytest.mark.parametrize(
    ("stems", "numbers"),
    [
        (["1", "2", "10", "11"], [1, 2, 10, 11]),
        (["0581", "0600", "0601", "1129"], [581, 600, 601, 1129]),
        (["001_l", "2_l", "10", "074"], [1, 2, 10, 74]),
        (["clip2_0001", "clip2_0005", "clip2_0010", "clip2_0100"], [1, 5, 10, 100]),
        (["f01_t0.40", "f02_t0.40", "f03_t0.80", "f10_t0.80"], [1, 2, 3, 10]),
    ],
)
def test_frames_are_in_the_order_of_numbers_whose_gaps_are_kept(
    tmp_path: Path, stems: list[str], numbers: list[int]
) -> None:
    order = [2, 0, 3, 1]  # written in another order than they are in
    folder = factory.write_pngs(tmp_path / "frames", GREY[:4][order], [stems[k] for k in order])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a frame")
    clip = read_clip(folder)
    assert clip.numbers == tuple(numbers)
    assert factory.indices_of(clip.pixels) == [0, 1, 2, 3]


def test_gaps_are_time_where_a_rate_is_given(tmp_path: Path) -> None:
    folder = factory.write_pngs(tmp_path / "frames", GREY[:3], ["10", "11", "14"])
    with open_clip(folder, rate=Fraction(50)) as reader:
        assert [frame.time_s for frame in reader] == [Fraction(0), Fraction(1, 50), Fraction(4, 50)]
        assert reader.time_base == Fraction(1, 50)


@pytest.mark.parametrize(
    ("stems", "words"),
    [(["a", "b"], "has none"), (["1_l", "1_r"], "number of its own"), (["2", "02"], "number of its own")],
)
def test_frames_without_a_number_of_their_own_are_refused(tmp_path: Path, stems: list[str], words: str) -> None:
    folder = factory.write_pngs(tmp_path / "frames", GREY[:2], stems)
    with pytest.raises(ClipFileError, match=words):
        read_clip(folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bit_keeps_all_of_them(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (48, 64, channels), dtype=np.uint16)
    folder = tmp_path / "frames"
    folder.mkdir()
    if channels == 1:
        Image.fromarray(pixels[..., 0]).save(folder / "1.png")
    else:
        import SimpleITK as sitk

        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(folder / "1.png"))
    clip = read_clip(folder)
    assert clip.info.dtype == "uint16"
    assert np.array_equal(clip.pixels[0], pixels)


def test_changing_resolution_is_refused_with_the_frame(tmp_path: Path) -> None:
    folder = factory.write_pngs(tmp_path / "frames", GREY[:3], ["1", "2", "3"])
    Image.fromarray(GREY[0, :40, :, 0]).save(folder / "7.png")
    with pytest.raises(ClipFileError, match=r"frame 3 has 40 x 64 pixels.*first has 48 x 64"):
        read_clip(folder)


def test_grey_frames_among_colours_are_refused(tmp_path: Path) -> None:
    folder = factory.write_pngs(tmp_path / "frames", COLOUR[:3], ["1", "2", "3"])
    Image.fromarray(GREY[0, ..., 0]).save(folder / "4.png")
    with pytest.raises(ClipFileError, match=r"frame 3 has 48 x 64 pixels of 1"):
        read_clip(folder)


def test_turned_photographs_are_shown_upright_with_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR[0]).save(folder / "1.png", exif=exif)
    with open_clip(folder) as reader:
        assert reader.info.size == (64, 48)
        assert any("Exif" in remark.message for remark in reader.remarks)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_frame_is_a_clip(tmp_path: Path, form: str) -> None:
    one = {
        "grey frames": lambda: factory.write_pngs(tmp_path / "f", GREY[:1], ["12"]),
        "colour frames": lambda: factory.write_pngs(tmp_path / "f", COLOUR[:1], ["12"]),
        "grey TIFF": lambda: factory.write_tiff(tmp_path / "f.tif", GREY[:1]),
        "colour TIFF": lambda: factory.write_tiff(tmp_path / "f.tif", COLOUR[:1]),
        "compressed TIFF": lambda: factory.write_tiff(tmp_path / "f.tif", GREY[:1], compression="zlib"),
        "NIfTI": lambda: factory.write_nifti(tmp_path / "f.nii", GREY[:1]),
        "grey DICOM": lambda: factory.write_dicom(tmp_path / "f.dcm", GREY[:1]),
        "colour DICOM": lambda: factory.write_dicom(tmp_path / "f.dcm", COLOUR[:1]),
        "DICOM files": lambda: factory.write_dicom_files(tmp_path / "f", COLOUR[:1], [7]),
    }[form]()
    clip = read_clip(one)
    assert len(clip) == 1
    assert factory.indices_of(clip.pixels) == [0]


def test_nothing_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "text.txt").write_text("no film")
    for name, words in (("folder", "holds no frames"), ("empty.bin", "file is empty"), ("text.txt", "no film that")):
        assert not is_clip(tmp_path / name)
        with pytest.raises(ClipFileError, match=words):
            read_clip(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_clip(tmp_path / "missing")


@pytest.mark.parametrize("form", ["grey frames", "grey TIFF", "compressed TIFF", "NIfTI", "grey DICOM"])
def test_what_is_cut_off_is_refused(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path)
    file = path / "12.png" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises((ClipFileError, ClipEndsEarlyError)):
        read_clip(path)


def test_good_frames_of_a_damaged_series_come_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 1), np.uint8)
    path = factory.write_nifti(tmp_path / "film.nii", noise)
    path.write_bytes(path.read_bytes()[: 352 + 48 * 64 * 5 + 100])
    with open_clip(path) as reader:
        frames, error = factory.read_until_the_end(reader)
    assert error is not None
    assert "behind its first 5 frames" in str(error)
    assert error.frames == 5
    assert np.array_equal(np.stack(frames), noise[:5])


# TIFF


def test_tiff_written_page_by_page_has_all_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    with tifffile.TiffWriter(path) as writer:
        for picture in GREY:
            writer.write(picture[..., 0], photometric="minisblack")
    assert np.array_equal(read_clip(path).pixels, GREY)


@pytest.mark.parametrize("count", [3, 4])
def test_three_or_four_grey_frames_are_no_colours(tmp_path: Path, count: int) -> None:
    assert read_clip(factory.write_tiff(tmp_path / "film.tif", GREY[:count])).info.frames == count


@pytest.mark.parametrize("count", [3, 4])
def test_frames_that_were_written_as_planes_of_one_picture_are_not_taken_for_colours(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "film.tif"
    tifffile.imwrite(path, GREY[:count, ..., 0], photometric="rgb", planarconfig="separate")
    with pytest.raises(ClipFileError, match="may be colours, or frames"):
        read_clip(path)


def test_planes_of_colours_are_frames_of_colours(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    planes = np.moveaxis(COLOUR, -1, 1)
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "TCYX"})
    assert np.array_equal(read_clip(path).pixels, COLOUR)


def test_pages_of_several_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    with tifffile.TiffWriter(path) as writer:
        for height in (48, 40):
            writer.write(GREY[0, :height, :, 0], photometric="minisblack")
    with pytest.raises(ClipFileError, match="of one size"):
        read_clip(path)


def test_volumes_over_time_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    tifffile.imwrite(path, np.zeros((3, 4, 8, 8), np.uint8), photometric="minisblack", metadata={"axes": "TZYX"})
    with pytest.raises(ClipFileError, match="one axis over its frames"):
        read_clip(path)


@pytest.mark.parametrize("form", ["ImageJ", "OME"])
def test_times_and_spacing_are_those_of_imagej_and_ome(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("film.ome.tif" if form == "OME" else "film.tif")
    stack = GREY[..., 0]
    if form == "ImageJ":
        metadata: dict[str, Any] = {"axes": "TYX", "finterval": 0.1, "unit": "um"}
        tifffile.imwrite(path, stack, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    else:
        metadata = {"axes": "TYX", "TimeIncrement": 100.0, "TimeIncrementUnit": "ms"}
        metadata |= {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
        tifffile.imwrite(path, stack, metadata=metadata)
    clip = read_clip(path)
    assert clip.info.rate == 10
    assert clip.times_s == tuple(Fraction(k, 10) for k in range(12))
    assert clip.info.spacing_mm == pytest.approx((0.0005, 0.00025))


# NIfTI


@pytest.mark.parametrize(("unit", "step", "rate"), [("sec", 0.04, 25), ("msec", 40.0, 25), ("usec", 40000.0, 25)])
def test_steps_of_nifti_are_in_its_unit_of_time(tmp_path: Path, unit: str, step: float, rate: int) -> None:
    clip = read_clip(factory.write_nifti(tmp_path / "film.nii", GREY, step, unit))
    assert clip.info.rate == rate
    assert clip.info.spacing_mm == pytest.approx((0.5, 0.8))


@pytest.mark.parametrize(("unit", "step"), [(None, 0.04), ("hz", 1.0), ("sec", 0.0)])
def test_times_without_a_unit_are_unknown_with_a_word(tmp_path: Path, unit: str | None, step: float) -> None:
    with open_clip(factory.write_nifti(tmp_path / "film.nii", GREY, step, unit)) as reader:
        assert reader.info.rate is None
        assert any("times are unknown" in remark.message for remark in reader.remarks)


def test_a_stack_of_slices_over_time_is_no_film(tmp_path: Path) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.zeros((4, 4, 3, 5), np.uint8), np.eye(4)), tmp_path / "many.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 3), np.uint8), np.eye(4)), tmp_path / "volume.nii.gz")
    with pytest.raises(ClipFileError, match="one slice over time"):
        read_clip(tmp_path / "many.nii.gz")
    assert not is_clip(tmp_path / "volume.nii.gz")


# DICOM

REGION = {"RegionSpatialFormat": 1, "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}


def region(**values: Any) -> Any:
    from pydicom import Dataset

    made = Dataset()
    corners = {"RegionLocationMinX0": 0, "RegionLocationMinY0": 0}
    corners |= {"RegionLocationMaxX1": 60, "RegionLocationMaxY1": 40, "PhysicalDeltaX": 0.02, "PhysicalDeltaY": 0.03}
    for keyword, value in (REGION | corners | values).items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("attributes", "times"),
    [
        ({"FrameTime": "33.333"}, [Fraction(33333 * k, 10**6) for k in range(12)]),
        (
            {"FrameTimeVector": [0, 10, 30, *([5] * 9)], "FrameIncrementPointer": 0x00181065, "FrameTime": None},
            [Fraction(t, 1000) for t in (0, 10, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85)],
        ),
        ({"FrameTime": None, "FrameIncrementPointer": None, "CineRate": 30}, [Fraction(k, 30) for k in range(12)]),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": 20}, [Fraction(k, 20) for k in range(12)]),
        ({"FrameTime": None, "FrameIncrementPointer": None}, None),
        ({"FrameTimeVector": [0] * 12, "FrameIncrementPointer": 0x00181065, "FrameTime": None}, None),
    ],
)
def test_times_of_dicom_are_those_its_pointer_names(
    tmp_path: Path, attributes: dict[str, Any], times: list[Fraction] | None
) -> None:
    clip = read_clip(factory.write_dicom(tmp_path / "film.dcm", GREY, **attributes))
    assert clip.times_s == (times if times is None else tuple(times))
    assert clip.numbers == tuple(range(1, 13))


@pytest.mark.parametrize(
    ("attributes", "spacing", "words"),
    [
        ({"PixelSpacing": [0.3, 0.2]}, (0.3, 0.2), ""),
        ({"SequenceOfUltrasoundRegions": [region()]}, (0.3, 0.2), ""),
        ({"SequenceOfUltrasoundRegions": [region(), region(RegionSpatialFormat=3)]}, (0.3, 0.2), ""),
        ({"SequenceOfUltrasoundRegions": [region(PhysicalUnitsXDirection=4)]}, None, ""),
        ({"SequenceOfUltrasoundRegions": [region(), region(PhysicalDeltaX=0.05)]}, None, "several spacings"),
        ({"SequenceOfUltrasoundRegions": [region(RegionLocationMaxX1=64)]}, None, "it was scaled"),
    ],
)
def test_spacing_of_ultrasound_is_taken_only_where_it_is_of_these_pixels(
    tmp_path: Path, attributes: dict[str, Any], spacing: tuple[float, float] | None, words: str
) -> None:
    with open_clip(factory.write_dicom(tmp_path / "film.dcm", GREY, **attributes)) as reader:
        assert reader.info.spacing_mm == (spacing and pytest.approx(spacing))
        assert not words or any(words in remark.message for remark in reader.remarks)


def test_files_of_dicom_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    clip = read_clip(factory.write_dicom_files(tmp_path / "files", COLOUR, range(5, 41, 3)))
    assert clip.numbers == tuple(range(5, 41, 3))
    assert factory.indices_of(clip.pixels) == list(range(12))


def test_stacks_of_slices_and_several_series_are_no_film(tmp_path: Path) -> None:
    folder = factory.write_dicom_files(tmp_path / "files", COLOUR[:2], [1, 2])
    factory.write_dicom(folder / "other.dcm", COLOUR[:1], NumberOfFrames=None, InstanceNumber=3)
    with pytest.raises(ClipFileError, match="2 series"):
        read_clip(folder)
    (folder / "other.dcm").unlink()
    import pydicom

    for place, file in enumerate(sorted(folder.iterdir())):
        made = pydicom.dcmread(file)
        made.ImagePositionPatient = [0, 0, 3 * place]
        made.save_as(file)
    with pytest.raises(ClipFileError, match="stack of slices at 2 places"):
        read_clip(folder)


@pytest.mark.parametrize("count", [2_000_000_000, -1])
def test_more_frames_than_bytes_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ClipFileError, match="cannot hold"):
        read_clip(factory.write_dicom(tmp_path / "film.dcm", GREY, NumberOfFrames=count))


@pytest.mark.parametrize("count", [11, 13])
def test_frames_of_dicom_are_those_of_its_header_or_there_is_an_error(tmp_path: Path, count: int) -> None:
    path = factory.write_dicom(tmp_path / "film.dcm", GREY, NumberOfFrames=count)
    with open_clip(path) as reader:
        frames, error = factory.read_until_the_end(reader)
    assert len(frames) == 11 if count == 11 else error is not None
    assert all(np.array_equal(one, other) for one, other in zip(frames, GREY, strict=False))


def test_inverted_grey_and_slopes_are_applied(tmp_path: Path) -> None:
    clip = read_clip(factory.write_dicom(tmp_path / "one.dcm", GREY, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(clip.pixels, 255 - GREY)
    clip = read_clip(factory.write_dicom(tmp_path / "two.dcm", GREY, RescaleSlope="0.5", RescaleIntercept="-10"))
    assert clip.info.dtype == "float32"
    assert np.array_equal(clip.pixels, GREY * np.float32(0.5) - 10)


def test_palettes_of_dicom_are_colours(tmp_path: Path) -> None:
    table = np.arange(256, dtype=np.uint16) * 257
    colours = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, values in (("Red", table), ("Green", table[::-1]), ("Blue", table))
        for what, value in (("Data", values.tobytes()), ("Descriptor", [256, 0, 16]))
    }
    path = factory.write_dicom(tmp_path / "film.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **colours)
    assert np.array_equal(read_clip(path).pixels, np.concatenate([GREY, 255 - GREY, GREY], axis=-1))


def test_pydicoms_ultrasound_clip_is_read_whole() -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    path = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    with open_clip(path) as reader:
        frames = list(reader)
        assert reader.info.spacing_mm is None  # its region ends outside of the picture
    assert [frame.time_s for frame in frames] == [Fraction(33333 * k, 10**6) for k in range(30)]
    assert np.array_equal(np.stack([frame.pixels for frame in frames]), pydicom.dcmread(path).pixel_array)


def test_damage_inside_of_dicom_is_told_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("av", reason='PyAV is not installed; pip install "medmamba[video]"')
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    made = factory.dicom(COLOUR)
    made.PixelData = encapsulate([b"no film at all.."])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    made.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(ClipFileError, match=r"film\.dcm.*damaged, cut off or none"):
        read_clip(tmp_path / "film.dcm")


def test_h264_inside_of_dicom_has_the_times_of_dicom(tmp_path: Path) -> None:
    pytest.importorskip("av", reason='PyAV is not installed; pip install "medmamba[video]"')
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    film = factory.write_film(tmp_path / "film.mp4", COLOUR).read_bytes()
    made = factory.dicom(COLOUR, FrameTime="50")
    made.PixelData = encapsulate([film + b"\0" * (len(film) % 2)])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    made.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    clip = read_clip(tmp_path / "film.dcm")
    assert factory.indices_of(clip.pixels) == list(range(12))
    assert clip.times_s == tuple(Fraction(k, 20) for k in range(12))
    assert clip.numbers == tuple(range(1, 13))


def test_moments_of_enhanced_objects_are_their_times(tmp_path: Path) -> None:
    from pydicom import Dataset

    groups = []
    for seconds in ("00.000", "00.250", "01.500"):
        content, group = Dataset(), Dataset()
        content.FrameReferenceDateTime = f"202611281200{seconds}"
        group.FrameContentSequence = [content]
        groups.append(group)
    path = factory.write_dicom(
        tmp_path / "film.dcm",
        GREY[:3],
        FrameTime=None,
        FrameIncrementPointer=None,
        PerFrameFunctionalGroupsSequence=groups,
    )
    assert read_clip(path).times_s == (Fraction(0), Fraction(1, 4), Fraction(3, 2))


@pytest.mark.parametrize(
    ("attributes", "times"),
    [
        ({"AcquisitionTime": ["120000.000", "120000.040", "120001.000"]}, (0, Fraction(1, 25), 1)),
        ({"AcquisitionDateTime": ["20261128235959.5", "20261129000000.5", "20261129000001"]}, (0, 1, Fraction(3, 2))),
        ({"AcquisitionTime": ["120001", "120000", "120002"]}, None),
    ],
)
def test_files_without_triggers_have_the_times_of_acquisition(
    tmp_path: Path, attributes: dict[str, list[str]], times: tuple[Fraction | int, ...] | None
) -> None:
    import pydicom

    folder = factory.write_dicom_files(tmp_path / "files", GREY[:3], [1, 2, 3])
    for file in folder.iterdir():
        made = pydicom.dcmread(file)
        del made.TriggerTime
        for keyword, values in attributes.items():
            setattr(made, keyword, values[int(made.InstanceNumber) - 1])
        made.save_as(file)
    with open_clip(folder) as reader:
        assert [frame.time_s for frame in reader] == list(times or (None, None, None))
        assert (times is None) == any("another order" in remark.message for remark in reader.remarks)


# Values


def test_other_types_are_measured_values_and_must_be_finite(tmp_path: Path) -> None:
    values = (GREY[..., 0].astype(np.int16) - 100) * 7
    clip = read_clip(factory.write_tiff(tmp_path / "film.tif", values))
    assert clip.info.dtype == "float32"
    assert np.array_equal(clip.pixels[..., 0], values)
    broken = values.astype(np.float32)
    broken[5, 3, 3] = np.nan
    with pytest.raises(ClipFileError, match="not finite"):
        read_clip(factory.write_tiff(tmp_path / "film.tif", broken))
