"""Adjusted Rand index, on all pixels (ARI) and on the foreground (FG-ARI).

Hubert and Arabie, 1985, https://doi.org/10.1007/BF01908075.

Dimensions: B batch, P pixels, N objects, K slots.
"""

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from latentslots.device import in_double
from latentslots.metrics.contingency import tabulate


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
    table = in_double(counts)
    if ignore_background:
        table = table[:, 1:]

    together = _pairs(table).sum((1, 2))
    in_target = _pairs(table.sum(2)).sum(1)
    in_pred = _pairs(table.sum(1)).sum(1)
    expected = in_target * (in_pred / _pairs(table.sum((1, 2))).clamp(min=1))
    best = (in_target + in_pred) / 2
    return torch.where(best == expected, 1.0, (together - expected) / (best - expected))


def has_foreground(counts: Int[Tensor, "B N K"]) -> Bool[Tensor, " B"]:
    """True for images in which a pixel belongs to an object."""
    return counts[:, 1:].sum((1, 2)) > 0


def _pairs(counts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return counts * (counts - 1) / 2
