"""Segmentation metrics: pure functions, and a torchmetrics class that accumulates them."""

from typing import TYPE_CHECKING, Any

from latentslots.config.conventions import CONVENTIONS, Convention
from latentslots.metrics.ari import adjusted_rand_index
from latentslots.metrics.contingency import PixelTable, tabulate
from latentslots.metrics.image_scores import ImageScores, image_scores
from latentslots.metrics.overlap import Overlap, overlap, overlap_of_table

if TYPE_CHECKING:
    from latentslots.metrics.accumulate import SegmentationMetrics

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


def __getattr__(name: str) -> Any:
    """Import the class of torchmetrics when it is used: that takes seconds."""
    if name != "SegmentationMetrics":
        raise AttributeError(f"module 'latentslots.metrics' has no attribute {name!r}")
    from latentslots.metrics.accumulate import SegmentationMetrics

    return SegmentationMetrics
