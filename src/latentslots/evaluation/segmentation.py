"""Segmentation scores of a pipeline on a data set, and of segmentations of any origin.

Dimensions: H W pixels, I images, N rows of a table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from datasets import Dataset
from jaxtyping import Int64, Integer
from torch import Tensor

from latentslots.config.conventions import Convention, ScoringSize, check_convention
from latentslots.evaluation.predictions import (
    Predictions,
    SegmentationPair,
    SegmentationPipeline,
    predict,
    predict_with,
    predictions_from_pairs,
)
from latentslots.metrics.ari import has_foreground
from latentslots.metrics.image_scores import METRICS, ImageScores, image_scores


@dataclass(frozen=True, kw_only=True)
class SegmentationReport:
    """Segmentation scores, with the conditions under which they are comparable to others.

    Attributes:
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        resolution: Side of the encoded images, in pixels; `None` without a model.
        scoring_resolution: Shortest side of the compared segmentations, in pixels; `None` where
            they had several sizes.
        seed: Image i drew its slot noise with seed + i; `None` without a model.
        num_images: Images that were scored.
        num_images_without_objects: Images among them without a foreground pixel. The means that
            include them are listed in `latentslots.metrics.image_scores.image_scores`.
        num_videos: Videos of these images; as many as images where each stands alone.
        fg_ari: Adjusted Rand index of the foreground pixels.
        ari: Adjusted Rand index of all pixels.
        miou_objects: IoU of objects and their matched slots, mean over all objects.
        mbo_objects: IoU of objects and their best slots, mean over all objects.
        miou_images: As `miou_objects`, but the mean over the means of images.
        mbo_images: As `mbo_objects`, but the mean over the means of images.
        mbo_classes: As `mbo_images`, with all objects of one class as one region; `None` without
            classes.
        intervals: 95 % bootstrap interval over images, or videos, of each score that exists.
        images: The scores of the single images.
    """

    convention: Convention
    resolution: int | None
    scoring_resolution: int | None
    seed: int | None
    num_images: int
    num_images_without_objects: int
    num_videos: int
    fg_ari: float
    ari: float
    miou_objects: float
    mbo_objects: float
    miou_images: float
    mbo_images: float
    mbo_classes: float | None = None
    intervals: dict[str, tuple[float, float]] = field(compare=False, repr=False)
    images: ImageScores = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields but `images`, ready for JSON: a score that no image had is `None`."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images"}
        values["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        return {name: None if value != value else value for name, value in values.items()}

    def to_markdown(self, baselines: "dict[str, SegmentationReport] | None" = None) -> str:
        """The scores as a table, and below it one line with the conditions.

        Args:
            baselines: Scores of other methods on the same images; a column each.
        """
        others = baselines or {}
        rows = []
        for key, name in METRICS.items():
            score = getattr(self, key)
            if score is None:
                continue
            low, high = self.intervals.get(key, (score, score))
            cells = [f"{score:.4f}", f"{low:.4f} to {high:.4f}"]
            for other in others.values():
                value = getattr(other, key)
                cells.append("-" if value is None else f"{value:.4f}")
            rows.append(f"| {name} | {' | '.join(cells)} |")
        titles = ["metric", "score", "95 % interval", *others]
        head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        return "\n".join([*head, *rows, "", f"{self._conditions()}.", ""])

    def _conditions(self) -> str:
        conditions = [f"convention `{self.convention}`"]
        if self.resolution is not None:
            conditions.append(f"images at {self.resolution} px")
        scored = "several sizes" if self.scoring_resolution is None else self.scoring_resolution
        conditions.append(f"masks scored at {scored}" + (" px" if self.scoring_resolution else ""))
        if self.seed is not None:
            conditions.append(f"seed {self.seed}")
        conditions.append(
            f"{self.num_images} images, {self.num_images_without_objects} of them without objects"
        )
        if self.num_videos < self.num_images:
            conditions.append(f"intervals over {self.num_videos} videos")
        return "; ".join(conditions)


def evaluate(
    pipe: SegmentationPipeline,
    dataset: Dataset,
    *,
    convention: Convention = "iou",
    resolution: int | None = None,
    scoring_resolution: ScoringSize | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_images: int | None = None,
    progress: bool = True,
) -> SegmentationReport:
    """Score a pipeline's segmentations of a data set against the ground truth.

    Images and ground truth are both resized to the shortest side and cropped to the middle square.
    Image i draws its slot noise with seed + i, whatever the batch size. Where `torch.distributed`
    runs, every process must call this; they share the images, and all return the same report.

    Args:
        pipe: Encodes images as slots and masks.
        dataset: Has the columns `image` and `segmentation` (ids, 0 for the background), and may
            have `ignore`, a mask of pixels (not 0) that do not count.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        scoring_resolution: Side at which masks are compared, in pixels, or `native` for that of
            each ground truth. By default `resolution`.
        seed: Seed of the slot noise.
        batch_size: Images to encode at once.
        num_images: At most this many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    check_convention(convention)
    predictions = predict(
        pipe,
        dataset,
        resolution=resolution,
        scoring_resolution=scoring_resolution,
        seed=seed,
        batch_size=batch_size,
        num_images=num_images,
        progress=progress,
    )
    return score(predictions, convention=convention)


