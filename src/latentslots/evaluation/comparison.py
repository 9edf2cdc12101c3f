"""Test whether two methods differ on the same images by more than chance.

Dimensions: V units that are resampled (videos, or images that stand alone), M metrics, R resamples.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from latentslots.config.conventions import Convention
from latentslots.evaluation.report.evaluation_report import (
    IMAGES_FILE,
    read_image_scores,
    read_report,
)
from latentslots.metrics.bootstrap import (
    BATCH_SIZE,
    LEVEL,
    NUM_RESAMPLES,
    percentile_interval,
    ratio,
)
from latentslots.metrics.image_scores import METRICS, ImageScores

SHARED_CONDITIONS = (
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
    """The difference of two means.

    Attributes:
        first: The mean of the first method.
        second: The mean of the second.
        low: Lower end of the interval of first - second.
        high: Upper end of that interval.
        p_value: Share of random exchanges of the methods with at least this difference.
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
    """Compare the scores of two methods on the same images.

    The interval is that of the paired bootstrap: both methods are scored on the same resampled
    images. The p-value is that of the paired permutation test, which exchanges the two methods in
    random images; with few images it is exact. Frames of one video are resampled and exchanged
    together.

    Args:
        first: Scores of one method.
        second: Scores of another one, on the same images in the same order.
        num_resamples: Resamples of the bootstrap, and of the permutation test.
        seed: Seed of the draws.

    Raises:
        ValueError: If images or videos are not the same, or there is only one.
    """
    if len(first) != len(second):
        raise ValueError(
            f"only scores of the same images can be compared, got {len(first)} and {len(second)}"
        )
    videos, others = (() if one.videos is None else one.videos for one in (first, second))
    if not np.array_equal(videos, others):
        raise ValueError("only scores of the same images can be compared: their videos differ")
    if first.num_videos < 2:
        raise ValueError("a comparison needs at least two images, or two videos: there is one")
    names = [name for name in first.names if name in second.names]
    (sums, counts), (other_sums, other_counts) = (_columns(one, names) for one in (first, second))
    means = [
        ratio(part.sum(axis=0), number.sum(axis=0))
        for part, number in ((sums, counts), (other_sums, other_counts))
    ]
    rng = np.random.default_rng(seed)
    resampled = _bootstrap((sums, counts, other_sums, other_counts), num_resamples, rng)
    p_values = _p_values(
        np.concatenate([sums, other_sums]),
        np.concatenate([counts, other_counts]),
        num_resamples,
        rng,
    )
    differences = {}
    for i, name in enumerate(names):
        if np.isnan(means[0][i] - means[1][i]):
            continue
        low, high = percentile_interval(resampled[i])
        differences[name] = Difference(
            first=float(means[0][i]),
            second=float(means[1][i]),
            low=low,
            high=high,
            p_value=float(p_values[i]),
        )
    return differences


def _bootstrap(
    columns: tuple[np.ndarray, ...], num_resamples: int, rng: np.random.Generator
) -> Float64[np.ndarray, "M R"]:
    """Resampled differences of the means: sums and counts of both methods, unit by unit."""

    def difference(
        sums: np.ndarray, counts: np.ndarray, others: np.ndarray, numbers: np.ndarray, axis: int
    ) -> np.ndarray:
        first = ratio(sums.sum(axis=axis), counts.sum(axis=axis))
        return first - ratio(others.sum(axis=axis), numbers.sum(axis=axis))

    with warnings.catch_warnings():  # of resamples without a score, whose difference is NaN
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            [column.T for column in columns],
            difference,
            paired=True,
            vectorized=True,
            axis=-1,
            method="percentile",
            n_resamples=num_resamples,
            batch=BATCH_SIZE,
            rng=rng,
        )
    return result.bootstrap_distribution


def _p_values(
    sums: Float64[np.ndarray, "U M"],
    counts: Int64[np.ndarray, "U M"],
    num_resamples: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, " M"]:
    """P-values of the absolute differences of the means.

    Sums and counts of a unit are exchanged together, so the samples are row numbers: the rows of
    the first method come before those of the second.
    """

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1, "rows are last; sums[rows] has the metrics after them"
        means = [ratio(sums[rows].sum(-2), counts[rows].sum(-2)) for rows in (first, second)]
        return np.abs(means[0] - means[1])

    num_units = len(sums) // 2
    rows = np.arange(num_units)
    result = stats.permutation_test(
        (rows, num_units + rows),
        difference,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        alternative="greater",
        n_resamples=num_resamples,
        batch=BATCH_SIZE,
        rng=rng,
    )
    return result.pvalue


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
        second: The other report.
        convention: The convention whose scores are compared.
        seed: Seed of the draws.

    Raises:
        ValueError: If a report or its images cannot be read, is of another format, lacks the
            convention, or was measured on other images: the message names the field that differs.
    """
    paths = (first, second)
    contents = [read_report(path) for path in paths]
    conditions: list[Mapping[str, Any]] = [content["conditions"] for content in contents]
    for name in SHARED_CONDITIONS:
        values = [one.get(name) for one in conditions]
        if values[0] != values[1]:
            raise ValueError(
                f"reports of different images cannot be compared: {name} is {values[0]!r} in "
                f"{first} and {values[1]!r} in {second}"
            )
    folders = [path if path.is_dir() else path.parent for path in paths]
    scores = [
        read_image_scores(folder / IMAGES_FILE, convention, report=content)
        for folder, content in zip(folders, contents, strict=True)
    ]
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
        f"Interval: paired bootstrap over images; p: paired permutation test; {NUM_RESAMPLES} "
        "resamples each, frames of a video drawn together. The images are the only source of "
        "chance here: another training may differ more."
    )
    return "\n".join([*head, *rows, "", note, ""])
