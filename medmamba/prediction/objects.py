"""Segmentations as DICOM objects: what those of a folder tell of their making."""

from __future__ import annotations

import secrets
from pathlib import Path

import medmamba
from medmamba.errors import UsageError
from medmamba.files import content_digest, write_bytes
from medmamba.io.dicom.codes import read_codes
from medmamba.io.dicom.derived import Making
from medmamba.io.formats import DICOM_SEG, RTSTRUCT
from medmamba.io.formats.dicom_seg import DicomSeg
from medmamba.io.formats.dicom_seg_write import SegType
from medmamba.io.formats.rtstruct import Rtstruct
from medmamba.plans.plan import Plan
from medmamba.prediction.folder import Writer

#: In a folder of anonymous objects: by what UIDs were replaced. Who has it can tell which UID stands for which.
SALT = ".anonymise"


def dicom_writers(
    folder: Path, plan: Plan, *, seg_type: SegType = "binary", anonymise: bool = False, codes: Path | None = None
) -> dict[str, Writer]:
    """How objects are written into a folder, by ending.

    Args:
        folder: of the segmentations; made if need be where they are to be anonymous.
        plan: of the model.
        seg_type: kind of DICOM SEG.
        anonymise: keep nothing of the patient, and replace UIDs, the same ones by the same in the whole folder.
        codes: file of the user's codes, see `medmamba.io.dicom.codes.read_codes`.

    Raises:
        UsageError: if structures that overlap are to be one map.
        OSError: if the file of codes cannot be read, or the folder not be written.
        DataError: if it holds none.
    """
    values = [value for label in plan.labels.foreground for value in label.values]
    if seg_type == "labelmap" and len(set(values)) < len(values):
        names = ", ".join(label.name for label in plan.labels.foreground)
        raise UsageError(f"--seg-type labelmap has one value per voxel, and {names} overlap; write binary")
    making = Making(
        model=f"{plan.network.name} {plan.dataset}"[:64],
        plan=plan.digest(),
        version=medmamba.__version__,
        codes={} if codes is None else read_codes(codes),
        salt=_salt(folder) if anonymise else "",
    )
    words = [
        seg_type,
        *(["anonymous"] if anonymise else []),
        *([f"codes {content_digest([codes])[:12]}"] if codes else []),
    ]
    told = ", ".join(words[1:])
    return {
        DICOM_SEG.suffixes[0]: Writer(
            format=DicomSeg(kind=seg_type, making=making),
            settings=", ".join(words),
            stores_probabilities=seg_type == "fractional",
        ),
        RTSTRUCT.suffixes[0]: Writer(format=Rtstruct(making=making), settings=told),
    }


def _salt(folder: Path) -> str:
    path = folder / SALT
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(secrets.token_hex(32).encode(), path)
    return path.read_text(encoding="ascii")
