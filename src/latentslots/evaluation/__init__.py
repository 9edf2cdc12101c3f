"""Scores of a trained pipeline, and of the baselines that it has to beat."""

from latentslots.evaluation.baselines import (
    cluster_pixels,
    connected_components,
    evaluate_baselines,
)
from latentslots.evaluation.segmentation import (
    SegmentationReport,
    evaluate,
    evaluate_baseline,
    evaluate_predictions,
)

__all__ = [
    "SegmentationReport",
    "cluster_pixels",
    "connected_components",
    "evaluate",
    "evaluate_baseline",
    "evaluate_baselines",
    "evaluate_predictions",
]
