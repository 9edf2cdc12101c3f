"""Overlap of slots and objects: mIoU (one matched slot per object) and mBO (the best slot).

Papers of this field compute these numbers in different ways, so every number here is reported with
its convention.

| convention | slots are matched by | mIoU runs over | an object without a slot | mBO runs over |
|---|---|---|---|---|
| `iou` | IoU | objects | scores 0 | objects |
| `with-background` | IoU | objects and background | scores 0 | objects |
| `lsd` | cosine similarity of masks | matched objects | is left out | matched objects |

`lsd` is the convention of the official code of Latent Slot Diffusion
(https://arxiv.org/abs/2303.10834), `with-background` that of SlotDiffusion and CODA, `iou` that of
most others. Each mean exists over all objects (`*_objects`, the number in the LSD paper) and over
the means of images (`*_images`).

Differs from the official code: an object that `visible` marks, but that has no pixel at the size
at which masks are compared, is left out. The official code scores it 0, and matches a slot to it
that another object could have had.

Dimensions: B batch, H W pixels, N objects (row 0 is the background), K slots.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Integer
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentslots.config.conventions import Convention, check_convention
from latentslots.device import in_double
from latentslots.metrics.contingency import PixelTable, tabulate


@dataclass(frozen=True)
class Overlap:
    """How well slots cover regions, image by image. Column 0 is the background.

    Attributes:
        object_ids: Id of the region in the ground truth; -1 is padding.
        slot_ids: Id of the slot that the region is matched to; -1 for none. A slot that shares no
            pixel with the region counts as none, except under `lsd`.
        matched_iou: IoU of the region and that slot; 0 for none.
        best_iou: The largest IoU of the region and any slot.
        in_miou: Regions that mIoU averages.
        in_mbo: Regions that mBO averages.
    """

    object_ids: Int[Tensor, "B N"]
    slot_ids: Int[Tensor, "B N"]
    matched_iou: Float64[Tensor, "B N"]
    best_iou: Float64[Tensor, "B N"]
    in_miou: Bool[Tensor, "B N"]
    in_mbo: Bool[Tensor, "B N"]

    def sums(self) -> dict[str, tuple[Float64[Tensor, " B"], Int[Tensor, " B"]]]:
        """For each of the four means, the sum and the number of the values of every image.

        A mean over objects weighs an image by its regions; a mean over images weighs all images
        with regions equally.
        """
        sums = {}
        for name, iou, counted in (
            ("miou", self.matched_iou, self.in_miou),
            ("mbo", self.best_iou, self.in_mbo),
        ):
            number = counted.sum(dim=1)
            total = torch.where(counted, iou, 0.0).sum(dim=1)
            sums[f"{name}_objects"] = total, number
            sums[f"{name}_images"] = total / number.clamp(min=1), (number > 0).long()
        return sums

    def means(self) -> dict[str, float]:
        """The four means over the batch; NaN where there is nothing to average."""
        return {name: float(total.sum() / n.sum()) for name, (total, n) in self.sums().items()}


def overlap(
    pred: Integer[Tensor, "B H W"],
    target: Integer[Tensor, "B H W"],
    *,
    convention: Convention = "iou",
    visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"] | None = None,
    num_slots: int | None = None,
    valid: Bool[Tensor, "B H W"] | None = None,
) -> Overlap:
    """Match slots to objects and measure how well they cover them.

    Args:
        pred: Slot id of every pixel.
        target: Object id of every pixel, 0 for the background, at most 65,535.
        convention: `iou`, `lsd` or `with-background`, see the head of this module.
        visible: Objects to score, where column i stands for the object with id i + 1. By default
            all that have a pixel.
        num_slots: Slots of the model, by default those that own a pixel. It matters for `lsd`
            alone, where an object can be matched to a slot without pixels, and then scores 0.
        valid: Pixels to count. By default all.

    Returns:
        The overlap of every region, on the CPU.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
        >>> pred = torch.tensor([[[3, 3, 0, 0], [3, 3, 0, 0]]])
        >>> result = overlap(pred, target)
        >>> result.slot_ids
        tensor([[-1,  0, -1]])
        >>> result.means()["miou_objects"], result.means()["mbo_objects"]
        (0.25, 0.5)
    """
    table = tabulate(pred, target, num_slots=num_slots, valid=valid)
    return overlap_of_table(table, convention=convention, visible=visible)


def overlap_of_table(
    table: PixelTable,
    *,
    convention: Convention = "iou",
    visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"] | None = None,
) -> Overlap:
    """Compute `overlap` from the pixels that objects and slots share.

    Args:
        table: From `tabulate`; a column with the slot id -1 is matched to no region.
        convention: See `overlap`.
        visible: See `overlap`.
    """
    check_convention(convention)
    table = PixelTable(*(tensor.cpu() for tensor in table))
    counts = in_double(table.counts)
    areas = counts.sum(2, keepdim=True)
    slot_areas = counts.sum(1, keepdim=True)
    iou = counts / (areas + slot_areas - counts).clamp(min=1)

    present = areas.squeeze(2) > 0
    objects = present & (table.object_ids > 0)
    if visible is not None:
        objects = objects & _is_visible(table.object_ids, present, visible.cpu())
    regions = objects
    if convention == "with-background":
        regions = objects | (present & (table.object_ids == 0))

    # The cosine similarity of two binary masks is |A and B| / sqrt(|A| |B|).
    score = counts / (areas * slot_areas).sqrt().clamp(min=1) if convention == "lsd" else iou
    column = _match(score, regions, table.slot_ids >= 0)

    matched = column >= 0
    column = column.clamp(min=0)
    matched_iou = torch.where(matched, iou.gather(2, column[:, :, None]).squeeze(2), 0.0)
    if convention != "lsd":
        matched &= matched_iou > 0
    return Overlap(
        object_ids=table.object_ids,
        slot_ids=torch.where(matched, table.slot_ids.gather(1, column), -1),
        matched_iou=matched_iou,
        best_iou=iou.amax(2),
        in_miou=matched if convention == "lsd" else regions,
        in_mbo=matched if convention == "lsd" else objects,
    )


def _match(
    score: Float64[Tensor, "B N K"], regions: Bool[Tensor, "B N"], slots: Bool[Tensor, "B K"]
) -> Int[Tensor, "B N"]:
    """Column of the slot of each region, no slot twice, with the largest total score; -1: none."""
    column = np.full(tuple(regions.shape), -1)
    scores = score.numpy()
    for image, (in_image, in_slots) in enumerate(zip(regions.numpy(), slots.numpy(), strict=True)):
        rows, columns = in_image.nonzero()[0], in_slots.nonzero()[0]
        chosen = linear_sum_assignment(scores[image][np.ix_(rows, columns)], maximize=True)
        column[image, rows[chosen[0]]] = columns[chosen[1]]
    return torch.from_numpy(column)


def _is_visible(
    object_ids: Int[Tensor, "B N"],
    present: Bool[Tensor, "B N"],
    visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"],
) -> Bool[Tensor, "B N"]:
    largest = int(object_ids[present].max()) if present.any() else 0
    if largest > visible.shape[1]:
        raise ValueError(
            f"target has an object with id {largest}, but visible describes ids 1 to "
            f"{visible.shape[1]}"
        )
    shown = torch.nn.functional.pad(visible.bool(), (1, 0))  # [B, M + 1], column i is id i
    return shown.gather(1, object_ids.clamp(min=0, max=visible.shape[1]))
