"""Stands in for mamba_ssm in processes that a program under medmamba.kernels.compat starts."""

from medmamba.kernels import compat

compat.install(force=True)
