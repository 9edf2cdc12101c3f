"""All segmentation metrics at the price of one look at the pixels.

Dimensions: B batch, H W pixels.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from latentslots.metrics.ari import ari_of_table, has_foreground
from latentslots.metrics.contingency import PixelTable, tabulate
from latentslots.metrics.means import RunningMeans
from latentslots.metrics.overlap import (
    OVERLAP_NAMES,
    Convention,
    check_convention,
    overlap_of_table,
)


class SegmentationMetrics(RunningMeans):
    """ARI, FG-ARI, mIoU and mBO from one shared table of pixel counts.

    `compute` gives `ari`, `fg_ari`, `miou_objects`, `mbo_objects`, `miou_images`, `mbo_images`,
    `num_images` and `num_images_without_objects`. Images without a foreground pixel have no
    FG-ARI, mIoU or mBO and are left out of those means, except for FG-ARI under the convention
    `lsd`, where they score 1 as in the official code, and for mIoU under `with-background`, where
    their background counts.

    Args:
        convention: `iou`, `lsd` or `with-background`, see `latentslots.metrics.overlap`.
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> metrics = SegmentationMetrics()
        >>> target = torch.tensor([[[0, 0], [1, 2]], [[0, 0], [0, 0]]])
        >>> metrics.update(torch.tensor([[[3, 3], [2, 0]], [[1, 1], [1, 2]]]), target)
        >>> {name: round(float(value), 2) for name, value in metrics.compute().items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'ari': 0.5, 'fg_ari': 1.0, 'miou_objects': 1.0, 'mbo_objects': 1.0, 'miou_images': 1.0,
         'mbo_images': 1.0, 'num_images': 2.0, 'num_images_without_objects': 1.0}
    """

    num_images: Int[Tensor, ""]
    num_images_without_objects: Int[Tensor, ""]

    def __init__(self, *, convention: Convention = "iou", **kwargs: Any) -> None:
        super().__init__(("ari", "fg_ari", *OVERLAP_NAMES), **kwargs)
        self.convention = check_convention(convention)
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_images_without_objects", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        pred: Integer[Tensor, "B H W"],
        target: Integer[Tensor, "B H W"],
        *,
        visible: Integer[Tensor, "B M"] | Bool[Tensor, "B M"] | None = None,
        num_slots: int | None = None,
        valid: Bool[Tensor, "B H W"] | None = None,
    ) -> None:
        """Add a batch of images, described as in `latentslots.metrics.overlap`.

        Args:
            pred: Slot id of every pixel.
            target: Object id of every pixel, 0 for the background, 65,535 at most.
            visible: Objects to match, where column i stands for the object with id i + 1.
            num_slots: How many slots the model has, by default those that own a pixel.
            valid: Pixels to count. By default all.
        """
        table = tabulate(pred, target, num_slots=num_slots, valid=valid)
        table = PixelTable(*(tensor.cpu() for tensor in table))
        found = overlap_of_table(
            table,
            convention=self.convention,
            visible=visible,
            use_empty_slots=num_slots is not None,
        )
        with_objects = has_foreground(table.counts)
        in_fg_ari = slice(None) if self.convention == "lsd" else with_objects
        fg_ari = ari_of_table(table.counts[in_fg_ari], ignore_background=True)
        self._add({"ari": ari_of_table(table.counts), "fg_ari": fg_ari, **found.values()})
        self.num_images = self.num_images + len(with_objects)
        self.num_images_without_objects = self.num_images_without_objects + (
            (~with_objects).sum().to(self.num_images.device)
        )

    def compute(self) -> dict[str, Tensor]:
        """The means, and how many images they come from."""
        return {
            **self._means(),
            "num_images": self.num_images,
            "num_images_without_objects": self.num_images_without_objects,
        }
