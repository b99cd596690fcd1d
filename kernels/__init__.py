"""The selective scan of Mamba: one function, any order of the tokens, several backends, one oracle."""

from .convolution import causal_conv
from .dispatch import backends, multi_scan, selective_scan
from .orders import BACKWARD, FORWARD, ScanOrder, bidirectional, cross, interleaved

__all__ = [
    "BACKWARD",
    "FORWARD",
    "ScanOrder",
    "backends",
    "bidirectional",
    "causal_conv",
    "cross",
    "interleaved",
    "multi_scan",
    "selective_scan",
]
