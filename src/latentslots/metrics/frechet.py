"""Fréchet and kernel distance of two sets of images, in the feature space of a network.

The numbers are only as good as the features. With those of the ImageNet Inception they are FID
(Heusel et al., 2017, https://arxiv.org/abs/1706.08500) and KID (Binkowski et al., 2018,
https://arxiv.org/abs/1801.01401); with other features they must not be called so. The distances are
computed by torchmetrics.

Dimensions: N M images of the two sets, F features.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from latentslots.device import in_double

SUBSET_SIZE = 1000
NUM_SUBSETS = 20


class _Identity(nn.Module):
    """Return features unchanged; torchmetrics requires a module, and reads its `num_features`."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Float[Tensor, "N F"], other: Float[Tensor, "M F"]) -> float:
    """Fréchet distance of the two Gaussians with the features' means and covariances.

    It decreases with the number of images, so compare sets of one size only.

    Example:
        >>> features = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(features, features + 3.0), 3)
        36.0

    Raises:
        ValueError: If a set has fewer than two images.
    """
    _check(real, other)
    metric = FrechetInceptionDistance(feature=_Identity(real.shape[1]))
    metric.update(in_double(real), real=True)
    metric.update(in_double(other), real=False)
    return float(metric.compute())


def kernel_distance(
    real: Float[Tensor, "N F"], other: Float[Tensor, "M F"], *, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with a cubic kernel: unbiased, so it may be below 0.

    Args:
        real: Features of one set.
        other: Features of the other set.
        seed: Seed of the subsets of at most 1,000 images over which it is averaged.

    Returns:
        Mean and standard deviation over 20 subsets; where a set is no larger than a subset, the
        deviation means little.

    Raises:
        ValueError: If a set has fewer than two images.
    """
    _check(real, other)
    size = min(SUBSET_SIZE, len(real), len(other))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_Identity(real.shape[1]), subsets=NUM_SUBSETS, subset_size=size
        )
        metric.update(in_double(real), real=True)
        metric.update(in_double(other), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _check(real: Tensor, other: Tensor) -> None:
    if min(len(real), len(other)) < 2:
        raise ValueError(
            f"a distance of sets needs two images in each, got {len(real)} and {len(other)}"
        )
