"""Stands in for selective_scan_cuda in processes that a program under medmamba.kernels.compat starts."""

from medmamba.kernels import compat

compat.install(force=True)
