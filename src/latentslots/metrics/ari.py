"""Adjusted Rand index, on all pixels (ARI) and on the foreground (FG-ARI).

Hubert and Arabie, 1985, https://doi.org/10.1007/BF01908075.

Dimensions: B batch, P pixels, N objects, K slots.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from latentslots.metrics.contingency import tabulate
from latentslots.metrics.means import RunningMeans
from latentslots.metrics.overlap import Convention, check_convention


def adjusted_rand_index(
    pred: Integer[Tensor, "B ..."],
    target: Integer[Tensor, "B ..."],
    *,
    ignore_background: bool = False,
    valid: Bool[Tensor, "B ..."] | None = None,
) -> Float[Tensor, " B"]:
    """Agreement of two partitions of an image's pixels, corrected for chance.

    Args:
        pred: Slot id of every pixel.
        target: Object id of every pixel; 0 is the background.
        ignore_background: Leave out the pixels whose `target` is 0. This is FG-ARI.
        valid: Pixels to count. By default all.

    Returns:
        1 for identical partitions, about 0 for unrelated ones. Two trivial partitions score 1, and
        so does an image without any pixel to compare, which with `ignore_background` is an image
        without objects.

    Example:
        >>> pred = torch.tensor([[2, 2, 0, 0]])
        >>> adjusted_rand_index(pred, torch.tensor([[0, 0, 1, 1]]))
        tensor([1.], dtype=torch.float64)
    """
    counts = tabulate(pred, target, valid=valid).counts
    return ari_of_table(counts, ignore_background=ignore_background)


def ari_of_table(
    counts: Int[Tensor, "B N K"], *, ignore_background: bool = False
) -> Float[Tensor, " B"]:
    """Compute `adjusted_rand_index` from the pixels that objects and slots share.

    Example:
        >>> ari_of_table(torch.tensor([[[9, 0], [1, 2]]]), ignore_background=True)
        tensor([0.], dtype=torch.float64)
    """
    table = counts.double()
    if ignore_background:
        table = table[:, 1:]

    together = _pairs(table).sum((1, 2))
    in_target = _pairs(table.sum(2)).sum(1)
    in_pred = _pairs(table.sum(1)).sum(1)
    expected = in_target * (in_pred / _pairs(table.sum((1, 2))).clamp(min=1))
    best = (in_target + in_pred) / 2
    return torch.where(best == expected, 1.0, (together - expected) / (best - expected))


class AdjustedRandIndex(RunningMeans):
    """Mean ARI over images, or FG-ARI with `ignore_background`.

    With `ignore_background`, images without a foreground pixel have no score. They are left out of
    the mean, except under the convention `lsd`, where they score 1 as in the official code.

    Args:
        ignore_background: Leave out the pixels whose target is 0.
        convention: Only `lsd` makes a difference, see above.
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> metric = AdjustedRandIndex(ignore_background=True)
        >>> metric.update(torch.tensor([[5, 3, 3, 4]]), torch.tensor([[0, 1, 1, 2]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self, *, ignore_background: bool = False, convention: Convention = "iou", **kwargs: Any
    ) -> None:
        super().__init__(("ari",), **kwargs)
        self.ignore_background = ignore_background
        self.convention = check_convention(convention)

    def update(
        self,
        pred: Integer[Tensor, "B ..."],
        target: Integer[Tensor, "B ..."],
        *,
        valid: Bool[Tensor, "B ..."] | None = None,
    ) -> None:
        """Add a batch of images, described as in `adjusted_rand_index`."""
        counts = tabulate(pred, target, valid=valid).counts
        if self.ignore_background and self.convention != "lsd":
            counts = counts[has_foreground(counts)]
        self._add({"ari": ari_of_table(counts, ignore_background=self.ignore_background)})

    def compute(self) -> Float[Tensor, ""]:
        """The mean; NaN where no image had a score."""
        return self._means()["ari"]


def has_foreground(counts: Int[Tensor, "B N K"]) -> Bool[Tensor, " B"]:
    """Which images have a pixel that belongs to an object."""
    return counts[:, 1:].sum((1, 2)) > 0


def _pairs(counts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return counts * (counts - 1) / 2
