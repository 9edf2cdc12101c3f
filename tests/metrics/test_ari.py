import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from latentslots.metrics import adjusted_rand_index
from tests.reference.segmentation import count_pairs, random_scenes

TETROMINOES = Path(__file__).parents[1] / "data" / "tetrominoes"


@pytest.mark.parametrize("ignore_background", [False, True])
def test_agrees_with_counting_every_pair(ignore_background: bool) -> None:
    pred, target = random_scenes(8, size=8)
    expected = [count_pairs(p, t, ignore_background) for p, t in zip(pred, target, strict=True)]
    torch.testing.assert_close(
        adjusted_rand_index(pred, target, ignore_background=ignore_background),
        torch.tensor(expected, dtype=torch.float64),
    )


def test_agrees_with_scikit_learn_on_many_pixels() -> None:
    pred, target = random_scenes(4, size=200, num_objects=10, num_slots=11)
    expected = [
        adjusted_rand_score(t.flatten(), p.flatten()) for p, t in zip(pred, target, strict=True)
    ]
    torch.testing.assert_close(
        adjusted_rand_index(pred, target), torch.tensor(expected, dtype=torch.float64)
    )


def test_scores_of_a_trained_model_on_tetrominoes() -> None:
    arrays = np.load(TETROMINOES / "tetrominoes.npz")
    expected = json.loads((TETROMINOES / "reference_scores.json").read_text())
    pred, target = (torch.from_numpy(arrays[name]).long() for name in ("pred", "mask"))
    torch.testing.assert_close(
        adjusted_rand_index(pred, target, ignore_background=True),
        torch.tensor(expected["fg_ari_sklearn"], dtype=torch.float64),
    )
    torch.testing.assert_close(
        adjusted_rand_index(pred, target),
        torch.tensor(expected["ari_all_pixels_sklearn"], dtype=torch.float64),
    )


@pytest.mark.parametrize("ignore_background", [False, True])
def test_renaming_the_slots_changes_nothing(ignore_background: bool) -> None:
    pred, target = random_scenes(4)
    renamed = torch.tensor([3, 60_000, 0, 256, 1])[pred]
    torch.testing.assert_close(
        adjusted_rand_index(renamed, target, ignore_background=ignore_background),
        adjusted_rand_index(pred, target, ignore_background=ignore_background),
    )


@pytest.mark.parametrize("ignore_background", [False, True])
def test_a_perfect_prediction_scores_one(ignore_background: bool) -> None:
    _, target = random_scenes(4)
    score = adjusted_rand_index(4 - target, target, ignore_background=ignore_background)
    torch.testing.assert_close(score, torch.ones(4, dtype=torch.float64))


def test_unrelated_partitions_score_about_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randint(5, (2, 3, 10_000), generator=generator)
    assert adjusted_rand_index(pred, target).abs().max() < 0.01


def test_trivial_partitions() -> None:
    one_region = torch.zeros(1, 500_000, dtype=torch.int64)
    every_pixel_alone = torch.arange(50)[None]
    halves = (torch.arange(500_000) % 2)[None]
    assert adjusted_rand_index(one_region, one_region + 1).item() == 1
    assert adjusted_rand_index(every_pixel_alone, every_pixel_alone).item() == 1
    assert adjusted_rand_index(halves, one_region).item() == pytest.approx(0, abs=1e-12)
    assert adjusted_rand_index(one_region, halves).item() == pytest.approx(0, abs=1e-12)
    assert adjusted_rand_index(halves, one_region, ignore_background=True).item() == 1


def test_invalid_pixels_do_not_count() -> None:
    pred, target = random_scenes(3)
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = [
        adjusted_rand_score(t[v], p[v]) for p, t, v in zip(pred, target, valid, strict=True)
    ]
    torch.testing.assert_close(
        adjusted_rand_index(pred, target, valid=valid), torch.tensor(expected, dtype=torch.float64)
    )
