"""Whether two methods differ by more than chance.

Dimensions: V videos, M metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from latentslots.config.conventions import Convention
from latentslots.evaluation.report.evaluation_report import (
    IMAGES_FILE,
    read_image_scores,
    read_report,
)
from latentslots.metrics.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    percentile_interval,
    ratio,
    resample_weights,
)
from latentslots.metrics.image_scores import METRICS, ImageScores

SAME = (
    "data_hash",
    "split",
    "min_objects",
    "num_images",
    "scoring_resolution",
    "class_attribute",
    "ignore_id",
)
"""Conditions that two reports must share to be compared."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much two means differ.

    Attributes:
        first: The mean of the first method.
        second: The mean of the second.
        low: Lower end of the interval of first - second.
        high: Its upper end.
        p_value: How often exchanged methods differ as much.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float

    @property
    def is_more_than_noise(self) -> bool:
        """Whether the interval excludes 0 and the p-value is below 0.05."""
        return self.p_value < 1 - LEVEL and not self.low <= 0 <= self.high


def compare_means(
    first: ImageScores, second: ImageScores, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Whether two methods differ on the same images by more than chance.

    The interval is the paired bootstrap's: both are scored on the same resampled images. The
    p-value is that of the permutation test which exchanges the two methods in images drawn by
    chance: how often the means then differ as much. Frames of one video are drawn together.

    Args:
        first: Scores of one method.
        second: Scores of another one, on the same images in the same order.
        num_resamples: Of each of the two.
        seed: Of the draws.

    Raises:
        ValueError: If the images are not as many, or not of the same videos.
    """
    if len(first) != len(second):
        raise ValueError(
            f"only scores of the same images can be compared, got {len(first)} and {len(second)}"
        )
    videos, others = (() if one.videos is None else one.videos for one in (first, second))
    if not np.array_equal(videos, others):
        raise ValueError("only scores of the same images can be compared: their videos differ")
    names = [name for name in first.names if name in second.names]
    sides = [_columns(scores, names) for scores in (first, second)]
    (sums, counts), (other_sums, other_counts) = sides
    random = np.random.default_rng(seed)
    resampled, exchanged = [], []
    for often in resample_weights(len(sums), num_resamples=num_resamples, rng=random):
        resampled.append(
            ratio(often @ sums, often @ counts) - ratio(often @ other_sums, often @ other_counts)
        )
        swap = random.random(often.shape) < 0.5
        exchanged.append(
            ratio(~swap @ sums + swap @ other_sums, ~swap @ counts + swap @ other_counts)
            - ratio(swap @ sums + ~swap @ other_sums, swap @ counts + ~swap @ other_counts)
        )
    totals = [ratio(part.sum(axis=0), number.sum(axis=0)) for part, number in sides]
    found = {}
    for i, name in enumerate(names):
        difference = totals[0][i] - totals[1][i]
        if difference != difference:
            continue
        column = np.concatenate(resampled)[:, i]
        as_much = np.abs(np.concatenate(exchanged)[:, i]) >= abs(difference) - 1e-12
        low, high = percentile_interval(column)
        found[name] = Difference(
            first=float(totals[0][i]),
            second=float(totals[1][i]),
            low=low,
            high=high,
            p_value=float((as_much.sum() + 1) / (num_resamples + 1)),
        )
    return found


def _columns(
    scores: ImageScores, names: list[str]
) -> tuple[Float64[np.ndarray, "V M"], Int64[np.ndarray, "V M"]]:
    columns = [scores.names.index(name) for name in names]
    sums, counts = scores.by_video()
    return sums[:, columns], counts[:, columns]


def compare_reports(
    first: Path, second: Path, *, convention: Convention = "iou", seed: int = 0
) -> dict[str, Difference]:
    """Compare two reports on the same images.

    Args:
        first: `report.json`, or its folder; `images.parquet` lies beside it.
        second: Another one.
        convention: Which of their conventions.
        seed: Of the draws.

    Raises:
        ValueError: If a report or its images cannot be read, is of another format, lacks the
            convention, or was measured on other images: the message names the field that differs.
    """
    paths = (first, second)
    contents = [read_report(path) for path in paths]
    conditions: list[Mapping[str, Any]] = [content["conditions"] for content in contents]
    for name in SAME:
        values = [one.get(name) for one in conditions]
        if values[0] != values[1]:
            raise ValueError(
                f"reports of different images cannot be compared: {name} is {values[0]!r} in "
                f"{first} and {values[1]!r} in {second}"
            )
    folders = [path if path.is_dir() else path.parent for path in paths]
    scores = [read_image_scores(folder / IMAGES_FILE, convention) for folder in folders]
    return compare_means(*scores, seed=seed)


def to_markdown(differences: Mapping[str, Difference]) -> str:
    """One row for each metric, and below it how they were compared."""
    rows = [
        f"| {METRICS[name]} | {one.first:.4f} | {one.second:.4f} | {one.first - one.second:+.4f} | "
        f"{one.low:+.4f} to {one.high:+.4f} | {one.p_value:.4f} | "
        f"{'yes' if one.is_more_than_noise else 'no'} |"
        for name, one in differences.items()
    ]
    head = [
        "| metric | first | second | difference | 95 % interval | p | more than noise |",
        "|---" * 7 + "|",
    ]
    note = (
        f"Interval: paired bootstrap over images; p: permutation test; {NUM_RESAMPLES} resamples "
        "each, frames of a video drawn together. The images are the only source of chance here: "
        "another training may differ more."
    )
    return "\n".join([*head, *rows, "", note, ""])
