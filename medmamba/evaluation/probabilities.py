"""Probabilities that lie beside a segmentation, as nnUNetv2_predict saves them when asked to.

The properties beside them (``.pkl``) are a pickle, which can run any code, and stay closed. Instead the probabilities
have to lead to the segmentation that lies beside them, which tells when an axis runs the other way.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import DataError
from medmamba.evaluation.masks import count_voxels
from medmamba.io.layouts.names import split_ending
from medmamba.labels import Labels

#: The array's name in the file.
KEY = "probabilities"
#: Postprocessing may have removed components, but what is left has to be what the probabilities say.
AGREEMENT = 0.5
#: So far rounding may carry a probability beyond 0 and 1.
ROUNDING = 1e-3


class ProbabilityError(DataError):
    """A file of probabilities cannot be used; the message says why."""


def beside(prediction: Path) -> Path | None:
    """The file of probabilities that belongs to a segmentation; None where there is none."""
    path = prediction.with_name(f"{split_ending(prediction)[0]}.npz")
    return path if path.is_file() else None


def read(path: Path, labels: Labels, segmentation: NDArray[Any]) -> NDArray[np.float32]:
    """Probability of every structure at every voxel.

    Args:
        path: an ``.npz`` file of nnU-Net's: (C, K, J, I) with a channel for each class and one for background before
            them, or, where there are regions, for each of these.
        labels: the structures.
        segmentation: (I, J, K) the label map made of them.

    Returns:
        (structures, I, J, K).

    Raises:
        ProbabilityError: if it is damaged, of another shape, or does not lead to the segmentation.
        OSError: if it cannot be read.
    """
    stored = _stored(path)
    wanted = (labels.output_channels, *segmentation.shape)
    if stored.shape != (wanted[0], *reversed(wanted[1:])) or not np.issubdtype(stored.dtype, np.floating):
        raise ProbabilityError(
            f"{path} holds {stored.dtype} of shape {stored.shape}, but {labels.output_channels} outputs on the grid of "
            f"the segmentation are real numbers of shape {(wanted[0], *reversed(wanted[1:]))}; predict again"
        )
    if not (stored.min() >= -ROUNDING and stored.max() <= 1 + ROUNDING):
        raise ProbabilityError(f"{path} holds {stored.min()} to {stored.max()}; probabilities lie between 0 and 1")
    outputs = np.moveaxis(stored.T, -1, 0)
    _check_agreement(path, outputs, labels, segmentation)
    if not labels.has_regions:  # channels of classes ascend by value, after that of background
        values = [label.values[0] for label in labels.foreground]
        outputs = outputs[[1 + sorted(values).index(value) for value in values]]
    return np.asarray(outputs.clip(0, 1), dtype=np.float32)


def _stored(path: Path) -> NDArray[Any]:
    if not zipfile.is_zipfile(path):
        raise ProbabilityError(f"{path} is no .npz file, or is cut short; predict again")
    try:
        with np.load(path, allow_pickle=False) as found:
            if KEY not in found:
                raise ProbabilityError(f"{path} holds no array {KEY!r}; those that nnU-Net saves do")
            return np.asarray(found[KEY])
    except ProbabilityError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ProbabilityError(f"{path} cannot be read: {error}; predict again") from error


def _check_agreement(path: Path, outputs: NDArray[Any], labels: Labels, segmentation: NDArray[Any]) -> None:
    """Refuse probabilities that lead to another segmentation."""
    chosen = outputs.max(axis=0) > 0.5 if labels.has_regions else outputs.argmax(axis=0) > 0
    dice = count_voxels(segmentation > 0, chosen).dice
    if dice < AGREEMENT:
        raise ProbabilityError(
            f"{path} does not lead to the segmentation beside it (Dice {dice:.2f}): an axis may run the other way, or "
            "they are of two predictions; predict again"
        )
