"""Whether two methods differ by more than chance.

Dimensions: I images, M metrics.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from latentslots.evaluation.image_scores import (
    AT_ONCE,
    LEVEL,
    NUM_RESAMPLES,
    ImageScores,
    percentile_interval,
    ratio,
)


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
    chance (Good, 2005, Sec. 6): how often the means then differ as much.

    Args:
        first: Scores of one method.
        second: Scores of another one, on the same images in the same order.
        num_resamples: Of each of the two.
        seed: Of the draws.

    Raises:
        ValueError: If the images are not as many.
    """
    if len(first) != len(second):
        raise ValueError(
            f"only scores of the same images can be compared, got {len(first)} and {len(second)}"
        )
    names = [name for name in first.names if name in second.names]
    sides = [_columns(scores, names) for scores in (first, second)]
    (sums, counts), (other_sums, other_counts) = sides
    random = np.random.default_rng(seed)
    resampled, exchanged = [], []
    for start in range(0, num_resamples, AT_ONCE):
        size = min(AT_ONCE, num_resamples - start)
        often = random.multinomial(len(first), np.full(len(first), 1 / len(first)), size=size)
        resampled.append(
            ratio(often @ sums, often @ counts) - ratio(often @ other_sums, often @ other_counts)
        )
        swap = random.random((size, len(first))) < 0.5
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
) -> tuple[Float64[np.ndarray, "I M"], Int64[np.ndarray, "I M"]]:
    columns = [scores.names.index(name) for name in names]
    return scores.sums[:, columns], scores.counts[:, columns]
