"""DICOM series: what is in an export, where its slices lie, which are read, and their voxels.

`media` finds the files, `instances` reads their headers and `slices` those of their slices, `series` says what belongs
together, `order` makes stacks of it, `selection` says which is read and how, `inputs` which are segmented, and `stack`
reads voxels.
"""

from pathlib import Path

from medmamba.io.dicom.media import opened
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.series import explore


def find_series(path: Path) -> tuple[Series, ...]:
    """The series that a folder, medium or file holds, see `medmamba.io.dicom.media.opened`.

    Raises:
        ImageFileError: if a DICOMDIR is damaged, or names files outside of its folder.
        OSError: if something cannot be read.
    """
    with opened(path) as files:
        return explore(files).series
