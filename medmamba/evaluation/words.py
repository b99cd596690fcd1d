"""The metrics in words, apart from what computes them, so that ``--help`` need not wait for that."""

from __future__ import annotations

#: What each metric of `medmamba.evaluation.metrics.METRICS` tells, by the name it is asked for; columns of challenges
#: are asked for by the group.
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
    "lesion_f1": "found lesions over found, missed and false ones, where any common voxel finds",
    "lesion_sensitivity": "share of the lesions that were found",
    "lesion_precision": "found over found and false lesions",
    "lesions_missed": "how many lesions were missed",
    "lesions_false": "how many lesions were invented",
    "pq": "panoptic quality: sq times rq",
    "sq": "mean IoU of lesions that match by half and more",
    "rq": "F1 of such matches",
}
#: Groups of metrics, `medmamba.evaluation.metrics.GROUPS`, by the name they are asked for.
GROUP_WORDS = {
    "standard": "dice and hd95",
    "surface": "hd95, hd, assd, and nsd at 0.5, 1 and 2 mm",
    "calibration": "ece",
    "volume": "volume_difference and volume_similarity",
    "lesions": "the five that count lesions",
    "panoptic": "pq, sq and rq",
    "brats2023_gli": "official lesion-wise scores of 2023 for glioma",
    "brats2023_ssa": "those for Africa",
    "brats2023_ped": "for children",
    "brats2023_men": "for meningioma",
    "brats2023_met": "for metastases",
    "brats2024_gli": "official scores of 2024 and later for glioma",
    "brats2024_ped": "for children",
    "brats2024_men": "for meningioma",
    "brats2024_goat": "for all kinds of tumours",
    "brats2024_menrt": "for radiotherapy of meningioma",
    "brats2024_met": "for metastases",
}
