"""Everything that is wrong with a data set, found in one pass and told at once."""

from medmamba.io.check.findings import Finding, Severity
from medmamba.io.check.pairs import check_pairs
from medmamba.io.check.report import FEW_CASES, check_dataset

__all__ = ["FEW_CASES", "Finding", "Severity", "check_dataset", "check_pairs"]
