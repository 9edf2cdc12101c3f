"""Comparisons of two methods, against what chance would do."""

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


def test_the_permutation_test_counts_exactly() -> None:
    # Five images, all better by as much: of the 32 exchanges, two keep the difference.
    found = compare_means(scores(np.full(5, 0.6)), scores(np.full(5, 0.5)), num_resamples=20_000)
    assert found["ari"].p_value == pytest.approx(2 / 32, abs=0.006)


def test_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only scores of the same images .* got 3 and 4"):
        compare_means(scores(np.zeros(3)), scores(np.zeros(4)))


def test_frames_of_a_video_are_drawn_together() -> None:
    """Ten equal frames of each video say no more than one, whatever their order."""
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
