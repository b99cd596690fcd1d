"""Networks: plain torch modules that know neither files nor data sets."""

from medmamba.networks._cost import registration_bytes
from medmamba.networks._registration import Registration
from medmamba.networks._registry import Entry, create, create_registration, describe, names, register
from medmamba.networks.published import UpstreamError, from_upstream

__all__ = [
    "Entry",
    "Registration",
    "UpstreamError",
    "create",
    "create_registration",
    "describe",
    "from_upstream",
    "names",
    "register",
    "registration_bytes",
]
