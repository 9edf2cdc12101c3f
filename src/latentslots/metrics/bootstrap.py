"""The bootstrap (Efron, 1979, https://doi.org/10.1214/aos/1176344552) for many scores at once.

A resample is a row of weights: how often each image or video was drawn. The resampled sums of all
scores are then one matrix product, while `scipy.stats.bootstrap` gathers every column of every
resample anew: for the heads of a probe, that is hundreds of columns. A comparison of two methods
has few, and uses scipy: see `latentslots.evaluation.comparison`.

Dimensions: U units that are resampled (images or videos), R resamples.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

LEVEL = 0.95
NUM_RESAMPLES = 2_000
BATCH_SIZE = 100
"""Resamples at a time, which bounds the memory."""


def resample_weights(
    num_units: int, *, num_resamples: int = NUM_RESAMPLES, rng: np.random.Generator
) -> Iterator[Int64[np.ndarray, "_ U"]]:
    """How often each unit is drawn with replacement, a batch of resamples at a time.

    Args:
        num_units: U, also the number of draws of a resample.
        num_resamples: R.
        rng: Source of the draws.
    """
    for start in range(0, num_resamples, BATCH_SIZE):
        size = min(BATCH_SIZE, num_resamples - start)
        yield rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size)


def percentile_interval(
    scores: Float64[np.ndarray, " R"], level: float = LEVEL
) -> tuple[float, float]:
    """Interval that contains the middle share `level` of the scores; NaN does not count."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(scores, [tail, 100 - tail])
    return float(low), float(high)


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums divided by counts; NaN where a count is 0."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
