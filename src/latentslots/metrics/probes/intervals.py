"""What probes might have scored on other videos, with the heads as they are.

Every score is made of sums over objects, so that a resample weighs the sums of videos.

Dimensions: N objects of a test, V videos, C classes or numbers, R resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.metrics.bootstrap import percentile_interval, ratio, resamples


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a head said of the objects of its test.

    Attributes:
        said: Classes, or numbers.
        asked: The right ones.
        videos: Number of the video, or image, that each object comes from.
        num_classes: 0 for numbers.
    """

    said: Int[Tensor, " N"] | Float[Tensor, "N C"]
    asked: Int[Tensor, " N"] | Float[Tensor, "N C"]
    videos: Int[Tensor, " N"]
    num_classes: int = 0


def probe_intervals(
    heads: Sequence[Sequence[Answers]], num_videos: int, *, seed: int = 0
) -> list[dict[str, tuple[float, float]]]:
    """95 % bootstrap interval over videos of the mean over tests of each score of each head.

    All heads and tests are scored on the same resampled videos: tests share some.

    Args:
        heads: What each said; one test for each seed.
        num_videos: V; videos are numbered from 0.
        seed: Of the draws.

    Returns:
        For each head, by score; one that no resample has is left out.
    """
    random = np.random.default_rng(seed)
    sums = [[_sums(test, num_videos) for test in tests] for tests in heads]
    drawn: list[dict[str, list[Float64[np.ndarray, " _"]]]] = [{} for _ in heads]
    for often in resamples(num_videos, random=random):
        weights = often.astype(np.float64)
        for tests, of_head, columns in zip(heads, sums, drawn, strict=True):
            scores = [dict(_scores(weights @ one, tests[0].num_classes)) for one in of_head]
            for name in scores[0]:
                each = np.stack([score[name] for score in scores])
                columns.setdefault(name, []).append(
                    ratio(np.nansum(each, 0), (each == each).sum(0))
                )
    return [_intervals(columns) for columns in drawn]


def _intervals(
    drawn: dict[str, list[Float64[np.ndarray, " _"]]],
) -> dict[str, tuple[float, float]]:
    columns = {name: np.concatenate(parts) for name, parts in drawn.items()}
    return {
        name: percentile_interval(column)
        for name, column in columns.items()
        if np.isfinite(column).any()
    }


def _sums(test: Answers, num_videos: int) -> Float64[np.ndarray, "V F"]:
    """Of classes, how many objects there are and how many are right; of numbers, their powers."""
    if test.num_classes:
        there = F.one_hot(test.asked.long(), test.num_classes).double()
        columns = [there, there * (test.said == test.asked)[:, None]]
    else:
        said, asked = test.said.double(), test.asked.double()
        centered = asked - asked.mean(dim=0)  # so that squares are no larger than need be
        columns = [
            torch.ones_like(asked),
            centered,
            centered.square(),
            (said - asked).square(),
        ]
    rows = torch.cat(columns, dim=1)
    total = torch.zeros(num_videos, rows.shape[1], dtype=torch.float64)
    return total.index_add_(0, test.videos, rows).numpy()


def _scores(
    sums: Float64[np.ndarray, "R F"], num_classes: int
) -> Iterator[tuple[str, Float64[np.ndarray, " R"]]]:
    """As `class_scores` and `number_scores` have them, of every resample."""
    if num_classes:
        there, right = np.split(sums, 2, axis=1)
        yield "accuracy", ratio(right.sum(axis=1), there.sum(axis=1))
        each = ratio(right, there)
        yield "balanced_accuracy", ratio(np.nansum(each, axis=1), (there > 0).sum(axis=1))
    else:
        count, total, squares, errors = np.split(sums, 4, axis=1)
        varied = squares - ratio(total**2, count)
        explained = 1 - ratio(errors, np.where(varied > 1e-12, varied, 0.0))
        yield "r2", ratio(np.nansum(explained, axis=1), (varied > 1e-12).sum(axis=1))
        yield "mse", ratio(errors.sum(axis=1), count.sum(axis=1))
