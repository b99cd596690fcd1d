"""Stands in for causal_conv1d in processes that a program under medmamba.kernels.compat starts."""

from medmamba.kernels import compat

compat.install(force=True)
