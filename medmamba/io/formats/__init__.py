"""File formats: one module each, all of them in one table."""

from medmamba.io.formats.dicom import DICOM
from medmamba.io.formats.dicom_seg import DICOM_SEG
from medmamba.io.formats.format import MAX_VOXELS, Format, Header, Stored
from medmamba.io.formats.itk import METAIMAGE, NRRD
from medmamba.io.formats.nifti import NIFTI
from medmamba.io.formats.rtstruct import RTSTRUCT, ContoursError

__all__ = ["DICOM_SEG", "FORMATS", "MAX_VOXELS", "OF_SERIES", "RTSTRUCT", "ContoursError", "Format", "Header", "Stored"]

#: The first that recognises a file reads it; their suffixes are those of new files.
FORMATS: tuple[Format, ...] = (NIFTI, NRRD, METAIMAGE, DICOM_SEG, RTSTRUCT, DICOM)
#: Endings of what refers to the slices of a DICOM series.
OF_SERIES = frozenset((*DICOM_SEG.suffixes, *RTSTRUCT.suffixes))
