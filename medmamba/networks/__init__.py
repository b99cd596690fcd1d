"""Networks: plain torch modules that know neither files nor data sets."""

from medmamba.networks._cost import registration_bytes, video_bytes
from medmamba.networks._registration import Registration
from medmamba.networks._registry import Entry, create, create_registration, create_video, describe, names, register
from medmamba.networks._video import StreamState, VideoNetwork
from medmamba.networks.published import UpstreamError, from_upstream

__all__ = [
    "Entry",
    "Registration",
    "StreamState",
    "UpstreamError",
    "VideoNetwork",
    "create",
    "create_registration",
    "create_video",
    "describe",
    "from_upstream",
    "names",
    "register",
    "registration_bytes",
    "video_bytes",
]
