"""Networks: plain torch modules that know neither files nor data sets."""

from medmamba.networks._convert import UpstreamError
from medmamba.networks._registry import Entry, create, describe, names, register
from medmamba.networks._upstream import from_upstream

__all__ = ["Entry", "UpstreamError", "create", "describe", "from_upstream", "names", "register"]