def score(
    predictions: Predictions,
    *,
    convention: Convention = "iou",
    classes: Int64[Tensor, "I N"] | None = None,
) -> SegmentationReport:
    """Compute all segmentation scores of predictions.

    Args:
        predictions: From `predict`, for example.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        classes: Class of every object, see `object_classes`; for `mbo_classes`.
    """
    images = image_scores(
        predictions.table,
        convention=check_convention(convention),
        classes=classes,
        videos=predictions.videos,
    )
    means: dict[str, Any] = images.means()
    return SegmentationReport(
        convention=convention,
        resolution=predictions.resolution,
        scoring_resolution=predictions.scoring_resolution,
        seed=predictions.seed,
        num_images=len(predictions),
        num_images_without_objects=int((~has_foreground(predictions.table.counts)).sum()),
        num_videos=images.num_videos,
        intervals=images.intervals(),
        images=images,
        **means,
    )


def evaluate_baseline(
    segment: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    resolution: int,
    convention: Convention = "iou",
    scoring_resolution: ScoringSize | None = None,
    num_slots: int | None = None,
    num_images: int | None = None,
    progress: bool = True,
) -> SegmentationReport:
    """Score a method without slots on the same images, and the same pixels, as `evaluate`.

    Args:
        segment: Maps an image, `[3, H, W]` in [-1, 1], to the id of every pixel's segment,
            `[H, W]` from 0.
        dataset: See `evaluate`.
        resolution: Side of the images, in pixels.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        scoring_resolution: See `evaluate`.
        num_slots: Number of segments, including those without pixels; by default those that own a
            pixel. It matters for `lsd` alone.
        num_images: At most this many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    predictions = predict_with(
        segment,
        dataset,
        resolution=resolution,
        scoring_resolution=scoring_resolution,
        num_slots=num_slots,
        num_images=num_images,
        progress=progress,
    )
    return score(predictions, convention=convention)


def evaluate_predictions(
    segmentations: Iterable[Integer[Tensor, "_ _"]],
    targets: Iterable[Integer[Tensor, "_ _"]],
    *,
    convention: Convention = "iou",
) -> SegmentationReport:
    """Score segmentations of any origin, such as those of a baseline.

    Args:
        segmentations: Cluster or slot id of every pixel, one image after the other; also a batched
            tensor `[N, H, W]`.
        targets: Object id of every pixel, 0 for the background, each of the size of its prediction.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.

    Example:
        >>> import torch
        >>> target = torch.tensor([[[0, 0, 1], [0, 2, 2]]])
        >>> evaluate_predictions(2 - target, target).fg_ari
        1.0
    """
    pairs = zip(segmentations, targets, strict=True)
    predictions = predictions_from_pairs(SegmentationPair(pred, target) for pred, target in pairs)
    return score(predictions, convention=convention)
