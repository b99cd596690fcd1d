"""Self-configuration: measure a data set, decide everything else from the measurement."""

from medmamba.plans.plan import (
    ChannelPlan,
    InferenceSettings,
    IntensityStatistics,
    NetworkPlan,
    Plan,
    Resampling,
    Topology,
    TrainSettings,
)

__all__ = [
    "ChannelPlan",
    "InferenceSettings",
    "IntensityStatistics",
    "NetworkPlan",
    "Plan",
    "Resampling",
    "Topology",
    "TrainSettings",
]
