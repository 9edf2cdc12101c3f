"""Metrics of segmentation: pure functions, and torchmetrics classes that accumulate them."""

from latentslots.metrics.ari import AdjustedRandIndex, adjusted_rand_index
from latentslots.metrics.contingency import PixelTable, contingency, tabulate
from latentslots.metrics.overlap import (
    CONVENTIONS,
    Convention,
    MeanOverlap,
    Overlap,
    overlap,
    overlap_of_table,
)
from latentslots.metrics.segmentation import SegmentationMetrics

__all__ = [
    "CONVENTIONS",
    "AdjustedRandIndex",
    "Convention",
    "MeanOverlap",
    "Overlap",
    "PixelTable",
    "SegmentationMetrics",
    "adjusted_rand_index",
    "contingency",
    "overlap",
    "overlap_of_table",
    "tabulate",
]
