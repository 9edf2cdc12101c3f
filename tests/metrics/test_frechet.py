import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from latentslots.metrics.frechet import frechet_distance, kernel_distance


def gaussian(mean: Tensor, factor: Tensor, number: int) -> Tensor:
    """Points whose mean and covariance are exactly `mean` and `factor @ factor.T`."""
    points = torch.randn(number, len(mean), dtype=torch.float64)
    points = points - points.mean(dim=0)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(points.T @ points / (number - 1)), points.T, upper=False
    )
    return (factor @ whitened).T + mean


def test_the_distance_of_gaussians_is_the_closed_form() -> None:
    """Dowson and Landau (1982), with scipy's matrix root."""
    means = torch.randn(2, 5, dtype=torch.float64)
    factors = torch.randn(2, 5, 5, dtype=torch.float64)
    sets = [gaussian(mean, factor, 200) for mean, factor in zip(means, factors, strict=True)]
    one, two = ((factor @ factor.T).numpy() for factor in factors)
    expected = ((means[0] - means[1]) ** 2).sum().item()
    expected += (one + two - 2 * sqrtm(one @ two).real).trace()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-6)


def test_a_set_has_no_distance_to_itself() -> None:
    features = torch.randn(300, 8)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    """Gretton et al. (2012), Eq. 3, pair by pair, with the kernel of Binkowski et al. (2018)."""
    one, two = torch.randn(12, 3), torch.randn(12, 3) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    expected = 0.0
    for points in (one, two):
        pairs = [kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        expected += sum(pairs) / len(pairs)
    across = [kernel(x, y) for x in one for y in two]
    expected -= 2 * sum(across) / len(across)
    mean, deviation = kernel_distance(one, two)
    assert mean == pytest.approx(expected, rel=1e-5)
    assert deviation == pytest.approx(0, abs=1e-6), "every subset is the whole"


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    values = [kernel_distance(torch.randn(20, 4), torch.randn(20, 4))[0] for _ in range(200)]
    mean = sum(values) / len(values)
    assert min(values) < 0, "it is unbiased"
    assert abs(mean) < 3 * torch.tensor(values).std().item() / len(values) ** 0.5


def test_a_seed_gives_the_same_subsets_and_leaves_the_global_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("latentslots.metrics.frechet.SUBSET_SIZE", 10)
    one, two = torch.randn(40, 3), torch.randn(50, 3)
    state = torch.get_rng_state()
    first, same, other = (kernel_distance(one, two, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == same != other
    assert first[1] > 0


def test_a_set_needs_two_images() -> None:
    with pytest.raises(ValueError, match="needs two images in each, got 1 and 5"):
        frechet_distance(torch.randn(1, 3), torch.randn(5, 3))
