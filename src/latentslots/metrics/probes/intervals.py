"""Intervals of probe scores: the bootstrap over videos, with the heads as trained.

Every score is a function of sums over objects, so a resample weighs the sums of videos.

Dimensions: N objects of a test part, V videos, C classes or numbers, R resamples, S sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.device import in_double
from latentslots.metrics.bootstrap import (
    NUM_RESAMPLES,
    percentile_interval,
    ratio,
    resample_weights,
)


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """Output of a head on the objects of its test part, beside the truth.

    Attributes:
        pred: Classes, or numbers.
        target: The true ones.
        videos: Number of the video, or image, that each object is from.
        num_classes: 0 for numbers.
    """

    pred: Int[Tensor, " N"] | Float[Tensor, "N C"]
    target: Int[Tensor, " N"] | Float[Tensor, "N C"]
    videos: Int[Tensor, " N"]
    num_classes: int = 0


def probe_intervals(
    heads: Sequence[Sequence[HeadOutput]],
    num_videos: int,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, tuple[float, float]]]:
    """95 % bootstrap interval over videos of each score of each head, a mean over its test parts.

    All heads and test parts are scored on the same resampled videos, because parts share videos.

    Args:
        heads: Output of every head; one test part for each seed.
        num_videos: V; videos are numbered from 0.
        num_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        For each head, the interval of every score; a score that no resample has is left out.
    """
    rng = np.random.default_rng(seed)
    sums = [[_sums(part, num_videos) for part in parts] for parts in heads]
    resampled: list[dict[str, list[Float64[np.ndarray, " _"]]]] = [{} for _ in heads]
    for draws in resample_weights(num_videos, num_resamples=num_resamples, rng=rng):
        weights = draws.astype(np.float64)
        for parts, part_sums, columns in zip(heads, sums, resampled, strict=True):
            scores = [dict(_scores(weights @ one, parts[0].num_classes)) for one in part_sums]
            for name in scores[0]:
                values = np.stack([score[name] for score in scores])
                columns.setdefault(name, []).append(
                    ratio(np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0))
                )
    return [_intervals(columns) for columns in resampled]


def _intervals(
    resampled: dict[str, list[Float64[np.ndarray, " _"]]],
) -> dict[str, tuple[float, float]]:
    columns = {name: np.concatenate(batches) for name, batches in resampled.items()}
    return {
        name: percentile_interval(column)
        for name, column in columns.items()
        if np.isfinite(column).any()
    }


def _sums(part: HeadOutput, num_videos: int) -> Float64[np.ndarray, "V S"]:
    """Per video, the objects and the hits of each class; or moments and errors of each number."""
    if part.num_classes:
        objects = in_double(F.one_hot(part.target.long(), part.num_classes))
        columns = [objects, objects * (part.pred == part.target)[:, None]]
    else:
        pred, target = in_double(part.pred), in_double(part.target)
        centered = target - target.mean(dim=0)  # keeps the squares small
        columns = [
            torch.ones_like(target),
            centered,
            centered.square(),
            (pred - target).square(),
        ]
    rows = torch.cat(columns, dim=1)
    total = torch.zeros(num_videos, rows.shape[1], dtype=torch.float64)
    return total.index_add_(0, part.videos, rows).numpy()


def _scores(
    sums: Float64[np.ndarray, "R S"], num_classes: int
) -> Iterator[tuple[str, Float64[np.ndarray, " R"]]]:
    """The scores of `class_scores` or `number_scores`, of every resample."""
    if num_classes:
        objects, hits = np.split(sums, 2, axis=1)
        yield "accuracy", ratio(hits.sum(axis=1), objects.sum(axis=1))
        recall = ratio(hits, objects)
        yield "balanced_accuracy", ratio(np.nansum(recall, axis=1), (objects > 0).sum(axis=1))
    else:
        count, total, squares, errors = np.split(sums, 4, axis=1)
        variation = squares - ratio(total**2, count)
        changes = variation > 1e-12
        explained = 1 - ratio(errors, np.where(changes, variation, 0.0))
        yield "r2", ratio(np.nansum(explained, axis=1), changes.sum(axis=1))
        yield "mse", ratio(errors.sum(axis=1), count.sum(axis=1))
