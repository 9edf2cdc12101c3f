"""Scores of images against slow references, and their intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentslots.metrics import CONVENTIONS, Convention, adjusted_rand_index, tabulate
from latentslots.metrics.image_scores import (
    METRICS,
    ImageScores,
    image_scores,
    scores_from_columns,
)
from tests.reference.segmentation import random_scenes

NORMAL_95 = 1.959964


def scores(values: np.ndarray, counts: np.ndarray | None = None) -> ImageScores:
    """One metric, `ari`."""
    number = np.ones(len(values), dtype=np.int64) if counts is None else counts
    return ImageScores(("ari",), (values * number)[:, None], number[:, None])


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


def test_frames_of_a_video_are_drawn_together() -> None:
    """Ten equal frames of each video are worth no more than one, whatever their order."""
    random = np.random.default_rng(6)
    values, order = random.random(60), random.permutation(600)
    videos = np.repeat(np.arange(60), 10)[order]
    frames = replace(scores(np.repeat(values, 10)[order]), videos=videos)
    assert frames.num_videos == 60
    assert frames.intervals()["ari"] == pytest.approx(scores(values).intervals()["ari"])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_images_without_objects_are_scored_as_the_convention_has_it(convention: Convention) -> None:
    pred, target = random_scenes(4)
    target[1] = 0
    found = image_scores(tabulate(pred, target), convention=convention)
    has_score = dict(zip(found.names, found.counts[1] > 0, strict=True))
    with_score = [name for name in found.names if has_score[name]]
    assert (
        with_score
        == {
            "iou": ["ari"],
            "lsd": ["fg_ari", "ari"],
            "with-background": ["ari", "miou_objects", "miou_images"],
        }[convention]
    )
    fg_ari = adjusted_rand_index(pred, target, ignore_background=True)
    assert fg_ari[1] == 1
    counted = [0, 1, 2, 3] if convention == "lsd" else [0, 2, 3]
    assert found.means()["fg_ari"] == pytest.approx(fg_ari[counted].mean().item())


def test_without_any_image_with_objects_the_mean_is_not_a_number() -> None:
    nothing = torch.zeros(2, 9, dtype=torch.int64)
    assert math.isnan(image_scores(tabulate(nothing, nothing)).means()["fg_ari"])
