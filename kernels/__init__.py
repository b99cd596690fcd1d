"""The selective scan of Mamba: one function, several backends, one oracle."""

from .dispatch import backends, selective_scan
from .reference import selective_scan_reference

__all__ = ["backends", "selective_scan", "selective_scan_reference"]
