"""Which images a report shows."""

import numpy as np

from latentslots.evaluation.report.examples import extremes
from latentslots.metrics.image_scores import scores_from_columns


def test_the_worst_and_the_best_images() -> None:
    values = np.array([[0.5], [np.nan], [0.1], [0.9], [0.3]])
    found = scores_from_columns({"miou_images": values[:, 0]}, {})
    assert extremes(found, number=2) == ([2, 4], [3, 0])
    assert extremes(found, number=9) == ([2, 4], [3, 0])
    none = scores_from_columns({"miou_images": np.array([np.nan, np.nan])}, {})
    assert extremes(none) == ([], [])
