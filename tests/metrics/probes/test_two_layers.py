"""Gradients of many MLPs at once, against autograd's and against differences."""

import torch
from torch import Tensor

from latentslots.metrics.probes.two_layers import TwoLayers

N, D, F = 7, 3, 5
SIZES = {2: 3, 4: 1}
"""Outputs of an MLP, and how many have so many."""
ROWS = torch.tensor([9, 0, 1, 3, 6])
"""Wanted of the ten outputs, not in order."""


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = sum(SIZES.values())
    shapes = [(count * F, D), (count * F, 1)]
    for size, number in SIZES.items():
        shapes += [(number, size, F), (number, size, 1)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [one.requires_grad_() for one in drawn]


def plain(inputs: Tensor, first: Tensor, bias: Tensor, *last: Tensor) -> Tensor:
    """One MLP after the other."""
    said, start = [], 0
    for weight, offset in zip(last[::2], last[1::2], strict=True):
        for own, own_offset in zip(weight, offset, strict=True):
            rows = slice(start, start + F)
            said.append(own @ (first[rows] @ inputs.T + bias[rows]).relu() + own_offset)
            start += F
    return torch.cat(said)[ROWS]


def test_values_and_gradients_are_those_of_one_mlp_after_the_other() -> None:
    inputs = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = weights(), weights()
    said, expected = TwoLayers.apply(inputs, ROWS, *ours), plain(inputs, *theirs)
    torch.testing.assert_close(said, expected)
    pull = torch.randn(said.shape, generator=torch.Generator().manual_seed(2), dtype=said.dtype)
    (said * pull).sum().backward()
    (expected * pull).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_gradients_are_those_of_differences() -> None:
    inputs = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *w: TwoLayers.apply(inputs, ROWS, *w), weights())
