"""The meaning of each score in a few words."""

MEANINGS = {
    "miou": "overlap of predicted and true regions, mean over classes; 1 is best",
    "accuracy": "share of pixels whose class is right",
    "class_accuracy": "share of each class that is found, mean over classes",
    "nll": "negative log likelihood of the targets in nats; lower is better",
    "brier": "squared distance between probabilities and targets; lower is better",
    "ece": "gap between confidence and accuracy over 15 bins; 0 is calibrated",
    "error_auroc": "how well total uncertainty ranks wrong pixels above right ones; 0.5 is chance, 1 is best",
    "ause": "area between the rejection curve and that of the oracle; 0 is best",
    "aurg": "area gained over rejecting at random; above 0 the uncertainty helps",
    "epe": "mean length of the error, in the unit of the target; lower is better",
    "rmse": "root of the mean squared error, in the unit of the target; lower is better",
    "abs_rel": "error relative to the true value; lower is better",
    "log10": "difference of decimal logarithms; lower is better",
    "delta1": "share of pixels within a factor 1.25 of the target; 1 is best",
    "delta2": "share of pixels within a factor 1.25² of the target; 1 is best",
    "delta3": "share of pixels within a factor 1.25³ of the target; 1 is best",
    "coverage90": "share of targets inside the 90 % interval; 0.9 is calibrated",
    **{
        f"{score}_{part}": f"{part} uncertainty: {words}"
        for score, words in {
            "spearman": "rank correlation of student and teacher over pixels; 1 is best",
            "mae": "mean absolute difference of student and teacher; 0 is best",
        }.items()
        for part in ("total", "aleatoric", "epistemic")
    },
    "truth_kl": "divergence of the true class distributions from the predicted ones, nats; 0 is best",
    "aleatoric_error": "difference of aleatoric uncertainty and the entropy of the true distributions, nats; 0 is best",
    "aleatoric_correlation": "correlation of the two over pixels; 1 is best",
    **{
        f"anomaly_{score}_{part}": f"{part}: {words}"
        for score, words in {
            "aupr": "average precision for novel pixels within images that mark them; chance is their share",
            "fpr95": "share of known pixels that are flagged when 95 % of the novel ones are; 0 is best",
            "f1": "F1 of regions of novel pixels, mean over overlaps from 0.25 to 0.75; 1 is best",
        }.items()
        for part in ("total", "epistemic", "novelty")
    },
    "pq": "panoptic quality: overlap of matched segments over all segments, mean over classes; 1 is best",
    "sq": "overlap of the segments that match, mean over classes",
    "rq": "F1 score of finding segments, mean over classes; 1 is best",
    "pq_things": "panoptic quality of the classes that have instances",
    "pq_stuff": "panoptic quality of the other classes",
    "ap": "average precision of instances over IoU from 0.5 to 0.95; 1 is best",
    "ap50": "average precision of instances at IoU 0.5",
    "center_error": "distance between predicted and true center of an instance, pixels",
    "center_spearman": "how well the uncertainty of instances ranks that distance; 1 is best",
    "iou_spearman": "how well 1 − score ranks 1 − IoU; 1 is best",
    "dice": "Dice or F1 score of the regions, mean over classes; 1 is best",
    "sensitivity": "share of the pixels of a class that are found, mean over classes; 1 is best",
    "specificity": "share of the other pixels that are not taken for a class, mean over classes; 1 is best",
    "precision": "share of the predicted pixels of a class that are right, mean over classes; 1 is best",
    "roc_auc": "area under the ROC of a class against the rest, mean over classes; 0.5 is chance, 1 is best",
    "pr_auc": "average precision of a class against the rest, mean over classes; 1 is best",
    "assd": "average distance of predicted and true surfaces, pixels, mean over images and classes; 0 is best",
    "hd95": "95 % Hausdorff distance of the surfaces, pixels, mean over images and classes; 0 is best",
    "surface_missed": "share of the images with a class in the prediction or the target, but not in both",
    "position_median": "median distance of predicted and true position, meters; 0 is best",
    "position_mean": "mean distance of predicted and true position, meters; 0 is best",
    "rotation_median": "median angle between predicted and true rotation, degrees; 0 is best",
    "rotation_mean": "mean angle between predicted and true rotation, degrees; 0 is best",
    "ellipsoid90": "share of true poses inside the 90 % ellipsoid; 0.9 is calibrated",
    "position_spearman": "rank correlation of the error of the position and its σ; 1 is best",
    "rotation_spearman": "rank correlation of the error of the rotation and its σ; 1 is best",
    "position_area": "mean error of the position when the most uncertain images are left out, over all shares; meters",
    "position_ause": "that area minus the one of the best order, meters; 0 is best",
    "risk": "share of pixels that the conformal sets or intervals miss, mean over images",
    "set_size": "number of classes in a set, or width of an interval, on average",
}

BY_CLASS = {
    "iou": ("IoU", "overlap of predicted and true pixels"),
    "f1": ("Dice", "F1 score, twice the hits over predicted and true pixels"),
    "precision": ("precision", "share of the predicted pixels that are right"),
    "recall": ("sensitivity", "recall, share of the true pixels that are found"),
    "specificity": ("specificity", "share of the other pixels that are not taken for the class"),
    "roc_auc": ("AUROC", "area under the ROC of the class’s probability; 0.5 is chance"),
    "pr_auc": ("AUPR", "average precision of the class’s probability; the share of the class is chance"),
    "ece": ("ECE", "gap between the class’s probability and its frequency; 0 is calibrated"),
}
"""Heading and meaning of the scores of each class."""
