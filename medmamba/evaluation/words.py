"""The metrics in words, apart from what computes them, so that ``--help`` need not wait for that."""

from __future__ import annotations

#: What each metric of `medmamba.evaluation.metrics.METRICS` tells, by the name it is asked for.
WORDS = {
    "dice": "overlap, 1 is perfect and 0 is none",
    "iou": "common voxels over those of either",
    "precision": "share of the prediction that is right",
    "sensitivity": "share of the reference that was found",
    "volume_difference": "how many ml the volumes are apart",
    "volume_similarity": "1 where the volumes are equal, wherever they lie",
    "nsd_1mm": "share of the surface within 1 mm",
    "nsd_2mm": "share of the surface within 2 mm",
    "hd95": "distance in mm within which 95 % of both surfaces lie",
    "hd": "largest distance",
    "assd": "mean distance",
    "ece": "how wrong probabilities beside the predictions are",
}
#: Groups of metrics, `medmamba.evaluation.metrics.GROUPS`, by the name they are asked for.
GROUP_WORDS = {
    "standard": "dice and hd95",
    "surface": "hd95, hd, assd, and nsd at 0.5, 1 and 2 mm",
    "calibration": "ece",
    "volume": "volume_difference and volume_similarity",
}
