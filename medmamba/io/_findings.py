"""What a check of a data set tells, and what it remembers of each case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmamba.case import some
from medmamba.volume import Geometry

__all__ = ["Facts", "Finding", "Severity", "some"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
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
        self.findings.append(Finding(severity=severity, rule=rule, message=message, case=self.case, file=name))
