"""Which structures count for a registered pair: those that both of its label maps have, and no others.

No transform can bring a structure that one of the images lacks: its overlap is 0 whatever was done. So a pair's figures
depend on that pair alone, are over the same structures before and after and by any method, and are those of its record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.matching import Match, find_meaning
from medmamba.evaluation.registered_folder import RegisteredPair, Unregistered
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Labels
from medmamba.progress import Progress

#: Memory a voxel takes about while the values of a label map are counted.
VOXEL_BYTES = 16
#: What is said of a pair that no overlap can be told of.
NOTHING_SHARED = "the label maps have no structure in common, so that no overlap can be told"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMaps:
    """What the label maps of pairs hold.

    Args:
        pairs: files of the fixed and the moving image's by pair, of those that have both.
        ml: volume by value and file, of the files that can be read.
        unread: why the others cannot.
    """

    pairs: dict[str, tuple[Path, Path]]
    ml: dict[Path, dict[int, float]]
    unread: tuple[str, ...]

    @classmethod
    def read(cls, pairs: Iterable[RegisteredPair | Unregistered], *, workers: int = 1, progress: Progress) -> LabelMaps:
        """Of pairs, whether or not they were registered; each file is read once, as an atlas is in all pairs."""
        maps = {pair.id: pair.labels for pair in pairs if pair.labels is not None}
        files = list(dict.fromkeys(file for both in maps.values() for file in both))
        wanted = [Match(id=str(file), reference=file, prediction=None) for file in files]
        engine = suited(len(files), at_most=workers, case_bytes=VOXEL_BYTES * largest_voxels(files))
        outcomes = map_cases(_volumes_ml, wanted, engine, title="Looking for labels", progress=progress)
        by_file = list(zip(files, outcomes, strict=True))
        return cls(
            pairs=maps,
            ml={file: found for file, found in by_file if not isinstance(found, Failure)},
            unread=tuple(found.reason for _, found in by_file if isinstance(found, Failure)),
        )

    def matches(self, place: Path) -> list[Match]:
        """The fixed label map of each pair against the moved one in a folder; none of pairs that failed."""
        moved = {pair: place / f"{pair}.nii.gz" for pair in self.pairs}
        return [
            Match(id=pair, reference=fixed, prediction=moved[pair] if moved[pair].is_file() else None)
            for pair, (fixed, _) in sorted(self.pairs.items())
        ]

    def meaning(self, labels: str) -> Labels:
        """What values mean, by what the user says or what lies beside a label map, else every value of all maps.

        Raises:
            DataError: if these cannot be read, or hold nothing.
        """
        fixed, moving = next(iter(self.pairs.values()))
        if found := find_meaning(moving, fixed, labels):
            return found.labels
        values = {value for ml in self.ml.values() for value in ml}
        if not values:
            reason = self.unread[0] if self.unread else f"none holds more than background, as {fixed}"
            raise DataError(
                f"no structures in the label maps of {len(self.pairs)} pairs: {reason}; are these label maps?"
            )
        return Labels.of_values(values)

    def of_pairs(self, report: Report) -> Report:
        """The report with the values of those structures alone that both label maps of a pair have."""
        values = {label.name: set(label.values) for label in report.labels.foreground}

        def counted(score: LabelScore, held: Sequence[Mapping[int, float]]) -> LabelScore:
            if all(values[score.label] & each.keys() for each in held):
                return score
            return replace(score, values=(math.nan,) * len(score.values), lesions=())

        def of(case: CaseScore) -> CaseScore:
            held = [self.ml[file] for file in self.pairs[case.id] if file in self.ml]
            scores = tuple(counted(score, held) for score in case.scores)
            lonely = scores and all(math.isnan(value) for score in scores for value in score.values)
            return replace(case, scores=scores, notes=(*case.notes, *([NOTHING_SHARED] if lonely else [])))

        return replace(report, cases=tuple(map(of, report.cases)))

    def large(self, report: Report, least_ml: float) -> Report:
        """The report with the structures that are large enough in the mean over the fixed label maps of all pairs."""
        held = [self.ml[fixed] for fixed, _ in self.pairs.values() if fixed in self.ml]
        kept = [
            label.name
            for label in report.labels.foreground
            if math.fsum(ml.get(value, 0.0) for ml in held for value in label.values) >= least_ml * len(held)
        ]
        if not kept:
            raise UsageError(f"no structure takes {least_ml:g} ml in the mean of the fixed label maps; ask for less")
        return report.of_labels(kept)


def _volumes_ml(match: Match) -> dict[int, float]:
    """The values in a label map but 0, and the volume that each takes."""
    volume = io.read_label(match.reference, as_stored=True)
    voxel_ml = abs(float(np.linalg.det(volume.geometry.affine[:3, :3]))) / 1000
    values, counts = np.unique(volume.array, return_counts=True)
    return {int(value): int(count) * voxel_ml for value, count in zip(values, counts, strict=True) if value}
