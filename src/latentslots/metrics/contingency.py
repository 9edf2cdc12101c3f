"""Contingency tables: how many pixels every object shares with every slot.

All segmentation metrics are functions of this small table, so the pixels are read only once.

Dimensions: B batch, P pixels, N objects, K slots.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

LARGEST_ID = 65_535
"""Ids fit a 16-bit PNG."""

_LARGEST_DIRECT_ID = 255


class PixelTable(NamedTuple):
    """Shared pixels of objects and slots, with the ids of rows and columns.

    Attributes:
        counts: Pixels that object `n` and slot `k` have in common. Row 0 is the background.
        object_ids: Id of every row; -1 for padding, which images with few objects have.
        slot_ids: Id of every column; -1 for padding, and for a column that is not a slot.
    """

    counts: Int[Tensor, "B N K"]
    object_ids: Int[Tensor, "B N"]
    slot_ids: Int[Tensor, "B K"]


def tabulate(
    pred: Integer[Tensor, "B ..."],
    target: Integer[Tensor, "B ..."],
    *,
    num_slots: int | None = None,
    valid: Bool[Tensor, "B ..."] | None = None,
) -> PixelTable:
    """Build the contingency table of every image; ids may be large and have gaps.

    Ids above 255 are renumbered within each image, so that the table stays small.

    Args:
        pred: Slot id of every pixel.
        target: Object id of every pixel, 0 for the background, at most 65,535.
        num_slots: Slots of the model, including those without pixels. By default only ids that
            own a pixel are slots; the other columns have the slot id -1.
        valid: Pixels to count. By default all.

    Example:
        >>> table = tabulate(torch.tensor([[2, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
        >>> table.counts
        tensor([[[1, 0, 1],
                 [0, 2, 0]]])
    """
    _check_shapes(pred, target, valid)
    target, object_ids = _compact(target.flatten(1), "target")
    if num_slots is None:
        pred, slot_ids = _compact(pred.flatten(1), "pred")
    else:
        pred = pred.flatten(1)
        if _num_ids(pred, "pred") > num_slots:
            raise ValueError(f"pred has id {int(pred.max())}, but num_slots is {num_slots}")
        slot_ids = torch.arange(num_slots, device=pred.device).expand(len(pred), -1)
    valid = None if valid is None else valid.flatten(1)
    counts = _count(target, pred, object_ids.shape[1], slot_ids.shape[1], valid)
    if num_slots is None:
        slot_ids = torch.where(counts.sum(dim=1) > 0, slot_ids, -1)
    return PixelTable(counts, object_ids, slot_ids)


def _count(
    target: Integer[Tensor, "B P"],
    pred: Integer[Tensor, "B P"],
    num_targets: int,
    num_preds: int,
    valid: Bool[Tensor, "B P"] | None,
) -> Int[Tensor, "B N K"]:
    # One number per pixel names its cell of the whole batch's table. Thirty-two bits halve the
    # memory traffic, which is most of the time this takes.
    cells = torch.add(pred.int(), target.int(), alpha=num_preds)
    image = torch.arange(len(target), device=target.device, dtype=torch.int32)
    cells += image[:, None] * (num_targets * num_preds)
    cells = cells.flatten() if valid is None else cells[valid]
    counts = torch.bincount(cells, minlength=len(target) * num_targets * num_preds)
    return counts.view(len(target), num_targets, num_preds)


def _compact(
    labels: Integer[Tensor, "B P"], name: str
) -> tuple[Integer[Tensor, "B P"], Int[Tensor, "B N"]]:
    """Renumber large ids 0, 1, 2, ... within each image; id 0 stays 0."""
    num_ids = _num_ids(labels, name)
    if num_ids <= _LARGEST_DIRECT_ID + 1:
        return labels, torch.arange(num_ids, device=labels.device).expand(len(labels), -1)
    if num_ids > LARGEST_ID + 1:
        raise ValueError(f"ids of {name} must be at most {LARGEST_ID}, got {num_ids - 1}")

    labels = labels.long()
    present = torch.zeros(len(labels), num_ids, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels, True)
    present[:, 0] = True
    rank = present.cumsum(1) - 1
    ids = torch.full((len(labels), int(rank.max()) + 1), -1, device=labels.device)
    image, value = present.nonzero(as_tuple=True)
    ids[image, rank[image, value]] = value
    return rank.gather(1, labels), ids


def _num_ids(labels: Integer[Tensor, "B P"], name: str) -> int:
    """One more than the largest id."""
    if labels.numel() == 0:
        return 1
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < 0:
        raise ValueError(f"ids of {name} must be 0 or above, got {smallest}")
    return largest + 1


def _check_shapes(pred: Tensor, target: Tensor, valid: Tensor | None) -> None:
    if pred.shape != target.shape:
        raise ValueError(
            f"pred and target must have the same shape, got {tuple(pred.shape)} and "
            f"{tuple(target.shape)}"
        )
    if valid is not None and valid.shape != target.shape:
        raise ValueError(
            f"valid must have the shape of target, got {tuple(valid.shape)} and "
            f"{tuple(target.shape)}"
        )
