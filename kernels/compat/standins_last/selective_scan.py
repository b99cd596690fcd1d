"""Stands in for VMamba's selective_scan where no module of a program's own has that name."""

from medmamba.kernels.compat._extensions import selective_scan_fn, selective_scan_ref

__all__ = ["selective_scan_fn", "selective_scan_ref"]
