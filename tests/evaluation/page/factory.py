"""Reports for pages, made up, and one of masks on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from medmamba import io
from medmamba.evaluation import page
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Lesion, Origin, Reliability
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

ONE = Labels(foreground=(Label(name="lesion", values=(1,)),))
TWO = Labels(foreground=(Label(name="lesion", values=(1,)), Label(name="core", values=(2,))))
VOID = {"meta", "link", "br", "img", "input", "hr"}
LESIONS = (
    Lesion(kind="found", volume_ml=0.5, voxel=(3, 4, 5), dice=0.8),
    Lesion(kind="missed", volume_ml=0.02, voxel=(1, 1, 1), dice=0.0),
    Lesion(kind="false", volume_ml=0.1, voxel=(7, 7, 7), dice=0.0),
)


def made_up(
    ids: Sequence[str],
    *,
    labels: Labels = TWO,
    metrics: tuple[str, ...] = ("dice", "hd95"),
    name: str = "",
    seed: int = 0,
    better: float = 0.0,
    lesions: tuple[Lesion, ...] = LESIONS,
    origin: Origin | None = None,
    reliability: Reliability | None = None,
) -> Report:
    """A report of random scores."""
    rng = np.random.default_rng(seed)
    cases = tuple(
        CaseScore(
            id=case,
            status="scored",
            scores=tuple(
                LabelScore(
                    label=label.name,
                    values=tuple(
                        min(1.0, float(rng.uniform(0.3, 0.8)) + better)
                        if number != 1
                        else float(rng.uniform(5, 20)) - 10 * better
                        for number in range(len(metrics))
                    ),
                    prediction_ml=float(rng.uniform(1, 9)),
                    reference_ml=5.0 + number_of_case % 7,
                    lesions=lesions,
                    reliability=reliability,
                )
                for label in labels.foreground
            ),
        )
        for number_of_case, case in enumerate(sorted(ids))
    )
    return Report(labels=labels, metrics=metrics, cases=cases, name=name, origin=origin or Origin())


@dataclass
class Parsed(HTMLParser):
    """A page taken apart: its elements, ids, text, links and what each script holds.

    Args:
        source: the page.
    """

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._table, self._script = "", ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        if tag == "table":
            self._table = str(facts["id"])
            self.rows[self._table] = -1  # the head
        if tag == "tr":
            self.rows[self._table] += 1
        if tag == "script":
            self._script = facts.get("id") or f"script {len(self.scripts)}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unmatched.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """All that is to be read."""
        return " ".join("".join(self.text).split())

    def attributes(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [str(facts[name]) for _, facts in self.tags if name in facts]


def parsed(*reports: Report, folder: Path, **options: object) -> Parsed:
    """The page of reports, taken apart."""
    path = page.write(reports, folder / "page.html", viewer="slices", **options)  # type: ignore[arg-type]
    return Parsed(path.read_text(encoding="utf-8"))


def write_masks(folder: Path, cases: int, *, shape: tuple[int, int, int] = (20, 18, 12)) -> tuple[Path, Path, Path]:
    """Folders of predictions, references and images: a block of 1 around one voxel of 2, predicted to the side."""
    rng = np.random.default_rng(0)
    folders = (folder / "predictions", folder / "references", folder / "images")
    for each in folders:
        each.mkdir(parents=True)
    for number in range(cases):
        grid = (shape[0] + number, *shape[1:])  # every case has a size of its own
        label = np.zeros(grid, dtype=np.uint8)
        middle = tuple(slice(size // 4, max(size // 4 + 1, 3 * size // 4)) for size in grid)
        label[middle] = 1
        label[grid[0] // 2, grid[1] // 2, grid[2] // 2] = 2
        geometry = Geometry(grid, np.diag([-1.0, 1.0, 2.0, 1.0]))
        prediction = np.roll(label, 1 + number % 2, axis=0)
        image = 100 + 50 * label + rng.normal(0, 5, grid)
        for place, array in zip(folders, (prediction, label, image.astype(np.float32)), strict=True):
            io.write(Volume(array[None], geometry), place / f"case_{number}.nii.gz")
    return folders


def unpacked(text: str) -> Any:
    """A volume as the page holds it: bytes."""
    import base64
    import gzip

    return gzip.decompress(base64.b64decode(text))
