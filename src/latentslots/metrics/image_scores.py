"""Scores of single images, from which means, intervals and comparisons are computed.

Dimensions: I images, V videos, N rows of a table, M metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from latentslots.config.conventions import Convention
from latentslots.device import in_double
from latentslots.metrics.ari import ari_of_table, has_foreground
from latentslots.metrics.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    percentile_interval,
    ratio,
    resample_weights,
)
from latentslots.metrics.contingency import PixelTable
from latentslots.metrics.overlap import overlap_of_table

METRICS = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "miou_objects": "mIoU, mean over objects",
    "mbo_objects": "mBO, mean over objects",
    "miou_images": "mIoU, mean over images",
    "mbo_images": "mBO, mean over images",
    "mbo_classes": "mBO of classes, mean over images",
}


@dataclass(frozen=True)
class ImageScores:
    """For every image and metric, a sum of values and their number: 0 where there is no score.

    A mean over objects weighs an image by its objects, a mean over images weighs images equally.

    Attributes:
        names: Keys of `METRICS`.
        sums: Sum of values, by image and metric.
        counts: Number of values, by image and metric.
        videos: Number of the video that every image is from; `None` where each stands alone.
    """

    names: tuple[str, ...]
    sums: Float64[np.ndarray, "I M"]
    counts: Int64[np.ndarray, "I M"]
    videos: Int64[np.ndarray, " I"] | None = None

    def __len__(self) -> int:
        return len(self.sums)

    def means(self) -> dict[str, float]:
        """The mean of every metric; NaN where no image has a score."""
        means = ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))
        return dict(zip(self.names, means.tolist(), strict=True))

    def values(self) -> Float64[np.ndarray, "I M"]:
        """The score of every image; NaN where it has none."""
        return ratio(self.sums, self.counts)

    @property
    def num_videos(self) -> int:
        """Videos, or images that stand alone."""
        return len(self) if self.videos is None else len(np.unique(self.videos))

    def by_video(self) -> tuple[Float64[np.ndarray, "V M"], Int64[np.ndarray, "V M"]]:
        """Sums and counts of whole videos: the unit of resampling, as frames are similar."""
        if self.videos is None:
            return self.sums, self.counts
        order = np.argsort(self.videos, kind="stable")
        starts = np.unique(self.videos[order], return_index=True)[1]
        sums, counts = (np.add.reduceat(x[order], starts) for x in (self.sums, self.counts))
        return sums, counts

    def intervals(
        self, *, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Percentile intervals of the means under the bootstrap over images, or over videos.

        Args:
            level: Share of the resampled means that lie inside.
            num_resamples: Number of resamples.
            seed: Seed of the draws.
        """
        sums, counts = self.by_video()
        draws = resample_weights(
            len(sums), num_resamples=num_resamples, rng=np.random.default_rng(seed)
        )
        means = np.concatenate([ratio(weights @ sums, weights @ counts) for weights in draws])
        return {
            name: percentile_interval(means[:, i], level)
            for i, name in enumerate(self.names)
            if self.counts[:, i].any()
        }


def image_scores(
    table: PixelTable,
    *,
    convention: Convention = "iou",
    classes: Int64[Tensor, "I N"] | None = None,
    videos: Int64[Tensor, " I"] | None = None,
) -> ImageScores:
    """Score every image of a table. All segmentation scores of this package are computed here.

    Images without a foreground pixel have no FG-ARI, mIoU or mBO and are left out of those means,
    with two exceptions: under the convention `lsd` they have an FG-ARI of 1, as in the official
    code, and under `with-background` their background counts in mIoU.

    Args:
        table: Pixels that objects and slots share.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        classes: Class of every row of the table, from 0; -1 for none. When given, objects of one
            class are also scored as one region (`mbo_classes`).
        videos: Number of the video of every image.
    """
    table = PixelTable(*(tensor.cpu() for tensor in table))
    has_fg_ari = has_foreground(table.counts)
    if convention == "lsd":
        has_fg_ari = torch.ones_like(has_fg_ari)
    fg_ari = ari_of_table(table.counts, ignore_background=True)
    columns: dict[str, tuple[Tensor, Tensor]] = {
        "fg_ari": (torch.where(has_fg_ari, fg_ari, 0.0), has_fg_ari),
        "ari": (ari_of_table(table.counts), torch.ones_like(has_fg_ari)),
        **overlap_of_table(table, convention=convention).sums(),
    }
    if classes is not None:
        columns["mbo_classes"] = _class_overlap(table, classes)
    names = [name for name in METRICS if name in columns]
    return ImageScores(
        names=tuple(names),
        sums=torch.stack([in_double(columns[name][0]) for name in names], dim=1).numpy(),
        counts=torch.stack([columns[name][1].long() for name in names], dim=1).numpy(),
        videos=None if videos is None else videos.numpy(),
    )


def _class_overlap(
    table: PixelTable, classes: Int64[Tensor, "I N"]
) -> tuple[Float64[Tensor, " I"], Int64[Tensor, " I"]]:
    """Average the best IoU of any slot over the classes of an image; the count is 0 without any."""
    num_classes = int(classes.max()) + 1 if classes.numel() else 0
    counts = torch.zeros(len(classes), num_classes + 1, table.counts.shape[2], dtype=torch.float64)
    # The last row holds the background and the objects without a class.
    rows = torch.where(classes >= 0, classes, num_classes)
    counts.scatter_add_(1, rows[..., None].expand_as(table.counts), in_double(table.counts))
    areas = counts.sum(dim=2, keepdim=True)
    iou = counts / (areas + counts.sum(dim=1, keepdim=True) - counts).clamp(min=1)
    present = areas[:, :-1, 0] > 0
    best = torch.where(present, iou[:, :-1].amax(dim=2), 0.0)
    number = present.sum(dim=1)
    return best.sum(dim=1) / number.clamp(min=1), (number > 0).long()


def scores_from_columns(
    columns: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    videos: Int64[np.ndarray, " I"] | None = None,
) -> ImageScores:
    """Restore scores from the values of images.

    Args:
        columns: Value of every image by metric; NaN where it has none.
        counts: Number of values behind each, for the metrics where that is not one.
        videos: Number of the video of every image.
    """
    names = [name for name in METRICS if name in columns]
    values = np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)
    number = np.stack(
        [
            np.asarray(counts[name]) if name in counts else ~np.isnan(values[:, i])
            for i, name in enumerate(names)
        ],
        axis=1,
    ).astype(np.int64)
    return ImageScores(
        tuple(names), np.where(number > 0, np.nan_to_num(values), 0) * number, number, videos
    )
