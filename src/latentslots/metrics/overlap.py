"""Overlap of slots and objects: mIoU (one slot per object, matched) and mBO (the best slot).

The papers of this field compute these numbers in different ways, so every number here carries the
name of its convention.

| convention | slots are matched by | mIoU runs over | an object without a slot | mBO runs over |
|---|---|---|---|---|
| `iou` | IoU | objects | scores 0 | objects |
| `with-background` | IoU | objects and background | scores 0 | objects |
| `lsd` | cosine similarity of masks | matched objects | is left out | matched objects |

`lsd` is what the official code of Latent Slot Diffusion does (https://arxiv.org/abs/2303.10834),
`with-background` what SlotDiffusion and CODA do, `iou` what most others do. Each mean exists over
all objects (`*_objects`, the number in the LSD paper), and over the images' means (`*_images`).

Differs from the official code: an object that `visible` marks, but that has no pixel at the size
at which the masks are scored, is left out. There it scores 0, and takes a slot from others.

Dimensions: B batch, H W pixels, N objects (row 0 is the background), K slots.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Integer
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentslots.metrics.contingency import PixelTable, tabulate
from latentslots.metrics.means import RunningMeans

Convention = Literal["iou", "lsd", "with-background"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

OVERLAP_NAMES = ("miou_objects", "mbo_objects", "miou_images", "mbo_images")


@dataclass(frozen=True)
class Overlap:
    """How well slots cover regions, image by image. Column 0 is the background.

    Attributes:
        object_ids: Id of the region in the ground truth; -1 is padding.
        slot_ids: Id of the slot that the region is matched to; -1 where it has none. A slot that
            shares no pixel with the region counts as none, except under `lsd`.
        matched_iou: IoU of the region and that slot; 0 where it has none.
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

    def values(self) -> dict[str, Float64[Tensor, " M"]]:
        """What each mean averages: IoUs of regions, and means of the images that have regions."""
        return {
            "miou_objects": self.matched_iou[self.in_miou],
            "mbo_objects": self.best_iou[self.in_mbo],
            "miou_images": _image_means(self.matched_iou, self.in_miou),
            "mbo_images": _image_means(self.best_iou, self.in_mbo),
        }

    def means(self) -> dict[str, float]:
        """The four means over the batch; NaN where there is nothing to average."""
        return {name: float(values.mean()) for name, values in self.values().items()}


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
        target: Object id of every pixel, 0 for the background, 65,535 at most.
        convention: `iou`, `lsd` or `with-background`, see the head of this module.
        visible: Objects to look at, where column i stands for the object with id i + 1. By default
            all that have a pixel.
        num_slots: How many slots the model has, by default those that own a pixel. It matters
            for `lsd` alone, where an object can be matched to an empty slot, and counts then.
        valid: Pixels to count. By default all.

    Returns:
        The overlap of every region, on the CPU.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
        >>> pred = torch.tensor([[[3, 3, 0, 0], [3, 3, 0, 0]]])
        >>> found = overlap(pred, target)
        >>> found.slot_ids
        tensor([[-1,  0, -1]])
        >>> found.means()["miou_objects"], found.means()["mbo_objects"]
        (0.25, 0.5)
    """
    table = tabulate(pred, target, num_slots=num_slots, valid=valid)
    return overlap_of_table(
        table, convention=convention, visible=visible, use_empty_slots=num_slots is not None
    )


def overlap_of_table(
    table: PixelTable,
    *,
    convention: Convention = "iou",
    visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"] | None = None,
    use_empty_slots: bool = False,
) -> Overlap:
    """Compute `overlap` from the pixels that objects and slots share.

    Args:
        table: From `tabulate`.
        convention: As in `overlap`.
        visible: As in `overlap`.
        use_empty_slots: Whether a column without pixels is a slot that can be matched; one with the
            id -1 never is.
    """
    check_convention(convention)
    table = PixelTable(*(tensor.cpu() for tensor in table))
    counts = table.counts.double()
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
    usable = table.slot_ids >= 0 if use_empty_slots else slot_areas.squeeze(1) > 0
    column = _match(score, regions, usable)

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


class MeanOverlap(RunningMeans):
    """mIoU and mBO, averaged over objects and over images.

    Args:
        convention: `iou`, `lsd` or `with-background`, see the head of this module.
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> metric = MeanOverlap()
        >>> metric.update(torch.tensor([[[3, 3, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
        >>> float(metric.compute()["miou_objects"])
        0.5
    """

    def __init__(self, *, convention: Convention = "iou", **kwargs: Any) -> None:
        super().__init__(OVERLAP_NAMES, **kwargs)
        self.convention = check_convention(convention)

    def update(
        self,
        pred: Integer[Tensor, "B H W"],
        target: Integer[Tensor, "B H W"],
        *,
        visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"] | None = None,
        num_slots: int | None = None,
        valid: Bool[Tensor, "B H W"] | None = None,
    ) -> None:
        """Add a batch of images, described as in `overlap`."""
        found = overlap(
            pred,
            target,
            convention=self.convention,
            visible=visible,
            num_slots=num_slots,
            valid=valid,
        )
        self._add(found.values())

    def compute(self) -> dict[str, Tensor]:
        """The four means; NaN where no region was seen."""
        return self._means()


def check_convention(name: str) -> Convention:
    """Refuse a convention that does not exist."""
    for convention in CONVENTIONS:
        if convention == name:
            return convention
    raise ValueError(f"convention must be one of {CONVENTIONS}, got {name!r}")


def _match(
    score: Float64[Tensor, "B N K"], regions: Bool[Tensor, "B N"], slots: Bool[Tensor, "B K"]
) -> Int[Tensor, "B N"]:
    """Give each region a slot of its own, so that the summed score is largest; -1 is no slot."""
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


def _image_means(
    iou: Float64[Tensor, "B N"], counted: Bool[Tensor, "B N"]
) -> Float64[Tensor, " M"]:
    num_regions = counted.sum(1)
    means = torch.where(counted, iou, 0.0).sum(1) / num_regions
    return means[num_regions > 0]
