"""Intervals of probes, against objects repeated one by one, and their width."""

import numpy as np
import pytest
import torch
from torch import Tensor

from latentslots.metrics.bootstrap import percentile_interval, resample_weights
from latentslots.metrics.probes.intervals import HeadOutput, probe_intervals
from latentslots.metrics.probes.probe import class_scores, number_scores

NUM_VIDEOS = 12


def outputs(seed: int, *, num_classes: int, count: int = 60) -> HeadOutput:
    draws = torch.Generator().manual_seed(seed)
    videos = torch.randint(NUM_VIDEOS, (count,), generator=draws)
    videos[:NUM_VIDEOS] = torch.arange(NUM_VIDEOS)
    if num_classes:
        target = torch.randint(num_classes, (count,), generator=draws)
        wrong = torch.rand(count, generator=draws) < 0.3
        pred = torch.where(wrong, (target + 1) % num_classes, target)
    else:
        target = torch.randn(count, 3, generator=draws) * 4 + 100
        pred = target + torch.randn(count, 3, generator=draws)
    return HeadOutput(pred=pred, target=target, videos=videos, num_classes=num_classes)


def repeated(values: Tensor, videos: Tensor, weights: np.ndarray) -> Tensor:
    return torch.cat([values[videos == v] for v in range(NUM_VIDEOS) for _ in range(weights[v])])


@pytest.mark.parametrize("num_classes", [0, 4])
def test_a_resample_scores_its_videos_as_often_as_they_are_drawn(num_classes: int) -> None:
    tests = [outputs(seed, num_classes=num_classes) for seed in (0, 1)]
    scored = class_scores if num_classes else number_scores
    expected: dict[str, list[float]] = {}
    draws = resample_weights(NUM_VIDEOS, num_resamples=200, rng=np.random.default_rng(0))
    for weights in np.concatenate(list(draws)):
        scores = [
            scored(repeated(t.pred, t.videos, weights), repeated(t.target, t.videos, weights))
            for t in tests
        ]
        for name in scores[0]:
            expected.setdefault(name, []).append(np.mean([one[name] for one in scores]))
    (found,) = probe_intervals([tests], NUM_VIDEOS, num_resamples=200)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(percentile_interval(np.array(values)), abs=1e-9)
        assert found[name][0] < found[name][1]


def test_videos_of_equal_objects_widen_the_interval() -> None:
    """All objects of a video right or wrong: its objects are one draw, not five."""
    right = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.7
    target = torch.zeros(1_000, dtype=torch.int64)
    pred = (~right).long().repeat_interleave(5)
    widths = []
    for videos in (torch.arange(200).repeat_interleave(5), torch.arange(1_000)):
        one = HeadOutput(pred=pred, target=target, videos=videos, num_classes=2)
        (found,) = probe_intervals([[one]], int(videos.max()) + 1)
        low, high = found["accuracy"]
        widths.append(high - low)
        share, count = float(right.double().mean()), len(videos.unique())
        normal = 2 * 1.96 * (share * (1 - share) / count) ** 0.5
        assert widths[-1] == pytest.approx(normal, rel=0.1)
    assert widths[0] > 2 * widths[1]


def test_numbers_that_never_change_have_an_error_and_no_r2() -> None:
    target = torch.ones(30, 2)
    one = HeadOutput(pred=target + 0.5, target=target, videos=torch.arange(30))
    assert probe_intervals([[one]], 30) == [{"mse": (0.25, 0.25)}]


def test_heads_do_not_disturb_each_other() -> None:
    heads = [[outputs(seed, num_classes=n) for seed in (0, 1)] for n in (0, 4, 2)]
    together = probe_intervals(heads, NUM_VIDEOS)
    assert together == [one for head in heads for one in probe_intervals([head], NUM_VIDEOS)]
    assert together[1] != together[2]
