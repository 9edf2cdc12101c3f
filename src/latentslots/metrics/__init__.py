"""Segmentation metrics: pure functions, and a torchmetrics class that accumulates them."""

from latentslots.config.conventions import CONVENTIONS, Convention
from latentslots.metrics.accumulate import SegmentationMetrics
from latentslots.metrics.ari import adjusted_rand_index
from latentslots.metrics.contingency import PixelTable, tabulate
from latentslots.metrics.image_scores import ImageScores, image_scores
from latentslots.metrics.overlap import Overlap, overlap, overlap_of_table

__all__ = [
    "CONVENTIONS",
    "Convention",
    "ImageScores",
    "Overlap",
    "PixelTable",
    "SegmentationMetrics",
    "adjusted_rand_index",
    "image_scores",
    "overlap",
    "overlap_of_table",
    "tabulate",
]
