"""What a check of a data set tells, and what it remembers of each case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmamba.io.remarks import Remark
from medmamba.volume import Geometry

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or worth knowing.

    Args:
        severity: an ``error`` keeps training from working or makes it wrong, a ``warning`` may, a ``note`` does not.
        rule: short stable name of what is checked.
        message: value and remedy.
        case: the case it is about, if any.
        file: the file it is about, if any.
    """

    severity: Severity
    rule: str
    message: str
    case: str | None = None
    file: str | None = None

    @classmethod
    def of(cls, remark: Remark, case: str | None = None, file: str | None = None) -> Finding:
        """What a reader or a layout remarked on."""
        return cls("warning" if remark.is_warning else "note", remark.rule, remark.message, case, file)

    @property
    def in_words(self) -> str:
        """As the message of an error: place, value, remedy."""
        place = ", ".join(filter(None, (self.file, f"case {self.case}" if self.case else None)))
        return f"{place}: {self.message}" if place else self.message


@dataclass(slots=True)
class Facts:
    """What was found in one case: problems of its own, and what is compared between cases."""

    case: str
    findings: list[Finding] = field(default_factory=list)
    geometry: Geometry | None = None
    values: frozenset[int] | None = None
    digests: list[str] = field(default_factory=list)

    def add(self, severity: Severity, rule: str, message: str, file: Path | None = None) -> None:
        """One more finding about this case."""
        name = None if file is None else str(file)
        self.findings.append(Finding(severity, rule, message, self.case, name))

    def remark(self, remarks: Iterable[Remark], file: Path) -> None:
        """What the reader of a file remarked on."""
        self.findings += [Finding.of(remark, self.case, str(file)) for remark in remarks]
