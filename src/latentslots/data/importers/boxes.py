"""Bounding boxes of masks."""

import numpy as np
from jaxtyping import Bool


def bounding_box(mask: Bool[np.ndarray, "H W"]) -> list[float]:
    """Compute (y_min, x_min, y_max, x_max) as fractions of the image's sides; 0 if it is empty."""
    if not mask.any():
        return [0.0] * 4
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        float(rows[0] / height),
        float(columns[0] / width),
        float((rows[-1] + 1) / height),
        float((columns[-1] + 1) / width),
    ]
