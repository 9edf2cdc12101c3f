"""Scores of single images: what means, intervals and comparisons are made of.

Dimensions: I images, V videos, M metrics, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from latentslots.metrics import Convention, PixelTable, overlap_of_table
from latentslots.metrics.ari import ari_of_table, has_foreground
from latentslots.metrics.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    percentile_interval,
    ratio,
    resamples,
)

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
    """For every image and metric a sum, and how many values it is of: 0 where there is no score.

    A mean over objects weighs an image by its objects; a mean over images weighs all alike.

    Attributes:
        names: Keys of `METRICS`.
        sums: By image and metric.
        counts: By image and metric.
        videos: Number of the video that every image is of; `None` where each stands alone.
    """

    names: tuple[str, ...]
    sums: Float64[np.ndarray, "I M"]
    counts: Int64[np.ndarray, "I M"]
    videos: Int64[np.ndarray, " I"] | None = None

    def __len__(self) -> int:
        return len(self.sums)

    def means(self) -> dict[str, float]:
        """The mean of every metric; NaN where no image has a score."""
        found = ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))
        return dict(zip(self.names, found.tolist(), strict=True))

    def values(self) -> Float64[np.ndarray, "I M"]:
        """The score of every image: its mean; NaN where it has none."""
        return ratio(self.sums, self.counts)

    @property
    def num_videos(self) -> int:
        """How many videos, or images that stand alone, there are."""
        return len(self) if self.videos is None else len(np.unique(self.videos))

    def by_video(self) -> tuple[Float64[np.ndarray, "V M"], Int64[np.ndarray, "V M"]]:
        """Sums and counts of whole videos: what chance draws, as their frames are much alike."""
        if self.videos is None:
            return self.sums, self.counts
        order = np.argsort(self.videos, kind="stable")
        starts = np.unique(self.videos[order], return_index=True)[1]
        sums, counts = (np.add.reduceat(x[order], starts) for x in (self.sums, self.counts))
        return sums, counts

    def intervals(
        self, *, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """What the means might have been with other images of the same kind.

        Percentiles of the bootstrap over images, or over videos where there are some (Efron, 1979,
        https://doi.org/10.1214/aos/1176344552).

        Args:
            level: Share of the resampled means that lie inside.
            num_resamples: Times that as many are drawn, with replacement.
            seed: Of the draws.
        """
        sums, counts = self.by_video()
        draws = resamples(
            len(sums), num_resamples=num_resamples, random=np.random.default_rng(seed)
        )
        drawn = np.concatenate([ratio(often @ sums, often @ counts) for often in draws])
        return {
            name: percentile_interval(drawn[:, i], level)
            for i, name in enumerate(self.names)
            if self.counts[:, i].any()
        }


def image_scores(
    table: PixelTable,
    *,
    convention: Convention,
    classes: Int64[Tensor, "I N"] | None = None,
    videos: Int64[Tensor, " I"] | None = None,
) -> ImageScores:
    """Score every image of a table.

    Args:
        table: Pixels that objects and slots share, as `Predictions` have them.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        classes: Class of every row of the table, from 0; -1 where it has none. When given, objects
            of one class are scored as one region, too (`mbo_classes`).
        videos: Number of the video of every image.
    """
    with_objects = has_foreground(table.counts)
    found = overlap_of_table(table, convention=convention, use_empty_slots=True)
    in_fg_ari = torch.ones_like(with_objects) if convention == "lsd" else with_objects
    everywhere = torch.ones(len(with_objects), dtype=torch.bool)
    fg_ari = ari_of_table(table.counts, ignore_background=True)
    columns: dict[str, tuple[Tensor, Tensor]] = {
        "fg_ari": (torch.where(in_fg_ari, fg_ari, 0.0), in_fg_ari),
        "ari": (ari_of_table(table.counts), everywhere),
    }
    regions = {
        "miou": (found.matched_iou, found.in_miou),
        "mbo": (found.best_iou, found.in_mbo),
    }
    for name, (iou, counted) in regions.items():
        number = counted.sum(dim=1)
        total = torch.where(counted, iou, 0.0).sum(dim=1)
        columns[f"{name}_objects"] = (total, number)
        columns[f"{name}_images"] = (total / number.clamp(min=1), number > 0)
    if classes is not None:
        columns["mbo_classes"] = _class_overlap(table, classes)
    names = [name for name in METRICS if name in columns]
    return ImageScores(
        names=tuple(names),
        sums=torch.stack([columns[name][0].double() for name in names], dim=1).numpy(),
        counts=torch.stack([columns[name][1].long() for name in names], dim=1).numpy(),
        videos=None if videos is None else videos.numpy(),
    )


def _class_overlap(
    table: PixelTable, classes: Int64[Tensor, "I N"]
) -> tuple[Float64[Tensor, " I"], Int64[Tensor, " I"]]:
    """The mean, over an image's classes, of the best IoU of any slot."""
    number = int(classes.max()) + 1 if classes.numel() else 0
    merged = torch.zeros(len(classes), number + 1, table.counts.shape[2], dtype=torch.int64)
    rows = torch.where(classes >= 0, classes, number)  # the last row: the background, no class
    merged.scatter_add_(1, rows[..., None].expand_as(table.counts), table.counts.long())
    counts = merged.double()
    areas = counts.sum(dim=2, keepdim=True)
    iou = counts / (areas + counts.sum(dim=1, keepdim=True) - counts).clamp(min=1)
    shown = areas[:, :-1, 0] > 0
    best = torch.where(shown, iou[:, :-1].amax(dim=2), 0.0)
    return best.sum(dim=1) / shown.sum(dim=1).clamp(min=1), (shown.sum(dim=1) > 0).long()


def scores_from_columns(
    columns: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    videos: Int64[np.ndarray, " I"] | None = None,
) -> ImageScores:
    """Scores as they were before they were written down.

    Args:
        columns: Value of every image by metric; NaN where it has none.
        counts: How many values each is the mean of, for the metrics where that is not one.
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
