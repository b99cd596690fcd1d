"""File formats: one module each, all of them in one table."""

from medmamba.io.formats.dicom import DICOM
from medmamba.io.formats.format import MAX_VOXELS, Format, Header, Stored
from medmamba.io.formats.itk import METAIMAGE, NRRD
from medmamba.io.formats.nifti import NIFTI

__all__ = ["FORMATS", "MAX_VOXELS", "Format", "Header", "Stored"]

#: The first that recognises a file reads it; their suffixes are those of new files.
FORMATS: tuple[Format, ...] = (NIFTI, NRRD, METAIMAGE, DICOM)
