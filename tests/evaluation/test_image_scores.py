"""Scores of images against slow references, their intervals, and comparisons of two methods."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from latentslots.evaluation.comparison import compare_means
from latentslots.evaluation.image_scores import (
    METRICS,
    ImageScores,
    image_scores,
    scores_from_columns,
)
from latentslots.evaluation.predictions import SegmentationPair, predictions_of_pairs
from latentslots.evaluation.report.examples import extremes
from latentslots.metrics import CONVENTIONS, PixelTable, SegmentationMetrics, tabulate
from tests.reference.segmentation import random_scenes

NORMAL_95 = 1.959964


def scores(values: np.ndarray, counts: np.ndarray | None = None) -> ImageScores:
    """One metric, `ari`."""
    number = np.ones(len(values), dtype=np.int64) if counts is None else counts
    return ImageScores(("ari",), (values * number)[:, None], number[:, None])


def table_of(pred: torch.Tensor, target: torch.Tensor) -> PixelTable:
    pairs = zip(pred, target, strict=True)
    return predictions_of_pairs(SegmentationPair(*pair) for pair in pairs).table


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_their_means_are_those_of_the_running_metric(convention: str) -> None:
    pred, target = random_scenes(12)
    target[3] = 0
    metric = SegmentationMetrics(convention=convention)
    metric.update(pred, target)
    expected = metric.compute()
    found = image_scores(table_of(pred, target), convention=convention).means()
    for name, value in found.items():
        assert value == pytest.approx(float(expected[name]), abs=1e-12)


def test_an_image_alone_has_the_score_that_it_has_among_others() -> None:
    pred, target = random_scenes(5)
    together = image_scores(tabulate(pred, target), convention="iou")
    for i in range(5):
        table = tabulate(pred[i : i + 1], target[i : i + 1])
        alone = image_scores(table, convention="iou")
        np.testing.assert_allclose(alone.values()[0], together.values()[i], atol=1e-12)


def test_objects_of_one_class_are_scored_as_one_region() -> None:
    pred, target = random_scenes(8)
    table = tabulate(pred, target)
    random = np.random.default_rng(0)
    classes = torch.from_numpy(random.integers(-1, 3, table.object_ids.shape))
    classes[:, 0] = -1
    found = image_scores(table, convention="iou", classes=classes)
    means = []
    for i in range(8):
        best = []
        for label in range(3):
            ids = table.object_ids[i][classes[i] == label]
            region = torch.isin(target[i], ids)
            if region.any():
                overlaps = [
                    ((pred[i] == slot) & region).sum() / ((pred[i] == slot) | region).sum()
                    for slot in pred[i].unique()
                ]
                best.append(float(max(overlaps)))
        if best:
            means.append(np.mean(best))
    assert found.means()["mbo_classes"] == pytest.approx(np.mean(means), abs=1e-6)


def test_the_interval_of_a_plain_mean_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.6, 0.2, size=400)
    low, high = scores(values).intervals(num_resamples=8_000)["ari"]
    half = NORMAL_95 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        low, high = scores(random.beta(2, 1, size=100)).intervals(num_resamples=300)["ari"]
        covered.append(low <= 2 / 3 <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_an_image_with_many_objects_weighs_more_in_a_mean_over_objects() -> None:
    weighed = scores(np.array([1.0, 0.0]), np.array([3, 1]))
    assert weighed.means()["ari"] == 0.75


def test_a_metric_without_any_score_has_no_interval() -> None:
    none = scores(np.zeros(3), np.zeros(3, dtype=np.int64))
    assert math.isnan(none.means()["ari"])
    assert none.intervals() == {}


def test_a_method_does_not_differ_from_itself() -> None:
    values = np.random.default_rng(3).random(50)
    found = compare_means(scores(values), scores(values))["ari"]
    assert found.first == found.second
    assert (found.low, found.high, found.p_value) == (0, 0, 1)
    assert not found.is_more_than_noise


def test_a_small_steady_difference_is_found_where_images_differ_far_more() -> None:
    random = np.random.default_rng(4)
    values = random.random(200)
    better = values + 0.02 + random.normal(0, 0.05, size=200)
    found = compare_means(scores(better), scores(values))["ari"]
    assert found.is_more_than_noise
    assert 0 < found.low < 0.02 < found.high
    unpaired = compare_means(scores(better[::-1].copy()), scores(values))["ari"]
    assert not unpaired.is_more_than_noise


def test_p_values_of_equal_methods_are_uniform() -> None:
    random = np.random.default_rng(5)
    found = []
    for _ in range(150):
        first, second = random.random((2, 40))
        found.append(compare_means(scores(first), scores(second), num_resamples=200)["ari"].p_value)
    below = [np.mean(np.array(found) < level) for level in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.12)


def test_the_permutation_test_counts_exactly() -> None:
    # Five images, all better by as much: of the 32 exchanges, two keep the difference.
    found = compare_means(scores(np.full(5, 0.6)), scores(np.full(5, 0.5)), num_resamples=20_000)
    assert found["ari"].p_value == pytest.approx(2 / 32, abs=0.006)


def test_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only scores of the same images .* got 3 and 4"):
        compare_means(scores(np.zeros(3)), scores(np.zeros(4)))


def test_scores_come_back_from_columns() -> None:
    pred, target = random_scenes(6)
    target[2] = 0
    before = image_scores(tabulate(pred, target), convention="iou")
    columns = dict(zip(before.names, before.values().T, strict=True))
    counts = {
        name: before.counts[:, before.names.index(name)] for name in ("miou_objects", "mbo_objects")
    }
    after = scores_from_columns(columns, counts)
    assert after.names == before.names
    np.testing.assert_allclose(after.sums, before.sums, atol=1e-12)
    np.testing.assert_array_equal(after.counts, before.counts)
    assert set(METRICS) >= set(after.names)


def test_the_worst_and_the_best_images() -> None:
    values = np.array([[0.5], [np.nan], [0.1], [0.9], [0.3]])
    found = scores_from_columns({"miou_images": values[:, 0]}, {})
    assert extremes(found, number=2) == ([2, 4], [3, 0])
    assert extremes(found, number=9) == ([2, 4], [3, 0])
    none = scores_from_columns({"miou_images": np.array([np.nan, np.nan])}, {})
    assert extremes(none) == ([], [])


def test_frames_of_a_video_are_drawn_together() -> None:
    """Ten equal frames of each video say no more than one, whatever their order."""
    random = np.random.default_rng(6)
    one, other = random.random((2, 60))
    order = random.permutation(600)
    videos = np.repeat(np.arange(60), 10)[order]

    def frames(values: np.ndarray) -> ImageScores:
        return replace(scores(np.repeat(values, 10)[order]), videos=videos)

    assert frames(one).num_videos == 60
    assert frames(one).intervals()["ari"] == pytest.approx(scores(one).intervals()["ari"])
    many, few = compare_means(frames(one), frames(other)), compare_means(scores(one), scores(other))
    assert asdict(many["ari"]) == pytest.approx(asdict(few["ari"]))
    alone = compare_means(*(replace(frames(v), videos=None) for v in (one, other)))["ari"]
    assert alone.p_value < few["ari"].p_value
    with pytest.raises(ValueError, match="their videos differ"):
        compare_means(frames(one), replace(frames(other), videos=None))
