"""The metrics of collapse against loops over pairs of slots, and at their extremes."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentslots.objectives.base import collapse_metrics
from tests.training.runs import rows


def mean_pairwise_cosine(slots: Tensor) -> float:
    cosines = []
    for scene in slots:
        for i in range(len(scene)):
            for j in range(i + 1, len(scene)):
                dot = sum(a * b for a, b in zip(scene[i].tolist(), scene[j].tolist(), strict=True))
                cosines.append(dot / (scene[i].norm() * scene[j].norm()).item())
    return sum(cosines) / len(cosines)


def mean_effective_slots(attention: Tensor) -> float:
    """The exponential of the entropy of the slots' shares of an image, mean over images."""
    numbers = []
    for scene in attention:
        shares = [sum(slot.tolist()) / scene.shape[1] for slot in scene]
        numbers.append(math.exp(-sum(s * math.log(s) for s in shares if s > 0)))
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("num_slots", [2, 5])
def test_they_agree_with_loops(num_slots: int) -> None:
    slots = torch.randn(3, num_slots, 6)
    attention = torch.randn(3, num_slots, 20).mul(2).softmax(dim=1)
    alarms = collapse_metrics(slots, attention)
    assert alarms["slot_cosine"].item() == pytest.approx(mean_pairwise_cosine(slots), abs=1e-6)
    assert alarms["effective_slots"].item() == pytest.approx(
        mean_effective_slots(attention), rel=1e-5
    )


def test_equal_slots_have_a_cosine_of_one() -> None:
    slots = torch.randn(2, 1, 8).expand(2, 4, 8)
    attention = torch.full((2, 4, 9), 1 / 4)
    alarms = collapse_metrics(slots, attention)
    assert alarms["slot_cosine"].item() == pytest.approx(1)
    assert alarms["effective_slots"].item() == pytest.approx(4)


def test_one_slot_that_takes_everything_is_one_effective_slot() -> None:
    attention = torch.zeros(2, 4, 9)
    attention[:, 2] = 1
    alarms = collapse_metrics(torch.eye(4, 8).expand(2, 4, 8), attention)
    assert alarms["slot_cosine"].item() == pytest.approx(0, abs=1e-6)
    assert alarms["effective_slots"].item() == pytest.approx(1)


def test_they_require_no_gradient() -> None:
    slots = torch.randn(1, 3, 4, requires_grad=True)
    alarms = collapse_metrics(slots, torch.rand(1, 3, 5, requires_grad=True))
    assert not any(value.requires_grad for value in alarms.values())


def test_every_step_logs_them(finished: Path) -> None:
    for row in rows(finished):
        assert -1 / 3 <= row["slot_cosine"] <= 1
        assert 1 <= row["effective_slots"] <= 4
