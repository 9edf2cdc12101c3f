"""Comparisons of two methods: intervals and p-values against slow versions, and calibrated."""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest

from latentslots.evaluation.comparison import compare_means
from latentslots.metrics.image_scores import ImageScores
from tests.metrics.test_image_scores import scores


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


def test_the_p_value_of_few_images_is_that_of_every_exchange() -> None:
    """Images with many objects weigh more, and take their weight along when they are exchanged."""
    random = np.random.default_rng(0)
    values, counts = random.random((2, 6)), random.integers(1, 6, (2, 6))
    found = compare_means(*(scores(v, n) for v, n in zip(values, counts, strict=True)))["ari"]
    differences = []
    for swaps in itertools.product([False, True], repeat=6):
        rows = np.where(swaps, [[1], [0]], [[0], [1]])
        value, count = (np.take_along_axis(x, rows, axis=0) for x in (values, counts))
        means = (value * count).sum(axis=1) / count.sum(axis=1)
        differences.append(abs(means[0] - means[1]))
    assert abs(found.first - found.second) == pytest.approx(differences[0])
    assert found.p_value == np.mean(np.array(differences) >= differences[0] - 1e-12)
    alike = compare_means(scores(np.full(5, 0.6)), scores(np.full(5, 0.5)))["ari"]
    assert alike.p_value == 2 / 32, "no exchange, and that of all"


def test_the_interval_is_that_of_resampled_pairs() -> None:
    """Beside drawing images one by one, of which some have no score in one method."""
    random = np.random.default_rng(1)
    values, counts = random.random((2, 40)), random.integers(0, 4, (2, 40))
    found = compare_means(
        *(scores(v, n) for v, n in zip(values, counts, strict=True)), num_resamples=4_000
    )["ari"]
    differences = []
    for _ in range(4_000):
        drawn = random.integers(0, 40, 40)
        means = [
            (v[drawn] * n[drawn]).sum() / n[drawn].sum()
            for v, n in zip(values, counts, strict=True)
        ]
        differences.append(means[0] - means[1])
    width = found.high - found.low
    ends = np.percentile(differences, [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], ends, atol=0.08 * width)


def test_images_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only scores of the same images .* got 3 and 4"):
        compare_means(scores(np.zeros(3)), scores(np.zeros(4)))
    with pytest.raises(ValueError, match="needs at least two images, or two videos: there is one"):
        compare_means(scores(np.zeros(1)), scores(np.ones(1)))


def test_frames_of_a_video_are_drawn_together() -> None:
    """Ten equal frames of each video are worth no more than one, whatever their order."""
    random = np.random.default_rng(6)
    one, other = random.random((2, 60))
    order = random.permutation(600)
    videos = np.repeat(np.arange(60), 10)[order]

    def frames(values: np.ndarray) -> ImageScores:
        return replace(scores(np.repeat(values, 10)[order]), videos=videos)

    many, few = compare_means(frames(one), frames(other)), compare_means(scores(one), scores(other))
    assert asdict(many["ari"]) == pytest.approx(asdict(few["ari"]))
    alone = compare_means(*(replace(frames(v), videos=None) for v in (one, other)))["ari"]
    assert alone.p_value < few["ari"].p_value
    with pytest.raises(ValueError, match="their videos differ"):
        compare_means(frames(one), replace(frames(other), videos=None))
