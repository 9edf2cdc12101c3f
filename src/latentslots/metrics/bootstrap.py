"""Resampling: what a score might have been with others of the same kind (Efron, 1979).

Dimensions: I images or videos, R resamples.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

LEVEL = 0.95
NUM_RESAMPLES = 2_000
AT_ONCE = 100


def resamples(
    count: int, *, num_resamples: int = NUM_RESAMPLES, random: np.random.Generator
) -> Iterator[Int64[np.ndarray, "_ I"]]:
    """How often each image is drawn, with replacement, some resamples at a time.

    Args:
        count: How many there are, and how many are drawn each time.
        num_resamples: R.
        random: Of the draws; between two batches, others may draw from it as well.
    """
    for start in range(0, num_resamples, AT_ONCE):
        size = min(AT_ONCE, num_resamples - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=size)


def percentile_interval(
    drawn: Float64[np.ndarray, " R"], level: float = LEVEL
) -> tuple[float, float]:
    """Where a share of the draws lies, as many of the others below as above; NaN do not count."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums by counts; NaN where nothing was counted."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
