"""DICOM: a folder with the slices of one series, a multi-frame file, or a selection out of an export."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from medmamba.errors import UsageError
from medmamba.io.dicom.derived import DERIVED, sop_class
from medmamba.io.dicom.instances import begins_as_dicom, is_dicom
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.selection import BEGINS, files_of, is_selection, series_of
from medmamba.io.dicom.stack import geometry_of, is_compressed, remarks_of, voxels_of
from medmamba.io.formats.format import Header, Stored, check_size, check_stored, odd_spacing
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.volume import Volume

#: Files of a folder that are looked at to tell whether it is a series.
_LOOKED_AT = 16


class Dicom:
    """Scans in DICOM, which are read and never written: a segmentation is an object of another kind."""

    name = "DICOM"
    suffixes: tuple[str, ...] = ()

    def recognises(self, path: Path, start: bytes) -> bool:
        """By the first bytes, of a file or of one of the first files in a folder; segmentations are no scan."""
        if not path.is_dir():
            return begins_as_dicom(start) or start.startswith(BEGINS)
        files = (file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
        return any(_is_scan(file) for file in islice(files, _LOOKED_AT))

    def files(self, path: Path) -> tuple[Path, ...]:
        """The slices in a folder; of a selection itself and its slices."""
        of_selection = (path,) if path.is_file() and is_selection(path) else ()
        return *of_selection, *files_of(path)

    def read_header(self, path: Path) -> Header:
        """Grid, going by all headers, and one channel."""
        return Header(geometry_of(series_of(path).planes), 1)

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Voxels and grid of the one series there is, by true positions."""
        series = series_of(path)
        geometry = geometry_of(series.planes)
        check_size(path, geometry.shape, 2, max_voxels=max_voxels)
        # A byte a pixel at least; compressed ones are held to what no method makes smaller.
        pixels, stored = sum(map(_pixels, series.planes)), sum(file.stat().st_size for file in series.files)
        check_stored(path, pixels, stored, compressed=is_compressed(series))
        array = voxels_of(series.planes)
        is_partial = any(phase.lacks for phase in series.phases)
        remarks = [Remark(words, is_warning=is_partial) for words in remarks_of(series)]
        return Stored(array[None], geometry, (*odd_spacing(geometry), *remarks))

    def why_not_integer(self, path: Path) -> None:
        """Nothing is known: a scan is no label map."""

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Scans are not written.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{path}: scans are not written as DICOM; write segmentations as DICOM SEG")


DICOM = Dicom()


def _is_scan(path: Path) -> bool:
    try:
        return is_dicom(path) and sop_class(path) not in DERIVED
    except OSError:  # other files tell
        return False


def _pixels(plane: Plane) -> int:
    return plane.shape[0] * plane.shape[1]
