"""Segmentations as DICOM objects: what those of a folder tell of their making."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

import medmamba
from medmamba.errors import DataError, UsageError
from medmamba.files import content_digest
from medmamba.io.dicom.codes import Coding, read_codes
from medmamba.io.dicom.derived import Making, text
from medmamba.io.formats import DICOM_SEG, RTSTRUCT
from medmamba.io.formats.dicom_seg import DicomSeg
from medmamba.io.formats.dicom_seg_write import SegType
from medmamba.io.formats.rtstruct import Rtstruct
from medmamba.plans.plan import Plan
from medmamba.prediction.folder import Secret, Writer

#: In a folder of anonymous objects: by what UIDs were replaced. Who has it can tell which UID stands for which.
SALT = ".anonymise"


def dicom_writers(
    folder: Path, plan: Plan, *, seg_type: SegType = "binary", anonymise: bool = False, codes: Path | None = None
) -> dict[str, Writer]:
    """How objects are written into a folder, by ending.

    Args:
        folder: of the segmentations, which need not be there.
        plan: of the model.
        seg_type: kind of DICOM SEG.
        anonymise: keep nothing of the patient, and replace UIDs, the same ones by the same in the whole folder.
        codes: file of the user's codes, see `medmamba.io.dicom.codes.read_codes`.

    Raises:
        UsageError: if structures that overlap are to be one map.
        OSError: if the file of codes, or that of the secret of a folder that was begun, cannot be read.
        DataError: if it holds none, or one of a structure that the model does not know.
    """
    values = [value for label in plan.labels.foreground for value in label.values]
    if seg_type == "labelmap" and len(set(values)) < len(values):
        names = ", ".join(label.name for label in plan.labels.foreground)
        raise UsageError(f"--seg-type labelmap has one value per voxel, and {names} overlap; write binary")
    secret = _secret(folder / SALT) if anonymise else None
    making = Making(
        model=text(f"{plan.network.name} {plan.dataset}"),
        dataset=plan.dataset,
        plan=plan.digest(),
        version=medmamba.__version__,
        codes={} if codes is None else _codes(codes, (label.name for label in plan.labels.foreground)),
        salt=secret.text if secret else "",
    )
    words = [
        seg_type,
        *(["anonymous"] if anonymise else []),
        *([f"codes {content_digest([codes])[:12]}"] if codes else []),
    ]
    of_all = (*(["--anonymise"] if anonymise else []), *(["--codes"] if codes else []))
    of_seg = (f"--seg-type {seg_type}",) if seg_type != "binary" else ()
    return {
        DICOM_SEG.suffixes[0]: Writer(
            format=DicomSeg(kind=seg_type, making=making),
            settings=", ".join(words),
            stores_probabilities=seg_type == "fractional",
            options=(*of_seg, *of_all),
            secret=secret,
        ),
        RTSTRUCT.suffixes[0]: Writer(
            format=Rtstruct(making=making), settings=", ".join(words[1:]), options=of_all, secret=secret
        ),
    }


def _codes(path: Path, names: Iterable[str]) -> dict[str, Coding]:
    codes, known = read_codes(path), list(names)
    if unknown := [name for name in codes if name not in known]:
        raise DataError(
            f"{path} has codes of {', '.join(map(repr, unknown))}, and the model has no such structure; it has "
            f"{', '.join(map(repr, known))}"
        )
    return codes


def _secret(path: Path) -> Secret:
    """That of the folder, or a new one."""
    return Secret(path=path, text=path.read_text(encoding="ascii") if path.is_file() else secrets.token_hex(32))
