"""Films out of nothing, in all forms: each frame tells by its grey which it is, and by a corner which way is up."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from medmamba.io.clips import ClipReader
from medmamba.io.errors import ClipEndsEarlyError

#: Grey of frame 0, and from one frame to the next: further apart than compression carries.
FIRST, STEP = 40, 8
#: Grey of the corner.
CORNER = 235
TIMES = tuple(Fraction(k, 25) for k in range(12))


def frames(count: int = 12, size: tuple[int, int] = (48, 64), channels: int = 3) -> NDArray[np.uint8]:
    """(T, H, W, C): even greys, with a bright block at the top left that is wider than high."""
    pixels = np.empty((count, *size, channels), np.uint8)
    pixels[:] = (FIRST + STEP * np.arange(count)).reshape(-1, 1, 1, 1)
    pixels[:, :8, :16] = CORNER
    return pixels


def masks(count: int = 12, size: tuple[int, int] = (48, 64), labels: int = 2) -> NDArray[np.uint8]:
    """(T, H, W): a bar for each label whose place tells the frame; frame 0 has none."""
    found = np.zeros((count, *size), np.uint8)
    for k in range(1, count):
        for label in range(1, labels + 1):
            found[k, 10 * label : 10 * label + 5, : 2 * k] = label
    return found


def indices_of(pixels: NDArray[Any]) -> list[int]:
    """Which frames these are (T, H, W, C), by their greys; of a deep film by its full scale."""
    scale = 257 if pixels.dtype == np.uint16 else 1
    greys = np.median(pixels.astype(float).mean(axis=-1).reshape(len(pixels), -1), axis=1) / scale
    return [round((grey - FIRST) / STEP) for grey in greys]


def corner_is_at_top_left(pixels: NDArray[Any]) -> bool:
    """Whether the block of each frame lies where it should, and lies wide."""
    bright = pixels.astype(float).mean(axis=-1) > 200 * (257 if pixels.dtype == np.uint16 else 1)
    rows, columns = np.nonzero(bright.all(axis=0))
    return bool(rows.max() == 7 and columns.max() == 15 and rows.min() == columns.min() == 0)


def most_in_memory(reader: ClipReader) -> int:
    """How many frames there are at once at most while a film is read."""
    alive: list[weakref.ref[Any]] = []
    most = 0
    for frame in reader:
        alive.append(weakref.ref(frame.pixels))
        most = max(most, sum(each() is not None for each in alive))
    return most


def read_until_the_end(reader: ClipReader) -> tuple[list[NDArray[Any]], ClipEndsEarlyError | None]:
    """All frames that a reader gives, and what ended them early."""
    found = []
    try:
        for frame in reader:
            found.append(frame.pixels)
    except ClipEndsEarlyError as error:
        return found, error
    return found, None


def write_pngs(folder: Path, pixels: NDArray[Any], names: Sequence[str]) -> Path:
    """A folder with a picture for each frame (T, H, W) or (T, H, W, C)."""
    folder.mkdir(parents=True)
    for picture, name in zip(pixels, names, strict=True):
        Image.fromarray(picture.squeeze()).save(folder / f"{name}.png")
    return folder


def write_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """A page for each frame."""
    colour = pixels.ndim == 4 and pixels.shape[-1] == 3
    stack = pixels if colour else pixels.reshape(pixels.shape[:3])
    settings = {"photometric": "rgb" if colour else "minisblack", "metadata": {"axes": "TYXS" if colour else "TYX"}}
    tifffile.imwrite(path, stack, **(settings | options))
    return path


def write_nifti(path: Path, pixels: NDArray[Any], step: float = 0.04, unit: str | None = "sec") -> Path:
    """(T, H, W[, 1]) as (columns, rows, 1, time)."""
    stack = np.transpose(pixels.reshape(pixels.shape[:3]), (2, 1, 0))[:, :, None, :]
    image = nib.Nifti1Image(stack, np.diag([0.8, 0.5, 3.0, 1.0]))
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    nib.save(image, path)
    return path


def dicom(pixels: NDArray[Any], **attributes: Any) -> FileDataset:
    """An ultrasound clip of frames (T, H, W, C), 40 ms each."""
    count, height, width, channels = pixels.shape
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.Modality, made.PatientID, made.PatientName = "US", "P1", "Test^Clip"
    made.Rows, made.Columns, made.NumberOfFrames, made.SamplesPerPixel = height, width, count, channels
    made.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        made.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits, bits - 1, 0
    made.FrameTime, made.FrameIncrementPointer = "40", 0x00181063
    made.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def write_dicom(path: Path, pixels: NDArray[Any], **attributes: Any) -> Path:
    """`dicom` in a file."""
    dicom(pixels, **attributes).save_as(path, enforce_file_format=True)
    return path


def write_dicom_files(folder: Path, pixels: NDArray[Any], numbers: Sequence[int], **attributes: Any) -> Path:
    """A file for each frame (T, H, W, C), names in another order than numbers."""
    folder.mkdir()
    series = generate_uid()
    for place, (picture, number) in enumerate(zip(pixels, numbers, strict=True)):
        made = dicom(picture[None], FrameTime=None, FrameIncrementPointer=None, NumberOfFrames=None)
        made.SeriesInstanceUID, made.InstanceNumber = series, number
        made.TriggerTime = f"{40 * place}"
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
        made.save_as(folder / f"{97 * number % 101:03d}.dcm", enforce_file_format=True)
    return folder


def write_film(
    path: Path,
    pixels: NDArray[Any],
    times: Sequence[Fraction] | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    movflags: str = "",
    form: str | None = None,
    base: Fraction = Fraction(1, 1000),
    aspect: Fraction | None = None,
) -> Path:
    """A film file by PyAV, with B-frames unless options say otherwise."""
    import av

    kinds = {(1, "uint8"): "gray", (3, "uint8"): "rgb24", (1, "uint16"): "gray16le", (3, "uint16"): "rgb48le"}
    kind = kinds[pixels.shape[-1], pixels.dtype.name]
    settings = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", format=form, options=settings) as film:
        stream = film.add_stream(codec, rate=25, options={"threads": "1", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = stream.time_base = base
        for k, picture in enumerate(pixels):
            array = np.ascontiguousarray(picture[..., 0] if kind.startswith("gray") else picture)
            frame = av.VideoFrame.from_ndarray(array, format=kind)
            if times is not None:
                frame.pts, frame.time_base = round(times[k] / base), base
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write into the header of an MP4 how it is to be shown: a, b, c, d of its matrix."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    data[at : at + 36] = values.tobytes()
    path.write_bytes(data)
    return path
