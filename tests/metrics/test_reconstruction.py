"""PSNR and SSIM against the formulas of their papers, written out."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from latentslots.evaluation.edits.pairs import outside_scores
from latentslots.metrics.reconstruction import psnr, ssim


def slow_ssim(pred: np.ndarray, target: np.ndarray) -> float:
    """Eq. 13 of Wang et al. (2004) at every pixel; the image is mirrored at its border."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma=1.5, truncate=3.5, mode="mirror")

    kept = []
    for x, y in zip(pred.astype(np.float64), target.astype(np.float64), strict=True):
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        both = blur(x * y) - mean_x * mean_y
        c1, c2 = 0.01**2, 0.03**2
        index = ((2 * mean_x * mean_y + c1) * (2 * both + c2)) / (
            (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
        )
        kept.append(index)
    return float(np.mean(kept))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 8, 8).repeat_interleave(5, dim=2).repeat_interleave(5, dim=3)
    return (target + 0.15 * torch.randn_like(target)).clamp(0, 1), target


def test_ssim_is_that_of_its_paper(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    pred, target = pair
    expected = [slow_ssim(*each) for each in zip(pred.numpy(), target.numpy(), strict=True)]
    assert ssim(pred, target).tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_is_that_of_the_mean_squared_error(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    pred, target = pair
    for i, value in enumerate(psnr(pred, target).tolist()):
        error = np.mean((pred[i].numpy() - target[i].numpy()) ** 2)
        assert value == pytest.approx(10 * np.log10(1 / error), abs=1e-3)


def test_errors_inside_an_object_do_not_count(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    pred, target = pair
    outside = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    outside[0, :, 4:20, 6:30] = False
    outside[1, :, :, :10] = False
    worse = torch.where(outside, pred, 1 - target)  # wrong inside, noisy outside
    error, similarity = outside_scores(worse, target, outside)
    assert error.tolist() == pytest.approx(outside_scores(pred, target, outside)[0].tolist())
    for i in range(2):
        seen = [
            (pred[i, c, y, x] - target[i, c, y, x]).item() ** 2
            for c in range(3)
            for y in range(40)
            for x in range(40)
            if outside[i, 0, y, x]
        ]
        assert error[i].item() == pytest.approx(10 * np.log10(1 / np.mean(seen)), abs=1e-3)
        patched = torch.where(outside[i], pred[i], target[i])
        share = outside[i].float().mean().item()
        expected = 1 - (1 - slow_ssim(patched.numpy(), target[i].numpy())) / share
        assert similarity[i].item() == pytest.approx(expected, abs=1e-4)
