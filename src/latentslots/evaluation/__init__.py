"""Scores of a trained pipeline, and of the baselines that it has to beat."""

from latentslots.evaluation.baselines import (
    cluster_features,
    cluster_pixels,
    connected_components,
    evaluate_baselines,
)
from latentslots.evaluation.comparison import Difference, compare_means
from latentslots.evaluation.predictions import Predictions, predict
from latentslots.evaluation.segmentation import (
    SegmentationReport,
    evaluate,
    evaluate_baseline,
    evaluate_predictions,
    score,
)
from latentslots.metrics.image_scores import ImageScores

__all__ = [
    "Difference",
    "ImageScores",
    "Predictions",
    "SegmentationReport",
    "cluster_features",
    "cluster_pixels",
    "compare_means",
    "connected_components",
    "evaluate",
    "evaluate_baseline",
    "evaluate_baselines",
    "evaluate_predictions",
    "predict",
    "score",
]
